// Package follow keeps a verified copy of every repository of one host.
//
// It lists the host's repositories, fetches those it does not know, follows the
// firehose from a durable cursor and hands what it verified to a [Sink]. AppView
// and ledger use it alike.
//
// Invariants:
//
//   - W1. Sink calls that change anything come one at a time, in the order of the
//     stream; the cursor a Sink has saved never passes an event it was not given.
//   - W2. A Sink is only given what repo.VerifyCommit or repo.VerifyRepo passed,
//     signed by the key of the author's DID document, whose PDS is this host.
//   - W3. Nothing the host sends ends Run: it is dropped, with a reason. A Sink's
//     error ends Run at once: that is our own invariant.
//   - W4. A repository whose chain cannot be followed is fetched whole. A failed
//     fetch is tried again later, ever more rarely, so that a broken repository
//     costs the others nothing.
//   - W5. The first listing begins after the connection stands and has brought
//     what it had, so that nothing is lost between stream and listing, and the
//     stream's single commits go before snapshots. A later listing finds what a
//     host left out of its stream.
package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Reasons for drops, beside those of package repo.
const (
	WrongHost   = "WrongHost"   // the DID document names another PDS
	NoIdentity  = "NoIdentity"  // the DID does not resolve, or has no signing key
	FetchFailed = "FetchFailed" // getRepo gave nothing usable; it is tried again
	NoRepo      = "NoRepo"      // the host says it has no such repository
	// Equivocation is a second tree under a rev that is held: its author signed both.
	Equivocation = "Equivocation"
)

// Sink keeps what a [Follower] verified. Repo may be called while another call
// runs; all others come one at a time. host is Config.Host. Each call that
// takes a sequence saves it as the host's cursor in the transaction of its own
// work; sequences may fall only when a host was reset. Any error ends
// [Follower.Run].
type Sink interface {
	// Cursor is the sequence saved last, 0 if none.
	Cursor(ctx context.Context, host string) (int64, error)
	// Repo is what is held of a repository, the zero State if nothing.
	Repo(ctx context.Context, did syntax.DID) (repo.State, error)
	// Commit saves operations, repository state and cursor.
	Commit(ctx context.Context, host string, seq int64, v *repo.Verified) error
	// Snapshot replaces all that is held of a repository. proof gives the proof
	// of one of its paths. A record held but not in full was deleted.
	Snapshot(ctx context.Context, host string, seq int64, did syntax.DID, full *repo.Full, proof func(path string) ([]byte, error)) error
	// Account saves the account's status at this host.
	Account(ctx context.Context, host string, seq int64, did syntax.DID, active bool, status string) error
	// Identity says that the DID document may have changed.
	Identity(ctx context.Context, host string, seq int64, did syntax.DID) error
	// Drop says that an event was refused. It moves the cursor.
	Drop(ctx context.Context, host string, seq int64, did syntax.DID, reason string) error
}

// Advancer is implemented by a Sink that also wants the cursor moved past
// events which changed nothing.
type Advancer interface {
	Advance(ctx context.Context, host string, seq int64) error
}

// Config makes a [Follower]. Host, Sink and Directory are required.
type Config struct {
	Host      string // http(s) URL of a PDS, without a final slash
	Sink      Sink
	Directory identity.Directory
	HTTP      *http.Client // for listRepos, getRepo and the dial
	Clock     clock.Clock
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil: nothing is counted

	Limits      repo.Limits   // of one getRepo; default 256 MiB
	FetchTime   time.Duration // for one request; default 2 min
	RepairEvery time.Duration // how often due repairs are looked for; default 5 s
	ListEvery   time.Duration // how often the host is listed again; default 1 h
	QuietFor    time.Duration // silence of the stream before the first listing; default 250 ms, at most 40 times that is waited
	MinBackoff  time.Duration // between connections; default 500 ms
}

// Follower follows one host.
type Follower struct {
	cfg     Config
	host    string // scheme://host[:port], for comparison
	workers []*worker
	order   chan *job
	slots   chan struct{} // whole repositories that may be in memory through repairs
	repair  *repairs
	logs    *logLimit
	metrics *metrics
	submit  submitter
	client  *firehose.Client
	active  chan struct{} // an event came; has room for one
	ready   chan struct{}
}

const (
	maxInFlight = 256 // events read but not yet saved
	maxWhole    = 3   // whole repositories fetched ahead
)

// New makes a follower. [Follower.Run] says what is wrong with its configuration.
func New(cfg Config) *Follower {
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System()
	}
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&cfg.FetchTime, 2*time.Minute)
	def(&cfg.RepairEvery, 5*time.Second)
	def(&cfg.ListEvery, time.Hour)
	def(&cfg.QuietFor, 250*time.Millisecond)
	f := &Follower{
		cfg:     cfg,
		order:   make(chan *job, maxInFlight),
		slots:   make(chan struct{}, maxWhole),
		repair:  newRepairs(cfg.Clock),
		logs:    newLogLimit(cfg.Clock),
		metrics: newMetrics(cfg.Metrics, cfg.Host),
		active:  make(chan struct{}, 1),
		ready:   make(chan struct{}),
	}
	for range max(2, runtime.GOMAXPROCS(0)) {
		f.workers = append(f.workers, newWorker(f))
	}
	return f
}

// Name implements service.Component.
func (f *Follower) Name() string { return "follow " + f.cfg.Host }

// Ready is closed once every repository of the first complete listing was
// fetched or refused.
func (f *Follower) Ready() <-chan struct{} { return f.ready }

// Run follows the host until ctx ends (nil) or the Sink fails (its error). It
// is called once.
func (f *Follower) Run(ctx context.Context) error {
	if f.cfg.Sink == nil || f.cfg.Directory == nil {
		return errors.New("follow: Sink and Directory are required")
	}
	var err error
	if f.host, err = origin(f.cfg.Host); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	cursor, err := f.cfg.Sink.Cursor(ctx, f.cfg.Host)
	if err != nil {
		return fmt.Errorf("follow %s: cursor: %w", f.cfg.Host, err)
	}
	f.submit.seq = cursor
	f.client, err = firehose.NewClient(firehose.ClientConfig{
		Host: f.cfg.Host, Cursor: cursor, HTTP: f.cfg.HTTP, Log: f.cfg.Log, MinBackoff: f.cfg.MinBackoff,
	}, handler{f})
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, w := range f.workers {
		g.Go(func() error { return w.run(gctx) })
	}
	g.Go(func() error { return f.deliver(gctx, cursor) })
	g.Go(func() error { return f.repairLoop(gctx) })
	g.Go(func() error { return f.client.Run(gctx) })
	err = g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.cfg.Host, err)
	}
	return nil
}

// handler takes the stream into the pipeline.
type handler struct{ f *Follower }

func (h handler) Connected(context.Context) error {
	h.f.repair.connected()
	h.f.metrics.connected(1)
	return nil
}

// Disconnected implements firehose.Disconnecter.
func (h handler) Disconnected() { h.f.metrics.connected(0) }

func (h handler) Garbage(_ context.Context, err error) error {
	h.f.metrics.drop("BadFrame")
	if h.f.logs.allow("BadFrame") {
		h.f.cfg.Log.Warn("firehose frame dropped", "host", h.f.cfg.Host, "error", err.Error())
	}
	return nil
}

func (h handler) Event(ctx context.Context, ev firehose.Event) error {
	f := h.f
	switch e := ev.(type) {
	case *firehose.Info:
		if e.Name == "OutdatedCursor" {
			f.repair.listNow()
		}
		return nil
	case *firehose.Failure:
		if e.Name == "FutureCursor" { // the host was reset: its stream begins anew
			f.client.SetCursor(0)
			f.repair.listNow()
		}
		return nil
	case *firehose.Unknown:
		return nil
	}
	f.metrics.event(ev.Sequence())
	select {
	case f.active <- struct{}{}:
	default:
	}
	return f.push(ctx, &job{seq: ev.Sequence(), did: ev.Subject(), ev: ev})
}

// origin reduces an address to what identifies a host.
func origin(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%q is not an http address", raw)
	}
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	} else {
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host, nil
}
