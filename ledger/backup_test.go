package ledger

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/dump"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/lexicons"
)

// backup is an archive of the city's ledger as its own role makes it.
func (w *world) backup() []byte {
	w.t.Helper()
	var out bytes.Buffer
	head, err := Backup(w.ctx, w.role(), &out)
	require.NoError(w.t, err)
	require.Equal(w.t, w.l.seq.log.size(), head.Size)
	return out.Bytes()
}

// restored is the same city on another database, filled from an archive and not started.
func (c *founded) restored(archive []byte) *founded {
	c.t.Helper()
	w := *c.world
	w.pool, w.served = pgtest.Open(c.t, pgtest.DSN(c.t), pgtest.SchemaName), nil
	_, err := Restore(c.ctx, w.pool, pgtest.SchemaName, bytes.NewReader(archive), c.clock.Now())
	require.NoError(c.t, err)
	f := *c
	f.world = &w
	return &f
}

// attempt starts a ledger that may be refused.
func (w *world) attempt() error {
	l, err := New(w.ctx, w.cfg, Deps{
		Pool: w.role(), Directory: w.dir, HTTP: http.DefaultClient, Clock: w.clock, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), LogKey: w.logKey, Password: "x",
	})
	if err == nil {
		l.Close()
	}
	return err
}

// published gives the city a PDS that has all receipts and the newest checkpoint.
func (c *founded) published() *fakePDS {
	c.t.Helper()
	f := newFake()
	srv := httptest.NewServer(f)
	c.t.Cleanup(srv.Close)
	c.cfg.PDS = srv.URL
	c.publish(f)
	return f
}

func (c *founded) publish(f *fakePDS) {
	c.t.Helper()
	_, err := c.publisher(f).step(c.ctx, true)
	require.NoError(c.t, err)
}

// contents are all rows of all tables, as text.
func contents(t *testing.T, pool *pgxpool.Pool) map[string]string {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
	look, err := dump.Look(t.Context(), tx)
	require.NoError(t, err)
	out := map[string]string{}
	for _, table := range look.Tables {
		var rows bytes.Buffer
		_, err := tx.Conn().PgConn().CopyTo(t.Context(), &rows, "copy (select t::text from "+pgx.Identifier{table.Name}.Sanitize()+" t order by 1) to stdout")
		require.NoError(t, err)
		out[table.Name] = rows.String()
	}
	return out
}

func TestRestoredLedgerIsByteEqualAndGoesOn(t *testing.T) { // L1, L2
	t.Parallel()
	old := newLivedIn(t)
	f := old.published()
	archive := old.backup()
	require.NoError(t, NoteBackup(old.ctx, old.role(), &BackupHeader{At: old.clock.Now()}))
	digest, held, note := old.l.seq.state.Digest(), old.l.seq.state.HeldDigest(), old.get("/checkpoint").Body.String()
	entries := old.get("/tile/entries/000.p/" + receiptKeyless(old.l.seq.log.size())).Body.Bytes()
	old.stop()

	c := old
	before := old.world.pool
	c.world.pool, c.world.served = old.restored(archive).world.pool, nil
	was, is := contents(t, before), contents(t, c.world.pool)
	for table := range was {
		if table != "meta" && table != "head" {
			assert.Equal(t, was[table], is[table], table)
		}
	}
	require.NotEmpty(t, is["claim"])
	require.NotEmpty(t, is["code"])
	c.start()
	require.Equal(t, digest, c.l.seq.state.Digest())
	require.Equal(t, held, c.l.seq.state.HeldDigest())
	require.Equal(t, note, c.get("/checkpoint").Body.String())
	require.Equal(t, entries, c.get("/tile/entries/000.p/"+receiptKeyless(c.l.seq.log.size())).Body.Bytes())

	// What stood beside the log is there, and identity columns go on after what was copied.
	require.Equal(t, "redeemed", c.scan(c.till, old.open, "confirm", 0).str("status"))
	c.missing()
	c.status(c.orphan, "claimed")
	c.status(c.verify(c.library, old.today, c.claimToken(c.library, old.held)), "minted")
	c.publish(f)
	c.restart() // the mark is gone: nobody asks the world any more
	c.cfg.PDS = host
	c.restart()
}

func TestBackupIsOneMomentWhileTheLedgerGoesOn(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	size := c.l.seq.log.size()
	var out bytes.Buffer
	grow := &growing{w: &out, first: func() {
		res := c.call(c.pool, "bindTill", "", map[string]any{"label": "x", "key": c.newTill(), "pin": pin, "idempotencyKey": "meanwhile"})
		require.Equal(t, 200, res.Status, "%v", res.Body)
	}}
	head, err := Backup(c.ctx, c.role(), grow)
	require.NoError(t, err)
	require.Equal(t, size, head.Size)
	require.Equal(t, size+1, c.l.seq.log.size())
	c.cfg.PDS = host
	_ = c.restored(out.Bytes()) // checks leaves, tree and head
}

type growing struct {
	w     io.Writer
	first func()
}

func (g *growing) Write(p []byte) (int, error) {
	if g.first != nil {
		g.first()
		g.first = nil
	}
	return g.w.Write(p)
}

func TestBrokenBackupIsRefusedWhole(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	archive := c.backup()
	pool := pgtest.Open(t, pgtest.DSN(t), pgtest.SchemaName)
	try := func(archive []byte) error {
		_, err := Restore(c.ctx, pool, pgtest.SchemaName, bytes.NewReader(archive), c.clock.Now())
		if err != nil {
			var n int
			require.NoError(t, pool.QueryRow(c.ctx, `select (select count(*) from entry) + (select count(*) from meta) + (select count(*) from fact)`).Scan(&n))
			require.Zero(t, n, "something was kept")
		}
		return err
	}
	require.NoError(t, pg.Migrate(c.ctx, pool, pgtest.SchemaName, Migrations()))
	files := 0
	r := bytes.NewReader(archive)
	for tr := tar.NewReader(r); ; files++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if h.Size == 0 {
			continue
		}
		at := len(archive) - r.Len() + int(h.Size)/2
		flipped := bytes.Clone(archive)
		flipped[at] ^= 1
		require.Error(t, try(flipped), "a flipped bit in %s", h.Name)
	}
	require.Greater(t, files, 20)
	for name, broken := range map[string][]byte{
		"cut": archive[:len(archive)*2/3], "none": nil, "twice": append(bytes.Clone(archive[:len(archive)-1024]), archive...),
		"no archive": []byte("hello"), "without its manifest": without(t, archive, dump.FileManifest), "without a table": without(t, archive, "table/claim/000000"),
	} {
		require.ErrorIs(t, try(broken), ErrBackup, name)
	}
	require.NoError(t, try(archive))
	require.ErrorIs(t, func() error {
		_, err := Restore(c.ctx, pool, pgtest.SchemaName, bytes.NewReader(archive), c.clock.Now())
		return err
	}(), ErrNotEmpty, "a ledger is never overwritten")
}

func without(t *testing.T, archive []byte, name string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if h.Name != name {
			require.NoError(t, w.WriteHeader(h))
			_, err = io.Copy(w, r)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

func TestRestoredLedgerBehindTheWorldSignsNothing(t *testing.T) { // L5
	t.Parallel()
	c, ana := rich(t)
	f := c.published()
	older := c.backup()
	size := c.l.seq.log.size()
	made := c.code(ana, 1, "k", nil)
	require.Equal(t, "redeemed", c.scan(c.till, made.str("code"), "confirm", 0).str("status"))
	c.publish(f)
	newer := c.backup()
	c.stop()

	late := c.restored(older)
	var behind *RestoredBehind
	require.ErrorAs(t, late.attempt(), &behind)
	require.Equal(t, []int64{size, size + 1}, []int64{behind.Have, behind.World})
	require.ErrorContains(t, behind, "RestoredBehind")
	require.ErrorAs(t, late.attempt(), &behind, "however often it is started")

	// A receipt alone is enough: it is published before the checkpoint.
	last := lexicons.LedgerCheckpoint + "/" + receiptKey(size+1)
	kept := f.records[last]
	delete(f.records, last)
	require.ErrorAs(t, late.attempt(), &behind)
	f.records[last] = kept

	// Nobody to ask is no permission.
	pds := late.cfg.PDS
	late.cfg.PDS = "http://127.0.0.1:1"
	require.ErrorIs(t, late.attempt(), ErrWorldUnknown)
	late.cfg.PDS = pds
	require.NoError(t, c.restored(newer).attempt())
}

func TestRestoredLedgerOfAnotherHistorySignsNothing(t *testing.T) { // L5
	t.Parallel()
	c := newCity(t)
	f := c.published()
	older := c.backup()
	bind := func(c *founded) {
		res := c.call(c.pool, "bindTill", "", map[string]any{"label": "x", "key": c.newTill(), "pin": pin, "idempotencyKey": "other"})
		require.Equal(t, 200, res.Status, "%v", res.Body)
	}
	fork := c.restored(older)
	fork.start()
	bind(fork)
	bind(c)
	c.publish(f)
	archive := fork.backup()
	fork.stop()
	require.ErrorIs(t, c.restored(archive).attempt(), ErrRestoredFork)
}

func TestProcessFromBeforeARestoreWritesNothing(t *testing.T) { // L4
	t.Parallel()
	c := newCity(t)
	c.published()
	archive := c.backup()
	for range 3 { // terms that the backup has not seen
		c.restart()
	}
	old := c.l.seq.term
	_, err := c.world.pool.Exec(c.ctx, `drop schema `+pgtest.SchemaName+` cascade`)
	require.NoError(t, err)
	_, err = Restore(c.ctx, c.world.pool, pgtest.SchemaName, bytes.NewReader(archive), c.clock.Now())
	require.ErrorIs(t, err, ErrSecondWriter, "it still holds the writer's lock")
	c.stop()
	_, err = Restore(c.ctx, c.world.pool, pgtest.SchemaName, bytes.NewReader(archive), c.clock.Now())
	require.NoError(t, err)
	require.NoError(t, GrantTo(c.ctx, c.world.pool, c.role().Config().ConnConfig.User))
	before := contents(t, c.world.pool)
	for term := int64(0); term <= old; term++ { // as if it had got the lock again
		w, err := writeBatch(&batch{tx: new(batchTx)}, term, c.l.seq.log.size(), nil, [32]byte{}, new(arguments))
		require.NoError(t, err)
		conn, err := c.role().Acquire(c.ctx)
		require.NoError(t, err)
		statements, err := prepare(c.ctx, conn.Conn())
		require.NoError(t, err)
		_, err = lockedConn{conn.Conn(), statements}.write(c.ctx, w, false, false)
		conn.Release()
		require.ErrorIs(t, err, ErrSecondWriter)
	}
	require.Equal(t, before, contents(t, c.world.pool))
	c.start()
	require.Greater(t, c.l.seq.term, old)
}

func TestDatabaseRestoredByOtherMeansCanBeMarked(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.published()
	require.ErrorIs(t, MarkRestored(c.ctx, c.role(), c.clock.Now()), ErrSecondWriter)
	c.stop()
	require.NoError(t, MarkRestored(c.ctx, c.role(), c.clock.Now()))
	pds := c.cfg.PDS
	c.cfg.PDS = "http://127.0.0.1:1"
	require.ErrorIs(t, c.attempt(), ErrWorldUnknown)
	c.cfg.PDS = pds
	require.NoError(t, c.attempt())
}

func TestRestoredLedgerAsksItsWitnesses(t *testing.T) { // L5
	t.Parallel()
	c := newCity(t)
	ws := newWitnesses(c, false)
	require.Equal(t, 200, c.call(c.city, "bindWitnesses", "", ws.in).Status)
	f := c.published()
	c.collect()
	older := c.backup()
	size := c.l.seq.log.size()
	res := c.call(c.pool, "bindTill", "", map[string]any{"label": "x", "key": c.newTill(), "pin": pin, "idempotencyKey": "later"})
	require.Equal(t, 200, res.Status, "%v", res.Body)
	ws.list[1].down.Store(true)
	c.clock.Advance(roundLife)
	c.collect() // the repository has not heard of this entry, two of the three witnesses have
	require.Len(t, f.records, 1)
	c.stop()

	ws.list[1].down.Store(false)
	late := c.restored(older)
	var behind *RestoredBehind
	require.ErrorAs(t, late.attempt(), &behind)
	require.Equal(t, []int64{size, size + 1}, []int64{behind.Have, behind.World})
	require.Contains(t, behind.Source, "witness w")

	ws.list[2].down.Store(true)
	require.ErrorAs(t, late.attempt(), &behind, "of every quorum somebody has answered")
	ws.list[0].down.Store(true)
	require.ErrorIs(t, late.attempt(), ErrWorldUnknown, "the two that are silent could be a quorum")
}
