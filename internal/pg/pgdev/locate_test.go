package pgdev

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fake makes a folder with programs that only tell a version.
func fake(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

func TestInspectReadsTheVersion(t *testing.T) {
	t.Parallel()
	for version, major := range map[string]int{"14.0": 14, "15.17 (Debian 15.17-0+deb12u1)": 15, "19beta1": 19} {
		b, err := inspect(t.Context(), fake(t, version))
		require.NoError(t, err, version)
		assert.Equal(t, major, b.major)
	}
	for _, version := range []string{"13.9", "9.6.1", "x"} {
		_, err := inspect(t.Context(), fake(t, version))
		assert.ErrorIs(t, err, ErrNotFound, version)
	}
	_, err := inspect(t.Context(), t.TempDir())
	assert.ErrorContains(t, err, "has no initdb")
}

func TestChooseTakesTheClustersVersionElseTheNewest(t *testing.T) {
	t.Parallel()
	found := []binaries{{major: 17}, {major: 15}}
	for have, want := range map[int]int{0: 17, 15: 15, 17: 17} {
		b, ok := choose(found, have)
		require.True(t, ok)
		assert.Equal(t, want, b.major)
	}
	_, ok := choose(found, 16)
	assert.False(t, ok)
	_, ok = choose(nil, 0)
	assert.False(t, ok)
}

func TestInstalledFollowsLinksOnThePath(t *testing.T) {
	real := fake(t, "97.1")
	linked := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(real, "postgres"), filepath.Join(linked, "postgres")))
	t.Setenv("PATH", linked+string(os.PathListSeparator)+os.Getenv("PATH"))
	found, err := installed(t.Context(), "")
	require.NoError(t, err)
	require.NotEmpty(t, found)
	resolved, err := filepath.EvalSymlinks(real)
	require.NoError(t, err)
	assert.Equal(t, binaries{dir: resolved, major: 97, version: "97.1"}, found[0])
}
