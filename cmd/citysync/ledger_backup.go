package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/ledger"
)

// backupCommand writes one moment of the ledger to a file while the ledger goes on.
func backupCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "backup",
		Usage: "write one consistent snapshot of the ledger's tables to a file, while the ledger goes on",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the ledger's own role"),
			schemaFlag(schemaLedger),
			stringFlag("to", "", "`FILE` that does not exist yet, or - for standard output; it holds people's openings: keep it as secret"),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			for _, flag := range []string{"database-url", "to"} {
				if c.String(flag) == "" {
					return fmt.Errorf("--%s is needed", flag)
				}
			}
			return backUp(ctx, c, s)
		},
	}
}

func backUp(ctx context.Context, c *cli.Command, s streams) error {
	pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
	if err != nil {
		return err
	}
	defer pool.Close()
	var head *ledger.BackupHeader
	err = writeBackup(c.String("to"), s.out, func(w io.Writer) error {
		head, err = ledger.Backup(ctx, pool, w)
		return err
	})
	if err != nil {
		return err
	}
	if err := ledger.NoteBackup(ctx, pool, head); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "%d entries, root %x\n", head.Size, head.Root)
	return nil
}

// writeBackup writes to a new file, or to standard output where it is named "-".
func writeBackup(to string, out io.Writer, write func(io.Writer) error) error {
	if to == "-" {
		return write(out)
	}
	return writeWhole(to, write)
}

// openBackup opens a file, or standard input where it is named "-".
func openBackup(from string) (io.ReadCloser, error) {
	if from == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(filepath.Clean(from))
}

// writeWhole makes a file that is there under its name only when all of it is on the disk.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return refuse("FileExists", "%s is there already; nothing was written", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".citysync-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error counts
		}
	}()
	if err = errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Link(f.Name(), path); err != nil { // unlike a rename it never takes another file's place
		return err
	}
	return os.Remove(f.Name())
}

// restoreCommand fills an empty schema, or marks one that was filled by other means.
func restoreCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "restore",
		Usage: "fill an empty schema from a backup, as its owner; the ledger then starts only if nobody has seen more of its log",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the owner"),
			schemaFlag(schemaLedger),
			stringFlag("from", "", "`FILE` that ledger backup wrote, or - for standard input"),
			stringFlag("grant-to", "", "`ROLE` that the ledger will run as; it must exist"),
			boolFlag("mark", "mark a database that was restored by other means, such as a copy of its disk"),
			stringFlag("catch-up", "", "`URL` of a mirror of the log, or FOLDER of a witness, from which a restored database takes what it lacks"),
			stringFlag("log-vkey", "", "`KEYS` of the log, by comma, under which that copy's checkpoint is signed"),
			boolFlag("allow-loopback", "let this command call services on this machine"),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.String("database-url") == "" {
				return errors.New("--database-url is needed")
			}
			return restoreLedger(ctx, c, s)
		},
	}
}

func restoreLedger(ctx context.Context, c *cli.Command, s streams) error {
	ways := 0
	for _, given := range []bool{c.String("from") != "", c.Bool("mark"), c.String("catch-up") != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return errors.New("one of --from, --mark and --catch-up is needed")
	}
	pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
	if err != nil {
		return err
	}
	defer pool.Close()
	switch {
	case c.Bool("mark"):
		if err := ledger.MarkRestored(ctx, pool, time.Now()); err != nil {
			return err
		}
		fmt.Fprintln(s.out, "marked: at its next start the ledger asks how far the world has seen its log")
		return nil
	case c.String("catch-up") != "":
		return catchUp(ctx, c, s, pool)
	}
	in, err := openBackup(c.String("from"))
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	head, err := ledger.Restore(ctx, pool, c.String("schema"), in, time.Now())
	if err != nil {
		return err
	}
	if role := c.String("grant-to"); role != "" {
		if err := ledger.GrantTo(ctx, pool, role); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.out, "restored %d entries of %s, root %x, as of %s\n", head.Size, head.Meta["ledger"], head.Root, head.At.Format(time.RFC3339))
	return nil
}

func catchUp(ctx context.Context, c *cli.Command, s streams, pool *pgxpool.Pool) error {
	keys := list(c.String("log-vkey"))
	if len(keys) == 0 {
		return errors.New("--log-vkey is needed: the copy is checked under it")
	}
	from := ledger.Copy(ledger.FolderCopy(c.String("catch-up")))
	if u := c.String("catch-up"); strings.HasPrefix(u, "http://") || strings.HasPrefix(u, "https://") {
		from = ledger.WebCopy{Base: u, HTTP: outbound(c.Bool("allow-loopback"))}
	}
	got, err := ledger.CatchUp(ctx, pool, from, keys)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "caught up from %d to %d entries, root %s\n", got.From, got.To, got.Root)
	for _, lost := range got.Lost {
		fmt.Fprintf(s.out, "not to be had from a copy: %s\n", lost)
	}
	return nil
}
