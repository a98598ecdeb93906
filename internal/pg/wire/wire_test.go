package wire_test

import (
	"bytes"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/pg/wire"
)

func TestArgumentsArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	pool := pgtest.Schema(t, fstest.MapFS{})
	pooled, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer pooled.Release()
	const echo = `select ($1::bigint, $2::bytea, $3::bigint[], $4::int[], $5::text[], $6::bytea[], $7::bytea[], $8::timestamptz, $9::text[], cardinality($10::bytea[]))::text`
	statement, err := pooled.Conn().Prepare(t.Context(), "echo", echo)
	require.NoError(t, err)
	conn := pooled.Conn().PgConn()
	var a wire.Arguments
	for _, long := range []int{0, 100_000, 3} { // the room is used again, and grows
		a.Reset()
		a.Int8(-5)
		a.Bytea([]byte{0, 255})
		a.Int8s([]int64{1, -1 << 62})
		a.Int4s([]int32{7, -7})
		a.Texts([]string{"", "ñ", `a,"b"`})
		wire.ByteasOf(&a, []int{1, 2}, func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, n) })
		wire.ByteasOf(&a, []string{"x"}, func(s string) string { return s })
		a.Timestamptz(time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC))
		a.Texts(nil)
		wire.ByteasOf(&a, make([]bool, long/1000), func(bool) []byte { return make([]byte, 1000) })
		p := conn.StartPipeline(t.Context())
		a.Queue(conn, p, statement)
		p.SendPipelineSync()
		require.NoError(t, wire.Flush(conn, p))
		answer, err := wire.Answer(p)
		require.NoError(t, err)
		require.NoError(t, p.Close())
		want := `(-5,"\\x00ff","{1,-4611686018427387904}","{7,-7}","{"""",ñ,""a,\\""b\\""""}","{""\\\\x01"",""\\\\x0202""}","{""\\\\x78""}","1999-12-31 23:59:59.123456+00",{},`
		got := string(answer.Rows[0][0])
		assert.Equal(t, want, got[:min(len(want), len(got))])
		assert.Equal(t, map[int]string{0: "0)", 100_000: "100)", 3: "0)"}[long], got[min(len(want), len(got)):])
	}
}

func TestRefusalIsTheAnswer(t *testing.T) {
	t.Parallel()
	pool := pgtest.Schema(t, fstest.MapFS{})
	pooled, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer pooled.Release()
	statement, err := pooled.Conn().Prepare(t.Context(), "divide", `select 1 / $1::bigint`)
	require.NoError(t, err)
	conn := pooled.Conn().PgConn()
	var a wire.Arguments
	a.Int8(0)
	p := conn.StartPipeline(t.Context())
	a.Queue(conn, p, statement)
	p.SendPipelineSync()
	require.NoError(t, wire.Flush(conn, p))
	_, err = wire.Answer(p)
	require.ErrorContains(t, err, "division by zero")
	_ = p.Close()
	require.NoError(t, conn.Ping(t.Context()), "the connection goes on")
}

func TestArgumentsReachTheDatabaseAsTheyAre(t *testing.T) {
	t.Parallel()
	pool := pgtest.Schema(t, fstest.MapFS{})
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Conn().Prepare(t.Context(), "echo", `select $1::bigint, $2::bytea, $3::bigint[], $4::integer[], $5::text[]`)
	require.NoError(t, err)
	var a wire.Arguments
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
		a.Reset()
		a.Int8(want.n)
		a.Bytea(want.bytes)
		a.Int8s(want.longs)
		a.Int4s(want.ints)
		a.Texts(want.texts)
		res := conn.Conn().PgConn().ExecPrepared(t.Context(), "echo", a.Values(), []int16{1}, []int16{1}).Read()
		require.NoError(t, res.Err)
		require.Equal(t, a.Values(), res.Rows[0], "what is read is what was written")
		got := want
		rows, err := conn.Query(t.Context(), "echo", want.n, want.bytes, want.longs, want.ints, want.texts)
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.Equal(t, a.Values(), rows.RawValues(), "and what pgx writes")
		require.NoError(t, rows.Scan(&got.n, &got.bytes, &got.longs, &got.ints, &got.texts))
		rows.Close()
		require.Equal(t, want, got)
	}
}
