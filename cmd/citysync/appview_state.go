package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/pg"
)

// appviewStateCommands are an operator's way to make an index anew and to compare two of
// them. What the network shows is the authority: to read it all again, the schema is
// dropped while the AppView is stopped, and made by its owner.
func appviewStateCommands(s streams) []*cli.Command {
	command := func(name, usage string, act func(context.Context, *pgxpool.Pool) error) *cli.Command {
		return &cli.Command{
			Name:  name,
			Usage: usage,
			Flags: []cli.Flag{
				stringFlag("database-url", "", "PostgreSQL `DSN` of the AppView"),
				stringFlag("schema", schemaAppView, "`SCHEMA` of the database that holds the AppView's tables"),
			},
			Action: func(ctx context.Context, c *cli.Command) error {
				if err := noArguments(c); err != nil {
					return err
				}
				if c.String("database-url") == "" {
					return errors.New("--database-url is needed")
				}
				pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
				if err != nil {
					return err
				}
				defer pool.Close()
				return act(ctx, pool)
			},
		}
	}
	hash := func(ctx context.Context, pool *pgxpool.Pool) error {
		h, err := index.StateHash(ctx, pool)
		if err != nil {
			return err
		}
		fmt.Fprintln(s.out, h)
		return nil
	}
	return []*cli.Command{
		command("state-hash", "print one hash of all that the index shows: equal for two that saw the same network", hash),
		command("rebuild", "make every table anew from the signed records seen, then print the hash", func(ctx context.Context, pool *pgxpool.Pool) error {
			if err := index.Rebuild(ctx, pool); err != nil {
				return err
			}
			return hash(ctx, pool)
		}),
	}
}
