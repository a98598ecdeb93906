package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/pds"
)

func TestMasterKeysAreReadInTheOrderInWhichTheySeal(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	_, err := masterKeys(folder)
	require.Error(t, err, "without any there is none")
	write := func(name string, b byte) []byte {
		key := bytes.Repeat([]byte{b}, 32)
		require.NoError(t, writeSecretOnce(filepath.Join(folder, name), key))
		return key
	}
	current := write(fileMaster, 1)
	next := write(fileNextMaster, 2)
	old := write(fileOldMaster, 3)
	keys, err := masterKeys(folder)
	require.NoError(t, err)
	assert.Equal(t, [][]byte{next, current, old}, keys)

	require.NoError(t, os.Remove(filepath.Join(folder, fileMaster)))
	keys, err = masterKeys(folder)
	require.NoError(t, err, "between the two renames of a change")
	assert.Equal(t, [][]byte{next, old}, keys)

	require.NoError(t, os.Chmod(filepath.Join(folder, fileOldMaster), 0o644))
	_, err = masterKeys(folder)
	require.ErrorContains(t, err, "SecretExposed")
}

// The change stops before the files change places where one value does not open: nothing that is sealed may be left behind.
func TestMasterKeyChangeByTheOperator(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	pool := pgtest.Open(t, dsn, schemaPDS)
	require.NoError(t, pg.Migrate(t.Context(), pool, schemaPDS, pds.Migrations()))
	folder := t.TempDir()
	first := bytes.Repeat([]byte{1}, 32)
	require.NoError(t, writeSecretOnce(filepath.Join(folder, fileMaster), first))
	rewrap := func() (int, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"citysync", "pds", "rewrap", "--database-url", dsn, "--secrets", folder}, nil, streams{&out, &errs})
		return code, out.String() + errs.String()
	}
	_, err := pool.Exec(t.Context(), `insert into second_factor (owner, secret, created) values ('x', '\x01ff', now())`)
	require.NoError(t, err)
	code, said := rewrap()
	assert.Equal(t, 1, code, said)
	keys, err := masterKeys(folder)
	require.NoError(t, err)
	require.Len(t, keys, 2)
	assert.Equal(t, first, keys[1], "the key in use is still the first one")

	_, err = pool.Exec(t.Context(), `delete from second_factor`)
	require.NoError(t, err)
	code, said = rewrap()
	require.Equal(t, 0, code, said)
	after, err := masterKeys(folder)
	require.NoError(t, err)
	assert.Equal(t, [][]byte{keys[0], first}, after, "the next key that was begun with is the key, the old one still opens")
	code, said = rewrap()
	require.Equal(t, 0, code, said)
	assert.Contains(t, said, "destroy "+fileOldMaster)
	again, err := masterKeys(folder)
	require.NoError(t, err)
	assert.Equal(t, after, again, "while the old key is there no new change begins")
}
