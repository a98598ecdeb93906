package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/pds"
)

// pdsBackupCommand writes one moment of a PDS to a file while the server goes on.
func pdsBackupCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "backup",
		Usage: "write one consistent snapshot of accounts, repositories and blobs to a file, while the server goes on; the secrets are kept apart",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the server's own role"),
			schemaFlag(schemaPDS),
			stringFlag("blobs", "", "`FOLDER` of blobs"),
			stringFlag("to", "", "`FILE` that does not exist yet, or - for standard output; keep it as secret as the database"),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := needed(c, "database-url", "blobs", "to"); err != nil {
				return err
			}
			pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
			if err != nil {
				return err
			}
			defer pool.Close()
			var done *pds.BackedUp
			err = writeBackup(c.String("to"), s.out, func(w io.Writer) error {
				done, err = pds.Backup(ctx, pool, c.String("blobs"), w)
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(s.err, "%d accounts, %d blobs of %d bytes, events up to %d\n", done.Accounts, done.Blobs, done.Bytes, done.Seq)
			if done.Gone > 0 {
				fmt.Fprintf(s.err, "%d blobs were deleted meanwhile\n", done.Gone)
			}
			return nil
		},
	}
}

// pdsRestoreCommand fills an empty schema and an empty blob folder.
func pdsRestoreCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "restore",
		Usage: "fill an empty schema and an empty blob folder from a backup, as the schema's owner; everybody signs in again, every repository begins anew in the stream",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the owner"),
			schemaFlag(schemaPDS),
			stringFlag("blobs", "", "`FOLDER` for blobs, empty"),
			stringFlag("from", "", "`FILE` that pds backup wrote, or - for standard input"),
			stringFlag("grant-to", "", "`ROLE` that the server will run as; it must exist"),
			intFlag("seq-margin", pds.DefaultSeqMargin, "how far event numbers go on above the backup's; more than were given out since"),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := needed(c, "database-url", "blobs", "from"); err != nil {
				return err
			}
			pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
			if err != nil {
				return err
			}
			defer pool.Close()
			in, err := openBackup(c.String("from"))
			if err != nil {
				return err
			}
			defer func() { _ = in.Close() }() // it was only read
			done, err := pds.Restore(ctx, pool, pds.RestoreConfig{
				Schema: c.String("schema"), BlobDir: c.String("blobs"), SeqMargin: int64(c.Int("seq-margin")),
			}, in)
			if err != nil {
				return err
			}
			if role := c.String("grant-to"); role != "" {
				if err := pds.GrantTo(ctx, pool, role); err != nil {
					return err
				}
			}
			fmt.Fprintf(s.out, "restored %d accounts and %d blobs as of %s; events go on above %d\n", done.Accounts, done.Blobs, done.At.Format(time.RFC3339), done.NextSeq)
			if done.Lost > 0 {
				fmt.Fprintf(s.out, "%d blobs that records name were deleted while the backup was made\n", done.Lost)
			}
			return nil
		},
	}
}
