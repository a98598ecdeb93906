package pds

import (
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Anybody may ask for an export, and each record may have a megabyte: a page of them at once would be half a gigabyte, for each who asks.
// Not in parallel: it looks at the memory of the whole process.
func TestExportHoldsOneBlockAtATime(t *testing.T) {
	b := newBed(t)
	u := b.account("user")
	const blocks, size = 48, 1_000_000
	_, err := b.pool.Exec(t.Context(), `
		insert into block (did, cid, rev, bytes)
		select $1, '\x01711220'::bytea || sha256(n::text::bytea), '3zzzzzzzzzzzz', decode(repeat('00', $3), 'hex') from generate_series(1, $2) n`, u.DID, blocks, size)
	require.NoError(t, err)
	err = b.server.Load().snapshot(t.Context(), func(tx pgx.Tx) error {
		h, err := readHead(t.Context(), tx, u.DID)
		if err != nil {
			return err
		}
		var failed error
		seen, most := 0, uint64(0)
		for range exportBlocks(t.Context(), tx, u.DID, h.Commit, "", &failed) {
			if seen++; seen == blocks/2 {
				runtime.GC()
				var mem runtime.MemStats
				runtime.ReadMemStats(&mem)
				most = mem.HeapAlloc
			}
		}
		assert.GreaterOrEqual(t, seen, blocks)
		assert.Less(t, most, uint64(blocks/2*size))
		return failed
	})
	require.NoError(t, err)
}
