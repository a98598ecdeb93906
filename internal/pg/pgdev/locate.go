package pgdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
)

const oldestMajor = 14

// binaries is a folder with initdb and postgres of one version.
type binaries struct {
	dir     string
	major   int
	version string // as the server prints it
}

// Where distributions put server binaries that are not on the PATH.
var wellKnown = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // PGDG for Fedora, RHEL
	"/usr/libexec/postgresql*",                           // Alpine
	"/usr/lib/postgresql*/bin",                           // openSUSE
	"/opt/homebrew/opt/postgresql*/bin",                  // Homebrew on Apple silicon
	"/usr/local/opt/postgresql*/bin",                     // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",     // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (([0-9]+)[^ \n]*)`)

// locate finds binaries for a cluster of major version have, or the newest for a new one
// (have 0); where the machine has none that fit, it fetches the pinned build if that fits.
func locate(ctx context.Context, cfg Config, have int) (binaries, error) {
	found, err := installed(ctx, cfg.BinDir)
	if err != nil {
		return binaries{}, err
	}
	if b, ok := choose(found, have); ok {
		return b, nil
	}
	if cfg.BinDir == "" && (have == 0 || have == pinnedMajor) {
		return fetch(ctx, cfg)
	}
	if len(found) == 0 {
		return binaries{}, fmt.Errorf("%w: install PostgreSQL %d, or give the address of a running server with --database-url", ErrNotFound, max(have, oldestMajor))
	}
	return binaries{}, fmt.Errorf(
		"%w: it was made by %d, and this machine has %s. Install the server of PostgreSQL %d beside it, move the data with that version's pg_dump, or start anew with --fresh",
		ErrVersion, have, versions(found), have)
}

func choose(found []binaries, have int) (binaries, bool) {
	for _, b := range found {
		if have == 0 || b.major == have {
			return b, true
		}
	}
	return binaries{}, false
}

func versions(found []binaries) string {
	text := ""
	for i, b := range found {
		if i > 0 {
			text += ", "
		}
		text += b.version
	}
	return text
}

// installed lists what this machine has, newest first; among equals the PATH wins.
func installed(ctx context.Context, only string) ([]binaries, error) {
	if only != "" {
		b, err := inspect(ctx, only)
		if err != nil {
			return nil, err
		}
		return []binaries{b}, nil
	}
	var dirs []string
	if p, err := exec.LookPath("postgres"); err == nil {
		// A link in /usr/local/bin has no initdb's share folder beside it: follow it.
		if p, err = filepath.EvalSymlinks(p); err == nil {
			dirs = append(dirs, filepath.Dir(p))
		}
	}
	for _, pattern := range wellKnown {
		more, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("look in %s: %w", pattern, err)
		}
		for _, dir := range more {
			if dir, err = filepath.EvalSymlinks(dir); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	var found []binaries
	seen := map[string]bool{}
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if b, err := inspect(ctx, dir); err == nil { // a broken installation is none
			found = append(found, b)
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].major > found[j].major })
	return found, nil
}

// inspect asks the server in dir for its version; it answers that as any user.
func inspect(ctx context.Context, dir string) (binaries, error) {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return binaries{}, fmt.Errorf("%s has no %s: %w", dir, name, errors.Join(err, ErrNotFound))
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version")
	cmd.Env = environ()
	out, err := cmd.Output()
	if err != nil {
		return binaries{}, fmt.Errorf("ask %s for its version: %w", cmd.Path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return binaries{}, fmt.Errorf("%s says %.60q: %w", cmd.Path, out, ErrNotFound)
	}
	major, err := strconv.Atoi(string(m[2]))
	if err != nil || major < oldestMajor {
		return binaries{}, fmt.Errorf("%s is version %s: %w", cmd.Path, m[1], ErrNotFound)
	}
	return binaries{dir: dir, major: major, version: string(m[1])}, nil
}
