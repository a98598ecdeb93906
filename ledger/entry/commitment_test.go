package entry_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/entry"
)

func fields(n int) []entry.Field {
	var list []entry.Field
	for i := range n {
		list = append(list, entry.Field{Name: fmt.Sprintf("f%02d", n-i), Value: int64(i)})
	}
	return list
}

// The form is written out here once more, by hand.
func TestCommitmentIsTheMerkleRootOfSaltedLeaves(t *testing.T) {
	t.Parallel()
	o, c, err := entry.Commit([]entry.Field{{Name: "b", Value: "x"}, {Name: "a", Value: []byte{1, 2}}}, random())
	require.NoError(t, err)
	require.Len(t, o.Padding, 6)
	leaf := func(parts ...[]byte) []byte {
		h := sha256.Sum256(append([]byte{0}, bytes.Join(parts, nil)...))
		return h[:]
	}
	node := func(l, r []byte) []byte { h := sha256.Sum256(bytes.Join([][]byte{{1}, l, r}, nil)); return h[:] }
	l := [][]byte{
		leaf(o.Fields[0].Salt, []byte{0x82, 0x61, 'a', 0x42, 1, 2}),
		leaf(o.Fields[1].Salt, []byte{0x82, 0x61, 'b', 0x61, 'x'}),
	}
	for _, p := range o.Padding {
		l = append(l, leaf(p))
	}
	root := node(node(node(l[0], l[1]), node(l[2], l[3])), node(node(l[4], l[5]), node(l[6], l[7])))
	want := sha256.Sum256(append([]byte("org.city-sync.commitment.v1\x00"), root...))
	assert.Equal(t, want[:], c.Value)
	assert.EqualValues(t, 8, c.Padded)
}

func TestPaddingHidesTheCount(t *testing.T) {
	t.Parallel()
	for n, padded := range map[int]int64{0: 8, 1: 8, 8: 8, 9: 16, 16: 16, 17: 32, 32: 32} {
		o, c, err := entry.Commit(fields(n), random())
		require.NoError(t, err)
		assert.Equal(t, padded, c.Padded)
		require.NoError(t, o.Verify(c))
	}
	_, _, err := entry.Commit(fields(33), random())
	require.Error(t, err)
	_, _, err = entry.Commit(fields(2), iotest.ErrReader(errors.New("no entropy")))
	require.Error(t, err)
	_, _, err = entry.Commit([]entry.Field{{Name: "a", Value: 1.5}}, random())
	require.Error(t, err)
	_, _, err = entry.Commit([]entry.Field{{Name: "a", Value: "x"}, {Name: "a", Value: "y"}}, random())
	require.Error(t, err, "a name stands once")
}

func TestOneFieldOpensAndNoOther(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 32).Draw(t, "n")
		o, c, err := entry.Commit(fields(n), random())
		require.NoError(t, err)
		name := fmt.Sprintf("f%02d", rapid.IntRange(1, n).Draw(t, "field"))
		open, ok := o.Open(name)
		require.True(t, ok)
		require.NoError(t, open.Verify(c))

		changed := *open
		changed.Field.Value = int64(99)
		require.ErrorIs(t, changed.Verify(c), entry.ErrOpening)
		changed = *open
		changed.Index = (changed.Index + 1) % c.Padded
		require.ErrorIs(t, changed.Verify(c), entry.ErrOpening)
		changed = *open
		changed.Path = changed.Path[1:]
		require.ErrorIs(t, changed.Verify(c), entry.ErrOpening)
		_, ok = o.Open("nosuch")
		require.False(t, ok)
	})
}

func TestOpeningSealsAndUnseals(t *testing.T) {
	t.Parallel()
	source := rand.NewChaCha8([32]byte{2})
	for _, e := range samples(t) {
		if e.Sealed == nil {
			o, err := e.Seal(source)
			require.NoError(t, err)
			assert.Nil(t, o)
			continue
		}
		want := *e.Sealed
		first := bytes.Clone(e.Commitment.Value)
		o, err := e.Seal(source)
		require.NoError(t, err)
		assert.NotEqual(t, first, e.Commitment.Value, "each sealing has fresh salts")

		raw, err := o.Encode()
		require.NoError(t, err)
		back, err := entry.DecodeOpening(raw)
		require.NoError(t, err)
		e.Sealed = nil
		require.NoError(t, e.Unseal(back))
		assert.Equal(t, want, *e.Sealed)

		back.Fields[0].Salt[0] ^= 1
		require.ErrorIs(t, e.Unseal(back), entry.ErrOpening)
	}
}

func FuzzDecodeOpening(f *testing.F) {
	o, _, err := entry.Commit([]entry.Field{{Name: "account", Value: []byte{1}}, {Name: "at", Value: "x"}, {Name: "n", Value: int64(-5)}}, random())
	if err != nil {
		f.Fatal(err)
	}
	raw, err := o.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := entry.DecodeOpening(data)
		if err != nil {
			return
		}
		again, err := o.Encode()
		require.NoError(t, err)
		require.Equal(t, data, again)
		_ = o.Verify(entry.Commitment{Value: make([]byte, 32), Padded: 8})
	})
}
