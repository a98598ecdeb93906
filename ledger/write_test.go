package ledger

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
		h, err := conn.write(t.Context(), w, false, false)
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
	_, err = conn.write(t.Context(), w, false, false)
	require.ErrorContains(t, err, "cap_guard")
	require.Equal(t, int64(1), count(t, pool, "entry"))
}

// What a column alone must be stands in its type, and what it must be beside another one in the table.
func TestTablesOfABatchRefuseWhatCannotBe(t *testing.T) { // L3, L15
	t.Parallel()
	pool := pgtest.Schema(t, Migrations())
	_, err := pool.Exec(t.Context(), `
		insert into entry (seq, kind, leaf, hash) values (0, 'mint', 'x', $1), (1, 'mint', repeat('x', 61440)::bytea, $1)`, make([]byte, 32))
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `
		insert into account (id, seq) values (decode(repeat('01', 16), 'hex'), 0);
		insert into balance (account, book, credits, votes) select id, 'b', 5, 5 from account;
		insert into cap_guard (book, epoch, cap) values ('b', 'e', 5);
		insert into allocation_guard (book, epoch, issuer, allocation) values ('b', 'e', 'i', 5);
		insert into opening (seq, sealed) values (0, repeat('x', 16384)::bytea), (1, null);
		insert into node (idx, hash) values (0, decode(repeat('00', 96), 'hex'))`)
	require.NoError(t, err)
	const hash = `decode(repeat('00', 32), 'hex')`
	for _, sql := range []string{
		`insert into entry (seq, kind, leaf, hash) values (-1, 'mint', 'x', ` + hash + `)`,
		`insert into entry (seq, kind, leaf, hash) values (2, 'mint', '', ` + hash + `)`,
		`insert into entry (seq, kind, leaf, hash) values (2, 'mint', repeat('x', 61441)::bytea, ` + hash + `)`,
		`insert into entry (seq, kind, leaf, hash) values (2, 'mint', 'x', '')`,
		`insert into node (idx, hash) values (-1, ` + hash + `)`,
		`insert into node (idx, hash) values (9, '')`,
		`insert into node (idx, hash) values (9, 'x' || ` + hash + `)`,
		`insert into opening (seq, sealed) values (2, repeat('x', 16385)::bytea)`,
		`update balance set credits = credits - 6`,
		`update balance set votes = votes - 6`,
		`update balance set aside = aside - 1`,
		`update cap_guard set issued = 6`,
		`update cap_guard set issued = -1`,
		`update cap_guard set cap = -1`,
		`update allocation_guard set issued = 6`,
		`update allocation_guard set issued = -1`,
		`update allocation_guard set allocation = -1`,
		`update head set size = -1`,
		`insert into head (one, term, size, root) values (false, 0, 0, '')`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, sql)
		require.Equal(t, "23514", refused.Code, sql) // check_violation, of a type or of a table
	}
	for _, sql := range []string{`insert into entry (seq, kind, leaf, hash) values (2, 'mint', null, ` + hash + `)`, `update balance set credits = null`} {
		_, err := pool.Exec(t.Context(), sql)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, sql)
		require.Equal(t, "23502", refused.Code, sql)
	}
}

// A plan of write_batch is kept, and may be made while a table is short and nobody has counted it.
func TestWriterPlansByKeysWhileTablesAreShort(t *testing.T) {
	t.Parallel()
	st := &store{pool: pgtest.Schema(t, Migrations())}
	conn, _, err := st.becomeWriter(t.Context(), time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), `prepare move (text[], bytea) as update balance b set credits = b.credits + 1
		from generate_series(1, cardinality($1)) i where b.account = substring($2 from 16 * i - 15 for 16) and b.book = $1[i]`)
	require.NoError(t, err)
	rows, err := conn.Query(t.Context(), `explain (costs off) execute move (null, null)`) // one that is made anew knows that there is nothing to move
	require.NoError(t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, strings.Join(plan, "\n"), "Index Scan using balance_pkey")
}

func count(t *testing.T, pool *pgxpool.Pool, table string) (n int64) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from `+table).Scan(&n))
	return n
}
