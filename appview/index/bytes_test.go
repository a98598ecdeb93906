package index_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// What others signed is kept as they signed it: fields that no type of ours has are there, and the bytes hash to the CID.
func TestRecordsAreKeptAsTheyWereSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.author(library)
	rkey, task := example(t, lexicons.WorkTask)
	signed := edited(t, task, "ofTomorrow", map[string]any{"b": int64(1), "a": []any{"x"}})
	a.put(repo.Create, lexicons.WorkTask, rkey, signed)
	for _, table := range []string{"record", "record_version"} {
		var cid string
		var cbor []byte
		require.NoError(t, w.pool.QueryRow(t.Context(), "select cid, cbor from "+pgx.Identifier{table}.Sanitize()+" where coll = $1",
			lexicons.WorkTask).Scan(&cid, &cbor), table)
		require.Equal(t, signed, cbor, table)
		require.Equal(t, repo.CIDForCBOR(signed).String(), cid, table)
	}
}
