package tlog_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/tlog"
)

func TestBalancesLineComesBack(t *testing.T) {
	t.Parallel()
	line := tlog.BalancesLine(41, tlog.Hash{7})
	c, err := tlog.ParseCheckpoint(tlog.Checkpoint{Origin: "o", Size: 42, Extensions: []string{"x", line}}.Text())
	require.NoError(t, err)
	seq, hash, ok, err := c.Balances()
	require.NoError(t, err)
	assert.True(t, ok)
	assert.EqualValues(t, 41, seq)
	assert.Equal(t, tlog.Hash{7}, hash)

	_, _, ok, err = tlog.Checkpoint{Origin: "o", Size: 42, Extensions: []string{"balance of powers"}}.Balances()
	require.NoError(t, err)
	assert.False(t, ok)
}

func TestBalancesLinesOfAnotherFormAreRefused(t *testing.T) {
	t.Parallel()
	good := tlog.BalancesLine(41, tlog.Hash{7})
	for name, lines := range map[string][]string{
		"twice":                 {good, good},
		"of an entry to come":   {tlog.BalancesLine(42, tlog.Hash{7})},
		"of an entry before 0":  {tlog.BalancesLine(-1, tlog.Hash{7})},
		"a number of two forms": {"balances 041" + good[len("balances 41"):]},
		"no hash":               {"balances 41"},
		"a short hash":          {good[:len(good)-4]},
		"more after it":         {good + " x"},
	} {
		_, _, ok, err := tlog.Checkpoint{Origin: "o", Size: 42, Extensions: lines}.Balances()
		require.ErrorIs(t, err, tlog.ErrCheckpoint, name)
		assert.False(t, ok, name)
	}
}

func FuzzBalances(f *testing.F) {
	f.Add(tlog.BalancesLine(41, tlog.Hash{7}))
	f.Add("balances 0 ")
	f.Fuzz(func(t *testing.T, line string) {
		seq, hash, ok, err := tlog.Checkpoint{Size: 1 << 40, Extensions: []string{line}}.Balances()
		if ok && err == nil {
			require.Equal(t, line, tlog.BalancesLine(seq, hash))
		}
	})
}
