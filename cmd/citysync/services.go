package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/appview"
	"city-sync.org/citysync/appview/evidence"
	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/service"
	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/pds"
)

// ground is what every service stands on, in the city's one process as alone.
type ground struct {
	plcURL   string
	log      *slog.Logger
	clock    clock.Clock
	http     *http.Client
	registry *prometheus.Registry
	smtpURL  string // of a mail server; none: no mail is sent
	dns      string // of the server that is asked for handles; the machine's own when empty
}

func (g *ground) plc() *identity.PLC { return identity.NewPLC(g.plcURL, g.http) }

// directory is made anew for each service: none shares another's cache.
func (g *ground) directory() *identity.Directory {
	return identity.NewDirectory(identity.Config{PLCURL: g.plcURL, HTTP: g.http, Clock: g.clock})
}

// metrics keeps apart what two services count under one name.
func (g *ground) metrics(name string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"service": name}, g.registry)
}

func (g *ground) logger(name string) *slog.Logger { return g.log.With("service", name) }

// pdsSecrets are the keys of a PDS, 32 bytes each.
type pdsSecrets struct {
	admin, master, tokens, rotation []byte

	folder string // where the files lie
}

// adminPassword is what the operator types: the secret's hex digits.
func (s pdsSecrets) adminPassword() string { return fmt.Sprintf("%x", s.admin) }

func (g *ground) runPDS(ctx context.Context, h home, cfg pds.Config, secrets pdsSecrets, blobs string, ls []net.Listener, ready func()) error {
	rotation, err := rotationKey(secrets.rotation)
	if err != nil {
		return err
	}
	pool, err := g.openHome(ctx, h)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return fmt.Errorf("blob folder: %w", err)
	}
	cfg.Version = version()
	// On one machine handles are looked up at that machine's own servers only: no query leaves it unless a DNS server was named.
	var resolve func(context.Context, syntax.Handle) (syntax.DID, error)
	if !cfg.AllowLoopback || g.dns != "" {
		resolve = (&identity.Handles{HTTP: g.http, TXT: identity.ResolverAt(g.dns).LookupTXT}).Resolve
	}
	server, err := pds.New(cfg, pds.Deps{
		Pool: pool, PLC: g.plc(), Directory: g.directory(), HTTP: g.http, Clock: g.clock, Log: g.logger(h.name), Registry: g.metrics(h.name),
		AdminPassword: secrets.adminPassword(), MasterKey: secrets.master, MasterKeys: func() ([][]byte, error) { return masterKeys(secrets.folder) },
		ResolveHandle: resolve, RotationKey: rotation, JWTSecret: secrets.tokens, BlobDir: blobs,
		Mail: mailer(g.smtpURL, "no-reply@"+hostOf(cfg.PublicURL)),
	})
	if err != nil {
		return err
	}
	ready()
	return service.Run(ctx, g.log, service.Func("pds work", server.Run), service.Func("mail", func(ctx context.Context) error {
		return watchMail(ctx, g.smtpURL, g.logger(h.name), g.metrics(h.name))
	}), service.HTTP("pds", ls, server.Handler()))
}

func (g *ground) runLedger(ctx context.Context, h home, cfg ledger.Config, keys logSecrets, password string, ls []net.Listener, ready func()) error {
	pool, err := g.openHome(ctx, h)
	if err != nil {
		return err
	}
	defer pool.Close()
	cfg.Version = version()
	deps := ledger.Deps{
		Pool: pool, Directory: g.directory(), HTTP: g.http, Clock: g.clock, Log: g.logger(h.name), Metrics: g.metrics(h.name),
		Password: password,
	}
	if err := keys.deps(ctx, cfg.DID, &deps); err != nil {
		return err
	}
	l, err := ledger.New(ctx, cfg, deps)
	if err != nil {
		return err
	}
	ready()
	return service.Run(ctx, g.log, service.Func("ledger work", l.Run), service.HTTP("ledger", ls, l.Handler()))
}

func (g *ground) runAppView(ctx context.Context, h home, cfg appview.Config, key []byte, ls []net.Listener, ready func()) error {
	pool, err := g.openHome(ctx, h)
	if err != nil {
		return err
	}
	defer pool.Close()
	x, err := index.New(pool, g.clock, g.logger(h.name), g.metrics(h.name))
	if err != nil {
		return err
	}
	cfg.Version = version()
	deps := appview.Deps{
		Index: x, Query: query.New(pool, cfg.City), Directory: g.directory(), HTTP: g.http, Clock: g.clock,
		Log: g.logger(h.name), Registry: g.metrics(h.name),
	}
	if len(key) > 0 {
		if deps.Evidence, err = evidence.NewStore(pool, key, g.clock); err != nil {
			return err
		}
		deps.Replay = pg.NewReplay(pool)
	}
	a, err := appview.New(cfg, deps)
	if err != nil {
		return err
	}
	ready()
	return service.Run(ctx, g.log, service.Func("appview work", a.Run), service.HTTP("web", ls, a.Handler()))
}
