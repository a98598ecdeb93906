package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/pds"
)

// limitCommand shows and sets what one account may do in a time.
func limitCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "limit",
		Usage: "show an account's own rate limits, or set one: more for an import, fewer for a nuisance",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the PDS's role"), schemaFlag(schemaPDS),
			stringFlag("did", "", "`DID` of the account"),
			stringFlag("name", "", "the `LIMIT` to set, such as writes; none: show what is set"),
			stringFlag("rate", "", "`POINTS/WINDOW`, such as 100000/1h; 0 points: no limit"),
			boolFlag("usual", "take the account's own rate back"),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			return withPool(ctx, c, []string{"database-url", "did"}, func(pool *pgxpool.Pool) error {
				return accountLimit(ctx, c, s, pool)
			})
		},
	}
}

func accountLimit(ctx context.Context, c *cli.Command, s streams, pool *pgxpool.Pool) error {
	did, err := syntax.ParseDID(c.String("did"))
	if err != nil {
		return fmt.Errorf("--did %q: %w", c.String("did"), err)
	}
	name, text, usual := c.String("name"), c.String("rate"), c.Bool("usual")
	switch {
	case name == "" && (text != "" || usual):
		return errors.New("--name is needed: which limit")
	case name != "" && (text == "") == !usual:
		return errors.New("--rate or --usual is needed, and one of them only")
	case name != "":
		var rate *pds.Rate
		if !usual {
			r, err := pds.ParseRate(text)
			if err != nil {
				return fmt.Errorf("--rate: %w", err)
			}
			rate = &r
		}
		if err := pds.SetAccountLimit(ctx, pool, did, name, rate); err != nil {
			return err
		}
	}
	own, err := pds.AccountLimits(ctx, pool, did)
	if err != nil {
		return err
	}
	if len(own) == 0 {
		fmt.Fprintln(s.out, "the server's usual limits")
	}
	for _, l := range own {
		if l.Rate.Points == 0 {
			fmt.Fprintf(s.out, "%s: no limit\n", l.Name)
			continue
		}
		fmt.Fprintf(s.out, "%s: %d in %s\n", l.Name, l.Rate.Points, l.Rate.Window)
	}
	return nil
}
