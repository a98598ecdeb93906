package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/appview"
	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/obs"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgdev"
	"city-sync.org/citysync/internal/service"
	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/pds"
)

const handleDomain = ".test"

// stack is one city in one process: the services that also run alone, wired over
// loopback HTTP. Its parts start in the order of parts, each using what those before
// it left here, and stop in the reverse one.
type stack struct {
	cfg   devConfig
	dir   *dataDir
	state *cityState
	plan  *city.City
	ports *ports
	log   *slog.Logger
	clock clock.Clock
	http  *http.Client

	registry *prometheus.Registry
	ready    atomic.Bool
	secrets  map[string][]byte

	dsn string // set by the part postgres
}

// Secrets of a city, one file each.
const (
	secretAdmin    = "admin-password"
	secretMaster   = "pds-master-key"
	secretTokens   = "pds-token-secret"
	secretRotation = "plc-rotation-key"
	secretRecovery = "ledger-recovery-key"
	secretLog      = "ledger-log-seed"
)

func newStack(cfg devConfig, dir *dataDir, state *cityState, plan *city.City, p *ports, log *slog.Logger) (*stack, error) {
	s := &stack{
		cfg: cfg, dir: dir, state: state, plan: plan, ports: p, log: log, clock: clock.System(), http: httpClient(),
		registry: obs.Registry(), secrets: map[string][]byte{},
	}
	for _, name := range []string{secretAdmin, secretMaster, secretTokens, secretRotation, secretRecovery, secretLog} {
		key, err := dir.secret(name)
		if err != nil {
			return nil, err
		}
		s.secrets[name] = key
	}
	return s, nil
}

func (s *stack) adminPassword() string { return fmt.Sprintf("%x", s.secrets[secretAdmin]) }

func (s *stack) plcURL() string {
	if s.cfg.PLCURL != "" {
		return s.cfg.PLCURL
	}
	return s.ports.url(portPLC)
}

// loopbackPLC is the directory's address where verifiers on this machine are told of
// it, "" where it is on the network.
func (s *stack) loopbackPLC() string {
	u, err := url.Parse(s.plcURL())
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return s.plcURL()
	}
	return ""
}

func (s *stack) plc() *identity.PLC { return identity.NewPLC(s.plcURL(), s.http) }

// directory is made anew for each service: none shares another's cache.
func (s *stack) directory() *identity.Directory {
	return identity.NewDirectory(identity.Config{PLCURL: s.plcURL(), HTTP: s.http, Clock: s.clock})
}

// metrics keeps apart what two services count under one name.
func (s *stack) metrics(name string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"service": name}, s.registry)
}

func (s *stack) parts(final service.Component) []service.Component {
	parts := []service.Component{
		service.HTTP("private", s.ports.listeners[portPrivate], obs.Handler(s.registry, s.readiness)),
		part("postgres", s.runPostgres),
		part("plc", s.runPLC),
		part("pds", s.runPDS),
		part("accounts", s.runAccounts),
		part("ledger", s.runLedger),
		part("appview", s.runAppView),
	}
	return append(parts, final)
}

func (s *stack) readiness(context.Context) error {
	if !s.ready.Load() {
		return fmt.Errorf("the city is starting")
	}
	return nil
}

func (s *stack) runPostgres(ctx context.Context, ready func()) error {
	s.dsn = s.cfg.DatabaseURL
	if s.dsn != "" {
		if err := claimDatabase(ctx, s.dsn, s.state.Instance, false); err != nil {
			return err
		}
		ready()
		return nil
	}
	server, err := pgdev.Start(ctx, pgdev.Config{DataDir: s.dir.file("postgres"), Log: s.log.With("service", "postgres")})
	if err != nil {
		return err
	}
	s.dsn = server.DSN(pgdev.Database)
	if err := claimDatabase(ctx, s.dsn, s.state.Instance, false); err != nil {
		return firstOf(err, server.Stop())
	}
	ready()
	select {
	case <-ctx.Done():
	case <-server.Done():
	}
	return server.Stop()
}

// firstOf is the first error; the second came of undoing things after it.
func firstOf(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

func (s *stack) runPLC(ctx context.Context, ready func()) error {
	listeners := s.ports.listeners[portPLC]
	if s.cfg.PLCURL != "" {
		for _, l := range listeners {
			_ = l.Close() // the address is not used: an outside directory answers
		}
		ready()
		return nil
	}
	directory, err := plcdev.New(s.dir.file("plc.jsonl"), s.clock)
	if err != nil {
		return err
	}
	ready()
	err = service.Run(ctx, s.log, service.HTTP("plc", listeners, directory.Handler()))
	return firstOf(err, directory.Close())
}

func (s *stack) runPDS(ctx context.Context, ready func()) error {
	rotation, err := rotationKey(s.secrets[secretRotation])
	if err != nil {
		return err
	}
	if err := s.serviceDIDs(ctx); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, s.dsn, schemaPDS)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, pool, schemaPDS, pds.Migrations()); err != nil {
		return err
	}
	blobs := s.dir.file("blobs")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return fmt.Errorf("blob folder: %w", err)
	}
	// The demonstration signs up and signs in dozens of people from one address.
	many := pds.Rate{Points: 100_000, Window: rateWindow}
	server, err := pds.New(pds.Config{
		PublicURL: s.ports.url(portPDS), ServiceDID: s.state.PDS, HandleDomains: []string{handleDomain}, InviteRequired: true,
		Version: version(), LoginRate: many, AddressRate: many, SignupRate: many,
	}, pds.Deps{
		Pool: pool, PLC: s.plc(), Directory: s.directory(), Clock: s.clock, Log: s.log.With("service", "pds"), Registry: s.metrics("pds"),
		AdminPassword: s.adminPassword(), MasterKey: s.secrets[secretMaster], RotationKey: rotation,
		JWTSecret: s.secrets[secretTokens], BlobDir: blobs,
	})
	if err != nil {
		return err
	}
	ready()
	return service.Run(ctx, s.log, service.Func("pds work", server.Run),
		service.HTTP("pds", s.ports.listeners[portPDS], server.Handler()))
}

// serviceDIDs registers the two services that have no repository, once.
func (s *stack) serviceDIDs(ctx context.Context) error {
	key, err := rotationKey(s.secrets[secretRotation])
	if err != nil {
		return err
	}
	if s.state.PDS == "" {
		if s.state.PDS, err = newServiceDID(ctx, s.plc(), key, fragmentPDS, typePDS, s.ports.url(portPDS)); err != nil {
			return err
		}
	}
	if s.state.AppView == "" {
		if s.state.AppView, err = newServiceDID(ctx, s.plc(), key, fragmentAppView, typeAppView, s.ports.url(portWeb)); err != nil {
			return err
		}
	}
	return s.dir.saveState(s.state)
}

func (s *stack) runLedger(ctx context.Context, ready func()) error {
	account := s.state.account(idLedger)
	skey, _, err := logKeys(account.DID, s.secrets[secretLog])
	if err != nil {
		return err
	}
	pool, err := pg.Open(ctx, s.dsn, schemaLedger)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, pool, schemaLedger, ledger.Migrations()); err != nil {
		return err
	}
	l, err := ledger.New(ctx, ledger.Config{
		City: s.state.did(idCity), TZ: s.plan.TZ, DID: account.DID, PDS: s.ports.url(portPDS), Identifier: account.Handle,
		Sources: []string{s.ports.url(portPDS)},
		WebURL:  s.ports.url(portWeb), PDSURL: s.ports.url(portPDS), PublicURL: s.ports.url(portLedger), PLCURL: s.loopbackPLC(),
	}, ledger.Deps{
		Pool: pool, Directory: s.directory(), HTTP: s.http, Clock: s.clock, Log: s.log.With("service", "ledger"), Metrics: s.metrics("ledger"),
		LogKey: skey, Password: account.Password,
	})
	if err != nil {
		return err
	}
	ready()
	return service.Run(ctx, s.log, service.Func("ledger work", l.Run),
		service.HTTP("ledger", s.ports.listeners[portLedger], l.Handler()))
}

func (s *stack) runAppView(ctx context.Context, ready func()) error {
	pool, err := pg.Open(ctx, s.dsn, schemaAppView)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, pool, schemaAppView, index.Migrations()); err != nil {
		return err
	}
	log := s.log.With("service", "appview")
	x, err := index.New(pool, s.clock, log, s.metrics("appview"))
	if err != nil {
		return err
	}
	a, err := appview.New(appview.Config{
		PublicURL: s.ports.url(portWeb), City: s.state.did(idCity).String(), Hosts: []string{s.ports.url(portPDS)},
		LedgerURL: s.ports.url(portLedger), PLCURL: s.loopbackPLC(), Demonstration: true,
	}, appview.Deps{
		Index: x, Query: query.New(pool, s.state.did(idCity).String()), Directory: s.directory(), HTTP: s.http, Clock: s.clock,
		Log: log, Registry: s.metrics("appview"),
	})
	if err != nil {
		return err
	}
	ready()
	return service.Run(ctx, s.log, service.Func("appview work", a.Run),
		service.HTTP("web", s.ports.listeners[portWeb], a.Handler()))
}
