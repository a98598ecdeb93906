package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/follow"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/secret"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/signer"
	"city-sync.org/citysync/ledger/tlog"
)

// Config is what an operator decides.
type Config struct {
	City        syntax.DID // the one city this ledger serves
	DID         syntax.DID // the ledger's own account: origin of the log, audience of service tokens
	PDS         string     // where the ledger's own repository lives
	Identifier  string     // handle or DID that opens a session there
	Sources     []string   // PDS hosts whose firehose is read
	WebURL      string     // public addresses, for /.well-known/citysync.json
	PDSURL      string
	PublicURL   string
	PLCURL      string        // only on loopback
	Version     string        // answered by _health
	TZ          string        // the city's time zone; a log keeps the one it began with
	SweepEvery  time.Duration // pause between two sweeps of what time decides; 0 means 5 s
	DigestEvery time.Duration // between two state digests while the log grows; 0 means at the first sweep of a local day
	PINCost     secret.Cost   // of the hash of a till's or a card's PIN; zero means 19 MiB, 2 passes
	WriterWait  time.Duration // for the process before this one to let go of the log; 0 means 5 s
}

// Validate says what is missing.
func (c *Config) Validate() error {
	if _, err := syntax.ParseDID(c.City.String()); err != nil {
		return fmt.Errorf("ledger: city: %w", err)
	}
	if _, err := syntax.ParseDID(c.DID.String()); err != nil {
		return fmt.Errorf("ledger: account: %w", err)
	}
	if len(c.Sources) == 0 {
		return errors.New("ledger: no PDS to read")
	}
	for _, s := range append([]string{c.PDS, c.PublicURL}, c.Sources...) {
		if u, err := url.Parse(s); err != nil || u.Host == "" {
			return fmt.Errorf("ledger: %q is no address", s)
		}
	}
	if _, err := time.LoadLocation(c.TZ); err != nil || c.TZ == "" {
		return fmt.Errorf("ledger: %q is no time zone", c.TZ)
	}
	if c.PINCost != (secret.Cost{}) {
		if err := c.PINCost.Validate(); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	if c.Identifier == "" {
		return errors.New("ledger: no identifier for the ledger's session")
	}
	return nil
}

// Deps are what the ledger works with; all are required.
type Deps struct {
	Pool      *pgxpool.Pool
	Directory identity.Directory
	HTTP      *http.Client // outbound, guarded
	Clock     clock.Clock
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	LogKey    string        // signed-note private key, its name is the ledger's DID; none where a Signer has it
	NextKey   string        // the key that the log is to change to, beside LogKey; none otherwise
	Signer    signer.Signer // in another process; nil: LogKey signs in this one
	Password  string        // of the ledger's account at its PDS
}

// Checkpoint is a signed state of the log.
type Checkpoint struct {
	Size int64
	Root tlog.Hash
	Note []byte
	At   time.Time
}

// Ledger is one city's ledger service.
type Ledger struct {
	cfg       Config
	store     *store
	seq       *sequencer
	intake    *intake
	publisher *publisher
	collector *collector
	followers []*follow.Follower
	auth      *xrpc.ServiceAuth
	clock     clock.Clock
	log       *slog.Logger
	metrics   *metrics
	pins      *pins
	handler   http.Handler
}

// New becomes the writer of the log, reloads its state from it and checks it. It fails with ErrSecondWriter while another process
// writes, and with an error naming the entry where the stored log is not what its root says.
func New(ctx context.Context, cfg Config, deps Deps) (*Ledger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Signer == nil {
		own, err := localSigner(cfg.DID, deps.LogKey, deps.NextKey)
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		deps.Signer = own
	}
	m := newMetrics(deps.Metrics)
	st := &store{pool: deps.Pool}
	if err := st.bind(ctx, cfg); err != nil {
		return nil, err
	}
	loc, err := time.LoadLocation(cfg.TZ)
	if err != nil {
		return nil, fmt.Errorf("ledger: time zone: %w", err)
	}
	seq, err := newSequencer(ctx, st, cfg, deps, loc, m)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		cfg: cfg, store: st, seq: seq, clock: deps.Clock, log: deps.Log, metrics: m,
		pins:   newPINs(cfg.PINCost),
		intake: &intake{cfg: cfg, seq: seq, store: st, clock: deps.Clock, log: deps.Log, metrics: m},
		auth: xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{
			Directory: deps.Directory, Audience: []string{cfg.DID.String(), cfg.DID.String() + "#citysync_ledger"},
			Replay: pg.NewReplay(deps.Pool), Clock: deps.Clock,
		}),
	}
	l.publisher = &publisher{
		store: st, seq: seq, did: cfg.DID.String(), clock: deps.Clock, log: deps.Log, metrics: m,
		session: &session{base: cfg.PDS, identifier: cfg.Identifier, password: deps.Password, http: deps.HTTP},
	}
	l.collector = &collector{store: st, seq: seq, http: deps.HTTP, clock: deps.Clock, log: deps.Log, metrics: m, cosigns: newCosignMetrics(deps.Metrics), keys: l.logKeys}
	l.intake.cosigned = l.collector.cosignedSize
	if err := l.collector.load(ctx); err != nil {
		seq.close()
		return nil, fmt.Errorf("ledger: %w", err)
	}
	for _, host := range cfg.Sources {
		l.followers = append(l.followers, follow.New(follow.Config{
			Host: host, Sink: l.intake, Directory: deps.Directory, HTTP: deps.HTTP, Clock: deps.Clock, Log: deps.Log, Metrics: deps.Metrics,
		}))
	}
	l.handler = l.routes()
	if err := newGauges(l).register(deps.Metrics); err != nil {
		seq.close()
		return nil, err
	}
	deps.Log.InfoContext(ctx, "log loaded", "entries", seq.log.size(), "term", seq.term)
	return l, nil
}

// VerifierKey is the key under which checkpoints are signed, as actor.city publishes it: the newest.
func (l *Ledger) VerifierKey() string { return l.seq.signing.newest() }

// logKeys are the keys that checkpoints are signed with now.
func (l *Ledger) logKeys() []string { return l.seq.signing.now() }

// Handler serves the log and the ledger's methods. They answer once Run has started.
func (l *Ledger) Handler() http.Handler { return l.handler }

// Close lets go of the log where Run was never called. Run does it by itself.
func (l *Ledger) Close() { l.seq.close() }

// Run works until ctx ends. An error is final for the process: it must start anew and reload the log.
func (l *Ledger) Run(ctx context.Context) error {
	defer l.seq.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.seq.run(ctx) })
	g.Go(func() error { return l.publisher.run(ctx) })
	g.Go(func() error { return l.collector.run(ctx) })
	g.Go(func() error { return l.intake.sweepLoop(ctx, l.cfg.SweepEvery) })
	for _, f := range l.followers {
		g.Go(func() error { return f.Run(ctx) })
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("ledger: %w", err)
	} else if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}
