package ledger

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
)

// orphaned is a city whose operator is gone: what is left are its witnesses' copies.
func orphaned(t *testing.T, openings bool) (c *founded, s *seven, ada *actor, leaves [][]byte) {
	t.Helper()
	c = newCity(t)
	ada = c.resident("ada")
	c.earn(ada, c.catalog(c.library, entryOptions{}))
	s = newSeven(c, openings)
	require.NoError(t, c.l.collector.adopt(c.ctx))
	honest := c.liar()
	for _, in := range s.some("issuers0", "issuers1", "redeemers0", "civic1") {
		s.up(in, func(cfg *witness.Config) { cfg.Openings = openings })
		_, status := honest.bring(in)
		require.Equal(t, 200, status)
		in.stop()
	}
	c.stop()
	return c, s, ada, honest.leaves
}

func (s *seven) agree(newKey string, names ...string) []entry.Sign {
	s.c.t.Helper()
	var out []entry.Sign
	for _, in := range s.some(names...) {
		sign, _, err := witness.Agree(in.folder, s.c.cfg.DID.String(), in.key, nil, []string{s.c.l.VerifierKey()}, newKey)
		require.NoError(s.c.t, err)
		out = append(out, sign)
	}
	return out
}

func (s *seven) succession(newKey string, agreed []entry.Sign) Succession {
	return Succession{
		City: s.c.cfg.City, DID: s.c.cfg.DID, TZ: s.c.cfg.TZ, From: FolderCopy(s.list[0].folder),
		OldKeys: []string{s.c.l.VerifierKey()}, NewKey: newKey, Agreed: agreed,
	}
}

// L1, L5
func TestOperatorIsSucceededFromAWitnesssTilesAlone(t *testing.T) {
	t.Parallel()
	c, s, _, leaves := orphaned(t, false)
	oldKey := c.l.VerifierKey()
	skey, newKey := c.newKey()
	agreed := s.agree(newKey, "issuers0", "issuers1", "redeemers0", "civic1")
	pool := pgtest.Schema(t, Migrations())

	_, err := Succeed(c.ctx, pool, s.succession(newKey, agreed), c.clock)
	var missing *OpeningsMissing
	require.ErrorAs(t, err, &missing, "what is sealed is not let go of unasked")

	pool = pgtest.Schema(t, Migrations())
	in := s.succession(newKey, agreed[:3])
	in.TilesAlone = true
	_, err = Succeed(c.ctx, pool, in, c.clock)
	require.ErrorIs(t, err, ErrNoQuorum)

	pool = pgtest.Schema(t, Migrations())
	in.Agreed = agreed
	got, err := Succeed(c.ctx, pool, in, c.clock)
	require.NoError(t, err)
	require.EqualValues(t, len(leaves), got.To)

	c.world.pool, c.served, c.logKey = pool, nil, skey
	c.start()
	for seq, leaf := range leaves {
		require.Equal(t, leaf, c.leaf(int64(seq)))
	}
	root, err := tlog.Root(got.To, c.l.seq.log)
	require.NoError(t, err)
	require.Equal(t, got.Root, root)
	require.Equal(t, newKey, c.l.VerifierKey())
	_, err = tlog.Open(c.get("/checkpoint").Body.Bytes(), oldKey)
	require.Error(t, err)

	// The city goes on, and so does a witness that agreed.
	c.resident("grace")
	one := s.list[0]
	one.log.set(c.l.Handler())
	s.up(one, func(cfg *witness.Config) { cfg.LogKeys = []string{oldKey, newKey} })
	c.collecting()
	size := c.l.seq.log.size()
	require.Eventually(t, func() bool { return one.w.Size() == size }, 10*time.Second, 10*time.Millisecond, one.w.Dispute())
}

func TestSuccessorHasWhatAWitnessWithAnAgreementHas(t *testing.T) {
	t.Parallel()
	c, s, ada, _ := orphaned(t, true)
	skey, newKey := c.newKey()
	pool := pgtest.Schema(t, Migrations())
	_, err := Succeed(c.ctx, pool, s.succession(newKey, s.agree(newKey, "issuers0", "issuers1", "redeemers0", "civic1")), c.clock)
	require.NoError(t, err)
	before := c.l.seq.state
	c.world.pool, c.served, c.logKey = pool, nil, skey
	c.start()
	require.Equal(t, before.Epochs(), c.l.seq.state.Epochs())
	account, ok := c.l.seq.state.AccountOf(ada.did)
	require.True(t, ok)
	want, _ := before.Balance(account, book)
	credits, _ := c.l.seq.state.Balance(account, book)
	require.EqualValues(t, 24, want)
	require.Equal(t, want, credits)
}

func TestWitnessAgreesToNothingThatLosesWhatItCosigned(t *testing.T) {
	t.Parallel()
	c, s, _, leaves := orphaned(t, false)
	in := s.list[0]
	_, newKey := c.newKey()
	old := &liar{c: c, tree: new(tlog.Tree)}
	for _, leaf := range leaves[:len(leaves)-1] {
		old.add(leaf)
	}
	agree := func(note []byte, folder string) error {
		_, _, err := witness.Agree(folder, c.cfg.DID.String(), in.key, note, []string{c.l.VerifierKey()}, newKey)
		return err
	}
	require.ErrorContains(t, agree(old.note(), in.folder), "cosigned here")
	old.till("did:key:zDnaOther")
	require.ErrorContains(t, agree(old.note(), in.folder), "another history")
	require.Error(t, agree([]byte(strings.Repeat("x", 10)), in.folder))
	require.Error(t, agree(nil, filepath.Join(in.folder, "nowhere")))
	require.NoError(t, agree(nil, in.folder))
	require.NoError(t, os.Remove(filepath.Join(in.folder, "state.json")))
	require.Error(t, agree(nil, in.folder))
}
