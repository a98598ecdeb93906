package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/obs"
	"city-sync.org/citysync/internal/service"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
)

const (
	fileWitnessKey     = "witness-key"
	defaultPortWitness = defaultPortBase + 20
)

// witnessCommand runs an institution's witness. It needs no database and trusts nobody: what it cosigns it has re-executed.
func witnessCommand(s streams) *cli.Command {
	keyFlags := []cli.Flag{
		stringFlag("name", "", "`NAME` of the witness's key, such as witness.library.example"),
		secretsFlag(fileWitnessKey),
	}
	logFlags := []cli.Flag{
		stringFlag("copy", "", "`FOLDER` of the copy"),
		stringFlag("log-did", "", "`DID` of the ledger, which is the log's origin"),
		stringFlag("log-vkey", "", "`KEYS` of the log, by comma, as the city publishes them"),
	}
	return &cli.Command{
		Name:  "witness",
		Usage: "keep a copy of a city's log, re-execute every entry and cosign its checkpoints",
		Commands: []*cli.Command{
			{
				Name: "key", Usage: "print the verifier key, for the city's policy",
				Flags: keyFlags,
				Action: func(_ context.Context, c *cli.Command) error {
					key, err := witnessKey(c)
					if err != nil {
						return err
					}
					fmt.Fprintln(s.out, key.VerifierKey())
					return nil
				},
			},
			{
				Name: "endorse", Usage: "agree that a new key continues the log from this copy on, because its operator is gone; prints one line",
				Flags: append(append([]cli.Flag{
					stringFlag("new-vkey", "", "`KEY` of the next operator's log"),
					stringFlag("checkpoint", "", "`FILE` of the checkpoint that the next operator begins after (default: what was cosigned here last)"),
				}, keyFlags...), logFlags...),
				Action: func(ctx context.Context, c *cli.Command) error {
					return endorse(ctx, c, s)
				},
			},
		},
		Flags: append(append([]cli.Flag{
			intFlag("port", defaultPortWitness, "`PORT` to listen on, on loopback"),
			intFlag("private-port", 0, "`PORT` of metrics, readiness and profiles; none without it"),
			stringFlag("log-url", "", "`URL` of the ledger"),
			stringFlag("peers", "", "`URLS` of other witnesses, by comma (default: those of the policy)"),
			boolFlag("openings", "re-execute balances and limits too: the institution has an agreement with the city"),
			boolFlag("push", "bring cosignatures to the ledger, which cannot reach this witness"),
			stringFlag("pds-url", "", "`URL` of the PDS of the institution's account, where cosignatures are published as records; none without it"),
			stringFlag("identifier", "", "`HANDLE` or DID of that account"),
			stringFlag("password-file", "", "`FILE` with its password, mode 0600"),
			boolFlag("allow-loopback", "let this witness call services on this machine"),
		}, keyFlags...), logFlags...),
		Action: func(ctx context.Context, c *cli.Command) error { return runWitness(ctx, c, s) },
	}
}

func needed(c *cli.Command, flags ...string) error {
	if err := noArguments(c); err != nil {
		return err
	}
	for _, flag := range flags {
		if c.String(flag) == "" {
			return fmt.Errorf("--%s is needed", flag)
		}
	}
	return nil
}

func witnessKey(c *cli.Command) (*tlog.Cosigner, error) {
	if err := needed(c, "name", "secrets"); err != nil {
		return nil, err
	}
	a := alone{cmd: c}
	seed, err := a.secret(fileWitnessKey)
	if err != nil {
		return nil, err
	}
	return tlog.NewCosigner(bytes.NewReader(seed), c.String("name"))
}

func openWitness(ctx context.Context, c *cli.Command, s streams, a *ground) (*witness.Witness, error) {
	key, err := witnessKey(c)
	if err != nil {
		return nil, err
	}
	cfg := witness.Config{
		Folder: c.String("copy"), LogURL: c.String("log-url"), Origin: c.String("log-did"), LogKeys: list(c.String("log-vkey")),
		Openings: c.Bool("openings"), Push: c.Bool("push"), Peers: list(c.String("peers")),
	}
	deps := witness.Deps{Key: key, HTTP: a.http, Clock: a.clock, Log: a.log, Metrics: a.registry}
	if c.String("pds-url") != "" {
		if err := needed(c, "identifier", "password-file"); err != nil {
			return nil, err
		}
		password, err := readSecretFile(filepath.Clean(c.String("password-file")))
		if err != nil {
			return nil, err
		}
		cfg.PDS, cfg.Identifier, deps.Password = c.String("pds-url"), c.String("identifier"), string(bytes.TrimSpace(password))
	}
	return witness.New(ctx, cfg, deps)
}

func runWitness(ctx context.Context, c *cli.Command, s streams) error {
	if err := needed(c, "copy", "log-url", "log-did", "log-vkey"); err != nil {
		return err
	}
	a := &ground{
		log: obs.Logger(s.err, true, slog.LevelInfo), clock: clock.System(), http: outbound(c.Bool("allow-loopback")), registry: obs.Registry(),
	}
	w, err := openWitness(ctx, c, s, a)
	if err != nil {
		return err
	}
	ls, err := service.Listen(c.Int("port"))
	if err != nil {
		return err
	}
	var parts []service.Component
	if port := c.Int("private-port"); port != 0 {
		private, err := service.Listen(port)
		if err != nil {
			return err
		}
		parts = append(parts, service.HTTP("private", private, obs.Handler(a.registry, func(context.Context) error {
			if d := w.Dispute(); d != "" {
				return errors.New(d)
			}
			return nil
		})))
	}
	parts = append(parts, service.HTTP("witness", ls, w.Handler()), service.Func("witness work", w.Run))
	return service.Run(ctx, a.log, parts...)
}

// endorse prints what ledger succeed takes: the key, and its signature over the copy's tree and the new key.
func endorse(ctx context.Context, c *cli.Command, s streams) error {
	if err := needed(c, "copy", "log-did", "log-vkey", "new-vkey"); err != nil {
		return err
	}
	key, err := witnessKey(c)
	if err != nil {
		return err
	}
	var note []byte
	if file := c.String("checkpoint"); file != "" {
		if note, err = readBounded(file, tlog.MaxNote); err != nil {
			return err
		}
	}
	signed, cp, err := witness.Agree(c.String("copy"), c.String("log-did"), key, note, list(c.String("log-vkey")), c.String("new-vkey"))
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s %s\n", signed.Key, base64.StdEncoding.EncodeToString(signed.Sig))
	fmt.Fprintf(s.err, "agreed: %s continues the log after its first %d entries, root %s\n", c.String("new-vkey"), cp.Size, cp.Root)
	return nil
}
