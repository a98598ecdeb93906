package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/pds"
)

// operatorCommand names the people who run a PDS. It needs the database's address, so only who runs the machine can.
func operatorCommand(s streams) *cli.Command {
	one := func(name, usage string, do func(ctx context.Context, c *cli.Command, pool *pgxpool.Pool) error, more ...cli.Flag) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage,
			Flags: append([]cli.Flag{
				stringFlag("database-url", "", "PostgreSQL `DSN` of the server's own role"),
				schemaFlag(schemaPDS),
			}, more...),
			Action: func(ctx context.Context, c *cli.Command) error {
				if err := needed(c, "database-url"); err != nil {
					return err
				}
				pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
				if err != nil {
					return err
				}
				defer pool.Close()
				return do(ctx, c, pool)
			},
		}
	}
	name := stringFlag("name", "", "`NAME` of the operator: small letters, digits and hyphens")
	return &cli.Command{
		Name:  "operator",
		Usage: "name the people who run this server",
		Commands: []*cli.Command{
			one("add", "add an operator; prints a password for the first sign-in at /admin, where a second factor is set up", func(ctx context.Context, c *cli.Command, pool *pgxpool.Pool) error {
				password, err := pds.AddOperator(ctx, pool, c.String("name"), pds.Role(c.String("role")), time.Now())
				if err != nil {
					return err
				}
				fmt.Fprintf(s.out, "operator %s: first password %s\n", c.String("name"), password)
				return nil
			}, name, stringFlag("role", string(pds.RoleReader), "`ROLE`: administrator, moderator or reader")),
			one("disable", "keep an operator out, at once; what they did stays in the log under their name", func(ctx context.Context, c *cli.Command, pool *pgxpool.Pool) error {
				return pds.DisableOperator(ctx, pool, c.String("name"), time.Now())
			}, name),
			one("token", "make a token for a program that acts under an operator's name", func(ctx context.Context, c *cli.Command, pool *pgxpool.Pool) error {
				token, err := pds.OperatorToken(ctx, pool, c.String("name"), time.Now(), c.Duration("life"))
				if err != nil {
					return err
				}
				fmt.Fprintln(s.out, token)
				return nil
			}, name, &cli.DurationFlag{Name: "life", Value: 30 * 24 * time.Hour, Usage: "how `LONG` the token is good"}),
			one("list", "list the operators", func(ctx context.Context, c *cli.Command, pool *pgxpool.Pool) error {
				list, err := pds.Operators(ctx, pool)
				if err != nil {
					return err
				}
				for _, o := range list {
					state := "since " + o.Created.Format(time.DateOnly)
					if o.Disabled != nil {
						state = "disabled " + o.Disabled.Format(time.DateOnly)
					}
					fmt.Fprintf(s.out, "%-20s %-14s %s\n", o.Name, o.Role, state)
				}
				return nil
			}),
		},
	}
}
