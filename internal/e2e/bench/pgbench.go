package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// What PostgreSQL's own pgbench gets done on this server by TPC-B (three updates, a select and an insert in a transaction) says what the
// naive transaction per mint is worth. A machine without pgbench prints no such rows.
const (
	pgbenchDatabase = "bench_tpcb"
	pgbenchScale    = 50 // branches, so that clients seldom wait for one row
	pgbenchSeconds  = 2
)

var tps = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// tpcb measures after the ledger, beside the naive mints of as many connections.
func (b *bench) tpcb(ctx context.Context) error {
	bin, err := findPgbench(ctx)
	if err != nil {
		return nil
	}
	pool, err := b.open(ctx, "public")
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "create database "+pgbenchDatabase); err != nil {
		return err
	}
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, bin, append(args, b.dev.DSN(pgbenchDatabase))...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return string(out), nil
	}
	if _, err := run("-i", "-q", "-s", strconv.Itoa(pgbenchScale)); err != nil {
		return err
	}
	for range rounds {
		for _, c := range []struct {
			clients int
			beside  string
		}{{16, "mints/16"}, {48, "mints/1024"}} { // as many connections as that many naive callers share
			out, err := run("-n", "-c", strconv.Itoa(c.clients), "-j", "2", "-T", strconv.Itoa(pgbenchSeconds))
			if err != nil {
				return err
			}
			m := tps.FindStringSubmatch(out)
			if m == nil {
				return fmt.Errorf("pgbench said no figure:\n%s", out)
			}
			figure, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				return err
			}
			b.add(fmt.Sprintf("pgbench TPC-B, %d clients", c.clients), "transactions/s", figure, "one transaction per mint/s", b.naive(c.beside))
		}
	}
	return nil
}

// naive is the peer's figure in a row of the ledger's.
func (b *bench) naive(line string) float64 {
	for _, l := range ledgerRows {
		for _, r := range b.rows {
			if l.line == line && r.name == l.name {
				return median(r.beside)
			}
		}
	}
	return 1
}

// findPgbench looks where programs are, and where those of the server are.
func findPgbench(ctx context.Context) (string, error) {
	if bin, err := exec.LookPath("pgbench"); err == nil {
		return bin, nil
	}
	dir, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	if err != nil {
		return "", err
	}
	return exec.LookPath(filepath.Join(strings.TrimSpace(string(dir)), "pgbench"))
}
