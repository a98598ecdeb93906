package entry_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/entry"
)

func numbered(n int) (a entry.Account) {
	binary.BigEndian.PutUint64(a[:], uint64(n)+1)
	return a
}

var treeSeed = []byte("0123456789abcdef0123456789abcdef")

// Each holder's two shares show their balance under the root, whose sum is that of all.
func TestEveryHolderProvesTheirBalance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		credits := rapid.SliceOfN(rapid.Int64Range(0, 1_000_000), 0, 400).Draw(t, "credits")
		var list []entry.Holder
		var sum int64
		for i, n := range credits {
			list = append(list, entry.Holder{Account: numbered(i), Credits: n})
			sum += n
		}
		tree, err := entry.NewSumTree(treeSeed, "standard", list)
		require.NoError(t, err)
		root := tree.Root()
		require.Equal(t, sum, root.Sum)
		holders := 0
		for _, n := range credits {
			if n > 0 {
				holders++
			}
		}
		require.GreaterOrEqual(t, int64(1)<<root.Height, int64(max(16, 4*holders)), "half of the leaves and more are padding")
		for i, n := range credits {
			shares, ok := tree.Prove(numbered(i))
			require.Equal(t, n > 0, ok)
			if !ok {
				continue
			}
			got, err := entry.VerifyBalance(root, numbered(i), shares)
			require.NoError(t, err)
			require.Equal(t, n, got)
			_, err = entry.VerifyBalance(root, numbered(len(credits)), shares)
			require.ErrorIs(t, err, entry.ErrSumTree, "for nobody else")
			if n > 1 {
				require.NotEqual(t, n, shares[0].Sum)
				require.NotEqual(t, n, shares[1].Sum, "no share is all of it")
			}
		}
		_, ok := tree.Prove(numbered(len(credits)))
		require.False(t, ok)
	})
}

// Whatever is changed in a proof, it shows nothing any more.
func TestAlteredBalanceProofsAreRefused(t *testing.T) {
	t.Parallel()
	var list []entry.Holder
	for i := range 50 {
		list = append(list, entry.Holder{Account: numbered(i), Credits: int64(10 + i)})
	}
	tree, err := entry.NewSumTree(treeSeed, "standard", list)
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		who := numbered(rapid.IntRange(0, 49).Draw(t, "who"))
		shares, ok := tree.Prove(who)
		require.True(t, ok)
		root := tree.Root()
		s := &shares[rapid.IntRange(0, 1).Draw(t, "share")]
		step := &s.Path[rapid.IntRange(0, len(s.Path)-1).Draw(t, "step")]
		by := rapid.SampledFrom([]int64{-1, 1, 1 << 40, -1 << 62}).Draw(t, "by")
		switch rapid.IntRange(0, 9).Draw(t, "change") {
		case 0:
			s.Sum += by
		case 1:
			step.Sum += by
		case 2:
			step.Hash[rapid.IntRange(0, 31).Draw(t, "at")] ^= 1
		case 3:
			s.Index ^= 1 << rapid.IntRange(0, len(s.Path)-1).Draw(t, "bit")
		case 4:
			s.Nonce[0] ^= 1
		case 5:
			s.Path = s.Path[1:]
		case 6:
			root.Sum += by
		case 7:
			root.Book = "other"
		case 8:
			shares[0], shares[1] = shares[1], shares[0]
		case 9:
			// Another split of one total: the flaw of trees whose nodes hash the total alone.
			if step.Sum == 0 {
				s.Sum, step.Sum = s.Sum-1, 1
			} else {
				s.Sum, step.Sum = s.Sum+1, step.Sum-1
			}
		}
		_, err := entry.VerifyBalance(root, who, shares)
		require.ErrorIs(t, err, entry.ErrSumTree)
	})
}

// One leaf cannot be shown to two holders of the same balance, nor twice to one.
func TestALeafIsOneHoldersOnly(t *testing.T) {
	t.Parallel()
	tree, err := entry.NewSumTree(treeSeed, "standard", []entry.Holder{{Account: numbered(0), Credits: 10}, {Account: numbered(1), Credits: 10}})
	require.NoError(t, err)
	shares, _ := tree.Prove(numbered(0))
	_, err = entry.VerifyBalance(tree.Root(), numbered(1), shares)
	require.ErrorIs(t, err, entry.ErrSumTree)
	_, err = entry.VerifyBalance(tree.Root(), numbered(0), [2]entry.Share{shares[0], shares[0]})
	require.ErrorIs(t, err, entry.ErrSumTree)
}

func TestBalancesThatMakeNoTree(t *testing.T) {
	t.Parallel()
	for name, list := range map[string][]entry.Holder{
		"negative": {{Account: numbered(0), Credits: -1}},
		"overflow": {{Account: numbered(0), Credits: 1 << 62}, {Account: numbered(1), Credits: 1 << 62}},
		"twice":    {{Account: numbered(0), Credits: 1}, {Account: numbered(0), Credits: 2}},
	} {
		_, err := entry.NewSumTree(treeSeed, "standard", list)
		require.ErrorIs(t, err, entry.ErrSumTree, name)
	}
	_, err := entry.NewSumTree(treeSeed[:31], "standard", nil)
	require.ErrorIs(t, err, entry.ErrSumTree)
	empty, err := entry.NewSumTree(treeSeed, "standard", nil)
	require.NoError(t, err)
	assert.Equal(t, [2]int64{0, 4}, [2]int64{empty.Root().Sum, empty.Root().Height})
}

// The order in which balances come says nothing, the seed, the book and every balance change the root.
func TestTheRootFollowsFromTheBalances(t *testing.T) {
	t.Parallel()
	list := []entry.Holder{{Account: numbered(0), Credits: 5}, {Account: numbered(1), Credits: 7}, {Account: numbered(2), Credits: 0}}
	root := func(seed []byte, book string, list ...entry.Holder) string {
		tree, err := entry.NewSumTree(seed, book, list)
		require.NoError(t, err)
		return fmt.Sprintf("%x", tree.Root().Root)
	}
	first := root(treeSeed, "standard", list...)
	assert.Equal(t, first, root(treeSeed, "standard", list[2], list[1], list[0]))
	assert.Equal(t, first, root(treeSeed, "standard", list[:2]...), "who has nothing has no leaf")
	assert.NotEqual(t, first, root([]byte("1123456789abcdef0123456789abcdef"), "standard", list...))
	assert.NotEqual(t, first, root(treeSeed, "event", list...))
	list[0].Credits, list[1].Credits = 6, 6
	assert.NotEqual(t, first, root(treeSeed, "standard", list...))
}

func TestBalancesHashNamesTheListByBook(t *testing.T) {
	t.Parallel()
	a := entry.BalancesRoot{Book: "a", Root: treeSeed, Sum: 1, Height: 4}
	b := entry.BalancesRoot{Book: "b", Root: treeSeed, Sum: 2, Height: 4}
	one, err := entry.BalancesHash([]entry.BalancesRoot{a, b})
	require.NoError(t, err)
	two, err := entry.BalancesHash([]entry.BalancesRoot{b, a})
	require.NoError(t, err)
	assert.Equal(t, one, two)
	b.Sum++
	three, err := entry.BalancesHash([]entry.BalancesRoot{a, b})
	require.NoError(t, err)
	assert.NotEqual(t, one, three)
}

func BenchmarkSumTreeMillion(b *testing.B) {
	list := make([]entry.Holder, 1_000_000)
	for i := range list {
		list[i] = entry.Holder{Account: numbered(i * 7919), Credits: int64(1 + i%100)}
	}
	for b.Loop() {
		if _, err := entry.NewSumTree(treeSeed, "standard", list); err != nil {
			b.Fatal(err)
		}
	}
}
