// Package archtest holds the import rules of this house, so that a test can tell when one
// is broken. The rules are data; check them with Check.
package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

// Module is this module's path.
const Module = "city-sync.org/citysync"

// Package is what `go list -deps -json` says of one package, as far as the rules need it.
type Package struct {
	ImportPath string
	Imports    []string
	Deps       []string // all packages it depends on, however far
}

// Rule forbids imports. Paths are relative to the module ("ledger/entry"), or absolute with a
// leading "=" ("=net"). A path that ends in "/..." covers a package and all below it.
type Rule struct {
	Why    string
	From   []string // packages the rule is for
	Except []string // packages that From covers and the rule spares
	Forbid []string // what they must not reach
	Allow  []string // what Forbid covers and they may
	Deep   bool     // also through other packages; otherwise direct imports only
}

// pure are the parts of the ledger that decide and check without a machine around them.
var pure = []string{"ledger/entry/...", "ledger/rules/...", "ledger/tlog/...", "ledger/audit/...", "ledger/simulate/..."}

// Rules is architecture: who may import whom.
var Rules = []Rule{
	{
		Why:    "the schemas stand under everything",
		From:   []string{"lexicons/..."},
		Forbid: []string{"..."},
		Allow:  []string{"lexicons/..."},
		Deep:   true,
	},
	{
		Why:    "internal packages serve the services and know none of them",
		From:   []string{"internal/..."},
		Except: []string{"internal/city/...", "internal/e2e/..."}, // these drive a whole city from outside
		Forbid: []string{"pds/...", "appview/...", "ledger/...", "cmd/..."},
		Deep:   true,
	},
	{
		Why:    "the PDS imports no other service",
		From:   []string{"pds/..."},
		Forbid: []string{"appview/...", "ledger/...", "internal/city/..."},
		Deep:   true,
	},
	{
		Why:    "the AppView imports no other service; it checks the ledger's log with the ledger's pure parts",
		From:   []string{"appview/..."},
		Forbid: []string{"pds/...", "ledger/...", "internal/city/..."},
		Allow:  []string{"ledger/entry/...", "ledger/tlog/...", "ledger/audit/..."},
		Deep:   true,
	},
	{
		Why:    "the ledger imports no other service",
		From:   []string{"ledger/..."},
		Forbid: []string{"pds/...", "appview/...", "internal/city/..."},
		Deep:   true,
	},
	{
		Why:    "what writes the index and what reads it meet in the database only",
		From:   []string{"appview/index/..."},
		Forbid: []string{"appview/query/...", "appview/web/...", "appview/xrpc/..."},
		Deep:   true,
	},
	{
		Why:    "reading never writes",
		From:   []string{"appview/query/..."},
		Forbid: []string{"appview/index/...", "appview/web/...", "appview/xrpc/..."},
		Deep:   true,
	},
	{
		Why:    "pages read through query and share nothing with the methods",
		From:   []string{"appview/web/..."},
		Forbid: []string{"appview/index/...", "appview/xrpc/..."},
		Deep:   true,
	},
	{
		Why:    "methods read through query and share nothing with the pages",
		From:   []string{"appview/xrpc/..."},
		Forbid: []string{"appview/index/...", "appview/web/..."},
		Deep:   true,
	},
	{
		Why:    "what is kept for an issuer alone shares nothing with what everybody reads",
		From:   []string{"appview/evidence/..."},
		Forbid: []string{"appview/index/...", "appview/query/...", "appview/web/...", "appview/xrpc/..."},
		Deep:   true,
	},
	{
		Why:    "the ledger's pure parts decide the same on every machine",
		From:   pure,
		Forbid: []string{"=github.com/jackc/...", "=database/sql/...", "internal/pg/...", "internal/clock/...", "internal/service/...", "internal/obs/...", "internal/xrpc/...", "internal/follow/...", "ledger"},
		Deep:   true,
	},
	{
		Why:    "the ledger's pure parts touch no network, file or log by themselves",
		From:   pure,
		Forbid: []string{"=net/...", "=log/...", "=os/...", "=syscall/..."},
		Allow:  []string{"=net/netip"},
	},
	{
		Why:    "the auditor recomputes with its own code, or it would repeat the ledger's mistakes",
		From:   []string{"ledger/audit/..."},
		Forbid: []string{"ledger/rules/..."},
		Deep:   true,
	},
	{
		Why:    "a witness checks the ledger with nothing of the ledger's own, and needs no database",
		From:   []string{"ledger/witness/..."},
		Forbid: []string{"ledger", "ledger/rules/...", "=github.com/jackc/..."},
		Deep:   true,
	},
	{
		Why:    "SQL stands in few places",
		From:   []string{"..."},
		Except: []string{"pds/...", "appview/index/...", "appview/query/...", "appview/evidence/...", "appview/logtest/...", "ledger/...", "internal/pg/..."},
		Forbid: []string{"=github.com/jackc/pgx/...", "=database/sql/..."},
		// The constructors take pools, so what wires them names that type and no more.
		Allow: []string{"=github.com/jackc/pgx/v5/pgxpool"},
	},
	{
		Why:    "commands are on top",
		From:   []string{"..."},
		Except: []string{"cmd/..."},
		Forbid: []string{"cmd/..."},
		Deep:   true,
	},
	{
		Why:    "of indigo only these parts are alive; the others panic, leak or are gone upstream",
		From:   []string{"..."},
		Except: []string{"lexicons/gen/..."}, // the generator runs at the desk and is linked into nothing
		Forbid: []string{"=github.com/bluesky-social/indigo/..."},
		Allow: []string{
			"=github.com/bluesky-social/indigo/atproto/...",
			"=github.com/bluesky-social/indigo/api/atproto",
			"=github.com/bluesky-social/indigo/lex/util",
		},
	},
	{
		Why:    "importing it registers ES256 anew for the whole process, and our own tokens stop verifying",
		From:   []string{"pds/...", "appview/...", "ledger/...", "internal/...", "cmd/..."},
		Forbid: []string{"=github.com/bluesky-social/indigo/atproto/auth/..."},
		Deep:   true,
	},
}

// Check returns every broken rule, one line each, sorted.
func Check(rules []Rule, pkgs []Package) []string {
	var broken []string
	for _, p := range pkgs {
		rel, ours := relative(p.ImportPath)
		if !ours {
			continue
		}
		for _, r := range rules {
			if !matchAny(r.From, rel) || matchAny(r.Except, rel) {
				continue
			}
			reach := p.Imports
			if r.Deep {
				reach = p.Deps
			}
			for _, dep := range reach {
				d, ours := relative(dep)
				if !ours {
					d = "=" + dep
				}
				if d != rel && matchAny(r.Forbid, d) && !matchAny(r.Allow, d) {
					broken = append(broken, fmt.Sprintf("%s reaches %s: %s", rel, strings.TrimPrefix(d, "="), r.Why))
				}
			}
		}
	}
	sort.Strings(broken)
	return slices.Compact(broken)
}

// Read decodes the output of `go list -deps -json`.
func Read(r io.Reader) ([]Package, error) {
	var pkgs []Package
	for dec := json.NewDecoder(r); ; {
		var p Package
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

func relative(path string) (string, bool) {
	if path == Module {
		return ".", true
	}
	return strings.CutPrefix(path, Module+"/")
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, path) })
}

// match: "..." covers every package of ours, "a/..." covers a and all below, else equality.
func match(pattern, path string) bool {
	if pattern == "..." {
		return !strings.HasPrefix(path, "=")
	}
	if stem, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == stem || strings.HasPrefix(path, stem+"/")
	}
	return pattern == path
}
