package archtest_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/archtest"
)

func TestImportRulesHold(t *testing.T) {
	t.Parallel()
	root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	// -e: whether everything compiles is for the compiler to say.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Imports,Deps", archtest.Module+"/...")
	cmd.Dir = filepath.Clean(strings.TrimSpace(string(root)))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	pkgs, err := archtest.Read(bytes.NewReader(out))
	require.NoError(t, err)
	require.Greater(t, len(pkgs), 100, "go list gave too little to judge by")
	if broken := archtest.Check(archtest.Rules, pkgs); len(broken) > 0 {
		t.Errorf("import rules broken:\n%s", strings.Join(broken, "\n"))
	}
}

func TestEachRuleGoesRed(t *testing.T) {
	t.Parallel()
	const m = archtest.Module + "/"
	for _, c := range []struct {
		from, to string
		deepOnly bool // reached through another package
		broken   bool
	}{
		{m + "lexicons", m + "internal/clock", false, true},
		{m + "lexicons", m + "lexicons/citysync", false, false},
		{m + "internal/repo", m + "lexicons", false, false},
		{m + "internal/repo", m + "ledger/entry", false, true},
		{m + "internal/repo", m + "pds", true, true},
		{m + "internal/city", m + "ledger/entry", false, false},
		{m + "pds", m + "ledger/entry", false, true},
		{m + "pds", m + "appview/query", true, true},
		{m + "pds", "github.com/jackc/pgx/v5", false, false},
		{m + "appview", m + "ledger/audit", false, false},
		{m + "appview", m + "ledger", false, true},
		{m + "appview", m + "ledger/rules", false, true},
		{m + "ledger", m + "pds", true, true},
		{m + "appview/index", m + "appview/query", false, true},
		{m + "appview/query", m + "appview/index", false, true},
		{m + "appview/web", m + "appview/query", false, false},
		{m + "appview/web", m + "appview/xrpc", true, true},
		{m + "appview/xrpc", m + "appview/web", false, true},
		{m + "appview/web", "github.com/jackc/pgx/v5", false, true},
		{m + "appview/web", "github.com/jackc/pgx/v5", true, false},
		{m + "ledger/rules", "github.com/jackc/pgx/v5/pgxpool", true, true},
		{m + "ledger/rules", m + "internal/clock", true, true},
		{m + "ledger/rules", "net/http", false, true},
		{m + "ledger/rules", "net/http", true, false}, // signature packages reach it by themselves
		{m + "ledger/entry", "log/slog", false, true},
		{m + "ledger/entry", "os", false, true},
		{m + "ledger/entry", "context", false, false},
		{m + "ledger/audit", m + "ledger/rules", true, true},
		{m + "ledger/audit", m + "ledger/tlog", false, false},
		{m + "cmd/citysync", "github.com/jackc/pgx/v5", false, true},
		{m + "cmd/citysync", "github.com/jackc/pgx/v5/pgxpool", false, false},
		{m + "internal/e2e", m + "cmd/citysync", true, true},
		{m + "cmd/citysync", m + "pds", false, false},
		{m + "internal/repo", "github.com/bluesky-social/indigo/repo", false, true},
		{m + "internal/repo", "github.com/bluesky-social/indigo/atproto/repo", false, false},
		{m + "internal/xrpc", "github.com/bluesky-social/indigo/atproto/auth", true, true},
		{"example.org/other", m + "cmd/citysync", false, false},
	} {
		p := archtest.Package{ImportPath: c.from, Deps: []string{c.to}}
		if !c.deepOnly {
			p.Imports = p.Deps
		}
		got := archtest.Check(archtest.Rules, []archtest.Package{p})
		assert.Equal(t, c.broken, len(got) > 0, "%s → %s (deep only: %v): %v", c.from, c.to, c.deepOnly, got)
	}
}

func TestReadRefusesHalfAnAnswer(t *testing.T) {
	t.Parallel()
	_, err := archtest.Read(strings.NewReader(`{"ImportPath":"a"}{"Import`))
	require.Error(t, err)
}
