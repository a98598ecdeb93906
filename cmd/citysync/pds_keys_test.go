package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
