package repo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// A repository that is larger than the memory for it is checked in three steps, each as strict as [VerifyRepo]: [StreamCAR] hands its blocks on,
// one by one, to a store; [OpenCommit] checks the root; [CheckTree] walks the tree in the store and names each node and record, which
// [CheckRecord] judges. What is held at a time is one block and the way from the root to it.

// StreamCAR is [ReadCAR] without keeping anything: put gets every block as it comes, hashed. It stops at put's first error and returns it as it
// is; other errors are [Reject]s, or the reader's own.
func StreamCAR(r io.Reader, lim Limits, put func(Block) error) (root cid.Cid, err error) {
	lim = lim.withDefaults()
	src := &errReader{r: r}
	cr := &carReader{r: bufio.NewReader(src), left: lim.MaxBytes}
	fail := func(err error) (cid.Cid, error) {
		switch {
		case src.err != nil:
			return cid.Undef, src.err
		case errors.Is(err, ErrTooBig):
			return cid.Undef, reject(TooBig, err)
		}
		return cid.Undef, reject(BadStructure, err)
	}
	if root, err = cr.header(); err != nil {
		return fail(err)
	}
	for count := 0; ; count++ {
		b, err := cr.block()
		if errors.Is(err, io.EOF) {
			return root, nil
		}
		if err != nil {
			return fail(err)
		}
		if count >= lim.MaxBlocks {
			return fail(fmt.Errorf("%w: more than %d blocks", ErrTooBig, lim.MaxBlocks))
		}
		if err := put(b); err != nil {
			return cid.Undef, err
		}
	}
}

// OpenCommit reads the commit object of did that one of the keys signed. Every error is a [Reject].
func OpenCommit(raw []byte, did syntax.DID, keys ...atcrypto.PublicKey) (Head, error) {
	commit, err := decodeCommit(raw)
	if err != nil {
		return Head{}, reject(BadStructure, err)
	}
	if commit.did != did {
		return Head{}, rejectf(BadStructure, "commit of %s in the repository of %s", commit.did, did)
	}
	head := Head{Commit: CIDForCBOR(raw), Data: commit.data, Rev: commit.rev}
	err = errors.New("no key")
	for _, key := range keys {
		if err = commit.verify(key); err == nil {
			return head, nil
		}
	}
	return Head{}, reject(BadSignature, err)
}

// CheckTree walks a stranger's whole tree (V2). onNode gets every tree node, onLeaf every entry in the order of the paths; the walk stops at
// their first error and returns it as it is. Other errors are [Reject]s, or src's own.
//
// No set of the nodes seen is kept: the entries must rise along the whole walk and no node is without any below it, so one that is reached twice
// shows at its first key.
func CheckTree(ctx context.Context, src Blocks, data cid.Cid, onNode func(Block) error, onLeaf func(path string, c cid.Cid) error) error {
	w := &treeWalk{ctx: ctx, src: src, onNode: onNode, onLeaf: onLeaf}
	return w.node(data, -1, "", "")
}

type treeWalk struct {
	ctx    context.Context
	src    Blocks
	paths  checker // for its check of paths
	onNode func(Block) error
	onLeaf func(path string, c cid.Cid) error
}

// node is checker.node for a tree that is not in memory.
func (w *treeWalk) node(at cid.Cid, level int, low, high string) error {
	raw, err := w.src.Get(w.ctx, at)
	if errors.Is(err, ErrBlockMissing) {
		return reject(BadStructure, fmt.Errorf("tree node: %w", err))
	}
	if err != nil {
		return err
	}
	n, err := placed(raw, level)
	if err != nil {
		return err
	}
	if err := w.onNode(Block{CID: at, Data: raw}); err != nil {
		return err
	}
	for i, k := range n.kids {
		next := high
		if i < len(n.keys) {
			next = n.keys[i]
			if next <= low || high != "" && next >= high {
				return reject(BadStructure, errRange)
			}
			if err := w.paths.path(next); err != nil {
				return reject(BadStructure, err)
			}
		}
		if !k.absent() {
			if err := w.node(k.cid, n.level-1, low, next); err != nil {
				return err
			}
		}
		if i < len(n.keys) {
			if err := w.onLeaf(n.keys[i], n.vals[i]); err != nil {
				return err
			}
			low = next
		}
	}
	return nil
}

func placed(raw []byte, level int) (n *node, err error) {
	defer rescue(&err)
	if n, err = decodeNode(raw); err != nil {
		return nil, reject(BadStructure, err)
	}
	if err := n.place(level); err != nil {
		return nil, reject(BadStructure, errors.Join(errNode, err))
	}
	return n, nil
}

// CheckRecord says whether a record's bytes are canonical and within the network's limit.
func CheckRecord(c cid.Cid, data []byte) error {
	if len(data) > MaxRecord {
		return rejectf(TooBig, "record %s of %d bytes", c, len(data))
	}
	if err := dagcbor.ValidateMap(data); err != nil {
		return reject(BadRecord, fmt.Errorf("record %s: %w", c, err))
	}
	return nil
}
