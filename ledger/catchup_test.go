package ledger

import (
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/tlog"
)

// copied is a folder as a witness keeps it: checkpoint, bundles and, under an agreement, openings.
func (c *founded) copied(openings bool) string {
	c.t.Helper()
	dir := c.t.TempDir()
	put := func(name string, data []byte) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(c.t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(c.t, os.WriteFile(path, data, 0o600))
	}
	put("checkpoint", c.get("/checkpoint").Body.Bytes())
	for _, t := range tlog.Tiles(tlog.EntriesLevel, c.l.seq.log.size()) {
		put(t.Path(), c.get("/"+t.Path()).Body.Bytes())
	}
	if !openings {
		return dir
	}
	rows, err := c.world.pool.Query(c.ctx, `select seq, sealed from opening order by seq`)
	require.NoError(c.t, err)
	var lines []byte
	var o struct {
		Seq    int64  `json:"seq"`
		Sealed []byte `json:"sealed,omitempty"`
	}
	_, err = pgx.ForEachRow(rows, []any{&o.Seq, &o.Sealed}, func() error {
		line, err := json.Marshal(o)
		lines = append(append(lines, line...), '\n')
		return err
	})
	require.NoError(c.t, err)
	put("openings.jsonl", append(lines, `{"seq": 1, "sea`...))
	return dir
}

type grownCity struct {
	*founded
	rich *actor
	pds  *fakePDS
}

// grown is a city whose log went on after its backup, with entries of people and of organizations.
func grown(t *testing.T) (c *grownCity, older []byte) {
	t.Helper()
	city, ana := rich(t)
	c = &grownCity{founded: city, rich: ana}
	c.published()
	older = c.backup()
	ben := c.resident("ben")
	c.earn(ben, c.catalog(c.library, entryOptions{}))
	require.Equal(t, "redeemed", c.scan(c.till, c.code(ana, 1, "k", nil).str("code"), "confirm", 0).str("status"))
	c.till = c.bindTill(c.pool, "later")
	f := newFake()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	c.cfg.PDS = srv.URL
	c.pds = f
	c.publish(f)
	return c, older
}

func TestRestoredLedgerCatchesUpFromAWitnesssFolder(t *testing.T) { // L1, L2
	t.Parallel()
	c, older := grown(t)
	folder := c.copied(true)
	digest, note, before := c.l.seq.state.Digest(), c.get("/checkpoint").Body.String(), c.world.pool
	keys := []string{c.l.VerifierKey()}
	c.stop()
	restored := c.restored(older)
	var behind *RestoredBehind
	require.ErrorAs(t, restored.attempt(), &behind)
	c.world.pool, c.world.served = restored.world.pool, nil

	got, err := CatchUp(c.ctx, c.role(), FolderCopy(folder), keys)
	require.NoError(t, err)
	require.Equal(t, []int64{behind.Have, behind.World}, []int64{got.From, got.To})
	require.Len(t, got.Lost, 4, "held claims, codes, answers and a till's label: %v", got.Lost)
	was, is := contents(t, before), contents(t, c.world.pool)
	for _, table := range []string{"entry", "opening", "account", "account_link", "account_entry", "balance", "cap_guard", "allocation_guard"} {
		assert.Equal(t, was[table], is[table], table)
	}
	c.start()
	require.Equal(t, digest, c.l.seq.state.Digest())
	require.Equal(t, note, c.get("/checkpoint").Body.String())

	// What it published before it finds again, and has no alarm about it.
	c.clock.Advance(time.Minute)
	c.publish(c.pds)
	require.Zero(t, c.metric("citysync_ledger_alarms_total", "record_differs"))

	// It works on, with the till that was bound meanwhile: its redeemer gives it a PIN again.
	require.Equal(t, "PinMissing", c.openTill(c.till, pin).name())
	reset := c.call(c.pool, "resetTill", "", map[string]any{"till": c.till.id, "pin": pin, "idempotencyKey": "restored"})
	require.Equal(t, 200, reset.Status, "%v", reset.Body)
	require.Equal(t, 200, c.openTill(c.till, pin).Status)
	require.Equal(t, "redeemed", c.scan(c.till, c.code(c.rich, 1, "later", nil).str("code"), "confirm", 0).str("status"))
	again, err := CatchUp(c.ctx, c.role(), FolderCopy(folder), keys)
	require.Error(t, err, "%v: it was not restored any more", again)
}

func TestCopyThatIsNotTheLogIsRefusedAndNothingIsTaken(t *testing.T) {
	t.Parallel()
	c, older := grown(t)
	keys := []string{c.l.VerifierKey()}
	whole, sealed := c.copied(true), c.copied(false)
	size := c.l.seq.log.size()
	c.stop()
	late := c.restored(older)
	before := contents(t, late.world.pool)
	try := func(from Copy, keys []string) error {
		_, err := CatchUp(c.ctx, late.role(), from, keys)
		after := contents(t, late.world.pool)
		after["head"], before["head"] = "", "" // every try takes a term
		require.Equal(t, before, after)
		return err
	}
	var missing *OpeningsMissing
	require.ErrorAs(t, try(FolderCopy(sealed), keys), &missing, "without openings nobody knows whose an entry is")
	require.Positive(t, missing.Missing)
	_, other, err := NewLogKey(c.ledger.did, zeros{})
	require.NoError(t, err)
	require.ErrorIs(t, try(FolderCopy(whole), []string{other}), ErrCopy, "another key")
	require.ErrorIs(t, try(FolderCopy(t.TempDir()), keys), fs.ErrNotExist)

	path := filepath.Join(whole, filepath.FromSlash(tlog.Tile{Level: tlog.EntriesLevel, Width: int(size)}.Path()))
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	raw[len(raw)-10] ^= 1
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	require.ErrorIs(t, try(FolderCopy(whole), keys), ErrCopy, "a flipped bit")
	raw[len(raw)-10] ^= 1
	require.NoError(t, os.WriteFile(path, raw, 0o600))

	opening := filepath.Join(whole, "openings.jsonl")
	lines, err := os.ReadFile(opening)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(opening, append(lines, "\n{\"seq\":"+receiptKeyless(missing.First)+",\"sealed\":\"AAAA\"}\n"...), 0o600))
	require.ErrorIs(t, try(FolderCopy(whole), keys), ErrCopy, "an opening that does not open")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What needs no opening can be had from any mirror.
func TestRestoredLedgerCatchesUpFromAMirrorWhereNothingIsSealed(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	f := c.published()
	older := c.backup()
	for range 3 {
		res := c.call(c.pool, "bindTill", "", map[string]any{"label": "x", "key": c.newTill(), "pin": pin, "idempotencyKey": receiptKey(int64(c.keys))})
		c.keys++
		require.Equal(t, 200, res.Status, "%v", res.Body)
	}
	c.publish(f)
	mirror := httptest.NewServer(http.FileServerFS(os.DirFS(c.copied(false))))
	t.Cleanup(mirror.Close)
	keys, digest := []string{c.l.VerifierKey()}, c.l.seq.state.Digest()
	c.stop()
	late := c.restored(older)
	got, err := CatchUp(c.ctx, late.role(), WebCopy{mirror.URL, mirror.Client()}, keys)
	require.NoError(t, err)
	require.Equal(t, int64(3), got.To-got.From)
	late.start()
	require.Equal(t, digest, late.l.seq.state.Digest())
}

// A backup still has what is sealed about people who asked to be forgotten after it was made.
func TestCatchingUpForgetsAgain(t *testing.T) { // L12
	t.Parallel()
	c, older := grown(t)
	account, ok := c.l.seq.state.AccountOf(c.rich.did)
	require.True(t, ok)
	require.Equal(t, "erased", c.erase(c.rich).str("status"))
	c.publish(c.pds)
	folder, keys, digest, before := c.copied(true), []string{c.l.VerifierKey()}, c.l.seq.state.Digest(), c.world.pool
	c.stop()
	late := c.restored(older)
	did := func(pool *pgxpool.Pool) (n int) {
		require.NoError(t, pool.QueryRow(c.ctx, `select count(*) from account_link where did = $1`, c.rich.did.String()).Scan(&n))
		return n
	}
	require.Equal(t, 1, did(late.world.pool), "the backup knows the person")

	got, err := CatchUp(c.ctx, late.role(), FolderCopy(folder), keys)
	require.NoError(t, err)
	require.Contains(t, got.Lost[len(got.Lost)-1], "1 people asked to be forgotten")
	require.Zero(t, did(late.world.pool))
	was, is := contents(t, before), contents(t, late.world.pool)
	for _, table := range []string{"entry", "opening", "account", "account_link", "account_entry", "balance", "cap_guard", "allocation_guard"} {
		assert.Equal(t, was[table], is[table], table) // but node, whose rows follow how entries came in batches: a start checks its hashes
	}
	for table, rows := range is {
		assert.NotContains(t, rows, hex.EncodeToString(account[:]), table)
	}
	late.start()
	require.Equal(t, digest, late.l.seq.state.Digest())
}
