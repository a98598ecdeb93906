package audit_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// A checkpoint without the newest balances hides them from everybody who could prove what they hold.
func TestACheckpointHasTheNewestBalancesThatItCovers(t *testing.T) {
	t.Parallel()
	y := live(t)
	a := replay(y.Leaves)
	type digest struct {
		seq  int64
		line string
	}
	var all []digest
	for _, e := range y.Entries {
		if e.Kind == entry.KindStateDigest {
			hash, err := entry.BalancesHash(e.StateDigest.Balances)
			require.NoError(t, err)
			all = append(all, digest{e.Seq, tlog.BalancesLine(e.Seq, hash)})
		}
	}
	require.Greater(t, len(all), 2)
	first, second, last := all[0], all[1], all[len(all)-1]
	check := func(size int64, lines ...string) error {
		root, err := a.Tree().Root(size)
		require.NoError(t, err)
		_, err = a.CheckCheckpoint(tlog.Checkpoint{Origin: origin, Size: size, Root: root, Extensions: lines})
		return err
	}
	require.NoError(t, check(first.seq), "there are none yet")
	require.NoError(t, check(first.seq+1, first.line))
	require.NoError(t, check(second.seq, first.line))
	require.NoError(t, check(second.seq+1, second.line))
	require.NoError(t, check(a.Size(), "another line", last.line))

	require.ErrorContains(t, check(first.seq+1), "it has no balances")
	require.ErrorContains(t, check(a.Size(), "another line"), "it has no balances")
	require.ErrorContains(t, check(second.seq+1, first.line), "the newest are those of entry")
	require.ErrorContains(t, check(first.seq, tlog.BalancesLine(0, tlog.Hash{})), "which is no stateDigest")
	require.ErrorContains(t, check(a.Size(), tlog.BalancesLine(last.seq, tlog.Hash{9})), "it says")
	require.ErrorContains(t, check(a.Size(), last.line, last.line), "balances")
}
