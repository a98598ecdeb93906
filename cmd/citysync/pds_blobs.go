package main

import (
	"context"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/pds"
)

// blobsCommand looks after a PDS's blobs, beside the PDS or while it stands.
func blobsCommand(s streams) *cli.Command {
	database := func(more ...cli.Flag) []cli.Flag {
		return append([]cli.Flag{stringFlag("database-url", "", "PostgreSQL `DSN` of the PDS's role"), schemaFlag(schemaPDS)}, more...)
	}
	return &cli.Command{
		Name:  "blobs",
		Usage: "look after the blobs of a personal data server",
		Commands: []*cli.Command{
			{
				Name:  "collect",
				Usage: "remove blobs that no record has referred to for a while, uploads that broke off and files that belong to nobody",
				Flags: database(
					stringFlag("blobs", "", "`FOLDER` of the blobs"),
					durationFlag("grace", "`TIME` for which an unreferenced blob is kept (default: 24h)"),
					boolFlag("dry-run", "only say what would be removed"),
				),
				Action: func(ctx context.Context, c *cli.Command) error {
					return withPool(ctx, c, []string{"database-url", "blobs"}, func(pool *pgxpool.Pool) error {
						return collectBlobs(ctx, c, s, pool)
					})
				},
			},
			{
				Name:  "quota",
				Usage: "set how much the blobs of one account may take",
				Flags: database(
					stringFlag("did", "", "`DID` of the account"),
					intFlag("bytes", 0, "so many; 0: as many as of every account"),
				),
				Action: func(ctx context.Context, c *cli.Command) error {
					return withPool(ctx, c, []string{"database-url", "did"}, func(pool *pgxpool.Pool) error {
						did, err := syntax.ParseDID(c.String("did"))
						if err != nil {
							return fmt.Errorf("--did %q: %w", c.String("did"), err)
						}
						return pds.SetBlobQuota(ctx, pool, did, int64(c.Int("bytes")))
					})
				},
			},
		},
	}
}

func withPool(ctx context.Context, c *cli.Command, needed []string, fn func(*pgxpool.Pool) error) error {
	if err := noArguments(c); err != nil {
		return err
	}
	for _, flag := range needed {
		if c.String(flag) == "" {
			return fmt.Errorf("--%s is needed", flag)
		}
	}
	pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
	if err != nil {
		return err
	}
	defer pool.Close()
	return fn(pool)
}

const defaultGrace = 24 * time.Hour // as the server's own

func collectBlobs(ctx context.Context, c *cli.Command, s streams, pool *pgxpool.Pool) error {
	grace, dry := defaultGrace, c.Bool("dry-run")
	if c.IsSet("grace") {
		grace = c.Duration("grace")
	}
	if grace < 0 {
		return fmt.Errorf("--grace %s is negative", grace)
	}
	got, err := pds.CollectBlobs(ctx, pool, c.String("blobs"), grace, clock.System().Now(), dry)
	if err != nil {
		return err
	}
	word := "removed"
	if dry {
		word = "would be removed"
	}
	fmt.Fprintf(s.out, "%d blobs of %d bytes, %d broken uploads, %d files of nobody %s\n", got.Blobs, got.Bytes, got.Uploads, got.Strays, word)
	return nil
}
