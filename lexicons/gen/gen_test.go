package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The committed files are those the schemas give (G1), but for cbor_gen.go:
// that one needs a compiler run and is compared by `make check`. The lists of
// its types are compared here.
func TestCommittedTypesFollowFromTheSchemas(t *testing.T) {
	stage := t.TempDir()
	schemas, err := readSchemas("..")
	require.NoError(t, err)
	require.NoError(t, writeTypes(schemas, stage))
	for _, pkg := range goPackages {
		want := goFiles(t, filepath.Join(stage, pkg))
		got := goFiles(t, filepath.Join("..", pkg))
		cbor := got["cbor_gen.go"]
		delete(got, "cbor_gen.go")
		assert.Equal(t, want, got, "run make gen")

		types, err := structsWithoutCBOR(filepath.Join(stage, pkg))
		require.NoError(t, err)
		for _, name := range types {
			assert.Contains(t, cbor, "func (t *"+name+") UnmarshalCBOR(", "run make gen")
		}
	}
	consts, err := constants(schemas)
	require.NoError(t, err)
	committed, err := os.ReadFile("../nsid_gen.go")
	require.NoError(t, err)
	assert.Equal(t, string(consts), string(committed), "run make gen")
}

func TestSchemaOutsideItsPlaceIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, sub := range []string{"org/city-sync/work", "com", "community/lexicon"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	file := filepath.Join(dir, "org/city-sync/work/task.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"lexicon":1,"id":"org.city-sync.work.claim","defs":{}}`), 0o644))
	_, err := readSchemas(dir)
	assert.ErrorContains(t, err, "its place is org/city-sync/work/claim.json")
}

func TestInstallRemovesWhatNoSchemaAsksFor(t *testing.T) { // G2
	t.Parallel()
	src, dst := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src, "new.go"), []byte("package p\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dst, "old.go"), []byte("package p\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dst, "notes.txt"), nil, 0o644))
	require.NoError(t, install(src, dst))
	assert.Equal(t, map[string]string{"new.go": "package p\n"}, goFiles(t, dst))
	assert.FileExists(t, filepath.Join(dst, "notes.txt"))
}

func TestTwoNamesForOneConstantAreRefused(t *testing.T) {
	t.Parallel()
	record := func(id string) schema {
		return schema{ID: id, Defs: map[string]definition{"main": {Type: "record"}}}
	}
	_, err := constants([]schema{record("org.city-sync.work.task"), record("org.city-sync.workTask")})
	assert.ErrorContains(t, err, "would share the constant WorkTask")
}

func goFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		out[filepath.Base(f)] = string(b)
	}
	return out
}
