package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

// runbookCommands are the lines of this program in the runbook, in its blocks and in its sentences.
func runbookCommands(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "ledger", "RUNBOOK.md"))
	require.NoError(t, err)
	var out []string
	inBlock := false
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inBlock = !inBlock
		case inBlock && strings.HasPrefix(line, "citysync "):
			out = append(out, line)
		case !inBlock:
			for i, part := range strings.Split(line, "`") {
				if i%2 == 1 && strings.HasPrefix(part, "citysync ") {
					out = append(out, part)
				}
			}
		}
	}
	return out
}

// A command that nobody can type is worse than none: every word and flag of the runbook is the program's.
func TestEveryCommandOfTheRunbookIsTheProgramsOwn(t *testing.T) {
	t.Parallel()
	lines := runbookCommands(t)
	require.Greater(t, len(lines), 6)
	for _, line := range lines {
		at := rootCommand(streams{&bytes.Buffer{}, &bytes.Buffer{}})
		for _, word := range strings.Fields(line)[1:] {
			if name, ok := strings.CutPrefix(word, "--"); ok {
				name, _, _ = strings.Cut(name, "=")
				assert.True(t, hasFlag(at, name), "%s: --%s is no flag of %s", line, name, at.Name)
				continue
			}
			for _, sub := range at.Commands {
				if sub.Name == word {
					at = sub
				}
			}
		}
		assert.NotEqual(t, "citysync", at.Name, line)
	}
}

func hasFlag(c *cli.Command, name string) bool {
	for _, f := range c.Flags {
		for _, n := range f.Names() {
			if n == name {
				return true
			}
		}
	}
	return false
}

// said runs the program as a shell would.
func said(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"citysync"}, args...), nil, streams{&o, &e})
	return code, o.String(), e.String()
}

func TestBackupAndRestoreAsTheRunbookTypesThem(t *testing.T) {
	t.Parallel()
	from, to := pgtest.DSN(t), pgtest.DSN(t)
	code, _, errs := said(t, "ledger", "migrate", "--database-url", from)
	require.Zero(t, code, errs)
	pool, err := pg.Open(t.Context(), from, schemaLedger)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), `insert into meta values ('city', 'did:plc:city'), ('ledger', 'did:plc:ledger'), ('tz', 'Europe/Madrid')`)
	require.NoError(t, err)

	file := filepath.Join(t.TempDir(), "ledger.tar")
	code, _, errs = said(t, "ledger", "backup", "--database-url", from, "--to", file)
	require.Zero(t, code, errs)
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds what nobody else may read")
	code, _, errs = said(t, "ledger", "backup", "--database-url", from, "--to", file)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "FileExists")
	code, piped, errs := said(t, "ledger", "backup", "--database-url", from, "--to", "-")
	require.Zero(t, code, errs)
	assert.Contains(t, piped, "manifest.json")

	code, out, errs := said(t, "ledger", "restore", "--database-url", to, "--from", file)
	require.Zero(t, code, errs)
	assert.Contains(t, out, "restored 0 entries of did:plc:ledger")
	code, _, errs = said(t, "ledger", "restore", "--database-url", to, "--from", file)
	assert.Equal(t, 1, code, "a ledger is never overwritten")
	assert.Contains(t, errs, "holds a ledger")
	code, out, errs = said(t, "ledger", "restore", "--database-url", to, "--mark")
	require.Zero(t, code, errs)
	assert.Contains(t, out, "marked")
	code, _, errs = said(t, "ledger", "restore", "--database-url", to, "--mark", "--from", file)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "one of --from, --mark and --catch-up is needed")
	code, _, errs = said(t, "ledger", "restore", "--database-url", to, "--catch-up", t.TempDir(), "--log-vkey", "did:plc:ledger+x+y")
	assert.Equal(t, 1, code, "an empty folder is no copy")
	assert.Contains(t, errs, "checkpoint")
}
