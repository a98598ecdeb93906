package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/ledger/entry"
)

const maxAgreements = 64 << 10

// succeedCommand begins the ledger of a new operator from a witness's copy, when the one before is gone with database and key.
func succeedCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "succeed",
		Usage: "fill an empty schema from a witness's copy, and name a new log key by the witnesses' agreement",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the owner"),
			schemaFlag(schemaLedger),
			stringFlag("copy", "", "`FOLDER` of the witness's copy"),
			stringFlag("city-did", "", "`DID` of the city"),
			stringFlag("ledger-did", "", "`DID` of the ledger's account"),
			stringFlag("tz", "", "the city's `ZONE`, such as America/Los_Angeles"),
			stringFlag("log-vkey", "", "`KEYS` of the log until now, by comma"),
			stringFlag("agreements", "", "`FILE` with a line of each witness, as citysync witness endorse prints it"),
			stringFlag("grant-to", "", "`ROLE` that the ledger will run as; it must exist"),
			boolFlag("tiles-alone", "go on without openings that the copy has not: nobody gets at what they hid any more"),
			secretsFlag(fileLogSeed),
		},
		Action: func(ctx context.Context, c *cli.Command) error { return runSucceed(ctx, c, s) },
	}
}

func runSucceed(ctx context.Context, c *cli.Command, s streams) error {
	if err := needed(c, "database-url", "copy", "city-did", "ledger-did", "tz", "log-vkey", "agreements", "secrets"); err != nil {
		return err
	}
	a := &alone{cmd: c}
	in := ledger.Succession{
		TZ: c.String("tz"), From: ledger.FolderCopy(c.String("copy")), OldKeys: list(c.String("log-vkey")), TilesAlone: c.Bool("tiles-alone"),
	}
	var err error
	if in.City, err = a.did("city-did"); err != nil {
		return err
	}
	if in.DID, err = a.did("ledger-did"); err != nil {
		return err
	}
	seed, err := a.secret(fileLogSeed)
	if err != nil {
		return err
	}
	if _, in.NewKey, err = logKeys(in.DID, seed); err != nil {
		return err
	}
	if in.Agreed, err = readAgreements(c.String("agreements")); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, pool, c.String("schema"), ledger.Migrations()); err != nil {
		return err
	}
	got, err := ledger.Succeed(ctx, pool, in, clock.System())
	if err != nil {
		return err
	}
	if role := c.String("grant-to"); role != "" {
		if err := ledger.GrantTo(ctx, pool, role); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.out, "%d entries, root %s\nlog-vkey %s\nnext: citysync admin log-key, and each witness's --log-vkey\n", got.To, got.Root, in.NewKey)
	for _, lost := range got.Lost {
		fmt.Fprintf(s.out, "not to be had from a copy: %s\n", lost)
	}
	return nil
}

func readAgreements(file string) ([]entry.Sign, error) {
	raw, err := readBounded(file, maxAgreements)
	if err != nil {
		return nil, err
	}
	var out []entry.Sign
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		key, encoded, ok := strings.Cut(line, " ")
		sig, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil {
			return nil, fmt.Errorf("%s: %q is no agreement", file, line)
		}
		out = append(out, entry.Sign{Key: key, Sig: sig})
	}
	return out, lines.Err()
}
