package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// The sequencer is nobody's but the ledger's, so a test of that package measures it, in this run and on this server. Its lines are
// "bench", name, figure, peer's figure.
const (
	ledgerPackage  = "city-sync.org/citysync/ledger"
	ledgerTest     = "^TestRates$"
	ledgerDatabase = "bench_ledger"
)

type ledgerRow struct{ line, name, unit, peer string }

var ledgerRows = []ledgerRow{
	{"mints/16", "ledger, mints of 16 callers", "entries/s", "one transaction per mint/s"},
	{"mints/1024", "ledger, mints of 1024 callers", "entries/s", "one transaction per mint/s"},
	{"same/16", "the same, 16 callers", "entries/s", "one transaction, the same rows/s"},
	{"same/1024", "the same, 1024 callers", "entries/s", "one transaction, the same rows/s"},
	{"open/50", "ledger, 500 mints/s unasked, p50", "ms", "the limit, ms"},
	{"open/99", "ledger, 500 mints/s unasked, p99", "ms", "the limit, ms"},
	{"verifications/1", "ledger, commits of one host to mints", "mints/s", "one transaction per mint/s"},
	{"tokens/ES256K", "service tokens, ES256K, all processors", "tokens/s", "bare checks of one/s"},
	{"tokens/ES256", "service tokens, ES256, all processors", "tokens/s", "bare checks of one/s"},
	{"tokens/kept", "ES256K with the token's id kept", "tokens/s", "bare checks of one/s"},
	{"replay", "replay: hash, decode, unseal, apply", "entries/s", "decode alone on one/s"},
	{"load", "the same at a start, from the database", "entries/s", "decode alone on one/s"},
	{"audit", "audit: decode, hash, check", "entries/s", "decode alone on one/s"},
	{"memory", "1M accounts with a claim and a mint each", "GB", "the limit, GB"},
}

func (b *bench) buildLedger(ctx context.Context) (path string, err error) {
	path = filepath.Join(b.dir, "ledger.test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "bench", "-o", path, ledgerPackage)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the ledger's measurements: %w\n%s", err, out)
	}
	return path, nil
}

func (b *bench) ledger(ctx context.Context, path string, errs io.Writer) error {
	pool, err := b.open(ctx, "public")
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "create database "+ledgerDatabase); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, "-test.run", ledgerTest, "-test.count", "1")
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "BENCH_DATABASE="+b.dev.DSN(ledgerDatabase))
	cmd.Stderr = errs
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return b.takeLines(out)
}

func (b *bench) takeLines(out []byte) error {
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		if len(f) != 4 || f[0] != "bench" {
			continue
		}
		figure, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return err
		}
		beside, err := strconv.ParseFloat(f[3], 64)
		if err != nil {
			return err
		}
		for _, r := range ledgerRows {
			if r.line == f[1] {
				b.add(r.name, r.unit, figure, r.peer, beside)
			}
		}
	}
	return lines.Err()
}
