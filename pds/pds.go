package pds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/secret"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/pages"
)

// Server is one personal data server. Several may share a database.
type Server struct {
	cfg         Config
	host        string
	netloc      string // host and, where there is one, port
	pool        *pgxpool.Pool
	plc         *identity.PLC
	directory   indigo.Directory
	http        *http.Client
	resolve     func(ctx context.Context, handle syntax.Handle) (syntax.DID, error)
	arrivals    *xrpc.ServiceAuth // of accounts that other hosts hold, or let go
	imports     chan struct{}     // one slot for each repository that is taken over
	importing   onePerAccount
	lookups     chan struct{} // one slot for each foreign handle that is looked up
	clock       clock.Clock
	log         *slog.Logger
	admin       string
	mail        func(ctx context.Context, to, subject, text string) error
	rotation    atcrypto.PrivateKeyExportable
	rotationDID string
	sealer      *sealer
	tokens      *tokens
	passwords   *secret.Hasher
	tids        *tids
	cache       *blockCache
	queue       *repoQueue
	standings   *remembered[syntax.DID, standing]
	sessions    *remembered[string, account] // those that wrote, by their id
	together    *together
	files       blobFiles
	exports     chan struct{} // one slot for each export that reads the database
	limits      *limits
	resets      chan string // addresses for which somebody wants a new password
	wake        *waker
	written     *waker
	notices     *waker // of what was written here and other processes have not heard of
	hostname    string
	stream      *firehose.Server
	streams     *slots // of the stream, by address
	uploads     *slots
	strayed     time.Time // when all files were looked at; of housekeeping only
	proxy       *proxy
	metrics     *metrics
	pages       *pages.Pages
	apps        *oauth.Server
	oauth       func(answer http.Header, r *http.Request) (*oauth.Session, error) // lets a request of an app in
	handler     http.Handler
}

// maxExports bounds the repository exports that read the database at once.
const maxExports = 6

// New checks everything it is given and makes a server that does nothing yet. Handler
// serves at once; the firehose moves while Run runs.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("pds config: %w", err)
	}
	if err := deps.validate(); err != nil {
		return nil, fmt.Errorf("pds %w", err)
	}
	cfg = cfg.withDefaults()
	u, err := url.Parse(cfg.PublicURL)
	if err != nil {
		return nil, fmt.Errorf("pds config: %w", err)
	}
	seal, err := newSealer(deps.MasterKey)
	if err != nil {
		return nil, fmt.Errorf("pds: %w", err)
	}
	seal.reload = deps.MasterKeys
	if err := seal.refresh(); err != nil {
		return nil, fmt.Errorf("pds: %w", err)
	}
	pub, err := deps.RotationKey.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("pds rotation key: %w", err)
	}
	files, err := newBlobFiles(deps.BlobDir)
	if err != nil {
		return nil, fmt.Errorf("pds: %w", err)
	}
	m, err := newMetrics(deps.Registry)
	if err != nil {
		return nil, fmt.Errorf("pds metrics: %w", err)
	}
	carrier, err := newProxy(deps.HTTP, deps.Registry)
	if err != nil {
		return nil, fmt.Errorf("pds metrics: %w", err)
	}
	s := &Server{
		cfg: cfg, host: u.Hostname(), netloc: u.Host, pool: deps.Pool, plc: deps.PLC, directory: deps.Directory, http: deps.HTTP,
		clock: deps.Clock, log: deps.Log, admin: deps.AdminPassword, mail: deps.Mail,
		rotation: deps.RotationKey, rotationDID: pub.DIDKey(),
		sealer:    seal,
		tokens:    &tokens{secret: deps.JWTSecret, audience: cfg.ServiceDID.String()},
		passwords: secret.NewHasher(cfg.Argon2),
		tids:      newTIDs(deps.Clock),
		cache:     newBlockCache(cacheBytes),
		queue:     newRepoQueue(),
		standings: newRemembered[syntax.DID, standing](),
		sessions:  newRemembered[string, account](),
		files:     files,
		exports:   make(chan struct{}, maxExports),
		limits:    newLimits(cfg, deps.Clock),
		resets:    make(chan string, resetQueue),
		wake:      newWaker(),
		uploads:   newSlots(uploadsAtOnce, uploadsAccount),
		streams:   newSlots(math.MaxInt, streamsAddress*cfg.LimitFactor),
		proxy:     carrier,
		written:   newWaker(),
		notices:   newWaker(),
		hostname:  hostname(u),
		metrics:   m,
	}
	if s.pages, err = pages.New(u.Host); err != nil {
		return nil, fmt.Errorf("pds: %w", err)
	}
	if s.apps, err = s.newApps(deps.JWTSecret); err != nil {
		return nil, fmt.Errorf("pds: %w", err)
	}
	s.oauth = s.admitApp
	s.expectArrivals(deps)
	s.together = &together{store: s.storeTogether}
	s.stream = s.newStream()
	s.handler = s.routes(deps)
	return s, nil
}

// Handler serves everything public.
func (s *Server) Handler() http.Handler { return s.handler }

// Run moves the firehose and clears away what is over, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.listen(ctx) })
	g.Go(func() error { return s.stream.Run(ctx) })
	g.Go(func() error { return s.notify(ctx) })
	g.Go(func() error { return s.resync(ctx) })
	g.Go(func() error { return s.housekeep(ctx) })
	g.Go(func() error { return s.sendResets(ctx) })
	g.Go(func() error { return s.announceWrites(ctx) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

const (
	housekeeping = time.Minute
	uploadLife   = time.Hour // an upload that takes longer is broken
)

func (s *Server) housekeep(ctx context.Context) error {
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("housekeeping", "error", err) // the next round tries again
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// sweep is one round of housekeeping.
func (s *Server) sweep(ctx context.Context) error {
	now := s.clock.Now()
	var errs []error
	if _, err := s.pool.Exec(ctx, `delete from session where expires < $1`, now); err != nil {
		errs = append(errs, fmt.Errorf("drop old sessions: %w", err))
	}
	errs = append(errs, s.dropSignups(ctx, now), s.dropWords(ctx, now), s.dropDevices(ctx, now), s.apps.Collect(ctx, now), s.pruneEvents(ctx, now))
	errs = append(errs, s.dropReports(ctx, now), s.sweepOperators(ctx, now), s.sweepMoves(ctx, now))
	return errors.Join(append(errs, s.collect(ctx, now))...)
}

func (s *Server) routes(deps Deps) http.Handler {
	mux := xrpc.NewMux(xrpc.Config{Log: deps.Log, Metrics: deps.Registry, Away: pg.Away, Gate: s.gate})
	s.serverRoutes(mux)
	s.adminRoutes(mux)
	s.emailRoutes(mux)
	s.moreRoutes(mux)
	s.repoRoutes(mux)
	s.statusRoutes(mux)
	s.identityRoutes(mux)
	s.syncRoutes(mux)
	s.controllerRoutes(mux)
	s.plainRoutes(mux)
	s.pageRoutes(mux)
	s.adminPages(mux)
	s.apps.Register(mux.Handle)
	mux.Otherwise(s.carry, xrpc.MaxBody(max(proxyMaxBody, s.cfg.MaxBlob)))
	return s.blobsApart(mux)
}
