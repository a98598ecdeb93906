package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
)

func TestBlobsAreCollectedByHand(t *testing.T) {
	t.Parallel()
	dsn, dir := pgtest.DSN(t), t.TempDir()
	code, _, errs := said(t, "pds", "migrate", "--database-url", dsn)
	require.Zero(t, code, errs)
	pool := pgtest.Open(t, dsn, schemaPDS)
	const did = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
	_, err := pool.Exec(t.Context(), `insert into account (did, handle, password, status, signing_key, created) values ($1, 'a.test', '', 'active', '', now())`, did)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `insert into blob (did, cid, mime, size, touched) values ($1, '\x0155122000000000000000000000000000000000000000000000000000000000000000aa', 'text/plain', 7, now() - interval '2 days')`, did)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o700))
	broken, old := filepath.Join(dir, "tmp", "up-1"), time.Now().Add(-48*time.Hour)
	require.NoError(t, os.WriteFile(broken, nil, 0o600))
	require.NoError(t, os.Chtimes(broken, old, old))

	collect := func(more ...string) (int, string, string) {
		return said(t, append([]string{"pds", "blobs", "collect", "--database-url", dsn, "--blobs", dir}, more...)...)
	}
	code, out, errs := collect("--dry-run")
	require.Zero(t, code, errs)
	assert.Equal(t, "1 blobs of 7 bytes, 1 broken uploads, 0 files of nobody would be removed\n", out)
	assert.FileExists(t, broken)
	_, out, _ = collect("--grace", "72h", "--dry-run")
	assert.Contains(t, out, "0 blobs of 0 bytes")
	_, out, _ = collect()
	assert.Equal(t, "1 blobs of 7 bytes, 1 broken uploads, 0 files of nobody removed\n", out)
	assert.NoFileExists(t, broken)
	code, _, errs = said(t, "pds", "blobs", "collect", "--database-url", dsn)
	assert.NotZero(t, code)
	assert.Contains(t, errs, "--blobs is needed")

	var quota *int64
	code, _, errs = said(t, "pds", "blobs", "quota", "--database-url", dsn, "--did", did, "--bytes", "5")
	require.Zero(t, code, errs)
	require.NoError(t, pool.QueryRow(t.Context(), `select quota from blob_use where did = $1`, did).Scan(&quota))
	assert.EqualValues(t, 5, *quota)
}
