package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The peer of our PDS is the reference, @atproto/pds as published on npm, run by the interop tests' launcher with their pinned packages on
// Node 22. Its SQLite binding, better-sqlite3, is compiled while it is installed, which no package may do here: npm's override puts libsql,
// which comes compiled, in its place. A machine without npm prints no such rows.
const (
	interopFolder = "internal/e2e/interop"
	installLimit  = 5 * time.Minute
	referenceName = "@atproto/pds 0.5.35"
	referenceNote = "The reference is " + referenceName + " on %s, with libsql 0.5.29 in the place of better-sqlite3, which would be compiled here, and\n" +
		"with the durability that better-sqlite3 has in it: a commit does not wait for the disk. Ours does. Each PDS is a process of its own.\n" +
		"Resident memory of ours is the PDS's process; with its PostgreSQL, the proportional shares (PSS) of all its database's processes come on top."
)

var errNoReference = errors.New("no Node 22 or newer here")

// startReference also tells which Node it runs on.
func (b *bench) startReference(ctx context.Context, plcURL string) (h *host, node string, err error) {
	out, err := exec.CommandContext(ctx, filepath.Join("internal", "make", "need.sh"), "node").Output()
	if err != nil {
		return nil, "", errNoReference
	}
	bin := strings.TrimSpace(string(out))
	version, err := exec.CommandContext(ctx, bin, "--version").Output()
	if err != nil {
		return nil, "", fmt.Errorf("%s --version: %w", bin, err)
	}
	dir, err := installReference(ctx, bin)
	if err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin, "reference.mjs", plcURL) // child stops it
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NODE_ENV=production", "LOG_ENABLED=false")
	h, err = b.child(ctx, cmd, nil)
	return h, "Node " + strings.TrimSpace(string(version)), err
}

// installReference puts what the interop tests' lock file names where they put it, unless it is there.
func installReference(ctx context.Context, node string) (dir string, err error) {
	if dir, err = filepath.Abs(filepath.Join(".cache", "interop")); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"reference.mjs", "package.json", "package-lock.json", ".npmrc"} {
		raw, err := os.ReadFile(filepath.Join(interopFolder, name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			return "", err
		}
	}
	want, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return "", err
	}
	stamp := filepath.Join(dir, "installed-lock.json")
	if have, err := os.ReadFile(stamp); err == nil && bytes.Equal(have, want) {
		return dir, nil
	}
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(node)+string(os.PathListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return dir, os.WriteFile(stamp, want, 0o644)
}
