package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/appview"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/obs"
	"city-sync.org/citysync/internal/service"
	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/pds"
)

// A service alone listens on loopback: a proxy in front of it has the public name.

const fileLedgerAccount = "ledger-password"

func serviceFlags(service string, port int, more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		intFlag("port", port, "`PORT` to listen on, on loopback"),
		intFlag("private-port", 0, "`PORT` of metrics, readiness and profiles; none without it"),
		stringFlag("database-url", "", "PostgreSQL `DSN` of this service's role"),
		schemaFlag(service),
		stringFlag("public-url", "", "`URL` under which others reach this service"),
		stringFlag("plc-url", "https://plc.directory", "`URL` of the did:plc directory"),
		boolFlag("allow-loopback", "let this service call services on this machine"),
	}, more...)
}

// alone is one service in a process of its own.
type alone struct {
	ground
	home   home
	cmd    *cli.Command
	public string
	ready  atomic.Bool
}

func newAlone(c *cli.Command, s streams) (*alone, error) {
	if err := noArguments(c); err != nil {
		return nil, err
	}
	for _, flag := range []string{"database-url", "public-url"} {
		if c.String(flag) == "" {
			return nil, fmt.Errorf("--%s is needed", flag)
		}
	}
	public, err := httpURL("public-url", c.String("public-url"))
	if err != nil {
		return nil, err
	}
	plc, err := httpURL("plc-url", c.String("plc-url"))
	if err != nil {
		return nil, err
	}
	return &alone{
		ground: ground{
			plcURL: plc, log: obs.Logger(s.err, true, slog.LevelInfo), clock: clock.System(),
			http: outbound(c.Bool("allow-loopback")), registry: obs.Registry(), smtpURL: c.String("smtp-url"),
		},
		home: home{name: c.Name, service: c.Name, dsn: c.String("database-url"), schema: c.String("schema")},
		cmd:  c, public: public,
	}, nil
}

// run listens and serves until ctx ends.
func (a *alone) run(ctx context.Context, serve func(context.Context, []net.Listener, func()) error) error {
	ls, err := service.Listen(a.cmd.Int("port"))
	if err != nil {
		return err
	}
	var parts []service.Component
	if port := a.cmd.Int("private-port"); port != 0 {
		private, err := service.Listen(port)
		if err != nil {
			return err
		}
		parts = append(parts, service.HTTP("private", private, obs.Handler(a.registry, a.readiness)))
	}
	parts = append(parts, part(a.cmd.Name, func(ctx context.Context, ready func()) error {
		return serve(ctx, ls, func() {
			a.ready.Store(true)
			ready()
		})
	}))
	return service.Run(ctx, a.log, parts...)
}

func (a *alone) readiness(context.Context) error {
	if !a.ready.Load() {
		return errors.New("the service is starting")
	}
	return nil
}

// secret reads one of the service's secret files.
func (a *alone) secret(name string) ([]byte, error) {
	path := filepath.Join(a.cmd.String("secrets"), name)
	raw, err := readSecretFile(path)
	if err != nil {
		return nil, err
	}
	return parseSecret(path, raw)
}

func (a *alone) did(flag string) (syntax.DID, error) {
	did, err := syntax.ParseDID(a.cmd.String(flag))
	if err != nil {
		return "", fmt.Errorf("--%s %q: %w", flag, a.cmd.String(flag), err)
	}
	return did, nil
}

func list(s string) []string {
	var out []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

func secretsFlag(names ...string) cli.Flag {
	return stringFlag("secrets", "", "`FOLDER` with the files "+strings.Join(names, ", ")+", each 64 hex digits and mode 0600")
}

func pdsCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:     "pds",
		Usage:    "run a personal data server alone",
		Commands: []*cli.Command{migrateCommand(schemaPDS, s), pdsBackupCommand(s), pdsRestoreCommand(s), operatorCommand(s), blobsCommand(s), limitCommand(s), rewrapCommand(s)},
		Flags: serviceFlags(schemaPDS, defaultPortBase+portPDS,
			stringFlag("smtp-url", "", "`URL` of a mail server; none: no mail is sent"),
			stringFlag("service-did", "", "`DID` of this server"),
			stringFlag("handle-domains", "", "`DOMAINS` under which accounts get a label, each with its dot, by comma"),
			stringFlag("limits", "", "`LIMITS` in place of the server's own, as NAME=POINTS/WINDOW by comma: createAccount=20/1h,writes=5000/1h+35000/24h; 0 points: no limit"),
			intFlag("limit-factor", 1, "multiply every limit, for a city whose people all come from one machine"),
			stringFlag("limit-spared", "", "`ADDRESSES` or networks, by comma, that no limit by address holds for, such as the city's own services"),
			intFlag("trusted-proxies", 0, "how many proxies stand in front: so many of the last addresses in X-Forwarded-For are theirs"),
			stringFlag("reserved-names", "", "`FILE` of labels that nobody may register, one a line (default: a short list of the server's own)"),
			stringFlag("privacy-url", "", "`URL` of the page that says what is done with people's data"),
			stringFlag("terms-url", "", "`URL` of the page with the terms of use"),
			stringFlag("contact-email", "", "`ADDRESS` of those who run this server"),
			boolFlag("open-registration", "let anyone sign up, without an invite"),
			stringFlag("recovery-key", "", "`DID:KEY` that every new account's DID has above this server's rotation key, for the day on which that is lost"),
			intFlag("max-import", 0, "`BYTES` of a repository that an account may bring along (default 1 GiB)"),
			stringFlag("dns", "", "`HOST:PORT` of the DNS server that is asked for handles of foreign domains (default: the machine's own)"),
			stringFlag("relays", "", "`URLS` of the relays that are asked to read this server's stream, by comma"),
			stringFlag("blobs", "", "`FOLDER` for blobs"),
			intFlag("blob-size", 5_000_000, "`BYTES` of one blob at most"),
			intFlag("blob-quota", 1<<30, "`BYTES` of all blobs of one account at most, where none are set for it"),
			stringFlag("blob-host", "", "second `NAME` of this server, under which nothing but blobs is served"),
			stringFlag("appview", "", "`DID#SERVICE` that gets the methods not served here when the client names none (default: they are refused)"),
			stringFlag("appview-url", "", "`URL` of that service (default: its DID document says)"),
			stringFlag("trusted-clients", "", "`IDS` of the OAuth apps whose name is shown to people as it is, by comma; of any other only its address is sure"),
			boolFlag("transition-scopes", "let apps ask for the OAuth scopes from before permissions were granular, which allow nearly everything"),
			secretsFlag(fileAdmin, fileMaster, fileSessions, fileRotation),
		),
		Action: func(ctx context.Context, c *cli.Command) error {
			a, err := newAlone(c, s)
			if err != nil {
				return err
			}
			did, err := a.did("service-did")
			if err != nil {
				return err
			}
			if c.String("blobs") == "" {
				return errors.New("--blobs is needed")
			}
			keys := pdsSecrets{folder: c.String("secrets")}
			a.dns = c.String("dns")
			for name, key := range map[string]*[]byte{
				fileAdmin: &keys.admin, fileMaster: &keys.master, fileSessions: &keys.tokens, fileRotation: &keys.rotation,
			} {
				if *key, err = a.secret(name); err != nil {
					return err
				}
			}
			cfg := pds.Config{
				PublicURL: a.public, ServiceDID: did, HandleDomains: list(c.String("handle-domains")), InviteRequired: !c.Bool("open-registration"),
				AllowLoopback: c.Bool("allow-loopback"), RecoveryKey: c.String("recovery-key"), MaxImport: int64(c.Int("max-import")),
				AppView: c.String("appview"), AppViewURL: c.String("appview-url"),
				MaxBlob: int64(c.Int("blob-size")), BlobQuota: int64(c.Int("blob-quota")), BlobHost: c.String("blob-host"),
				Relays: list(c.String("relays")), TrustedClients: list(c.String("trusted-clients")), TransitionScopes: c.Bool("transition-scopes"),
			}
			if err := pdsWords(c, &cfg); err != nil {
				return err
			}
			if err := pdsLimits(c, &cfg); err != nil {
				return err
			}
			pds.SpareMemory()
			return a.run(ctx, func(ctx context.Context, ls []net.Listener, ready func()) error {
				return a.runPDS(ctx, a.home, cfg, keys, c.String("blobs"), ls, ready)
			})
		},
	}
}

// pdsWords reads what people are told, and which names are not given away.
func pdsWords(c *cli.Command, cfg *pds.Config) error {
	cfg.PrivacyURL, cfg.TermsURL, cfg.ContactEmail = c.String("privacy-url"), c.String("terms-url"), c.String("contact-email")
	path := c.String("reserved-names")
	if path == "" {
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--reserved-names: %w", err)
	}
	names, err := pds.ParseReservedNames(string(raw))
	if err != nil {
		return fmt.Errorf("--reserved-names %s: %w", path, err)
	}
	cfg.ReservedNames = append([]string{}, names...) // an empty list is one too
	return nil
}

// pdsLimits reads what is set about limits.
func pdsLimits(c *cli.Command, cfg *pds.Config) (err error) {
	cfg.LimitFactor, cfg.TrustedProxies = c.Int("limit-factor"), c.Int("trusted-proxies")
	if cfg.Limits, err = pds.ParseLimits(c.String("limits")); err != nil {
		return fmt.Errorf("--limits: %w", err)
	}
	for _, item := range list(c.String("limit-spared")) {
		network, err := netip.ParsePrefix(item)
		if err != nil {
			address, err := netip.ParseAddr(item)
			if err != nil {
				return fmt.Errorf("--limit-spared: %q is no address or network", item)
			}
			network = netip.PrefixFrom(address, address.BitLen())
		}
		cfg.LimitSpared = append(cfg.LimitSpared, network)
	}
	return nil
}

func ledgerCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:     "ledger",
		Usage:    "run a city's ledger alone",
		Commands: []*cli.Command{migrateCommand(schemaLedger, s), registerCommand(s), rotateKeyCommand(s), succeedCommand(s), backupCommand(s), restoreCommand(s), simulateCommand(s)},
		Flags: serviceFlags(schemaLedger, defaultPortBase+portLedger,
			stringFlag("city-did", "", "`DID` of the city"),
			stringFlag("ledger-did", "", "`DID` of the ledger's account"),
			stringFlag("tz", "", "the city's `ZONE`, such as America/Los_Angeles"),
			stringFlag("pds-url", "", "`URL` of the PDS that hosts the ledger's account"),
			stringFlag("hosts", "", "`URLS` of the PDSs to read, by comma (default: that PDS)"),
			stringFlag("web-url", "", "`URL` of the AppView, told to verifiers"),
			stringFlag("signer", "", "`ADDRESS` of the process that has the log's key: unix:PATH or http://127.0.0.1:PORT (default: the key is here)"),
			durationFlag("digest-every", "`TIME` between two digests of the state while the log grows (default: one at the first sweep of a day)"),
			secretsFlag(fileLogSeed, fileLedgerAccount),
		),
		Action: func(ctx context.Context, c *cli.Command) error {
			a, err := newAlone(c, s)
			if err != nil {
				return err
			}
			cfg := ledger.Config{
				TZ: c.String("tz"), PDS: c.String("pds-url"), PDSURL: c.String("pds-url"), WebURL: c.String("web-url"),
				PublicURL: a.public, PLCURL: loopbackPLC(a.plcURL), Sources: list(c.String("hosts")),
				DigestEvery: c.Duration("digest-every"),
			}
			if cfg.City, err = a.did("city-did"); err != nil {
				return err
			}
			if cfg.DID, err = a.did("ledger-did"); err != nil {
				return err
			}
			cfg.Identifier = cfg.DID.String()
			if len(cfg.Sources) == 0 {
				cfg.Sources = []string{cfg.PDS}
			}
			keys, err := a.logSecrets()
			if err != nil {
				return err
			}
			password, err := readSecretFile(filepath.Join(c.String("secrets"), fileLedgerAccount))
			if err != nil {
				return err
			}
			return a.run(ctx, func(ctx context.Context, ls []net.Listener, ready func()) error {
				return a.runLedger(ctx, a.home, cfg, keys, strings.TrimSpace(string(password)), ls, ready)
			})
		},
	}
}

func appviewCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:     "appview",
		Usage:    "run an AppView with its pages alone",
		Commands: append(appviewStateCommands(s), migrateCommand(schemaAppView, s)),
		Flags: serviceFlags(schemaAppView, defaultPortBase+portWeb,
			stringFlag("city-did", "", "`DID` of the city"),
			stringFlag("hosts", "", "`URLS` of the PDSs to read, by comma"),
			stringFlag("ledger-url", "", "`URL` of the city's ledger"),
			stringFlag("secrets", "", "`FOLDER` with the key file "+fileEvidence+"; without it no evidence is kept"),
			boolFlag("demonstration", "say on every page that the organizations are examples"),
		),
		Action: func(ctx context.Context, c *cli.Command) error {
			a, err := newAlone(c, s)
			if err != nil {
				return err
			}
			did, err := a.did("city-did")
			if err != nil {
				return err
			}
			cfg := appview.Config{
				PublicURL: a.public, City: did.String(), Hosts: list(c.String("hosts")), LedgerURL: c.String("ledger-url"),
				PLCURL: loopbackPLC(a.plcURL), Demonstration: c.Bool("demonstration"),
			}
			var key []byte
			if c.String("secrets") != "" {
				if key, err = a.secret(fileEvidence); err != nil {
					return err
				}
			}
			return a.run(ctx, func(ctx context.Context, ls []net.Listener, ready func()) error {
				return a.runAppView(ctx, a.home, cfg, key, ls, ready)
			})
		},
	}
}
