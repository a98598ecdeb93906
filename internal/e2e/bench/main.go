// Command bench measures what the parts of a city do in a second and prints one table: each figure beside a peer or a limit that was
// measured in the same run on the same machine, so that the ratio means something where the figures do not.
//
// What holds:
//
//   - The database is a private server of its own with durability on: a commit is on disk before it is answered.
//   - Figure and peer are measured by turns, several rounds of each, and the median of the rounds is printed.
//   - Nothing is asserted. A machine that is busy with other work prints other figures and is no failure.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgdev"
)

const (
	rounds = 3
	span   = 1500 * time.Millisecond // of one measurement
	limit  = 15 * time.Minute        // of the whole run
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	word := ""
	if len(os.Args) > 1 {
		word = os.Args[1]
	}
	work := func() error { return run(ctx, word, os.Stdout, os.Stderr) }
	if word == hostWord {
		work = func() error { return serveHost(ctx, os.Stdin, os.Stdout) }
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// bench is one run.
type bench struct {
	dir  string // temporary; everything that is written stands in it
	dev  *pgdev.Server
	log  *slog.Logger
	http *http.Client
	rows []row
	note string // what has to be said below the table
}

// pdsWord measures the PDS alone.
const pdsWord = "pds"

func run(ctx context.Context, word string, out, errs io.Writer) (err error) {
	if word != "" && word != pdsWord {
		return fmt.Errorf("there is no part %q: %s, or nothing for all", word, pdsWord)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	dir, err := os.MkdirTemp("", "citysync-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // under root another user runs the server
		return err
	}
	b := &bench{
		dir: dir, log: slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelError})),
		http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	ledger := ""
	if word == "" { // before anything is measured
		if ledger, err = b.buildLedger(ctx); err != nil {
			return err
		}
	}
	if b.dev, err = pgdev.Start(ctx, pgdev.Config{DataDir: filepath.Join(dir, "database"), Log: b.log}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.dev.Stop()) }()
	machine, err := b.machine(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.network(ctx, word == ""); err != nil {
		return err
	}
	if word == "" {
		if err := b.ledger(ctx, ledger, errs); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		if err := b.tpcb(ctx); err != nil {
			return fmt.Errorf("pgbench: %w", err)
		}
	}
	fmt.Fprintln(out, machine)
	fmt.Fprintf(out, "medians of %d rounds; %.0f s in all\n\n", rounds, time.Since(began).Seconds())
	if err := printTable(out, b.rows); err != nil || b.note == "" {
		return err
	}
	_, err = fmt.Fprintf(out, "\n%s\n", b.note)
	return err
}

// network measures what needs a PDS: the PDS itself, and who reads it.
func (b *bench) network(ctx context.Context, readers bool) (err error) {
	s, err := b.startPDS(ctx)
	if err != nil {
		return fmt.Errorf("pds: %w", err)
	}
	defer func() { err = errors.Join(err, s.end()) }()
	if err := b.writes(ctx, s); err != nil {
		return fmt.Errorf("writes: %w", err)
	}
	if err := b.latency(ctx, s); err != nil {
		return fmt.Errorf("latency: %w", err)
	}
	if err := b.reference(ctx, s); err != nil {
		return fmt.Errorf("beside the reference: %w", err)
	}
	if !readers {
		return nil
	}
	if err := b.consumer(ctx, s); err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	return nil
}

// open is a pool on one schema of the server's first database.
func (b *bench) open(ctx context.Context, schema string) (*pgxpool.Pool, error) {
	return pg.Open(ctx, b.dev.DSN(pgdev.Database), schema)
}
