package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync/atomic"

	"city-sync.org/citysync/appview"
	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/obs"
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
	ground // its database address is set by the part postgres

	cfg     devConfig
	dir     *dataDir
	state   *cityState
	plan    *city.City
	ports   *ports
	secrets map[string][]byte
	ready   atomic.Bool
}

// Secrets of a city, one file each.
const (
	fileAdmin    = "admin-password"
	fileMaster   = "pds-master-key"
	fileSessions = "pds-token-secret"
	fileRotation = "plc-rotation-key"
	fileRecovery = "ledger-recovery-key"
	fileLogSeed  = "ledger-log-seed"
)

func newStack(cfg devConfig, dir *dataDir, state *cityState, plan *city.City, p *ports, log *slog.Logger) (*stack, error) {
	s := &stack{
		ground: ground{log: log, clock: clock.System(), http: httpClient(), registry: obs.Registry(), plcURL: p.url(portPLC)},
		cfg:    cfg, dir: dir, state: state, plan: plan, ports: p, secrets: map[string][]byte{},
	}
	if cfg.PLCURL != "" {
		s.plcURL = cfg.PLCURL
	}
	for _, name := range []string{fileAdmin, fileMaster, fileSessions, fileRotation, fileRecovery, fileLogSeed} {
		key, err := dir.secret(name)
		if err != nil {
			return nil, err
		}
		s.secrets[name] = key
	}
	return s, nil
}

func (s *stack) pdsSecrets() pdsSecrets {
	return pdsSecrets{s.secrets[fileAdmin], s.secrets[fileMaster], s.secrets[fileSessions], s.secrets[fileRotation]}
}

// loopbackPLC is the directory's address where verifiers on this machine are told of
// it, "" where it is on the network.
func loopbackPLC(plcURL string) string {
	u, err := url.Parse(plcURL)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return plcURL
	}
	return ""
}

func (s *stack) parts(final service.Component) []service.Component {
	return []service.Component{
		service.HTTP("private", s.ports.listeners[portPrivate], obs.Handler(s.registry, s.readiness)),
		part("postgres", s.postgresPart),
		part("plc", s.plcPart),
		part("pds", s.pdsPart),
		part("accounts", s.accountsPart),
		part("ledger", s.ledgerPart),
		part("appview", s.appviewPart),
		final,
	}
}

func (s *stack) readiness(context.Context) error {
	if !s.ready.Load() {
		return fmt.Errorf("the city is starting")
	}
	return nil
}

func (s *stack) postgresPart(ctx context.Context, ready func()) error {
	s.dsn = s.cfg.DatabaseURL
	if s.dsn != "" {
		if err := claimDatabase(ctx, s.dsn, s.state.Instance, false); err != nil {
			return err
		}
		ready()
		return nil
	}
	server, err := pgdev.Start(ctx, pgdev.Config{DataDir: s.dir.file("postgres"), Log: s.logger("postgres")})
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

func (s *stack) plcPart(ctx context.Context, ready func()) error {
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

func (s *stack) pdsPart(ctx context.Context, ready func()) error {
	if err := s.serviceDIDs(ctx); err != nil {
		return err
	}
	// The demonstration signs up and signs in dozens of people from one address.
	many := pds.Rate{Points: 100_000, Window: rateWindow}
	return s.runPDS(ctx, pds.Config{
		PublicURL: s.ports.url(portPDS), ServiceDID: s.state.PDS, HandleDomains: []string{handleDomain}, InviteRequired: true,
		LoginRate: many, AddressRate: many, SignupRate: many,
	}, s.pdsSecrets(), s.dir.file("blobs"), s.ports.listeners[portPDS], ready)
}

// serviceDIDs registers the two services that have no repository, once.
func (s *stack) serviceDIDs(ctx context.Context) error {
	key, err := rotationKey(s.secrets[fileRotation])
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

func (s *stack) ledgerPart(ctx context.Context, ready func()) error {
	account := s.state.account(idLedger)
	return s.runLedger(ctx, ledger.Config{
		City: s.state.did(idCity), TZ: s.plan.TZ, DID: account.DID, PDS: s.ports.url(portPDS), Identifier: account.Handle,
		Sources: []string{s.ports.url(portPDS)},
		WebURL:  s.ports.url(portWeb), PDSURL: s.ports.url(portPDS), PublicURL: s.ports.url(portLedger), PLCURL: loopbackPLC(s.plcURL),
	}, s.secrets[fileLogSeed], account.Password, s.ports.listeners[portLedger], ready)
}

func (s *stack) appviewPart(ctx context.Context, ready func()) error {
	return s.runAppView(ctx, appview.Config{
		PublicURL: s.ports.url(portWeb), City: s.state.did(idCity).String(), Hosts: []string{s.ports.url(portPDS)},
		LedgerURL: s.ports.url(portLedger), PLCURL: loopbackPLC(s.plcURL), Demonstration: true,
	}, s.ports.listeners[portWeb], ready)
}
