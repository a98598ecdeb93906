// Package appview aggregates what organizations, residents and the ledger publish, and answers queries and pages from it.
//
// It learns of records from the firehose of every host it follows, and of totals from the ledger's published log; it asks nobody for
// anything that cannot be checked. The one answer it passes on unchecked is the ledger's explanation of a refusal, shown as the ledger's
// own statement.
package appview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/appview/evidence"
	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/appview/web"
	methods "city-sync.org/citysync/appview/xrpc"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/follow"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

// Config says which city the AppView shows and where it reads.
type Config struct {
	PublicURL     string   // its own address, without a final slash
	City          string   // DID of the city
	Hosts         []string // addresses of the PDSs it follows
	LedgerURL     string   // the ledger's XRPC and log
	PLCURL        string   // told to verifiers; set on a loopback address only
	Version       string   // answered by _health
	Demonstration bool     // pages say that organizations are examples
}

const maxPages = 512 // rendered at once

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	if _, err := syntax.ParseDID(c.City); err != nil {
		return fmt.Errorf("city: %w", err)
	}
	if len(c.Hosts) == 0 {
		return errors.New("at least one host to follow is needed")
	}
	for _, u := range append([]string{c.PublicURL, c.LedgerURL}, c.Hosts...) {
		if p, err := url.Parse(u); err != nil || p.Host == "" || p.Path != "" {
			return fmt.Errorf("%q is no address of the form http://host:port", u)
		}
	}
	return nil
}

// Deps are what the AppView stands on; all but Evidence and Replay are required.
type Deps struct {
	Index     *index.Index
	Query     *query.DB
	Directory indigo.Directory
	HTTP      *http.Client // guarded: hosts and logs are strangers
	Clock     clock.Clock
	Log       *slog.Logger
	Registry  prometheus.Registerer

	// Evidence keeps what is for the issuer of a task alone; nil where this AppView keeps none.
	Evidence *evidence.Store
	Replay   xrpc.Replay // of service tokens; with Evidence
}

// AppView is one running aggregator.
type AppView struct {
	cfg     Config
	deps    Deps
	handler http.Handler
}

// New checks cfg and wires the AppView; nothing runs before Run.
func New(cfg Config, deps Deps) (*AppView, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("appview: %w", err)
	}
	pages, err := web.New(web.Config{Demonstration: cfg.Demonstration, LedgerURL: cfg.LedgerURL, Clock: deps.Clock, Log: deps.Log}, deps.Query)
	if err != nil {
		return nil, fmt.Errorf("appview: %w", err)
	}
	a := &AppView{cfg: cfg, deps: deps}
	mux := xrpc.NewMux(xrpc.Config{Log: deps.Log, Away: pg.Away})
	methods.Register(mux, deps.Query, &explainer{xrpc.Client{Base: cfg.LedgerURL, HTTP: deps.HTTP}})
	if deps.Evidence != nil {
		did := serviceDID(cfg.PublicURL)
		evidence.Register(mux, deps.Evidence, xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{
			Directory: deps.Directory, Audience: []string{did, did + "#citysync_appview"}, Replay: deps.Replay, Clock: deps.Clock,
		}), &cityWords{db: deps.Query, city: cfg.City})
	}
	mux.Handle("GET /xrpc/_health", http.HandlerFunc(a.health))
	mux.Handle("GET /.well-known/citysync.json", http.HandlerFunc(a.wellKnown))
	mux.Handle("/", xrpc.Limit(maxPages, pages))
	a.handler = mux
	return a, nil
}

// Handler serves pages and methods on one address.
func (a *AppView) Handler() http.Handler { return a.handler }

// Run follows every host and the ledger's log until ctx ends. It returns an error only when something of ours broke.
func (a *AppView) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, host := range a.cfg.Hosts {
		f := follow.New(follow.Config{Host: host, Sink: a.deps.Index, Directory: a.deps.Directory, HTTP: a.deps.HTTP, Clock: a.deps.Clock,
			Log: a.deps.Log.With("host", host), Metrics: a.deps.Registry})
		g.Go(func() error { return f.Run(ctx) })
	}
	reader := index.NewLogReader(a.deps.Index, a.cfg.City, a.deps.HTTP, a.deps.Log)
	g.Go(func() error { return reader.Run(ctx) })
	if a.deps.Evidence != nil {
		g.Go(func() error { return a.forgetEvidence(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("appview: %w", err)
	}
	return nil
}

func (a *AppView) health(w http.ResponseWriter, r *http.Request) {
	if _, err := a.deps.Query.CityRecord(r.Context()); err != nil && !errors.Is(err, query.ErrNotFound) {
		xrpc.WriteError(w, xrpc.Errorf(http.StatusServiceUnavailable, "ServiceUnavailable", "the database does not answer"))
		return
	}
	writeJSON(w, map[string]string{"version": a.cfg.Version})
}

// wellKnown tells a verifier where to begin. It believes none of it before the city's signed record confirms it.
func (a *AppView) wellKnown(w http.ResponseWriter, r *http.Request) {
	city, err := a.deps.Query.CityRecord(r.Context())
	if err != nil {
		xrpc.WriteError(w, xrpc.Errorf(http.StatusServiceUnavailable, "NotYetSeen", "the city's record has not been seen yet"))
		return
	}
	out := map[string]any{
		"city": city.DID, "ledger": city.Ledger,
		"addresses": map[string]string{"web": a.cfg.PublicURL, "pds": a.cfg.Hosts[0], "ledger": city.LogURL},
		"log":       map[string]string{"origin": city.LogOrigin, "vkey": city.LogVkey, "url": city.LogURL},
	}
	if a.cfg.PLCURL != "" {
		out["plc"] = a.cfg.PLCURL
	}
	writeJSON(w, out)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the reader went away; there is nobody left to tell
}

// explainer asks the ledger.
type explainer struct{ client xrpc.Client }

func (e *explainer) Explain(ctx context.Context, uri, cid string) (json.RawMessage, error) {
	params := url.Values{"uri": {uri}}
	if cid != "" {
		params.Set("cid", cid)
	}
	var out json.RawMessage
	err := e.client.Query(ctx, "org.city-sync.ledger.explain", params, &out)
	return out, err
}
