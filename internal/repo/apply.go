package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// Errors of [Apply], beside [ErrExists], [ErrNotFound] and [ErrTooBig]. All are
// final: the same writes on the same head fail again.
var (
	ErrTooManyOps = errors.New("too many operations")
	ErrDoublePath = errors.New("two writes to one record")
	ErrUnchanged  = errors.New("update to the same value")
	ErrBadWrite   = errors.New("bad write")
	ErrRev        = errors.New("rev not later than the last")
)

// errBroken marks a failure of this package's own invariants.
var errBroken = errors.New("repository writer broken")

// Head is where a repository stands.
type Head struct {
	Commit cid.Cid
	Data   cid.Cid
	Rev    string
}

// Action is what a write does to a record.
type Action string

// The three actions, spelled as on the firehose.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Write is one requested change. Record is canonical DAG-CBOR, nil for a delete.
type Write struct {
	Action     Action
	Collection string
	RKey       string
	Record     []byte
}

// Path is the record's key in the tree.
func (w Write) Path() string { return w.Collection + "/" + w.RKey }

// Op is one change as the firehose tells it.
type Op struct {
	Action Action
	Path   string
	CID    *cid.Cid // nil for a delete
	Prev   *cid.Cid // nil for a create
}

// Commit is a signed change, ready to be stored and announced.
type Commit struct {
	DID      syntax.DID
	Head     Head
	Since    string   // rev of the former commit, empty at genesis
	PrevData *cid.Cid // root of the former tree, nil at genesis
	Ops      []Op     // in the order of the writes
	New      []Block  // the commit, new tree nodes and the written records

	// Unreachable names blocks the repository no longer needs: the former
	// commit and tree nodes. Records are not named, since another path may hold
	// the same bytes; Ops[].Prev are the candidates.
	Unreachable []cid.Cid

	// CAR is the blocks field of the event: commit, covering proof, records.
	CAR []byte
}

// Apply makes the next commit of a repository out of writes, or its first one
// if prev is nil. It reads from src only the nodes it needs and stores nothing.
// Nothing in the result is valid unless the error is nil.
func Apply(ctx context.Context, src Blocks, did syntax.DID, prev *Head, writes []Write, key atcrypto.PrivateKey, rev string) (*Commit, error) {
	if err := checkWrites(prev, writes, rev); err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", rev, did, err)
	}
	memo := &recorder{base: src, seen: map[cid.Cid][]byte{}}
	out := &Commit{DID: did}
	t := newTree(MapBlocks{})
	if prev != nil {
		t = openTree(overlay{top: memo.seen, base: memo}, prev.Data)
		out.Since, out.PrevData = prev.Rev, &prev.Data
	}
	records := MapBlocks{}
	for _, w := range writes {
		op, err := t.write(ctx, w, records)
		if err != nil {
			return nil, fmt.Errorf("commit %s of %s: %w", rev, did, err)
		}
		out.Ops = append(out.Ops, op)
	}
	data, nodes, err := t.flush()
	if err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", rev, did, err)
	}
	commit, err := (&signed{did: did, rev: rev, data: data}).sign(key)
	if err != nil {
		return nil, err
	}
	out.Head = Head{Commit: commit.CID, Data: data, Rev: rev}
	out.New = append([]Block{commit}, nodes...)
	for c, b := range records {
		out.New = append(out.New, Block{CID: c, Data: b})
	}
	for c := range t.dropped {
		out.Unreachable = append(out.Unreachable, c)
	}
	if prev != nil {
		out.Unreachable = append(out.Unreachable, prev.Commit)
	}
	if out.CAR, err = commitCAR(ctx, overlay{top: memo.seen, base: memo}, out, nodes, records); err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", rev, did, err)
	}
	return out, nil
}

func checkWrites(prev *Head, writes []Write, rev string) error {
	if _, err := syntax.ParseTID(rev); err != nil {
		return fmt.Errorf("%w: %w", ErrRev, err)
	}
	if prev != nil && rev <= prev.Rev {
		return fmt.Errorf("%w: %s", ErrRev, prev.Rev)
	}
	if len(writes) > MaxOps {
		return fmt.Errorf("%w: %d", ErrTooManyOps, len(writes))
	}
	seen := make(map[string]bool, len(writes))
	for _, w := range writes {
		path := w.Path()
		if _, _, err := syntax.ParseRepoPath(path); err != nil {
			return fmt.Errorf("%w: path %q: %w", ErrBadWrite, path, err)
		}
		if seen[path] {
			return fmt.Errorf("%w: %s", ErrDoublePath, path)
		}
		seen[path] = true
		if err := checkRecord(w); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func checkRecord(w Write) error {
	switch w.Action {
	case Delete:
		if w.Record != nil {
			return fmt.Errorf("%w: delete with a record", ErrBadWrite)
		}
		return nil
	case Create, Update:
		if len(w.Record) > MaxRecord {
			return fmt.Errorf("%w: record of %d bytes", ErrTooBig, len(w.Record))
		}
		if err := dagcbor.ValidateMap(w.Record); err != nil {
			return fmt.Errorf("%w: %w", ErrBadWrite, err)
		}
		return nil
	}
	return fmt.Errorf("%w: action %q", ErrBadWrite, w.Action)
}

func (t *tree) write(ctx context.Context, w Write, records MapBlocks) (Op, error) {
	op := Op{Action: w.Action, Path: w.Path()}
	if w.Action == Delete {
		prev, err := t.remove(ctx, op.Path)
		op.Prev = &prev
		return op, err
	}
	c := CIDForCBOR(w.Record)
	op.CID = &c
	records[c] = w.Record
	if w.Action == Create {
		return op, t.insert(ctx, op.Path, c)
	}
	prev, err := t.update(ctx, op.Path, c)
	if err == nil && prev == c {
		err = fmt.Errorf("%w: %s", ErrUnchanged, op.Path)
	}
	op.Prev = &prev
	return op, err
}

// commitCAR collects the blocks of the event: all that is new, and what a
// verifier reads to undo the operations.
func commitCAR(ctx context.Context, src Blocks, c *Commit, nodes []Block, records MapBlocks) ([]byte, error) {
	fresh := MapBlocks{}
	for _, b := range nodes {
		fresh.Put(b)
	}
	rec := &recorder{base: overlay{top: fresh, base: src}, seen: map[cid.Cid][]byte{}}
	t := openTree(rec, c.Head.Data)
	if err := t.coverAll(ctx, c.Ops); err != nil {
		return nil, err
	}
	former, err := t.invert(ctx, c.Ops) // on the nodes that were read just now
	if err != nil {
		return nil, fmt.Errorf("%w: undo: %w", errBroken, err)
	}
	if want := c.formerData(); former != want {
		return nil, fmt.Errorf("%w: undoing the operations gives %s, not %s", errBroken, former, want)
	}
	maps.Copy(rec.seen, fresh)
	size := 0
	for _, blocks := range []MapBlocks{rec.seen, records} {
		for _, b := range blocks {
			size += len(b) + cidLen + 3
		}
	}
	buf := bytes.NewBuffer(make([]byte, 0, size+1<<10)) // the header and the commit take less than the rest
	err = WriteCAR(buf, c.Head.Commit, func(yield func(Block) bool) {
		if !yield(c.New[0]) {
			return
		}
		_ = yieldSorted(rec.seen, yield) && yieldSorted(records, yield)
	})
	if err != nil {
		return nil, err
	}
	if buf.Len() > MaxCommitCAR {
		return nil, fmt.Errorf("%w: %d bytes of blocks", ErrTooBig, buf.Len())
	}
	return buf.Bytes(), nil
}

func (c *Commit) formerData() cid.Cid {
	if c.PrevData != nil {
		return *c.PrevData
	}
	return emptyRoot()
}

func emptyRoot() cid.Cid { return CIDForCBOR(emptyNode().encode()) }

// yieldSorted yields blocks in the order of their CIDs, so that equal commits
// have equal bytes.
func yieldSorted(m MapBlocks, yield func(Block) bool) bool {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b cid.Cid) int {
		return strings.Compare(a.KeyString(), b.KeyString())
	})
	for _, k := range keys {
		if !yield(Block{CID: k, Data: m[k]}) {
			return false
		}
	}
	return true
}

// coverAll reads, for each operation, the way to its key and to both neighbours:
// what the network's verifiers expect to find.
func (t *tree) coverAll(ctx context.Context, ops []Op) error {
	if err := t.keep(ctx, &t.root, -1); err != nil { // the root belongs to every commit, also to an empty one
		return err
	}
	for _, op := range ops {
		if err := t.cover(ctx, op.Path); err != nil {
			return err
		}
	}
	return nil
}

// keep loads a child that is only read, and remembers its node.
func (t *tree) keep(ctx context.Context, k *kid, level int) (err error) {
	k.node, err = t.load(ctx, *k, level)
	return err
}

func (t *tree) cover(ctx context.Context, key string) error {
	n := t.root.node
	for {
		i, ok := n.find(key)
		if ok {
			// The neighbours are the last key before and the first key after.
			if err := t.spine(ctx, &n.kids[i], n.level-1, true); err != nil {
				return err
			}
			return t.spine(ctx, &n.kids[i+1], n.level-1, false)
		}
		if n.kids[i].absent() {
			return nil // both neighbours lie on the way here
		}
		if err := t.keep(ctx, &n.kids[i], n.level-1); err != nil {
			return err
		}
		n = n.kids[i].node
	}
}

// spine reads down the right (last) or left edge of a subtree.
func (t *tree) spine(ctx context.Context, k *kid, level int, last bool) error {
	for !k.absent() {
		if err := t.keep(ctx, k, level); err != nil {
			return err
		}
		kids := k.node.kids
		k, level = &kids[0], level-1
		if last {
			k = &kids[len(kids)-1]
		}
	}
	return nil
}

// invert undoes operations and returns the root they started from. Deletes are
// undone first, then the rest by path, as the network's verifiers do.
func (t *tree) invert(ctx context.Context, ops []Op) (cid.Cid, error) {
	order := slices.SortedFunc(slices.Values(ops), func(a, b Op) int {
		if d := boolOrder(a.Action != Delete) - boolOrder(b.Action != Delete); d != 0 {
			return d
		}
		return strings.Compare(a.Path, b.Path)
	})
	for _, op := range order {
		if err := t.undo(ctx, op); err != nil {
			return cid.Undef, fmt.Errorf("%s %s: %w", op.Action, op.Path, err)
		}
	}
	root, _, err := t.flush()
	return root, err
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *tree) undo(ctx context.Context, op Op) error {
	var was cid.Cid
	var err error
	switch op.Action {
	case Delete:
		return t.insert(ctx, op.Path, *op.Prev)
	case Create:
		was, err = t.remove(ctx, op.Path)
	case Update:
		was, err = t.update(ctx, op.Path, *op.Prev)
	default:
		return fmt.Errorf("action %q", op.Action)
	}
	if err == nil && was != *op.CID {
		err = fmt.Errorf("the tree holds %s, not %s", was, op.CID)
	}
	return err
}
