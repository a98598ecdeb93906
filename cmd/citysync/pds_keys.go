package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/pds"
)

// The master key changes while the server runs: its next one lies beside it from the beginning of the change, its old one from the end on, until the
// operator destroys it. A server reads the files again when it meets a key that it does not know, and each minute.
const (
	fileNextMaster = fileMaster + "-next"
	fileOldMaster  = fileMaster + "-old"
)

// masterKeys reads a folder's master keys, that first which seals.
func masterKeys(folder string) ([][]byte, error) {
	var out [][]byte
	for _, name := range []string{fileNextMaster, fileMaster, fileOldMaster} {
		path := filepath.Join(folder, name)
		raw, err := readSecretFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // between the two renames of a change there is no current one
		}
		if err != nil {
			return nil, err
		}
		key, err := parseSecret(path, raw)
		if err != nil {
			return nil, err
		}
		out = append(out, key)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no %s", folder, fileMaster)
	}
	return out, nil
}

func rewrapCommand(s streams) *cli.Command {
	return &cli.Command{
		Name:  "rewrap",
		Usage: "change the master key while the server runs; run again until nothing is left under the old one",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the server's own role"),
			schemaFlag(schemaPDS),
			secretsFlag(fileMaster),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := needed(c, "database-url", "secrets"); err != nil {
				return err
			}
			return rewrap(ctx, c, s)
		},
	}
}

func rewrap(ctx context.Context, c *cli.Command, s streams) error {
	folder := c.String("secrets")
	current, next, old := filepath.Join(folder, fileMaster), filepath.Join(folder, fileNextMaster), filepath.Join(folder, fileOldMaster)
	_, err := os.Lstat(old)
	again := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !again {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never errs
		if err := writeSecretOnce(next, key); err != nil && !errors.Is(err, fs.ErrExist) {
			return err // one that is there was begun with, or brought by the operator
		}
	}
	masters, err := masterKeys(folder)
	if err != nil {
		return err
	}
	pool, err := pg.Open(ctx, c.String("database-url"), c.String("schema"))
	if err != nil {
		return err
	}
	defer pool.Close()
	n, err := pds.Rewrap(ctx, pool, masters...)
	if err != nil {
		return err
	}
	if again {
		fmt.Fprintf(s.out, "%d values sealed anew\n", n)
		if n == 0 {
			fmt.Fprintf(s.out, "nothing is under the old key any more: destroy %s\n", fileOldMaster)
		}
		return nil
	}
	if err := os.Rename(current, old); err != nil {
		return err
	}
	if err := os.Rename(next, current); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%d values sealed anew\nThe old key is in %s. Wait two minutes, until every server seals with the new one, and run this again.\n", n, fileOldMaster)
	return nil
}
