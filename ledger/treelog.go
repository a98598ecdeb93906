package ledger

import (
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// treeLog holds the stored hashes of the tree in memory. Only the sequencer grows it; readers see nothing beyond the size that a
// COMMIT confirmed. A million entries take 64 MB, and a log is meant to have a successor before that.
type treeLog struct {
	mu     sync.RWMutex
	n      int64       // guarded by mu: entries committed
	hashes []tlog.Hash // guarded by mu: exactly tlog.StoredHashCount(n) of them
}

func (t *treeLog) size() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.n
}

// ReadHashes implements tlog.HashReader over what is committed.
func (t *treeLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("no stored hash %d in a tree of %d", x, t.n)
		}
		out[i] = t.hashes[x]
	}
	return out, nil
}

// grow computes the stored hashes that the entries add and the root with them, and changes nothing.
func (t *treeLog) grow(entries []staged) (nodes []tlog.Hash, root tlog.Hash, err error) {
	hashes := make([]tlog.Hash, len(entries))
	for i, e := range entries {
		hashes[i] = tlog.RecordHash(e.leaf)
	}
	return t.growHashes(hashes)
}

func (t *treeLog) growHashes(leaves []tlog.Hash) (nodes []tlog.Hash, root tlog.Hash, err error) {
	t.mu.RLock()
	base, n := int64(len(t.hashes)), t.n
	t.mu.RUnlock()
	ahead := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			if x >= base {
				if x-base >= int64(len(nodes)) {
					return nil, fmt.Errorf("no stored hash %d", x)
				}
				out[i] = nodes[x-base]
				continue
			}
			one, err := t.ReadHashes([]int64{x})
			if err != nil {
				return nil, err
			}
			out[i] = one[0]
		}
		return out, nil
	})
	for i, h := range leaves {
		more, err := tlog.StoredHashesForRecordHash(n+int64(i), h, ahead)
		if err != nil {
			return nil, root, fmt.Errorf("tree at %d: %w", n+int64(i), err)
		}
		nodes = append(nodes, more...)
	}
	if root, err = tlog.TreeHash(n+int64(len(leaves)), ahead); err != nil {
		return nil, root, fmt.Errorf("root at %d: %w", n+int64(len(leaves)), err)
	}
	return nodes, root, nil
}

// accept makes committed hashes readable.
func (t *treeLog) accept(entries int64, nodes []tlog.Hash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += entries
	t.hashes = append(t.hashes, nodes...)
}
