package repo

import (
	"context"
	"slices"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// What the external tests need of the inside.

var (
	KeyLevel     = keyLevel
	CommonPrefix = commonPrefix
	EmptyRoot    = emptyRoot
)

// Invert undoes operations on the tree below data.
func Invert(ctx context.Context, src Blocks, data cid.Cid, ops []Op, partial bool) (cid.Cid, error) {
	t := openTree(src, data)
	t.partial = partial
	return t.invert(ctx, ops)
}

// DecodeNode gives back the node's bytes as encoded again.
func DecodeNode(b []byte) ([]byte, error) {
	n, err := decodeNode(b)
	if err != nil {
		return nil, err
	}
	return n.encode(), nil
}

// Build makes a tree from keys that need not be record paths.
func Build(keys []string, val cid.Cid) (MapBlocks, cid.Cid, error) {
	t := newTree(MapBlocks{})
	for _, k := range keys {
		if err := t.insert(context.Background(), k, val); err != nil {
			return nil, cid.Undef, err
		}
	}
	root, blocks, err := t.flush()
	m := MapBlocks{}
	for _, b := range blocks {
		m.Put(b)
	}
	return m, root, err
}

// Edit changes a tree of such keys and gives the new root, the new blocks and
// the covering proof.
func Edit(src MapBlocks, root cid.Cid, adds, dels []string, val cid.Cid) (after cid.Cid, proof MapBlocks, ops []Op, err error) {
	ctx := context.Background()
	t := openTree(src, root)
	for _, k := range adds {
		if err := t.insert(ctx, k, val); err != nil {
			return cid.Undef, nil, nil, err
		}
		ops = append(ops, Op{Action: Create, Path: k, CID: &val})
	}
	for _, k := range dels {
		if _, err := t.remove(ctx, k); err != nil {
			return cid.Undef, nil, nil, err
		}
		ops = append(ops, Op{Action: Delete, Path: k, Prev: &val})
	}
	after, blocks, err := t.flush()
	if err != nil {
		return cid.Undef, nil, nil, err
	}
	fresh := MapBlocks{}
	for _, b := range blocks {
		fresh.Put(b)
	}
	rec := &recorder{base: overlay{top: fresh, base: src}, seen: map[cid.Cid][]byte{}}
	undone := openTree(rec, after)
	if err := undone.coverAll(ctx, ops); err != nil {
		return cid.Undef, nil, nil, err
	}
	if _, err := undone.invert(ctx, ops); err != nil {
		return cid.Undef, nil, nil, err
	}
	for k, v := range fresh {
		rec.seen[k] = v
	}
	return after, rec.seen, ops, nil
}

// Entry is one entry of a hand-made node.
type Entry struct {
	Key   string
	Val   cid.Cid
	Right cid.Cid
}

// HandNode encodes a node as told, without any check.
func HandNode(left cid.Cid, entries ...Entry) Block {
	n := &node{kids: []kid{{cid: left}}}
	for _, e := range entries {
		n.keys, n.vals, n.kids = append(n.keys, e.Key), append(n.vals, e.Val), append(n.kids, kid{cid: e.Right})
	}
	b := n.encode()
	return Block{CID: CIDForCBOR(b), Data: b}
}

// HandCommit signs a commit object over any root.
func HandCommit(did syntax.DID, rev string, data cid.Cid, key atcrypto.PrivateKey) Block {
	b, err := (&signed{did: did, rev: rev, data: data}).sign(key)
	if err != nil {
		panic(err)
	}
	return b
}

// Unsigned is the part of a commit block that is signed.
func Unsigned(b []byte) ([]byte, []byte, error) {
	c, err := decodeCommit(b)
	if err != nil {
		return nil, nil, err
	}
	sig := slices.Clone(c.sig)
	c.sig = nil
	return c.encode(), sig, nil
}

// DataOf is the tree's root that a commit block names.
func DataOf(b []byte) cid.Cid {
	c, err := decodeCommit(b)
	if err != nil {
		panic(err)
	}
	return c.data
}
