package ledger

import (
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/signer"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/voucher"
	"city-sync.org/citysync/ledger/witness"
)

func (c *founded) newKey() (skey, vkey string) {
	c.t.Helper()
	skey, vkey, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("next", 8)), c.cfg.DID.String())
	require.NoError(c.t, err)
	return skey, vkey
}

// tryStart says why a ledger does not start.
func (c *founded) tryStart() error {
	c.t.Helper()
	l, err := New(c.ctx, c.cfg, Deps{
		Pool: c.role(), Directory: c.dir, HTTP: http.DefaultClient, Clock: c.clock, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), LogKey: c.logKey, NextKey: c.nextKey, Signer: c.signer, Password: "x",
	})
	if err == nil {
		l.Close()
	}
	return err
}

// L5
func TestLogChangesItsKeyWithAnOverlap(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	oldKey := c.l.VerifierKey()
	s := newSeven(c, false)
	in := s.list[0]
	s.up(in, func(cfg *witness.Config) { cfg.LogKeys = []string{oldKey} })
	require.Eventually(t, func() bool { _, status := c.liar().bring(in); return status == 200 }, 5*time.Second, 10*time.Millisecond)

	next, newKey := c.newKey()
	c.nextKey = next
	c.restart()
	in.log.set(c.l.Handler())
	require.Equal(t, newKey, c.l.VerifierKey())
	e, err := entry.Decode(c.leaf(c.l.seq.log.size() - 1))
	require.NoError(t, err)
	require.Equal(t, newKey, e.Bind.Key)
	note := c.get("/checkpoint").Body.Bytes()
	for _, key := range []string{oldKey, newKey} {
		_, err := tlog.Open(note, key)
		require.NoError(t, err)
	}
	size := c.l.seq.log.size()
	c.restart()
	require.Equal(t, size, c.l.seq.log.size(), "the key is named once")

	old := c.logKey
	c.stop()
	c.logKey, c.nextKey = next, ""
	require.ErrorIs(t, c.tryStart(), ErrLogKeyMissing, "the old key is needed until the overlap is over")
	c.logKey, c.nextKey = old, next
	c.start()
	c.collecting()
	in.log.set(c.l.Handler())
	require.Eventually(t, func() bool { return in.w.Size() == size }, 10*time.Second, 10*time.Millisecond, "a witness follows by the log")

	c.clock.Advance(tlog.KeyOverlap + time.Minute)
	c.stop()
	c.logKey, c.nextKey = next, ""
	c.start()
	note = c.get("/checkpoint").Body.Bytes()
	_, err = tlog.Open(note, newKey)
	require.NoError(t, err)
	_, err = tlog.Open(note, oldKey)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	in.log.set(c.l.Handler())
	stale := &liar{c: c, tree: new(tlog.Tree)}
	for _, leaf := range c.liar().leaves {
		stale.add(leaf)
	}
	c.logKey = old // an old key that was stolen signs for nobody any more
	_, status := stale.bring(in)
	require.Equal(t, http.StatusForbidden, status)
}

// A till that is away knows the log's key of the day on which it was last there.
func TestVouchersAreGoodAtATillThatKnowsTheOldKeyOrTheNew(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	oldKey := c.l.VerifierKey()
	next, newKey := c.newKey()
	c.nextKey = next
	c.restart()
	require.Equal(t, newKey, c.l.VerifierKey())
	check := func(shown, key string) error {
		_, err := voucher.Check([]byte(shown), key, c.till.id, c.clock.Now())
		return err
	}
	held := c.hold(ana, 1, "h", nil)
	require.Equal(t, 200, held.Status, "%v", held.Body)
	burned := c.code(ana, 1, "v", map[string]any{"till": c.till.id})
	require.Equal(t, 200, burned.Status, "%v", burned.Body)
	for _, key := range []string{oldKey, newKey} {
		require.NoError(t, check(held.str("voucher"), key))
		require.NoError(t, check(burned.str("voucher"), key))
	}

	c.clock.Advance(tlog.KeyOverlap + time.Minute)
	c.restart()
	till := c.bindLater(tlog.KeyOverlap)
	after := c.code(ana, 1, "later", map[string]any{"till": till.id})
	require.Equal(t, 200, after.Status, "%v", after.Body)
	c.till = till
	require.NoError(t, check(after.str("voucher"), newKey))
	require.ErrorIs(t, check(after.str("voucher"), oldKey), voucher.ErrVoucher, "the old key signs no more")
}

func TestLedgerSignsWithAKeyThatItDoesNotHave(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	file := filepath.Join(t.TempDir(), "last.json")
	guarded, err := signer.Open(file, c.cfg.DID.String(), c.logKey)
	require.NoError(t, err)
	c.stop()
	key := c.logKey
	c.signer, c.logKey = guarded, ""
	c.start()
	ada := c.resident("ada")
	c.earn(ada, c.catalog(c.library, entryOptions{}))
	size := c.l.seq.log.size()
	cp, err := tlog.Open(c.get("/checkpoint").Body.Bytes(), c.l.VerifierKey())
	require.NoError(t, err)
	require.Equal(t, size, cp.Size)
	last, err := guarded.Last(c.ctx)
	require.NoError(t, err)
	require.Equal(t, size, last)

	// Somebody takes the database over and has it forget: the signer does not follow.
	c.stop()
	other := &liar{c: c, tree: new(tlog.Tree)}
	c.logKey = key
	for _, leaf := range c.liar().leaves[:size-2] {
		other.add(leaf)
	}
	other.till("did:key:zDnaInstead")
	other.till("did:key:zDnaAgain")
	other.till("did:key:zDnaMore")
	root, err := other.tree.Root(other.size)
	require.NoError(t, err)
	proof, err := tlog.ProveConsistency(other.size, size, other.tree)
	require.NoError(t, err)
	_, err = guarded.Sign(c.ctx, signer.Request{
		Checkpoint: tlog.Checkpoint{Origin: c.cfg.DID.String(), Size: other.size, Root: root}, Keys: guarded.Keys(), Old: size, Proof: proof,
	})
	require.ErrorIs(t, err, signer.ErrRefused)
}
