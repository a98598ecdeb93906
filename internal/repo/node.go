package repo

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"github.com/ipfs/go-cid"
)

// maxDepth caps the levels of a tree. A key's level is half its hash's leading
// zero bits, so that 64 already takes 2^128 keys to reach honestly.
const maxDepth = 64

// errNode is wrapped by every complaint about a tree node's bytes or place.
var errNode = errors.New("bad tree node")

// node is one MST node in memory. Between, before and after its keys lie its
// children: kids[i] holds the keys below keys[i], kids[len(keys)] the rest.
// A node's level is its distance from the leaves, and every key in it has that
// level.
type node struct {
	level int
	keys  []string
	vals  []cid.Cid
	kids  []kid
}

// kid is a child: absent, a CID not loaded yet, or a loaded node. A kid with a
// defined CID is unchanged since it was read.
type kid struct {
	cid  cid.Cid
	node *node
}

func (k kid) absent() bool { return k.node == nil && !k.cid.Defined() }

// keyLevel is the level a key belongs to: the number of leading zero bits of
// its hash, in pairs.
func keyLevel(key string) int {
	sum := sha256.Sum256([]byte(key))
	zeros := 0
	for _, b := range sum {
		zeros += bits.LeadingZeros8(b)
		if b != 0 {
			break
		}
	}
	return zeros / 2
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// encode writes the node's block. Every present child must have its CID.
func (n *node) encode() []byte {
	size := 64 + len(n.keys)*100
	b := dagcbor.AppendMap(make([]byte, 0, size), 2)
	b = dagcbor.AppendArray(dagcbor.AppendText(b, "e"), len(n.keys))
	prev := ""
	for i, key := range n.keys {
		p := commonPrefix(prev, key)
		b = dagcbor.AppendMap(b, 4)
		b = dagcbor.AppendBytes(dagcbor.AppendText(b, "k"), []byte(key[p:]))
		b = dagcbor.AppendInt(dagcbor.AppendText(b, "p"), int64(p))
		b = appendKid(dagcbor.AppendText(b, "t"), n.kids[i+1])
		b = dagcbor.AppendCID(dagcbor.AppendText(b, "v"), n.vals[i])
		prev = key
	}
	return appendKid(dagcbor.AppendText(b, "l"), n.kids[0])
}

func appendKid(b []byte, k kid) []byte {
	if !k.cid.Defined() {
		return dagcbor.AppendNull(b)
	}
	return dagcbor.AppendCID(b, k.cid)
}

// decodeNode reads a node's block and checks all that can be checked of a node
// alone: canonical bytes, full prefix compression, keys rising, one level for
// all keys, links of the blessed form. The level of a node without keys is -1:
// its parent knows.
func decodeNode(b []byte) (*node, error) {
	n, err := readNode(dagcbor.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNode, err)
	}
	if err := n.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNode, err)
	}
	return n, nil
}

func readNode(r *dagcbor.Reader) (*node, error) {
	if k, err := r.Map(); err != nil || k != 2 {
		return nil, orElse(err, "a node has two fields")
	}
	if err := r.Key("e"); err != nil {
		return nil, err
	}
	count, err := r.Array()
	if err != nil {
		return nil, err
	}
	// An entry takes at least 49 bytes; the reader has only seen that one byte
	// each is there, so the slices grow with what is really read.
	n := &node{level: -1, kids: make([]kid, 1, min(count, 64)+1)}
	prev := ""
	for range count {
		key, val, right, err := readEntry(r, prev)
		if err != nil {
			return nil, err
		}
		n.keys, n.vals, n.kids = append(n.keys, key), append(n.vals, val), append(n.kids, right)
		prev = key
	}
	if err := r.Key("l"); err != nil {
		return nil, err
	}
	if n.kids[0], err = readKid(r); err != nil {
		return nil, err
	}
	return n, r.End()
}

func readEntry(r *dagcbor.Reader, prev string) (key string, val cid.Cid, right kid, err error) {
	fail := func(err error) (string, cid.Cid, kid, error) { return "", cid.Undef, kid{}, err }
	if k, err := r.Map(); err != nil || k != 4 {
		return fail(orElse(err, "an entry has four fields"))
	}
	if err := r.Key("k"); err != nil {
		return fail(err)
	}
	suffix, err := r.Bytes()
	if err != nil {
		return fail(err)
	}
	if err := r.Key("p"); err != nil {
		return fail(err)
	}
	p, err := r.Int()
	if err != nil {
		return fail(err)
	}
	if p < 0 || p > int64(len(prev)) {
		return fail(errors.New("prefix length out of range"))
	}
	key = prev[:p] + string(suffix)
	if commonPrefix(prev, key) != int(p) {
		return fail(errors.New("prefix not compressed in full"))
	}
	if err := r.Key("t"); err != nil {
		return fail(err)
	}
	if right, err = readKid(r); err != nil {
		return fail(err)
	}
	if err := r.Key("v"); err != nil {
		return fail(err)
	}
	if val, err = r.CID(); err != nil {
		return fail(err)
	}
	if !plainCID(val, false) {
		return fail(errors.New("record link is not a sha-256 dag-cbor CID"))
	}
	return key, val, right, nil
}

func readKid(r *dagcbor.Reader) (kid, error) {
	if r.Null() {
		return kid{}, nil
	}
	c, err := r.CID()
	if err != nil {
		return kid{}, err
	}
	if !plainCID(c, false) {
		return kid{}, errors.New("node link is not a sha-256 dag-cbor CID")
	}
	return kid{cid: c}, nil
}

func (n *node) check() error {
	for i, key := range n.keys {
		if key == "" {
			return errors.New("empty key")
		}
		if i > 0 && key <= n.keys[i-1] {
			return errors.New("keys unsorted or doubled")
		}
		level := keyLevel(key)
		if level > maxDepth {
			return errors.New("key too high")
		}
		if i == 0 {
			n.level = level
		} else if level != n.level {
			return errors.New("keys of different levels in one node")
		}
	}
	if n.level == 0 {
		for _, k := range n.kids {
			if !k.absent() {
				return errors.New("child below level 0")
			}
		}
	}
	return nil
}

func orElse(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}
