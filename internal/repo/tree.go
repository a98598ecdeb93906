package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/ipfs/go-cid"
)

// Errors of tree edits; [Apply] answers them too.
var (
	ErrExists   = errors.New("record exists")
	ErrNotFound = errors.New("record not found")
)

// tree is an MST that loads nodes when they are needed and remembers which
// blocks its edits made unreachable. It is used by one goroutine, once.
type tree struct {
	src     Blocks
	root    kid
	dropped map[cid.Cid]bool // nodes that were read from src and are in the tree no longer

	// partial marks a tree out of a commit's slice: the block of a new root may
	// be missing then, since its CID alone is enough to compare.
	partial bool
}

func openTree(src Blocks, root cid.Cid) *tree {
	return &tree{src: src, root: kid{cid: root}, dropped: map[cid.Cid]bool{}}
}

func newTree(src Blocks) *tree {
	return &tree{src: src, root: kid{node: emptyNode()}, dropped: map[cid.Cid]bool{}}
}

func emptyNode() *node { return &node{level: -1, kids: make([]kid, 1)} }

// load reads a child's node. level is the level it must have, or -1 for a root,
// which has the level of its keys.
func (t *tree) load(ctx context.Context, k kid, level int) (*node, error) {
	if k.node != nil {
		return k.node, nil
	}
	b, err := t.src.Get(ctx, k.cid)
	if err != nil {
		return nil, fmt.Errorf("tree node: %w", err)
	}
	n, err := decodeNode(b)
	if err != nil {
		return nil, err
	}
	if err := n.place(level); err != nil {
		return nil, fmt.Errorf("%w: %w", errNode, err)
	}
	return n, nil
}

// place settles the node's level against what its parent demands.
func (n *node) place(level int) error {
	empty := len(n.keys) == 0 && n.kids[0].absent()
	if level < 0 {
		if n.level < 0 && !empty {
			return errors.New("root is only a pointer")
		}
		return nil
	}
	switch {
	case empty:
		return errors.New("empty node inside a tree")
	case n.level < 0:
		if level == 0 {
			return errors.New("child below level 0")
		}
		n.level = level
	case n.level != level:
		return fmt.Errorf("node of level %d where %d belongs", n.level, level)
	}
	return nil
}

func (t *tree) loadRoot(ctx context.Context) (*node, error) { return t.load(ctx, t.root, -1) }

// edit loads a child in order to change it: its former block is dropped.
func (t *tree) edit(ctx context.Context, k kid, level int) (*node, error) {
	n, err := t.load(ctx, k, level)
	if err == nil && k.cid.Defined() {
		t.dropped[k.cid] = true
	}
	return n, err
}

// find is the index of the first key not below key, and whether it is key.
func (n *node) find(key string) (int, bool) {
	i := sort.SearchStrings(n.keys, key)
	return i, i < len(n.keys) && n.keys[i] == key
}

// get looks a key up along one path.
func (t *tree) get(ctx context.Context, key string) (cid.Cid, bool, error) {
	n, err := t.loadRoot(ctx)
	if err != nil {
		return cid.Undef, false, err
	}
	want := keyLevel(key)
	for {
		i, ok := n.find(key)
		if ok {
			return n.vals[i], true, nil
		}
		if n.level <= want || n.kids[i].absent() {
			return cid.Undef, false, nil
		}
		if n, err = t.load(ctx, n.kids[i], n.level-1); err != nil {
			return cid.Undef, false, err
		}
	}
}

// insert adds a key that must not exist.
func (t *tree) insert(ctx context.Context, key string, val cid.Cid) error {
	level := keyLevel(key)
	if level > maxDepth {
		return fmt.Errorf("%w: key too high", errNode)
	}
	root, err := t.edit(ctx, t.root, -1)
	if err != nil {
		return err
	}
	if len(root.keys) == 0 { // the empty tree
		t.root = kid{node: &node{level: level, keys: []string{key}, vals: []cid.Cid{val}, kids: make([]kid, 2)}}
		return nil
	}
	if level <= root.level {
		t.root = kid{node: root}
		return t.insertInto(ctx, root, key, val, level)
	}
	left, right, err := t.split(ctx, root, key)
	if err != nil {
		return err
	}
	for h := root.level; h < level-1; h++ {
		left, right = wrap(left), wrap(right)
	}
	t.root = kid{node: &node{level: level, keys: []string{key}, vals: []cid.Cid{val}, kids: []kid{{node: left}, {node: right}}}}
	return nil
}

func wrap(n *node) *node {
	if n == nil {
		return nil
	}
	return &node{level: n.level + 1, kids: []kid{{node: n}}}
}

func (t *tree) insertInto(ctx context.Context, n *node, key string, val cid.Cid, level int) error {
	i, ok := n.find(key)
	if ok {
		return fmt.Errorf("%w: %s", ErrExists, key)
	}
	if n.level > level {
		if n.kids[i].absent() {
			child := &node{level: level, keys: []string{key}, vals: []cid.Cid{val}, kids: make([]kid, 2)}
			for child.level < n.level-1 {
				child = wrap(child)
			}
			n.kids[i] = kid{node: child}
			return nil
		}
		child, err := t.edit(ctx, n.kids[i], n.level-1)
		if err != nil {
			return err
		}
		n.kids[i] = kid{node: child}
		return t.insertInto(ctx, child, key, val, level)
	}
	var left, right *node
	if !n.kids[i].absent() {
		child, err := t.edit(ctx, n.kids[i], n.level-1)
		if err != nil {
			return err
		}
		if left, right, err = t.split(ctx, child, key); err != nil {
			return err
		}
	}
	n.keys = slices.Insert(n.keys, i, key)
	n.vals = slices.Insert(n.vals, i, val)
	n.kids[i] = kid{node: right}
	n.kids = slices.Insert(n.kids, i, kid{node: left})
	return nil
}

// split divides a subtree that does not hold key into what lies before and
// after it; a half without any key is nil.
func (t *tree) split(ctx context.Context, n *node, key string) (left, right *node, err error) {
	i, ok := n.find(key)
	if ok {
		return nil, nil, fmt.Errorf("%w: key %s above its level", errNode, key)
	}
	var l, r *node
	if !n.kids[i].absent() {
		child, err := t.edit(ctx, n.kids[i], n.level-1)
		if err != nil {
			return nil, nil, err
		}
		if l, r, err = t.split(ctx, child, key); err != nil {
			return nil, nil, err
		}
	}
	left = &node{level: n.level, keys: slices.Clone(n.keys[:i]), vals: slices.Clone(n.vals[:i]), kids: append(slices.Clone(n.kids[:i]), kid{node: l})}
	right = &node{level: n.level, keys: slices.Clone(n.keys[i:]), vals: slices.Clone(n.vals[i:]), kids: append([]kid{{node: r}}, n.kids[i+1:]...)}
	return left.orNil(), right.orNil(), nil
}

func (n *node) orNil() *node {
	if len(n.keys) == 0 && n.kids[0].absent() {
		return nil
	}
	return n
}

// update replaces a key's value and returns the former one.
func (t *tree) update(ctx context.Context, key string, val cid.Cid) (cid.Cid, error) {
	n, i, err := t.editPath(ctx, key)
	if err != nil {
		return cid.Undef, err
	}
	prev := n.vals[i]
	n.vals[i] = val
	return prev, nil
}

// editPath opens every node down to key for change.
func (t *tree) editPath(ctx context.Context, key string) (*node, int, error) {
	n, err := t.edit(ctx, t.root, -1)
	if err != nil {
		return nil, 0, err
	}
	t.root = kid{node: n}
	want := keyLevel(key)
	for {
		i, ok := n.find(key)
		if ok {
			return n, i, nil
		}
		if n.kids[i].absent() || n.level <= want {
			return nil, 0, fmt.Errorf("%w: %s", ErrNotFound, key)
		}
		child, err := t.edit(ctx, n.kids[i], n.level-1)
		if err != nil {
			return nil, 0, err
		}
		n.kids[i] = kid{node: child}
		n = child
	}
}

// remove takes a key out and returns its value.
func (t *tree) remove(ctx context.Context, key string) (cid.Cid, error) {
	root, err := t.edit(ctx, t.root, -1)
	if err != nil {
		return cid.Undef, err
	}
	root, val, err := t.removeFrom(ctx, root, key, keyLevel(key))
	if err != nil {
		return cid.Undef, err
	}
	return val, t.trim(ctx, root)
}

// removeFrom returns nil where nothing remains.
func (t *tree) removeFrom(ctx context.Context, n *node, key string, level int) (*node, cid.Cid, error) {
	i, ok := n.find(key)
	if !ok {
		if n.kids[i].absent() || n.level <= level {
			return nil, cid.Undef, fmt.Errorf("%w: %s", ErrNotFound, key)
		}
		child, err := t.edit(ctx, n.kids[i], n.level-1)
		if err != nil {
			return nil, cid.Undef, err
		}
		child, val, err := t.removeFrom(ctx, child, key, level)
		if err != nil {
			return nil, cid.Undef, err
		}
		n.kids[i] = kid{node: child}
		return n.orNil(), val, nil
	}
	val := n.vals[i]
	merged, err := t.merge(ctx, n.kids[i], n.kids[i+1], n.level-1)
	if err != nil {
		return nil, cid.Undef, err
	}
	n.keys = slices.Delete(n.keys, i, i+1)
	n.vals = slices.Delete(n.vals, i, i+1)
	n.kids = slices.Delete(n.kids, i, i+1)
	n.kids[i] = merged
	return n.orNil(), val, nil
}

// merge joins two neighbours of one level.
func (t *tree) merge(ctx context.Context, a, b kid, level int) (kid, error) {
	if a.absent() {
		return b, nil
	}
	if b.absent() {
		return a, nil
	}
	left, err := t.edit(ctx, a, level)
	if err != nil {
		return kid{}, err
	}
	right, err := t.edit(ctx, b, level)
	if err != nil {
		return kid{}, err
	}
	last := len(left.kids) - 1
	mid, err := t.merge(ctx, left.kids[last], right.kids[0], level-1)
	if err != nil {
		return kid{}, err
	}
	n := &node{level: level, keys: append(left.keys, right.keys...), vals: append(left.vals, right.vals...)}
	n.kids = append(append(left.kids[:last], mid), right.kids[1:]...)
	return kid{node: n}, nil
}

// trim lowers the root while it is only a pointer.
func (t *tree) trim(ctx context.Context, root *node) error {
	if root == nil {
		t.root = kid{node: emptyNode()}
		return nil
	}
	t.root = kid{node: root}
	level := root.level
	for len(root.keys) == 0 && !root.kids[0].absent() {
		below := root.kids[0]
		level--
		n, err := t.load(ctx, below, level)
		if err != nil && t.partial && errors.Is(err, ErrBlockMissing) {
			t.root = below
			return nil
		}
		if err != nil {
			return err
		}
		if below.cid.Defined() && len(n.keys) == 0 {
			t.dropped[below.cid] = true
		}
		t.root, root = below, n
	}
	return nil
}

// flush encodes what changed, children first, and returns the root's CID and
// the new blocks. A block that came back to its former bytes is not new.
func (t *tree) flush() (cid.Cid, []Block, error) {
	var out []Block
	root, err := t.flushKid(t.root, &out)
	if err != nil {
		return cid.Undef, nil, err
	}
	t.root = root
	kept := out[:0]
	for _, b := range out {
		if t.dropped[b.CID] {
			delete(t.dropped, b.CID)
			continue
		}
		kept = append(kept, b)
	}
	return root.cid, kept, nil
}

func (t *tree) flushKid(k kid, out *[]Block) (kid, error) {
	if k.cid.Defined() || k.node == nil {
		return k, nil
	}
	for i := range k.node.kids {
		below, err := t.flushKid(k.node.kids[i], out)
		if err != nil {
			return kid{}, err
		}
		k.node.kids[i] = below
	}
	b := k.node.encode()
	k.cid = CIDForCBOR(b)
	*out = append(*out, Block{CID: k.cid, Data: b})
	return k, nil
}
