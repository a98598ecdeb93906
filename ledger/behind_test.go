package ledger

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

// A batch that was sent behind one that is taken back does not find the head where it was to be.
func TestCallBehindOneThatIsTakenBackIsTakenBackToo(t *testing.T) { // L3
	t.Parallel()
	pool := pgtest.Schema(t, Migrations())
	held, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer held.Release()
	statements, err := prepare(t.Context(), held.Conn())
	require.NoError(t, err)
	conn := lockedConn{held.Conn(), statements}
	first := &batch{tx: new(batchTx), entries: []staged{{
		entry: &entry.Entry{Kind: entry.KindMint, Book: book, Epoch: epoch, Amount: 24, Sealed: &entry.Sealed{Erased: true}}, leaf: []byte("a mint"),
	}}}
	second := &batch{tx: new(batchTx), entries: []staged{{entry: &entry.Entry{Seq: 1, Kind: entry.KindPause}, leaf: []byte("a pause")}}}
	post := func() {
		var call arguments
		for size, b := range []*batch{first, second} {
			w, err := writeBatch(b, 0, int64(size), []tlog.Hash{{byte(size)}}, tlog.Hash{byte(size + 1)}, &call)
			require.NoError(t, err)
			require.True(t, w.whole(false))
			require.NoError(t, conn.post(t.Context(), w.call))
		}
	}
	post()
	_, err = conn.answer(t.Context())
	require.ErrorContains(t, err, "there is no cap of")
	_, err = conn.answer(t.Context())
	require.ErrorIs(t, err, ErrSecondWriter)
	require.Zero(t, count(t, pool, "entry")+count(t, pool, "node"))

	_, err = pool.Exec(t.Context(), `insert into cap_guard (book, epoch, cap) values ($1, $2, 1000)`, book, epoch)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `insert into allocation_guard (book, epoch, issuer, allocation) values ($1, $2, '', 1000)`, book, epoch)
	require.NoError(t, err)
	post()
	for size := range int64(2) {
		h, err := conn.answer(t.Context())
		require.NoError(t, err)
		require.Equal(t, head{size: size + 1, root: tlog.Hash{byte(size + 1)}}, h, "each answer has the head as it stood behind its own call")
	}
}

// Full batches are sent behind each other. They land in their order and each is answered when it has; or none of them does.
func TestFullBatchesFlyBehindEachOther(t *testing.T) { // L3, L4
	t.Parallel()
	c := newCity(t)
	const batches = 3
	// binds asks for three full batches while the database lets none of them through.
	binds := func(key string) (from int64, asked []*command) {
		gate := make(chan struct{})
		for i := range batches * maxBatch {
			asked = append(asked, &command{name: "bind", done: make(chan outcome, 1), run: func(_ context.Context, b *batch) (any, error) {
				<-gate
				return b.decide(rules.BindTill{Now: b.now, Org: c.pool.did, Key: fmt.Sprint("did:key:", key, i)})
			}})
			c.l.seq.queue <- asked[i]
		}
		from = c.l.seq.log.size()
		close(gate)
		// One is executed, one is sent behind it, and one is built.
		require.Eventually(t, func() bool { return len(c.l.seq.queue) == 0 }, 20*time.Second, time.Millisecond)
		return from, asked
	}
	lock := func(sql string) (release func()) {
		tx, err := c.world.pool.Begin(c.ctx)
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		_, err = tx.Exec(c.ctx, sql)
		require.NoError(t, err)
		return func() { require.NoError(t, tx.Commit(c.ctx)) }
	}

	release := lock(`select from head for update`)
	from, asked := binds("zLands")
	require.Equal(t, from, c.l.seq.latest.Load().Size)
	for _, one := range asked {
		require.Empty(t, one.done, "nobody is answered before the commit")
	}
	release()
	for i, one := range asked {
		o := <-one.done
		require.NoError(t, o.err)
		entries, ok := o.answer.([]*entry.Entry)
		require.True(t, ok)
		require.Equal(t, from+int64(i), entries[0].Seq)
		require.Greater(t, c.l.seq.latest.Load().Size, entries[0].Seq, "its checkpoint is out")
	}
	c.restart() // which compares leaves, tree and head
	require.Equal(t, from+batches*maxBatch, c.l.seq.log.size())

	before := c.l.seq.latest.Load()
	release = lock(`update head set term = term + 1`)
	_, asked = binds("zFalls")
	release()
	<-c.l.seq.ended
	for _, one := range asked {
		require.Empty(t, one.done)
	}
	require.Same(t, before, c.l.seq.latest.Load())
	require.Equal(t, before.Size, count(t, c.world.pool, "entry"))
	c.fenced = true
	c.stop()
	c.fenced = false
	c.start()
	require.Equal(t, before.Size, c.l.seq.log.size())
}
