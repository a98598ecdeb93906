package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"city-sync.org/citysync/internal/service"
)

// apart runs a service as a process of its own, and again when that dies. Nothing passes
// between it and the rest of the city but what its flags name: a database that only its
// role can enter, and HTTP.
func (s *stack) apart(place string) service.Component {
	return part(place, func(ctx context.Context, ready func()) error {
		program := s.cfg.Program
		if program == "" {
			var err error
			if program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
		}
		args, err := s.childArgs(place)
		if err != nil {
			return err
		}
		h := s.homes[place]
		s.ports.free(portOf(place))
		sup := &supervisor{
			name: place, log: s.log, http: s.http, url: s.ports.url(portOf(place)),
			child: child{
				path: program, args: args, out: s.out,
				env: append(withoutSettings(os.Environ()), s.childSettings(place)...),
			},
			// A start brings the tables up to the program, the first as any later one.
			before: func(ctx context.Context) error { return h.owner.migrate(ctx, h.role) },
		}
		return sup.run(ctx, ready)
	})
}

func (s *stack) childArgs(place string) ([]string, error) {
	h := s.homes[place]
	args := []string{
		h.service, "--schema", h.schema, "--allow-loopback", "--plc-url", s.plcURL,
		"--port", strconv.Itoa(s.ports.base + portOf(place)), "--public-url", s.ports.url(portOf(place)),
	}
	switch h.service {
	case schemaPDS:
		return append(args, "--service-did", s.pdsDID(place).String(), "--handle-domains", handleDomain, "--blobs", s.blobs(place),
			"--appview", s.appView(), "--appview-url", s.ports.url(portWeb),
			"--secrets", filepath.Dir(s.dir.file("secrets", secretPath(place, fileAdmin))), "--limit-factor", strconv.Itoa(limitFactor)), nil
	case schemaLedger:
		account := s.state.account(idLedger)
		if err := writeAtomic(s.dir.file("secrets", fileLedgerAccount), []byte(account.Password+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("secret %s: %w", fileLedgerAccount, err)
		}
		return append(args, "--city-did", s.state.did(idCity).String(), "--ledger-did", account.DID.String(), "--tz", s.plan.TZ,
			"--pds-url", s.ports.url(portPDS), "--hosts", strings.Join(s.hosts(), ","), "--web-url", s.ports.url(portWeb),
			"--digest-every", digestEvery.String(), "--secrets", s.dir.file("secrets")), nil
	default:
		return append(args, "--city-did", s.state.did(idCity).String(), "--hosts", strings.Join(s.hosts(), ","),
			"--ledger-url", s.ports.url(portLedger), "--secrets", s.dir.file("secrets"), "--demonstration"), nil
	}
}

// childSettings are those that may hold a password, for which a command line is no place.
func (s *stack) childSettings(place string) []string {
	out := []string{envPrefix + "DATABASE_URL=" + s.homes[place].dsn}
	if s.homes[place].service == schemaPDS && s.smtpURL != "" {
		out = append(out, envPrefix+"SMTP_URL="+s.smtpURL)
	}
	return out
}

// withoutSettings is an environment without this program's settings: what this process
// was told is not meant for its children.
func withoutSettings(environ []string) []string {
	var out []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, envPrefix) {
			out = append(out, kv)
		}
	}
	return out
}
