package entry

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math/bits"
	"runtime"
	"slices"
	"sync"
)

// ErrSumTree means that balances make no tree, or that a proof does not show a balance under its root. Final.
var ErrSumTree = errors.New("bad sum tree")

// The balances of a book stand in a Merkle sum tree, so that its holders together can see that nothing is owed beside it, and none
// sees what another has:
//
//	node  = SHA-256(0x01 ‖ left hash ‖ left sum ‖ right hash ‖ right sum), sums as 8 bytes, big endian
//	leaf  = SHA-256(0x00 ‖ salt ‖ sum)
//	salt  = SHA-256(0x02 ‖ nonce ‖ account ‖ share ‖ book), share is one byte
//	nonce = SHA-256(0x03 ‖ share ‖ k), k = HMAC-SHA-256(seed, account ‖ book)
//
// A node hashes both sums of its children: over their total alone, each holder could be shown another split of it. A balance is split
// in two shares at random, so that a neighbour in a path is no balance; each has its own leaf, at a place that the seed gives. Every other leaf is
// of a sum of 0 and salted alike: its salt is SHA-256(0x04 ‖ HMAC-SHA-256(seed, book) ‖ index, 8 bytes). At least half of the leaves are
// such, and there are 2^height, 16 or more. The salt binds the account, so that one leaf cannot be shown to two holders of the same balance.
const (
	tagLeaf, tagNode, tagSalt, tagNonce, tagZero, tagPlace = 0, 1, 2, 3, 4, 5

	minHeight = 4
	maxHeight = 40
	cut       = 8 // levels below are computed again when a path is asked for: a big tree is kept in little room
)

// Holder is what one account has of a book, set aside or free.
type Holder struct {
	Account Account
	Credits int64
}

// SumTree is the tree over the balances of one book.
type SumTree struct {
	book    string
	seed    []byte
	holders []Holder // by account, each with more than 0
	slots   []uint32 // by leaf: 1 + 2·holder + share, 0 for none
	top     [][]sumNode
	height  int
}

type sumNode struct {
	hash [32]byte
	sum  int64
}

// SumStep is one sibling on the way from a leaf to the root, lowest first.
type SumStep struct {
	Hash []byte
	Sum  int64
}

// Share is one of the two leaves of a balance.
type Share struct {
	Index int64 // of the leaf; its bits, lowest first, say on which side it stands
	Nonce []byte
	Sum   int64
	Path  []SumStep
}

// NewSumTree builds the tree over balances of a book, in any order. Those of 0 are left out. The error wraps ErrSumTree.
func NewSumTree(seed []byte, book string, balances []Holder) (*SumTree, error) {
	if len(seed) != 32 {
		return nil, fmt.Errorf("%w: seed of %d bytes", ErrSumTree, len(seed))
	}
	t := &SumTree{book: book, seed: seed, height: minHeight}
	var sum int64
	for _, h := range balances {
		if h.Credits < 0 || sum+h.Credits > maxAmount*1000 {
			return nil, fmt.Errorf("%w: a balance of %d after %d", ErrSumTree, h.Credits, sum)
		}
		if sum += h.Credits; h.Credits > 0 {
			t.holders = append(t.holders, h)
		}
	}
	slices.SortFunc(t.holders, func(a, b Holder) int { return bytes.Compare(a.Account[:], b.Account[:]) })
	for i := 1; i < len(t.holders); i++ {
		if t.holders[i].Account == t.holders[i-1].Account {
			return nil, fmt.Errorf("%w: an account twice", ErrSumTree)
		}
	}
	if n := len(t.holders); n > 0 {
		t.height = max(minHeight, bits.Len(uint(4*n-1)))
	}
	t.slots = make([]uint32, 1<<t.height)
	m := t.maker()
	m.keys = make([][32]byte, len(t.holders))
	for i, h := range t.holders {
		m.keys[i] = m.key(h.Account)
		first, second := places(&m.keys[i])
		t.place(first, uint32(1+2*i))
		t.place(second, uint32(2+2*i))
	}
	t.build(m)
	return t, nil
}

// place takes the first free leaf from a place on. Half of them stay free.
func (t *SumTree) place(at uint64, slot uint32) {
	mask := uint64(len(t.slots) - 1)
	for at &= mask; t.slots[at] != 0; at = (at + 1) & mask {
	}
	t.slots[at] = slot
}

// build keeps the levels from cut up, or from the leaves where the tree is not higher. The parts below are computed side by side.
func (t *SumTree) build(m *sumMaker) {
	low := min(cut, t.height)
	level := make([]sumNode, len(t.slots)>>low)
	workers := min(runtime.GOMAXPROCS(0), len(level))
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			nodes := make([]sumNode, 1<<low)
			for i := w; i < len(level); i += workers {
				for leaf := range nodes {
					nodes[leaf] = t.leaf(m, i<<low+leaf)
				}
				for n := len(nodes) / 2; n > 0; n /= 2 {
					for at := range n {
						nodes[at] = nodes[2*at].beside(&nodes[2*at+1])
					}
				}
				level[i] = nodes[0]
			}
		})
	}
	group.Wait()
	t.top = append(t.top, level)
	for len(level) > 1 {
		level = sumsAbove(level)
		t.top = append(t.top, level)
	}
}

// below computes the levels under a node of height low, leaves first.
func (t *SumTree) below(m *sumMaker, node, low int) [][]sumNode {
	leaves := make([]sumNode, 1<<low)
	for i := range leaves {
		leaves[i] = t.leaf(m, node<<low+i)
	}
	levels := [][]sumNode{leaves}
	for range low {
		levels = append(levels, sumsAbove(levels[len(levels)-1]))
	}
	return levels
}

func sumsAbove(level []sumNode) []sumNode {
	next := make([]sumNode, len(level)/2)
	for i := range next {
		next[i] = level[2*i].beside(&level[2*i+1])
	}
	return next
}

// beside is the node over two.
func (n *sumNode) beside(right *sumNode) sumNode {
	return sumNode{sumNodeHash(&n.hash, &right.hash, n.sum, right.sum), n.sum + right.sum}
}

func (t *SumTree) leaf(m *sumMaker, index int) sumNode {
	slot := t.slots[index]
	if slot == 0 {
		salt := m.zero(uint64(index))
		return sumNode{sumLeafHash(&salt, 0), 0}
	}
	h, share := &t.holders[(slot-1)/2], byte((slot-1)%2)
	var k [32]byte
	if m.keys != nil {
		k = m.keys[(slot-1)/2]
	} else {
		k = m.key(h.Account)
	}
	nonce := nonceOf(&k, share)
	sum := shareOf(&k, h.Credits, share)
	salt := saltOf(nonce[:], h.Account, t.book, share)
	return sumNode{sumLeafHash(&salt, sum), sum}
}

// Root is the root as a stateDigest has it.
func (t *SumTree) Root() BalancesRoot {
	root := t.top[len(t.top)-1][0]
	return BalancesRoot{Book: t.book, Root: root.hash[:], Sum: root.sum, Height: int64(t.height)}
}

// Prove gives both shares of an account's balance with their paths. False: it has none.
func (t *SumTree) Prove(a Account) ([2]Share, bool) {
	i, ok := slices.BinarySearchFunc(t.holders, a, func(h Holder, a Account) int { return bytes.Compare(h.Account[:], a[:]) })
	if !ok {
		return [2]Share{}, false
	}
	m := t.maker()
	k := m.key(a)
	first, second := places(&k)
	var shares [2]Share
	for share, at := range []uint64{first, second} {
		index := t.find(at, uint32(1+2*i+share))
		nonce := nonceOf(&k, byte(share))
		shares[share] = Share{
			Index: int64(index), Nonce: nonce[:], Sum: shareOf(&k, t.holders[i].Credits, byte(share)), Path: t.path(m, index),
		}
	}
	return shares, true
}

func (t *SumTree) find(at uint64, slot uint32) int {
	mask := uint64(len(t.slots) - 1)
	for at &= mask; t.slots[at] != slot; at = (at + 1) & mask {
	}
	return int(at)
}

func (t *SumTree) path(m *sumMaker, index int) []SumStep {
	low := min(cut, t.height)
	levels := append(t.below(m, index>>low, low)[:low], t.top...)
	var path []SumStep
	for height, at := 0, index; height < t.height; height, at = height+1, at/2 {
		sibling := at ^ 1
		if height < low {
			sibling &= len(levels[height]) - 1 // of the levels below, one node's part is there
		}
		n := levels[height][sibling]
		path = append(path, SumStep{Hash: n.hash[:], Sum: n.sum})
	}
	return path
}

// VerifyBalance checks both shares of an account under a root and gives the balance. The error wraps ErrSumTree.
func VerifyBalance(root BalancesRoot, a Account, shares [2]Share) (int64, error) {
	var balance int64
	for share := range shares {
		s := &shares[share]
		if root.Height < minHeight || root.Height > maxHeight || int64(len(s.Path)) != root.Height || s.Index < 0 || s.Index>>root.Height != 0 {
			return 0, fmt.Errorf("%w: leaf %d with a path of %d under a tree of height %d", ErrSumTree, s.Index, len(s.Path), root.Height)
		}
		if len(s.Nonce) != 32 || s.Sum < 0 || s.Sum > root.Sum {
			return 0, fmt.Errorf("%w: a share of %d of %d", ErrSumTree, s.Sum, root.Sum)
		}
		salt := saltOf(s.Nonce, a, root.Book, byte(share))
		node := sumNode{sumLeafHash(&salt, s.Sum), s.Sum}
		for height, step := range s.Path {
			if len(step.Hash) != 32 || step.Sum < 0 || step.Sum > root.Sum-node.sum {
				return 0, fmt.Errorf("%w: a neighbour of %d beside %d of %d", ErrSumTree, step.Sum, node.sum, root.Sum)
			}
			other := [32]byte(step.Hash)
			if s.Index>>height&1 == 0 {
				node.hash = sumNodeHash(&node.hash, &other, node.sum, step.Sum)
			} else {
				node.hash = sumNodeHash(&other, &node.hash, step.Sum, node.sum)
			}
			node.sum += step.Sum
		}
		if !bytes.Equal(node.hash[:], root.Root) || node.sum != root.Sum {
			return 0, fmt.Errorf("%w: share %d leads to another root, or to %d of %d", ErrSumTree, share, node.sum, root.Sum)
		}
		balance += s.Sum
	}
	if shares[0].Index == shares[1].Index {
		return 0, fmt.Errorf("%w: one leaf for both shares", ErrSumTree)
	}
	return balance, nil
}

// BalancesHash is the hash of the roots of a stateDigest, as checkpoints carry it: SHA-256 over the DAG-CBOR of the list by book.
func BalancesHash(roots []BalancesRoot) ([32]byte, error) {
	sorted := slices.Clone(roots)
	slices.SortFunc(sorted, func(a, b BalancesRoot) int { return cmp.Compare(a.Book, b.Book) })
	data, err := marshal(&struct {
		Balances []BalancesRoot `dag:"balances"`
	}{sorted})
	if err != nil {
		return [32]byte{}, fmt.Errorf("hash of balances: %w", err)
	}
	return sha256.Sum256(data), nil
}

// sumMaker derives what the seed gives.
type sumMaker struct {
	mac  hash.Hash
	book []byte
	pad  [32]byte
	keys [][32]byte // by holder, while a tree is built; then nothing else is used, side by side
}

func (t *SumTree) maker() *sumMaker {
	m := &sumMaker{mac: hmac.New(sha256.New, t.seed), book: []byte(t.book)}
	m.mac.Write(m.book)
	m.mac.Sum(m.pad[:0])
	return m
}

func (m *sumMaker) key(a Account) (k [32]byte) {
	m.mac.Reset()
	m.mac.Write(a[:])
	m.mac.Write(m.book)
	m.mac.Sum(k[:0])
	return k
}

func places(k *[32]byte) (first, second uint64) {
	h := derive(tagPlace, 0, k)
	return binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:])
}

func (m *sumMaker) zero(index uint64) [32]byte {
	var b [41]byte
	b[0] = tagZero
	copy(b[1:], m.pad[:])
	binary.BigEndian.PutUint64(b[33:], index)
	return sha256.Sum256(b[:])
}

func derive(tag, share byte, k *[32]byte) [32]byte {
	var b [34]byte
	b[0], b[1] = tag, share
	copy(b[2:], k[:])
	return sha256.Sum256(b[:])
}

func nonceOf(k *[32]byte, share byte) [32]byte { return derive(tagNonce, share, k) }

// shareOf splits a balance: of two credits or more, no share is all of it.
func shareOf(k *[32]byte, credits int64, share byte) int64 {
	h := derive(tagPlace, 1, k)
	first := credits
	if credits > 1 {
		first = 1 + int64(binary.BigEndian.Uint64(h[:])%uint64(credits-1))
	}
	if share == 0 {
		return first
	}
	return credits - first
}

func saltOf(nonce []byte, a Account, book string, share byte) [32]byte {
	var room [128]byte
	b := append(room[:0], tagSalt)
	b = append(b, nonce...)
	b = append(b, a[:]...)
	b = append(b, share)
	b = append(b, book...)
	return sha256.Sum256(b)
}

func sumLeafHash(salt *[32]byte, sum int64) [32]byte {
	var b [41]byte
	b[0] = tagLeaf
	copy(b[1:], salt[:])
	binary.BigEndian.PutUint64(b[33:], uint64(sum))
	return sha256.Sum256(b[:])
}

func sumNodeHash(left, right *[32]byte, leftSum, rightSum int64) [32]byte {
	var b [81]byte
	b[0] = tagNode
	copy(b[1:], left[:])
	binary.BigEndian.PutUint64(b[33:], uint64(leftSum))
	copy(b[41:], right[:])
	binary.BigEndian.PutUint64(b[73:], uint64(rightSum))
	return sha256.Sum256(b[:])
}
