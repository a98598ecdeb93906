package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/internal/clock"
)

func openDir(t *testing.T, path string) *dataDir {
	t.Helper()
	d, err := openDataDir(path)
	require.NoError(t, err)
	t.Cleanup(d.close)
	return d
}

func TestDataFolderIsLockedWhileItIsOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data")
	d := openDir(t, path)
	_, err := openDataDir(path)
	assert.ErrorContains(t, err, "InUse")
	d.close()
	openDir(t, path)
}

func TestSecretsAreMadeOnceAndForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	d := openDir(t, filepath.Join(t.TempDir(), "data"))
	first, err := d.secret("a")
	require.NoError(t, err)
	second, err := d.secret("a")
	require.NoError(t, err)
	other, err := d.secret("b")
	require.NoError(t, err)
	assert.Equal(t, first, second)
	assert.NotEqual(t, first, other)
	assert.Len(t, first, 32)
	info, err := os.Stat(d.file("secrets", "a"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.WriteFile(d.file("secrets", "a"), []byte("short"), 0o600))
	_, err = d.secret("a")
	assert.ErrorContains(t, err, "64 hex digits", "a damaged key is never replaced in silence")
}

func TestSecretFileThatOthersCanReadIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	_, err := readSecretFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o644))
	_, err = readSecretFile(path)
	assert.ErrorContains(t, err, "SecretExposed")
}

func TestFreshEmptiesAMarkedFolderButItsMark(t *testing.T) {
	t.Parallel()
	d := openDir(t, filepath.Join(t.TempDir(), "data"))
	require.NoError(t, d.saveState(&cityState{Version: stateVersion}))
	require.NoError(t, os.MkdirAll(d.file("postgres", "cluster"), 0o700))
	require.NoError(t, d.empty())
	state, err := d.loadState()
	require.NoError(t, err)
	assert.Nil(t, state)
	entries, err := os.ReadDir(d.path)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "the mark and the lock stay")
}

func TestCityIsResumedAsItWasFounded(t *testing.T) {
	t.Parallel()
	d := openDir(t, filepath.Join(t.TempDir(), "data"))
	folder, err := city.Folder("berkeley")
	require.NoError(t, err)
	now := clock.New(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC))
	cfg := devConfig{City: "berkeley", Calendar: calendarNow, PortBase: 2580}
	state, plan, err := foundOrResume(t.Context(), d, cfg, folder, now)
	require.NoError(t, err)
	assert.Equal(t, "2026-11-09", plan.Epoch.StartsAt.Format(time.DateOnly))
	assert.Len(t, state.Accounts, 14)
	assert.Equal(t, "ledger.test", state.account(idLedger).Handle)

	// Four weeks later, without naming the city: it is still that one, and its epoch has
	// not moved.
	now.Advance(4 * 7 * 24 * time.Hour)
	again, same, err := foundOrResume(t.Context(), d, devConfig{City: defaultCity, Calendar: calendarNow, PortBase: 2580}, nil, now)
	require.NoError(t, err)
	assert.Equal(t, state, again)
	assert.Equal(t, plan.Epoch, same.Epoch)
}

func TestReadyFileIsTheOwnersAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ready.json")
	in := &readyInfo{Web: "w", PDS: "p", Ledger: "l", LedgerDID: "did:plc:l", City: readyCity{DID: "did:plc:c"}, Epoch: readyEpoch{Key: "e"}}
	require.NoError(t, writeReady(path, in))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	out, err := readReady(path)
	require.NoError(t, err)
	assert.Equal(t, in, out)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "no temporary file is left")
}

// A seed that gave other keys after an upgrade would end the log.
func TestLogSeedKeepsItsKeys(t *testing.T) {
	t.Parallel()
	skey, vkey, err := logKeys("did:plc:ewvi7nxzyoun6zhxrhs64oiz", bytes.Repeat([]byte{7}, 32))
	require.NoError(t, err)
	assert.Equal(t, "PRIVATE+KEY+did:plc:ewvi7nxzyoun6zhxrhs64oiz+f187a5d5+AQcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH", skey)
	assert.Equal(t, "did:plc:ewvi7nxzyoun6zhxrhs64oiz+f187a5d5+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs", vkey)
}
