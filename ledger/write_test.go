package ledger

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// A count that is not as it must be ends the transaction in the database: the COMMIT is sent along and nobody here looks first.
func TestGuardThatIsNotThereKeepsTheWholeBatchOut(t *testing.T) { // L3, L15
	t.Parallel()
	pool := pgtest.Schema(t, Migrations())
	held, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer held.Release()
	statements, err := prepare(t.Context(), held.Conn())
	require.NoError(t, err)
	conn := lockedConn{held.Conn(), statements}
	account := entry.Account{1}
	b := &batch{tx: new(batchTx), entries: []staged{{
		entry: &entry.Entry{
			Kind: entry.KindMint, Book: book, Epoch: epoch, Org: "did:plc:library", Amount: 24, Votes: 24, Sealed: &entry.Sealed{Account: account},
		},
		leaf: []byte("leaf"), opening: []byte("opening"), hash: tlog.Hash{1}, holder: account,
	}}}
	write := func() (head, error) {
		w, err := writeBatch(b, 0, 0, []tlog.Hash{{1}}, tlog.Hash{2}, new(arguments))
		require.NoError(t, err)
		h, err := conn.write(t.Context(), w, false)
		if err != nil { // what failed is open until the connection is closed, as the process does
			_, e := conn.Exec(t.Context(), "rollback")
			require.NoError(t, e)
		}
		return h, err
	}
	for _, missing := range []struct{ says, then string }{
		{"there is no cap of", `insert into cap_guard (book, epoch, cap) values ($1, $2, 1000)`},
		{"there is no allocation of", `insert into allocation_guard (book, epoch, issuer, allocation) values ($1, $2, 'did:plc:library', 1000)`},
	} {
		_, err := write()
		require.ErrorIs(t, err, errBroken)
		require.ErrorContains(t, err, missing.says)
		require.Zero(t, count(t, pool, "entry")+count(t, pool, "opening")+count(t, pool, "node")+count(t, pool, "balance"))
		_, err = pool.Exec(t.Context(), missing.then, book, epoch)
		require.NoError(t, err)
	}
	_, err = write()
	require.ErrorContains(t, err, "balance_account_fkey")
	_, err = pool.Exec(t.Context(), `insert into account (id, seq) values ($1, 0)`, account[:])
	require.ErrorContains(t, err, "account_seq_fkey", "an account stands on its entry")
	_, err = pool.Exec(t.Context(), `alter table account drop constraint account_seq_fkey`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `insert into account (id, seq) values ($1, 0)`, account[:])
	require.NoError(t, err)
	h, err := write()
	require.NoError(t, err)
	require.Equal(t, head{size: 1, root: tlog.Hash{2}}, h)
	require.Equal(t, int64(1), count(t, pool, "entry"))
	_, err = write()
	require.ErrorIs(t, err, ErrSecondWriter, "the head has moved on")
	b.entries[0].entry.Seq, b.entries[0].entry.Amount = 1, 1000 // the sums are there and too small
	w, err := writeBatch(b, 0, 1, []tlog.Hash{{1}}, tlog.Hash{3}, new(arguments))
	require.NoError(t, err)
	_, err = conn.write(t.Context(), w, false)
	require.ErrorContains(t, err, "cap_guard")
	require.Equal(t, int64(1), count(t, pool, "entry"))
}

func count(t *testing.T, pool *pgxpool.Pool, table string) (n int64) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from `+table).Scan(&n))
	return n
}
