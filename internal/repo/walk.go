package repo

import (
	"context"

	"github.com/ipfs/go-cid"
)

// Walk calls fn for every record from path from on, in order, and stops at fn's
// first error, which it returns. It loads only nodes that hold such paths.
func Walk(ctx context.Context, src Blocks, data cid.Cid, from string, fn func(path string, c cid.Cid) error) error {
	t := openTree(src, data)
	root, err := t.loadRoot(ctx)
	if err != nil {
		return err
	}
	return t.walk(ctx, root, from, fn)
}

func (t *tree) walk(ctx context.Context, n *node, from string, fn func(string, cid.Cid) error) error {
	first, _ := n.find(from)
	for i := first; i < len(n.kids); i++ {
		if !n.kids[i].absent() {
			child, err := t.load(ctx, n.kids[i], n.level-1)
			if err != nil {
				return err
			}
			if err := t.walk(ctx, child, from, fn); err != nil {
				return err
			}
		}
		if i < len(n.keys) {
			if err := fn(n.keys[i], n.vals[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Nodes calls fn for every tree node's CID under data. With [Walk] it names all
// blocks of a repository but the commit.
func Nodes(ctx context.Context, src Blocks, data cid.Cid, fn func(c cid.Cid) error) error {
	t := openTree(src, data)
	return t.nodes(ctx, t.root, -1, fn)
}

func (t *tree) nodes(ctx context.Context, k kid, level int, fn func(cid.Cid) error) error {
	n, err := t.load(ctx, k, level)
	if err != nil {
		return err
	}
	if err := fn(k.cid); err != nil {
		return err
	}
	for _, below := range n.kids {
		if below.absent() {
			continue
		}
		if err := t.nodes(ctx, below, n.level-1, fn); err != nil {
			return err
		}
	}
	return nil
}
