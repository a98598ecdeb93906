package ledger

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
)

func TestArgumentsReachTheDatabaseAsTheyAre(t *testing.T) {
	t.Parallel()
	pool := pgtest.Schema(t, Migrations())
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Conn().Prepare(t.Context(), "echo", `select $1::bigint, $2::bytea, $3::bigint[], $4::integer[], $5::text[]`)
	require.NoError(t, err)
	var a arguments
	for _, want := range []struct {
		n     int64
		bytes []byte
		longs []int64
		ints  []int32
		texts []string
	}{
		{-1, bytes.Repeat([]byte{7}, 70_000), []int64{1, -2, 1 << 40}, []int32{1 << 20, -3}, []string{"", "Pfützen", "NULL"}},
		{1 << 62, []byte{}, []int64{}, []int32{}, []string{}},
	} {
		a.reset()
		a.int8(want.n)
		a.bytea(want.bytes)
		a.int8s(want.longs)
		a.int4s(want.ints)
		a.texts(want.texts)
		res := conn.Conn().PgConn().ExecPrepared(t.Context(), "echo", a.values(), []int16{1}, []int16{1}).Read()
		require.NoError(t, res.Err)
		require.Equal(t, a.values(), res.Rows[0], "what is read is what was written")
		got := want
		rows, err := conn.Query(t.Context(), "echo", want.n, want.bytes, want.longs, want.ints, want.texts)
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.Equal(t, a.values(), rows.RawValues(), "and what pgx writes")
		require.NoError(t, rows.Scan(&got.n, &got.bytes, &got.longs, &got.ints, &got.texts))
		rows.Close()
		require.Equal(t, want, got)
	}
}
