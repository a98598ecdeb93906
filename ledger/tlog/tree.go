package tlog

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a leaf's or a node's hash, as RFC 6962 has it.
type Hash = tlog.Hash

// HashSize is the bytes of a hash.
const HashSize = tlog.HashSize

// Nodes reads stored hashes by their index (see tlog.StoredHashIndex).
type Nodes = tlog.HashReader

// LeafHash is the hash of a leaf.
func LeafHash(leaf []byte) Hash { return tlog.RecordHash(leaf) }

// NodeCount is the number of stored hashes of a tree.
func NodeCount(size int64) int64 { return tlog.StoredHashCount(size) }

// Append gives the hashes to be stored for new leaves, from index NodeCount(size) on, and the root that follows.
func Append(size int64, leaves []Hash, nodes Nodes) (added []Hash, root Hash, err error) {
	first := NodeCount(size)
	added = make([]Hash, 0, NodeCount(size+int64(len(leaves)))-first)
	for i, leaf := range leaves {
		// Each subtree that the leaf completes is hashed with the one to its left: of this call, or stored before.
		added = append(added, leaf)
		at, hash := size+int64(i), leaf
		for level := 0; at>>level&1 == 1; level++ {
			left := tlog.StoredHashIndex(level, at>>level-1)
			if left >= first {
				hash = tlog.NodeHash(added[left-first], hash)
			} else {
				stored, err := nodes.ReadHashes([]int64{left})
				if err != nil {
					return nil, Hash{}, fmt.Errorf("append leaf %d: %w", at, err)
				}
				if len(stored) != 1 {
					return nil, Hash{}, fmt.Errorf("append leaf %d: %d hashes for one", at, len(stored))
				}
				hash = tlog.NodeHash(stored[0], hash)
			}
			added = append(added, hash)
		}
	}
	grown := Pending{Stored: nodes, First: first, Added: added}
	if root, err = tlog.TreeHash(size+int64(len(leaves)), grown); err != nil {
		return nil, Hash{}, fmt.Errorf("root of %d leaves: %w", size+int64(len(leaves)), err)
	}
	return added, root, nil
}

// Pending are stored hashes with some behind them that are not stored yet, from index First on.
type Pending struct {
	Stored Nodes
	First  int64
	Added  []Hash
}

// ReadHashes implements Nodes.
func (p Pending) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	var old []int64
	var at []int
	for i, x := range indexes {
		if x < p.First {
			old, at = append(old, x), append(at, i)
			continue
		}
		if x-p.First >= int64(len(p.Added)) {
			return nil, fmt.Errorf("hash %d is not stored yet", x)
		}
		out[i] = p.Added[x-p.First]
	}
	if len(old) == 0 {
		return out, nil
	}
	hashes, err := p.Stored.ReadHashes(old)
	if err != nil {
		return nil, err
	}
	if len(hashes) != len(old) {
		return nil, fmt.Errorf("%d hashes for %d indexes", len(hashes), len(old))
	}
	for i, h := range hashes {
		out[at[i]] = h
	}
	return out, nil
}

// ReadLeaf gives the hash of the leaf at index.
func ReadLeaf(index int64, nodes Nodes) (Hash, error) {
	if index < 0 {
		return Hash{}, fmt.Errorf("leaf %d", index)
	}
	hashes, err := nodes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return Hash{}, fmt.Errorf("leaf %d: %w", index, err)
	}
	if len(hashes) != 1 {
		return Hash{}, fmt.Errorf("leaf %d: %d hashes", index, len(hashes))
	}
	return hashes[0], nil
}

// Root is the root of the tree of the first size leaves.
func Root(size int64, nodes Nodes) (Hash, error) {
	root, err := tlog.TreeHash(size, nodes)
	if err != nil {
		return Hash{}, fmt.Errorf("root of %d leaves: %w", size, err)
	}
	return root, nil
}

// Tree is a tree in memory: the whole of its stored hashes. The zero value is the empty tree. It has one owner.
type Tree struct {
	size  int64
	nodes []Hash
}

// NewTree is the tree whose stored hashes these are.
func NewTree(size int64, nodes []Hash) (*Tree, error) {
	if size < 0 || int64(len(nodes)) != NodeCount(size) {
		return nil, fmt.Errorf("%d stored hashes for %d leaves", len(nodes), size)
	}
	return &Tree{size: size, nodes: nodes}, nil
}

// Size is the number of leaves.
func (t *Tree) Size() int64 { return t.size }

// Append adds a leaf.
func (t *Tree) Append(leaf []byte) error { return t.AppendHash(LeafHash(leaf)) }

// AppendHash adds a leaf by its hash.
func (t *Tree) AppendHash(leaf Hash) error {
	hashes, err := tlog.StoredHashesForRecordHash(t.size, leaf, t)
	if err != nil {
		return fmt.Errorf("append leaf %d: %w", t.size, err)
	}
	t.nodes = append(t.nodes, hashes...)
	t.size++
	return nil
}

// Extend adds leaves by the stored hashes that Append gave for them.
func (t *Tree) Extend(leaves int64, added []Hash) error {
	if leaves < 0 || int64(len(added)) != NodeCount(t.size+leaves)-NodeCount(t.size) {
		return fmt.Errorf("%d stored hashes for %d leaves after %d", len(added), leaves, t.size)
	}
	t.nodes = append(t.nodes, added...)
	t.size += leaves
	return nil
}

// Hashes are the stored hashes in the order of their indexes. They are the tree's own: not to be changed.
func (t *Tree) Hashes() []Hash { return t.nodes }

// ReadHashes implements Nodes.
func (t *Tree) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.nodes)) {
			return nil, fmt.Errorf("hash %d of %d", x, len(t.nodes))
		}
		out[i] = t.nodes[x]
	}
	return out, nil
}

// Root is the root over the first size leaves.
func (t *Tree) Root(size int64) (Hash, error) {
	if size < 0 || size > t.size {
		return Hash{}, fmt.Errorf("root of %d leaves of %d", size, t.size)
	}
	return Root(size, t)
}
