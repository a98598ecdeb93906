package entry_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

// FuzzFieldOpening shows anybody's field and path under a commitment: only the one that was committed to holds.
func FuzzFieldOpening(f *testing.F) {
	o, c, err := entry.Commit([]entry.Field{{Name: "account", Value: []byte{1}}, {Name: "at", Value: "x"}}, random())
	if err != nil {
		f.Fatal(err)
	}
	good, _ := o.Open("at")
	f.Add(good.Field.Name, "x", good.Field.Salt, good.Index, good.Path[0], good.Path[1], good.Path[2], int64(3))
	f.Add("", "", []byte{}, int64(-1), []byte{}, []byte{}, []byte{}, int64(0))
	f.Fuzz(func(t *testing.T, name, value string, salt []byte, index int64, a, b, d []byte, steps int64) {
		path := [][]byte{a, b, d}
		shown := &entry.FieldOpening{Field: entry.Field{Name: name, Value: value, Salt: salt}, Index: index, Path: path[:min(3, max(0, steps))]}
		if err := shown.Verify(c); err != nil {
			require.ErrorIs(t, err, entry.ErrOpening)
			return
		}
		require.Equal(t, good, shown)
	})
}

// FuzzBalanceProof shows anybody's shares under a root: none gives another balance than the holder's.
func FuzzBalanceProof(f *testing.F) {
	seed := make([]byte, 32)
	tree, err := entry.NewSumTree(seed, "standard", []entry.Holder{{Account: entry.Account{1}, Credits: 40}, {Account: entry.Account{2}, Credits: 2}})
	if err != nil {
		f.Fatal(err)
	}
	root := tree.Root()
	good, _ := tree.Prove(entry.Account{1})
	for share := range good {
		f.Add(byte(share), good[share].Index, good[share].Nonce, good[share].Sum, 0, good[share].Path[0].Hash, good[share].Path[0].Sum)
	}
	f.Add(byte(0), int64(1)<<62, []byte{}, int64(-1), 3, []byte{1}, int64(1)<<62)
	f.Fuzz(func(t *testing.T, share byte, index int64, nonce []byte, sum int64, at int, hash []byte, stepSum int64) {
		shares := good
		one := &shares[share%2]
		one.Path = append([]entry.SumStep(nil), one.Path...)
		one.Index, one.Nonce, one.Sum = index, nonce, sum
		if at >= 0 && at < len(one.Path) {
			one.Path[at] = entry.SumStep{Hash: hash, Sum: stepSum}
		}
		balance, err := entry.VerifyBalance(root, entry.Account{1}, shares)
		if err != nil {
			require.ErrorIs(t, err, entry.ErrSumTree)
			return
		}
		require.EqualValues(t, 40, balance)
	})
}
