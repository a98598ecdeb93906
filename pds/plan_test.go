package pds

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
)

// A fresh database has no statistics, and there a planner left free reads a whole
// repository for one write.
func TestWriteReadsFewRowsOfALargeRepository(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for i := range 15 {
		var writes []m
		for j := range maxWrites {
			writes = append(writes, m{"$type": applyWritesNSID + "#create", "collection": note, "rkey": fmt.Sprint(i*maxWrites + j), "value": m{"n": i*maxWrites + j}})
		}
		u.ok(u.apply(writes...))
	}
	s := b.server.Load()
	ctx := t.Context()
	acc, err := s.findAccount(ctx, u.Handle)
	require.NoError(t, err)
	key, err := s.signingKey(acc)
	require.NoError(t, err)
	rec, err := newRecord(note, "500", []byte(`{"n":-1}`), nil)
	require.NoError(t, err)
	changes := []change{
		{Intent: toPut, Collection: note, RKey: "500", Record: rec},
		{Intent: toDelete, Collection: note, RKey: "501"},
	}
	err = inPipeTx(ctx, b.pool, func(tx *pipeTx) error {
		const fetched = `
			select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
			from pg_stat_xact_user_tables where relname in ('block', 'record', 'record_blob')`
		var before, after int
		now, err := lockRepo(ctx, tx, &authority{Account: &account{DID: u.DID}}, changes)
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow(ctx, fetched).Scan(&before))
		writes, err := decide(now.there, changes)
		require.NoError(t, err)
		rev, err := s.tids.nextRev(now.head.Rev)
		require.NoError(t, err)
		commit, err := repo.Apply(ctx, blocks{q: tx, did: u.DID, cache: newBlockCache(0)}, u.DID, &now.head, writes, key, rev)
		require.NoError(t, err)
		var batch pgx.Batch
		queueHead(&batch, u.DID, commit)
		queueRecords(&batch, u.DID, now, changes, commit, b.clock.Now())
		queueBlocks(&batch, u.DID, now, changes, commit)
		require.NoError(t, tx.conn.SendBatch(ctx, &batch).Close())
		require.NoError(t, tx.QueryRow(ctx, fetched).Scan(&after))
		assert.Less(t, after-before, 100)
		return nil
	})
	require.NoError(t, err)
}
