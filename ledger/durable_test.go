package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

func TestRestartGivesTheSameCity(t *testing.T) { // L2
	t.Parallel()
	c, ana := rich(t)
	entryRef := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, entryRef, 1)
	ben := c.resident("ben")
	held := ben.claim(task)
	code := c.code(ana, 1, "k", nil)
	digest, note, size := c.l.seq.state.Digest(), c.get("/checkpoint").Body.String(), c.size()

	c.restart()
	require.Equal(t, digest, c.l.seq.state.Digest())
	require.Equal(t, note, c.get("/checkpoint").Body.String())
	require.Equal(t, size, c.size())
	require.Equal(t, code.Body, c.code(ana, 1, "k", nil).Body)
	require.Equal(t, "redeemed", c.scan(c.till, code.str("code"), "confirm", 0).str("status"))
	// The slot that ben held beside the log is still his, and his claim can be minted.
	c.refused(c.resident("cleo").claim(task), "SlotsFull")
	c.status(c.verify(c.library, task, c.claimToken(c.library, held)), "minted")
}

func TestRecordSeenTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	write, ref := c.library.write(lexicons.WorkTask, c.tid(), c.taskRecord(c.catalog(c.library, entryOptions{}), 1))
	before := c.library.state
	ev := c.library.prepare(write)
	c.library.deliver(ev)
	c.status(ref, "accepted")
	c.unchanged(func() {
		c.library.state = before
		require.NoError(t, c.library.try(ev))
	})
	cursor, err := c.l.intake.Cursor(c.ctx, host)
	require.NoError(t, err)
	require.Equal(t, ev.Seq, cursor)
}

func TestSnapshotFindsWhatWasMissed(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	entryRef := c.catalog(c.library, entryOptions{})
	gone := c.task(c.library, entryRef, 1)
	_, fresh := c.library.hold(lexicons.WorkTask, c.tid(), c.taskRecord(entryRef, 2))
	delete(c.library.paths, lexicons.WorkTask+"/"+rkeyOf(gone))
	c.library.prepare(repo.Write{Action: repo.Delete, Collection: lexicons.WorkTask, RKey: rkeyOf(gone)})

	full := c.library.snapshot()
	require.NoError(t, c.l.intake.Snapshot(c.ctx, host, 999, c.library.did, full, full.Proof))
	c.status(fresh, "accepted")
	res := c.capacity()
	require.Equal(t, int64(48), res.num("outstanding"), "the deleted task's slot fell back, the missed one's are reserved")
	require.Equal(t, int64(2), res.num("tasks"))
}

// snapshot is the whole repository as a host sends it, checked.
func (a *actor) snapshot() *repo.Full {
	a.w.t.Helper()
	var car bytes.Buffer
	require.NoError(a.w.t, repo.WriteCAR(&car, a.head.Commit, func(yield func(repo.Block) bool) {
		if !yield(repo.Block{CID: a.head.Commit, Data: a.store[a.head.Commit]}) {
			return
		}
		for id, data := range a.store {
			if id != a.head.Commit && !yield(repo.Block{CID: id, Data: data}) {
				return
			}
		}
	}))
	pub, err := a.key.PublicKey()
	require.NoError(a.w.t, err)
	full, err := repo.VerifyRepo(a.w.ctx, &car, a.did, pub, repo.Limits{})
	require.NoError(a.w.t, err)
	return full
}

// A ledger that starts late reads whole repositories, the city's perhaps last, and counts the same.
func TestHistoryIsReadInAnyOrderOfRepositories(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	entryRef := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, entryRef, 2)
	for range 2 { // more than one command takes
		var writes []repo.Write
		for range 120 {
			w, _ := c.library.write(lexicons.WorkTask, c.tid(), c.taskRecord(c.swim, 1))
			writes = append(writes, w)
		}
		c.library.deliver(c.library.prepare(writes...))
	}
	c.stop()
	late := *c.world
	late.pool = pgtest.Schema(t, Migrations())
	late.start()
	c.world = &late
	for i, a := range []*actor{c.library, c.pool, c.city} {
		full := a.snapshot()
		require.NoError(t, late.l.intake.Snapshot(late.ctx, host, int64(i), a.did, full, full.Proof))
		if a == c.library {
			c.status(task, "waiting")
		}
	}
	c.status(task, "waiting") // for its epoch
	c.openEpoch()
	c.status(task, "accepted")
	require.Equal(t, int64(800), c.capacity().num("capacityMonth"))
	require.Equal(t, int64(48), c.capacity().num("reserved"))
	digest := late.l.seq.state.Digest()
	for _, a := range []*actor{c.city, c.library} { // once more: nothing
		full := a.snapshot()
		require.NoError(t, late.l.intake.Snapshot(late.ctx, host, 9, a.did, full, full.Proof))
	}
	require.Equal(t, digest, late.l.seq.state.Digest())
}

func TestLogIsAppendOnly(t *testing.T) { // L1
	t.Parallel()
	c := newCity(t)
	latest := c.l.seq.latest.Load()
	_, err := c.world.pool.Exec(c.ctx, `insert into checkpoint (size, root, note, at) values ($1, $2, $3, now())`, latest.Size, latest.Root[:], string(latest.Note))
	require.NoError(t, err)
	for _, table := range []string{"entry", "node", "checkpoint"} {
		for _, sql := range []string{
			`delete from ` + table, `truncate ` + table + ` cascade`,
			map[string]string{"entry": `update entry set kind = 'x'`, "node": `update node set idx = idx`, "checkpoint": `update checkpoint set note = ''`}[table],
		} {
			_, err := c.world.pool.Exec(c.ctx, sql)
			require.ErrorContains(t, err, "append-only", sql)
		}
	}
}

func TestSecondWriterIsRefused(t *testing.T) { // L4
	t.Parallel()
	c := newCity(t)
	// The lock of the first writer keeps a second one out.
	_, err := New(c.ctx, c.cfg, Deps{
		Pool: c.world.pool, Directory: c.dir, HTTP: http.DefaultClient, Clock: c.clock, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), LogKey: c.logKey,
	})
	require.ErrorIs(t, err, ErrSecondWriter)
}

func TestOlderTermWritesNothing(t *testing.T) { // L3, L4
	t.Parallel()
	c := newCity(t)
	size := c.l.seq.log.size()
	_, err := c.world.pool.Exec(c.ctx, `update head set term = term + 1`)
	require.NoError(t, err)
	c.fenced = true
	res := c.call(c.pool, "bindTill", "", map[string]any{"label": "x", "key": c.newTill(), "pin": pin, "idempotencyKey": "fenced"})
	require.Equal(t, 503, res.Status, "%v", res.Body)
	<-c.l.seq.ended
	var n int64
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select count(*) from entry`).Scan(&n))
	require.Equal(t, size, n)
}

func TestChangedLogDoesNotStart(t *testing.T) { // L1, L15
	t.Parallel()
	c := newCity(t)
	c.stop()
	require.NoError(t, pgx.BeginFunc(c.ctx, c.world.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(c.ctx, `alter table entry disable trigger user; update entry set leaf = leaf || '\x00'::bytea where seq = 3`)
		return err
	}))
	_, err := New(c.ctx, c.cfg, Deps{
		Pool: c.world.pool, Directory: c.dir, HTTP: http.DefaultClient, Clock: c.clock, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), LogKey: c.logKey,
	})
	require.ErrorContains(t, err, "entry 3")
}

func TestOpeningOfNoEntryDoesNotStart(t *testing.T) { // L2
	t.Parallel()
	c := newCity(t)
	_, err := c.world.pool.Exec(c.ctx, `insert into opening (seq, sealed) select size, '\x00' from head`)
	require.NoError(t, err, "no foreign key says so")
	c.stop()
	_, err = New(c.ctx, c.cfg, Deps{
		Pool: c.world.pool, Directory: c.dir, HTTP: http.DefaultClient, Clock: c.clock, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), LogKey: c.logKey,
	})
	require.ErrorContains(t, err, "1 openings are of entries that the log does not have")
}

func TestGuardsAgreeWithTheRules(t *testing.T) { // L2, L10
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	require.Equal(t, 200, c.scan(c.till, code, "confirm", 0).Status)
	var credits, issued, limit int64
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select sum(credits)::bigint from balance`).Scan(&credits))
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select issued, cap from cap_guard`).Scan(&issued, &limit))
	require.Equal(t, []int64{16, 24, 1200}, []int64{credits, issued, limit})
	_, err := c.world.pool.Exec(c.ctx, `update balance set credits = credits - 17`)
	require.Error(t, err, "credits below zero")
	_, err = c.world.pool.Exec(c.ctx, `update cap_guard set issued = cap + 1`)
	require.Error(t, err, "issued over the cap")
}

// Every order in which one task's records may come ends in the same mint.
func TestRecordsCountInAnyOrder(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ana := c.resident("ana")
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 6 {
		entryRef := c.catalog(c.library, entryOptions{})
		taskEv, task := c.library.hold(lexicons.WorkTask, c.tid(), c.taskRecord(entryRef, 1))
		c.clock.Advance(1)
		claimEv, claim := ana.hold(lexicons.WorkClaim, claimKey(task, "s1"), claimRecord(task, "s1"))
		proofEv, proof := ana.hold(lexicons.WorkProof, claimKey(task, "s1"), map[string]any{"claim": claim, "task": task, "createdAt": at(noon)})
		account, ok := c.l.seq.state.AccountOf(ana.did)
		require.True(t, ok)
		key, _, err := epochKey(c.ctx, c.world.pool, epoch)
		require.NoError(t, err)
		token := jsonBytes(entry.Token(key, task.URI, "s1", account))["$bytes"].(string)
		verEv, ver := c.library.hold(lexicons.WorkVerification, c.tid(), verification(task, token, 24))
		// Two repositories, each in its own order: only the interleaving is free.
		queues := map[*actor][]*firehose.Commit{c.library: {taskEv, verEv}, ana: {claimEv, proofEv}}
		for len(queues[c.library])+len(queues[ana]) > 0 {
			a := []*actor{c.library, ana}[random.IntN(2)]
			if len(queues[a]) > 0 {
				a.deliver(queues[a][0])
				queues[a] = queues[a][1:]
			}
		}
		c.status(task, "accepted")
		c.status(claim, "claimed")
		c.status(proof, "accepted")
		c.status(ver, "minted")
		require.Equal(t, int64(24*(round+1)), c.balance(ana))
	}
}

func TestRecordWithoutItsParentSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ana := c.resident("ana")
	_, never := c.library.write(lexicons.WorkTask, c.tid(), c.taskRecord(c.swim, 1))
	claim := ana.claim(never)
	require.Equal(t, []any{never.URI}, c.status(claim, "waiting").Body["waitingFor"])
	c.clock.Advance(waitingFor)
	require.NoError(t, c.l.intake.sweep(c.ctx))
	figures, _ := c.refused(claim, "ParentMissing").Body["figures"].(map[string]any)
	require.Equal(t, never.URI, figures["missing"])
}

func TestForgedCommitMintsNothingAndIsCounted(t *testing.T) { // L6
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	token := c.claimToken(c.library, c.resident("ana").claim(task))
	c.unchanged(func() {
		good := c.library.key
		forged, err := atcrypto.GeneratePrivateKeyK256()
		require.NoError(t, err)
		c.library.key = forged
		ev, ref := c.library.hold(lexicons.WorkVerification, c.tid(), verification(task, token, 24))
		c.library.key = good
		err = c.library.try(ev)
		var reject *repo.Reject
		require.ErrorAs(t, err, &reject)
		require.Equal(t, repo.BadSignature, reject.Reason)
		require.NoError(t, c.l.intake.Drop(c.ctx, host, ev.Seq, c.library.did, string(reject.Reason)))
		require.Equal(t, 404, c.explain(ref).Status)
	})
	require.InDelta(t, 1, c.metric("citysync_ledger_commits_dropped_total", "BadSignature"), 0)
	var n int64
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select count from dropped where reason = 'BadSignature'`).Scan(&n))
	require.Equal(t, int64(1), n)
}

// An outside reader checks the log with nothing but the key: note, tiles, leaves, proofs.
func TestPublishedLogProvesItself(t *testing.T) { // L1, L5, L12
	t.Parallel()
	c, _ := rich(t)
	first := c.l.seq.latest.Load()
	for i := range 300 { // more than one tile
		res := c.call(c.pool, "bindTill", "", map[string]any{"label": "x", "key": c.newTill(), "pin": pin, "idempotencyKey": receiptKey(int64(i))})
		require.Equal(t, 200, res.Status, "%v", res.Body)
	}
	verifier, err := note.NewVerifier(c.l.VerifierKey())
	require.NoError(t, err)
	n, err := note.Open(c.get("/checkpoint").Body.Bytes(), note.VerifierList(verifier))
	require.NoError(t, err)
	cp := c.l.seq.latest.Load()
	require.Contains(t, n.Text, c.cfg.DID.String()+"\n"+receiptKeyless(cp.Size)+"\n")

	tree := tlog.Tree{N: cp.Size, Hash: cp.Root}
	reader := tlog.TileHashReader(tree, tileReader{c})
	var hashes []int64
	for i := range cp.Size {
		hashes = append(hashes, tlog.StoredHashIndex(0, i))
	}
	want, err := reader.ReadHashes(hashes)
	require.NoError(t, err)
	var leaves [][]byte
	for _, path := range []string{"/tile/entries/000", "/tile/entries/001.p/" + receiptKeyless(cp.Size-256)} {
		rec := c.get(path)
		require.Equal(t, 200, rec.Code, path)
		for data := rec.Body.Bytes(); len(data) > 0; {
			size := int(binary.BigEndian.Uint16(data))
			leaves = append(leaves, data[2:2+size])
			data = data[2+size:]
		}
	}
	require.Len(t, leaves, int(cp.Size))
	for i, leaf := range leaves {
		require.Equal(t, want[i], tlog.RecordHash(leaf), "leaf %d", i)
		e, err := entry.Decode(leaf)
		require.NoError(t, err)
		require.Equal(t, int64(i), e.Seq)
		require.NotContains(t, string(leaf), "did:plc:ana", "no resident stands in a leaf")
	}
	require.Equal(t, 404, c.get("/tile/entries/001.p/"+receiptKeyless(cp.Size-255)).Code, "not yet")
	require.Equal(t, 404, c.get("/tile/7/000").Code)
	require.Equal(t, 404, c.get("/tile/data/000").Code)

	proof, err := tlog.ProveTree(cp.Size, first.Size, c.l.seq.log)
	require.NoError(t, err)
	require.NoError(t, tlog.CheckTree(proof, cp.Size, cp.Root, first.Size, first.Root))
	res := c.call(nil, "getConsistencyProof", "?from="+receiptKeyless(first.Size), nil)
	require.Len(t, res.Body["hashes"], len(proof))
	res = c.call(nil, "getInclusionProof", "?seq=5", nil)
	require.Equal(t, b64(want[5]), res.str("leafHash"))
}

type tileReader struct{ c *founded }

func (r tileReader) Height() int { return 8 }

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		path := "/" + tile.Path() // tile/8/L/N
		rec := r.c.get("/tile/" + path[len("/tile/8/"):])
		require.Equal(r.c.t, 200, rec.Code, path)
		out = append(out, rec.Body.Bytes())
	}
	return out, nil
}

func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func TestEvidenceShowsTheSignedRecord(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	rec := c.get("/evidence/" + task.CID + ".car?did=" + c.library.did.String())
	require.Equal(t, 200, rec.Code)
	pub, err := c.library.key.PublicKey()
	require.NoError(t, err)
	proved, err := repo.VerifyProof(rec.Body.Bytes(), c.library.did, pub, lexicons.WorkTask+"/"+rkeyOf(task))
	require.NoError(t, err)
	require.Equal(t, task.CID, proved.CID.String())
	assert.Equal(t, 404, c.get("/evidence/nothing.car").Code)
	assert.Equal(t, 404, c.get("/evidence/"+task.CID+".car?did="+c.parks.did.String()).Code)
}

func TestFullQueueSaysComeBack(t *testing.T) {
	t.Parallel()
	s := &sequencer{queue: make(chan *command), ended: make(chan struct{})}
	_, err := s.do(t.Context(), "x", func(context.Context, *batch) (any, error) { return nil, nil })
	require.ErrorIs(t, err, errBusy)
	close(s.ended)
	_, err = s.do(t.Context(), "x", nil)
	require.ErrorIs(t, err, errStopped)
}

func TestLeafTakenOutOfTheDatabaseIsAnAlarmAndVisible(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	size := receiptKeyless(c.l.seq.log.size())
	whole := c.get("/tile/entries/000.p/" + size).Body.Len()
	_, err := c.world.pool.Exec(c.ctx, `alter table entry disable trigger user; delete from entry where seq = 1`)
	require.NoError(t, err)
	rec := c.get("/tile/entries/000.p/" + size)
	require.Equal(t, 200, rec.Code)
	require.Less(t, rec.Body.Len(), whole)
	require.InDelta(t, 1, c.metric("citysync_ledger_alarms_total", "leaf_missing"), 0)
}

// metric is the value of a counter under one label.
func (c *founded) metric(name, label string) float64 {
	c.t.Helper()
	families, err := c.reg.Gather()
	require.NoError(c.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
