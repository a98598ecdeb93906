package ledger

import (
	"sync"

	"city-sync.org/citysync/ledger/tlog"
)

// treeLog holds the stored hashes of the tree in memory. Only the sequencer grows it; readers see nothing beyond the size that a
// COMMIT confirmed. A million entries take 64 MB, and a log is meant to have a successor before that.
type treeLog struct {
	mu   sync.RWMutex
	tree tlog.Tree // guarded by mu: exactly what is committed
}

func (t *treeLog) size() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Size()
}

// ReadHashes implements tlog.Nodes over what is committed.
func (t *treeLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.ReadHashes(indexes)
}

// grow computes the stored hashes that the entries add behind those of before, which may not be committed yet, and the root with them. It
// changes nothing. size is that of the log before the entries.
func (t *treeLog) grow(entries []staged, before *flight) (nodes []tlog.Hash, root tlog.Hash, size int64, err error) {
	leaves := make([]tlog.Hash, len(entries))
	for i, e := range entries {
		leaves[i] = e.hash
	}
	if size = t.size(); before == nil || size >= before.size+int64(len(before.entries)) {
		nodes, root, err = tlog.Append(size, leaves, t)
		return nodes, root, size, err
	}
	size = before.size + int64(len(before.entries))
	nodes, root, err = tlog.Append(size, leaves, tlog.Pending{Stored: t, First: tlog.NodeCount(before.size), Added: before.nodes})
	return nodes, root, size, err
}

// accept makes committed hashes, as grow gave them, readable.
func (t *treeLog) accept(entries int64, nodes []tlog.Hash) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tree.Extend(entries, nodes)
}

// replayed takes back a leaf that was committed before.
func (t *treeLog) replayed(leaf tlog.Hash) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tree.AppendHash(leaf)
}
