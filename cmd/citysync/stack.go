package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

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

// stack is one city under one command: the services that also run alone, wired over
// loopback HTTP, in this process or each in a process of its own. Its parts start in the
// order of parts, each using what those before it left here, and stop in the reverse one.
type stack struct {
	ground

	dsn    string             // of the whole database's owner; set by the part postgres
	server *pgdev.Server      // the private one, nil where a database was given
	homes  map[string]settled // by place; set by the part postgres

	cfg     devConfig
	dir     *dataDir
	state   *cityState
	plan    *city.City
	ports   *ports
	secrets map[string][]byte
	out     io.Writer // where services in processes of their own write their logs
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
	fileEvidence = "appview-evidence-key"
)

func newStack(cfg devConfig, dir *dataDir, state *cityState, plan *city.City, p *ports, out io.Writer, log *slog.Logger) (*stack, error) {
	s := &stack{
		ground: ground{log: log, clock: clock.System(), http: httpClient(), registry: obs.Registry(), plcURL: p.url(portPLC), smtpURL: cfg.SMTPURL},
		cfg:    cfg, dir: dir, state: state, plan: plan, ports: p, out: out, secrets: map[string][]byte{}, homes: map[string]settled{},
	}
	if cfg.clock != nil {
		s.clock = cfg.clock
	}
	if cfg.PLCURL != "" {
		s.plcURL = cfg.PLCURL
	}
	names := []string{fileAdmin, fileMaster, fileSessions, fileRotation, fileRecovery, fileLogSeed, fileEvidence}
	if state.SecondPDS {
		for _, name := range names[:4] {
			names = append(names, secretPath(schemaPDS2, name))
		}
	}
	for _, name := range names {
		key, err := dir.secret(name)
		if err != nil {
			return nil, err
		}
		s.secrets[name] = key
	}
	return s, nil
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
	run := s.inside
	if s.cfg.Separate {
		run = s.apart
	}
	parts := []service.Component{
		service.HTTP("private", s.ports.listeners[portPrivate], obs.Handler(s.registry, s.readiness)),
		part("postgres", s.postgresPart),
		part("plc", s.plcPart),
		part("identities", s.serviceDIDs),
		run(schemaPDS),
	}
	if s.state.SecondPDS {
		parts = append(parts, run(schemaPDS2))
	}
	parts = append(parts, part("accounts", s.accountsPart), run(schemaLedger), run(schemaAppView))
	return append(append(parts, s.witnessParts()...), final)
}

func (s *stack) readiness(context.Context) error {
	if !s.ready.Load() {
		return fmt.Errorf("the city is starting")
	}
	return nil
}

// postgresPart gives every service its home, and ends with the private server.
func (s *stack) postgresPart(ctx context.Context, ready func()) error {
	s.dsn = s.cfg.DatabaseURL
	if s.dsn != "" {
		if err := s.moveIn(ctx); err != nil {
			return err
		}
		ready()
		return nil
	}
	server, err := pgdev.Start(ctx, pgdev.Config{DataDir: s.dir.file("postgres"), Log: s.logger("postgres")})
	if err != nil {
		return err
	}
	s.server, s.dsn = server, server.DSN(pgdev.Database)
	if err := s.moveIn(ctx); err != nil {
		return firstOf(err, server.Stop())
	}
	ready()
	select {
	case <-ctx.Done():
	case <-server.Done():
	}
	return server.Stop()
}

func (s *stack) moveIn(ctx context.Context) error {
	if err := claimDatabase(ctx, s.dsn, s.state.Instance, false); err != nil {
		return err
	}
	return s.databases(ctx)
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

// serviceDIDs registers the services that have no repository, once.
func (s *stack) serviceDIDs(ctx context.Context, ready func()) error {
	services := []struct {
		did            *syntax.DID
		secret         string
		fragment, kind string
		port           int
	}{
		{&s.state.PDS, fileRotation, fragmentPDS, typePDS, portPDS},
		{&s.state.AppView, fileRotation, fragmentAppView, typeAppView, portWeb},
	}
	if s.state.SecondPDS {
		services = append(services, services[0])
		services[2].did, services[2].secret, services[2].port = &s.state.PDS2, schemaPDS2+"/"+fileRotation, portPDS2
	}
	for _, svc := range services {
		if *svc.did != "" {
			continue
		}
		key, err := rotationKey(s.secrets[svc.secret])
		if err != nil {
			return err
		}
		if *svc.did, err = newServiceDID(ctx, s.plc(), key, svc.fragment, svc.kind, s.ports.url(svc.port)); err != nil {
			return err
		}
		if err := s.dir.saveState(s.state); err != nil {
			return err
		}
	}
	ready()
	return nil
}

// hosts are the city's PDSs, the first one's address first.
func (s *stack) hosts() []string {
	hosts := []string{s.ports.url(portPDS)}
	if s.state.SecondPDS {
		hosts = append(hosts, s.ports.url(portPDS2))
	}
	return hosts
}

// portOf is a service's place in the run of ports.
func portOf(place string) int {
	switch place {
	case schemaPDS:
		return portPDS
	case schemaPDS2:
		return portPDS2
	case schemaLedger:
		return portLedger
	default:
		return portWeb
	}
}

// secretPath is where a PDS of this city has a secret.
func secretPath(place, name string) string {
	if place == schemaPDS2 {
		return schemaPDS2 + "/" + name
	}
	return name
}

func (s *stack) pdsSecrets(place string) pdsSecrets {
	key := func(name string) []byte { return s.secrets[secretPath(place, name)] }
	return pdsSecrets{
		admin: key(fileAdmin), master: key(fileMaster), tokens: key(fileSessions), rotation: key(fileRotation),
		folder: filepath.Dir(s.dir.file("secrets", secretPath(place, fileAdmin))),
	}
}

func (s *stack) pdsDID(place string) syntax.DID {
	if place == schemaPDS2 {
		return s.state.PDS2
	}
	return s.state.PDS
}

// appView is what the PDSs of this city call when a client names no service.
func (s *stack) appView() string { return s.state.AppView.String() + "#" + fragmentAppView }

func (s *stack) blobs(place string) string {
	if place == schemaPDS2 {
		return s.dir.file("blobs2")
	}
	return s.dir.file("blobs")
}

// digestEvery lets a demonstration see a digest of what it did before the day is over.
const digestEvery = 5 * time.Second

// limitFactor raises every limit of a PDS of this city: the demonstration's dozens of people and all services come from one address.
const limitFactor = 1000

// inside runs a service in this process.
func (s *stack) inside(place string) service.Component {
	listeners := s.ports.listeners[portOf(place)]
	return part(place, func(ctx context.Context, ready func()) error {
		h := s.homes[place].home
		switch h.service {
		case schemaPDS:
			return s.runPDS(ctx, h, pds.Config{
				PublicURL: s.ports.url(portOf(place)), ServiceDID: s.pdsDID(place), HandleDomains: []string{handleDomain}, InviteRequired: true, AllowLoopback: true,
				LimitFactor: limitFactor,
				AppView:     s.appView(), AppViewURL: s.ports.url(portWeb),
			}, s.pdsSecrets(place), s.blobs(place), listeners, ready)
		case schemaLedger:
			account := s.state.account(idLedger)
			return s.runLedger(ctx, h, ledger.Config{
				City: s.state.did(idCity), TZ: s.plan.TZ, DID: account.DID, PDS: s.ports.url(portPDS), Identifier: account.Handle,
				Sources: s.hosts(), DigestEvery: digestEvery,
				WebURL: s.ports.url(portWeb), PDSURL: s.ports.url(portPDS), PublicURL: s.ports.url(portLedger), PLCURL: loopbackPLC(s.plcURL),
			}, logSecrets{seed: s.secrets[fileLogSeed]}, account.Password, listeners, ready)
		default:
			return s.runAppView(ctx, h, appview.Config{
				PublicURL: s.ports.url(portWeb), City: s.state.did(idCity).String(), Hosts: s.hosts(),
				LedgerURL: s.ports.url(portLedger), PLCURL: loopbackPLC(s.plcURL), Demonstration: true,
			}, s.secrets[fileEvidence], listeners, ready)
		}
	})
}
