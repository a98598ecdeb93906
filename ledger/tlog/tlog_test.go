package tlog_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/tlog"
)

func leaf(i int) []byte { return fmt.Appendf(nil, "leaf %d", i) }

func grown(t require.TestingT, n int) *tlog.Tree {
	tree := new(tlog.Tree)
	for i := range n {
		require.NoError(t, tree.Append(leaf(i)))
	}
	return tree
}

func nodeHash(l, r tlog.Hash) tlog.Hash {
	return sha256.Sum256(bytes.Join([][]byte{{1}, l[:], r[:]}, nil))
}

// RFC 6962, written as its text says.
func naive(leaves [][]byte) tlog.Hash {
	if len(leaves) == 1 {
		return tlog.LeafHash(leaves[0])
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return nodeHash(naive(leaves[:k]), naive(leaves[k:]))
}

// T1, T2
func TestTreeAgreesWithTheDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "leaves")
		split := rapid.IntRange(0, n).Draw(t, "split")
		var leaves [][]byte
		var rest []tlog.Hash
		for i := range n {
			leaves = append(leaves, leaf(i))
			if i >= split {
				rest = append(rest, tlog.LeafHash(leaf(i)))
			}
		}
		want := naive(leaves)
		tree := grown(t, n)
		root, err := tree.Root(int64(n))
		require.NoError(t, err)
		require.Equal(t, want, root)

		part := grown(t, split)
		added, root, err := tlog.Append(int64(split), rest, part)
		require.NoError(t, err)
		require.EqualValues(t, split, part.Size(), "it changes nothing")
		require.Equal(t, want, root, "in one batch")
		require.EqualValues(t, tlog.NodeCount(int64(n))-tlog.NodeCount(int64(split)), len(added))

		require.Error(t, part.Extend(int64(n-split+1), added), "a leaf too many for these hashes")
		require.NoError(t, part.Extend(int64(n-split), added))
		require.Equal(t, tree, part)
		require.Len(t, part.Hashes(), int(tlog.NodeCount(int64(n))))
		last, err := tlog.ReadLeaf(int64(n-1), part)
		require.NoError(t, err)
		require.Equal(t, tlog.LeafHash(leaf(n-1)), last)
		for _, beyond := range []int64{-1, int64(n)} {
			_, err = tlog.ReadLeaf(beyond, part)
			require.Error(t, err)
		}
	})
}

func TestProofsHoldAndOthersDoNot(t *testing.T) {
	t.Parallel()
	const n = 70
	tree := grown(t, n)
	for size := int64(1); size <= n; size += 3 {
		root, err := tree.Root(size)
		require.NoError(t, err)
		for index := int64(0); index < size; index += 5 {
			p, err := tlog.ProveInclusion(size, index, tree)
			require.NoError(t, err)
			require.NoError(t, tlog.CheckInclusion(p, size, root, index, tlog.LeafHash(leaf(int(index)))))
			require.ErrorIs(t, tlog.CheckInclusion(p, size, root, index, tlog.LeafHash([]byte("other"))), tlog.ErrProof)
			require.ErrorIs(t, tlog.CheckInclusion(p, size, root, size, tlog.LeafHash(leaf(int(index)))), tlog.ErrProof)
		}
		for old := int64(0); old <= size; old += 4 {
			oldRoot, err := tree.Root(old)
			require.NoError(t, err)
			p, err := tlog.ProveConsistency(size, old, tree)
			require.NoError(t, err)
			require.NoError(t, tlog.CheckConsistency(p, size, root, old, oldRoot))
			oldRoot[3]++
			require.ErrorIs(t, tlog.CheckConsistency(p, size, root, old, oldRoot), tlog.ErrProof)
		}
	}
	require.ErrorIs(t, tlog.CheckConsistency(nil, 3, tlog.Hash{}, 5, tlog.Hash{}), tlog.ErrProof)
	_, err := tlog.ProveInclusion(n, n, tree)
	require.Error(t, err)
	_, err = tlog.ProveConsistency(3, 5, tree)
	require.Error(t, err)
	_, err = tree.Root(n + 1)
	require.Error(t, err)
	_, err = tlog.NewTree(3, make([]tlog.Hash, 3))
	require.Error(t, err)
}

// The paths of the specification's own examples.
func TestTilePathsAreThoseOfTheSpecification(t *testing.T) {
	t.Parallel()
	for path, tile := range map[string]tlog.Tile{
		"tile/0/000":                {Level: 0, N: 0, Width: 256},
		"tile/0/x001/067":           {Level: 0, N: 1067, Width: 256},
		"tile/0/x001/x234/067":      {Level: 0, N: 1_234_067, Width: 256},
		"tile/1/001.p/112":          {Level: 1, N: 1, Width: 112},
		"tile/entries/x001/067":     {Level: tlog.EntriesLevel, N: 1067, Width: 256},
		"tile/entries/273.p/112":    {Level: tlog.EntriesLevel, N: 273, Width: 112},
		"tile/7/x001/000.p/1":       {Level: 7, N: 1000, Width: 1},
		"tile/0/x001/x000/000.p/99": {Level: 0, N: 1_000_000, Width: 99},
	} {
		assert.Equal(t, path, tile.Path())
		got, err := tlog.ParseTilePath(path)
		require.NoError(t, err, path)
		assert.Equal(t, tile, got)
	}
	for _, path := range []string{
		"", "tile", "tile/", "/tile/0/000", "tile/0/0", "tile/0/0000", "tile/0/001/067", "tile/0/x000/067", "tile/0/x1/067", "tile/8/000", "tile/-1/000",
		"tile/00/000", "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000.p/1/2", "tile/data/000", "tile/0/x00x/000",
		"tile/0/+01", "tile/0/000/", "tile/0/" + strings.Repeat("x999/", 9) + "999", "tile/0/000?x",
	} {
		_, err := tlog.ParseTilePath(path)
		assert.ErrorIs(t, err, tlog.ErrTile, path)
	}
}

// T2: a tile shows the hashes of the tree, whatever its size.
func TestTilesShowTheTree(t *testing.T) {
	t.Parallel()
	const n = 256*3 + 70
	tree := grown(t, n)
	assert.Equal(t, 2, tlog.Levels(n))
	zero, one := tlog.Tiles(0, n), tlog.Tiles(1, n)
	require.Len(t, zero, 4)
	require.Len(t, one, 1)
	assert.Equal(t, tlog.Tile{N: 3, Width: 70}, zero[3])
	assert.Equal(t, tlog.Tile{Level: 1, Width: 3}, one[0])
	above, err := tlog.ReadTile(one[0], n, tree)
	require.NoError(t, err)
	parents, err := tlog.DecodeTile(above, 3)
	require.NoError(t, err)
	for i, tile := range zero {
		raw, err := tlog.ReadTile(tile, n, tree)
		require.NoError(t, err)
		hashes, err := tlog.DecodeTile(raw, tile.Width)
		require.NoError(t, err)
		for j, h := range hashes {
			require.Equal(t, tlog.LeafHash(leaf(i*256+j)), h)
		}
		if i < 3 {
			for len(hashes) > 1 {
				var up []tlog.Hash
				for j := 0; j < len(hashes); j += 2 {
					up = append(up, nodeHash(hashes[j], hashes[j+1]))
				}
				hashes = up
			}
			assert.Equal(t, parents[i], hashes[0])
		}
		from, to := tile.Leaves()
		assert.EqualValues(t, i*256, from)
		assert.EqualValues(t, i*256+tile.Width, to)
	}
	for _, beyond := range []tlog.Tile{{N: 3, Width: 71}, {N: 4, Width: 1}, {Level: 1, Width: 4}, {Level: tlog.EntriesLevel, Width: 1}, {N: -1, Width: 1}} {
		_, err := tlog.ReadTile(beyond, n, tree)
		assert.ErrorIs(t, err, tlog.ErrTile, "%+v", beyond)
	}
	assert.True(t, tlog.Tile{Level: tlog.EntriesLevel, N: 3, Width: 70}.In(n))
	assert.False(t, tlog.Tile{Level: tlog.EntriesLevel, N: 3, Width: 71}.In(n))
}

func TestBundleComesBackAndIsBounded(t *testing.T) {
	t.Parallel()
	entries := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte{1}, 60_000)}
	raw, err := tlog.EncodeBundle(entries)
	require.NoError(t, err)
	assert.Equal(t, []byte{0, 3, 'o', 'n', 'e', 0, 0}, raw[:7])
	back, err := tlog.DecodeBundle(raw, 3)
	require.NoError(t, err)
	for i := range entries {
		assert.True(t, bytes.Equal(entries[i], back[i]))
	}
	for name, c := range map[string]struct {
		raw   []byte
		width int
	}{
		"one too few": {raw, 2}, "one too many": {raw, 4}, "cut": {raw[:len(raw)-1], 3}, "half a length": {raw[:6], 2}, "none": {nil, 0},
		"too wide": {nil, 257}, "bytes after": {append(bytes.Clone(raw), 0), 3},
	} {
		_, err := tlog.DecodeBundle(c.raw, c.width)
		assert.ErrorIs(t, err, tlog.ErrTile, name)
	}
	_, err = tlog.EncodeBundle([][]byte{make([]byte, 65_536)})
	require.ErrorIs(t, err, tlog.ErrTile)
	_, err = tlog.EncodeBundle(make([][]byte, 257))
	require.ErrorIs(t, err, tlog.ErrTile)
	_, err = tlog.EncodeBundle(nil)
	require.ErrorIs(t, err, tlog.ErrTile)
}

func key(t testing.TB, name string) (skey, vkey string) {
	t.Helper()
	skey, vkey, err := tlog.GenerateKey(rand.NewChaCha8([32]byte{byte(len(name))}), name)
	require.NoError(t, err)
	return skey, vkey
}

const origin = "did:plc:abcdefghijklmnopqrstuvwx"

func TestCheckpointIsSignedUnderItsOrigin(t *testing.T) {
	t.Parallel()
	skey, vkey := key(t, origin)
	assert.True(t, strings.HasPrefix(vkey, origin+"+"))
	root, err := grown(t, 7).Root(7)
	require.NoError(t, err)
	c := tlog.Checkpoint{Origin: origin, Size: 7, Root: root}
	assert.Equal(t, origin+"\n7\n"+base64.StdEncoding.EncodeToString(root[:])+"\n", c.Text())
	signed, err := tlog.Sign(c, skey)
	require.NoError(t, err)
	back, err := tlog.Open(signed, vkey)
	require.NoError(t, err)
	assert.Equal(t, c, back)

	_, other := key(t, "did:plc:other")
	_, err = tlog.Open(signed, other)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	_, err = tlog.Open(bytes.Replace(signed, []byte("\n7\n"), []byte("\n8\n"), 1), vkey)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	_, err = tlog.Open(make([]byte, tlog.MaxNote+1), vkey)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	_, err = tlog.Open(signed, "no key")
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	c.Origin = "did:plc:other"
	_, err = tlog.Sign(c, skey)
	require.Error(t, err, "a key signs only for its own log")
	c.Origin, c.Extensions = origin, []string{"line"}
	signed, err = tlog.Sign(c, skey)
	require.NoError(t, err)
	back, err = tlog.Open(signed, vkey)
	require.NoError(t, err)
	assert.Equal(t, c, back)
	c.Extensions = []string{""}
	_, err = tlog.Sign(c, skey)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
}

func TestVerifierKeyIsThatOfTheSecretKey(t *testing.T) {
	t.Parallel()
	for _, seed := range []byte{0, 7, 0xfb} { // the last has plus signs in its base64
		skey, vkey, err := tlog.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)), origin)
		require.NoError(t, err)
		public, err := tlog.VerifierKey(origin, skey)
		require.NoError(t, err)
		assert.Equal(t, vkey, public)
		_, err = tlog.VerifierKey("did:plc:other", skey)
		require.ErrorContains(t, err, "did:plc:other")
		for _, bad := range []string{"", vkey, skey[:len(skey)-4], "PRIVATE+KEY+" + vkey} {
			_, err = tlog.VerifierKey(origin, bad)
			require.Error(t, err, "%q", bad)
		}
	}
}

// T3
func TestCheckpointHasOneForm(t *testing.T) {
	t.Parallel()
	root := base64.StdEncoding.EncodeToString(make([]byte, 32))
	good := "o\n7\n" + root + "\n"
	_, err := tlog.ParseCheckpoint(good)
	require.NoError(t, err)
	for _, bad := range []string{
		"", "o\n7\n" + root, "o\n7\n", "\n7\n" + root + "\n", "o\n07\n" + root + "\n", "o\n+7\n" + root + "\n", "o\n-7\n" + root + "\n",
		"o\n9223372036854775808\n" + root + "\n", "o\n7\n" + root[:40] + "\n", "o\n7\n" + strings.Replace(root, "=", "", 1) + "\n",
		good + "\n", good + "\nx\n", "o\r\n7\n" + root + "\r\n", good + strings.Repeat("x\n", 17), "o\n7\n" + root[:42] + "B=\n",
	} {
		_, err := tlog.ParseCheckpoint(bad)
		assert.ErrorIs(t, err, tlog.ErrCheckpoint, "%q", bad)
	}
}

func FuzzParseTilePath(f *testing.F) {
	f.Add("tile/0/x001/067")
	f.Add("tile/entries/273.p/112")
	f.Fuzz(func(t *testing.T, path string) {
		if tile, err := tlog.ParseTilePath(path); err == nil {
			require.Equal(t, path, tile.Path())
		}
	})
}

func FuzzDecodeBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 0}, 2)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		entries, err := tlog.DecodeBundle(data, width)
		if err != nil {
			return
		}
		again, err := tlog.EncodeBundle(entries)
		require.NoError(t, err)
		require.Equal(t, data, again)
	})
}

func FuzzOpen(f *testing.F) {
	skey, vkey := key(f, origin)
	signed, err := tlog.Sign(tlog.Checkpoint{Origin: origin, Size: 7}, skey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := tlog.Open(data, vkey); err == nil {
			require.EqualValues(t, 7, c.Size, "only the key's own checkpoint opens")
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add("o\n7\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := tlog.ParseCheckpoint(text); err == nil {
			require.Equal(t, text, c.Text())
		}
	})
}
