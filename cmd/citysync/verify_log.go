package main

import (
	"context"
	"fmt"
	"sync"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// maxVerifyLog bounds the log that is held in memory.
const maxVerifyLog = 2_000_000

// verifiedLog is the log as it was served. An entry that is not what the log committed to is nil.
type verifiedLog struct {
	checkpoint tlog.Checkpoint
	tree       *tlog.Tree // of what the log committed to
	entries    []*entry.Entry
	hashes     []tlog.Hash // of the leaves as committed
	sound      int64       // entries before the first that is bad
}

// readLog fetches every tile of a checkpoint and compares them: the entries' hashes with the hash tiles, those with each other
// and with the root.
func (v *verifier) readLog(ctx context.Context, c tlog.Checkpoint) (*verifiedLog, error) {
	r := &logReader{v: v, size: c.Size, leaves: make([][]byte, c.Size), bad: map[int64]string{}}
	if err := r.bundles(ctx); err != nil {
		return nil, err
	}
	if err := r.hashTiles(ctx); err != nil {
		return nil, err
	}
	log := &verifiedLog{checkpoint: c}
	if err := r.settle(log); err != nil {
		return nil, err
	}
	v.report.looked(checkLeaves, int(c.Size), fmt.Sprintf("and %d hash tiles", r.tiles))
	log.entries = make([]*entry.Entry, c.Size)
	log.sound = c.Size
	for i := c.Size - 1; i >= 0; i-- {
		if _, bad := r.bad[i]; bad {
			log.sound = i
		}
	}
	v.decode(log, r)
	return log, nil
}

func (v *verifier) decode(log *verifiedLog, r *logReader) {
	n := 0
	for i, leaf := range r.leaves {
		if _, bad := r.bad[int64(i)]; bad {
			continue
		}
		n++
		e, err := entry.Decode(leaf)
		switch {
		case err != nil:
			v.report.fail(checkCanonical, int64(i), "", "%v", err)
		case e.Seq != int64(i):
			v.report.fail(checkCanonical, int64(i), "", "its seq is %d", e.Seq)
		default:
			log.entries[i] = e
			continue
		}
		log.sound = min(log.sound, int64(i))
	}
	v.report.looked(checkCanonical, n, "")
	v.replay(log, r.leaves)
}

// replay runs the auditor over the entries up to the first that is bad: what follows cannot be judged without it.
func (v *verifier) replay(log *verifiedLog, leaves [][]byte) {
	a := audit.New(log.checkpoint.Origin)
	v.audit = a
	for i := range log.sound {
		v.guarded(checkLimits, i, func() {
			v.add(a, i, leaves[i])
		})
	}
	if log.sound < log.checkpoint.Size {
		v.upTo = fmt.Sprintf("up to entry %d: what follows needs it", log.sound)
	}
	for _, f := range a.Findings() {
		var kind entry.Kind
		if f.Entry >= 0 && f.Entry < int64(len(log.entries)) && log.entries[f.Entry] != nil {
			kind = log.entries[f.Entry].Kind
		}
		check := checkOf(kind, f.What)
		if f.Sealed {
			check = checkOpenings
		}
		v.report.fail(check, f.Entry, f.URI, "%s", f.What)
	}
}

// guarded turns a panic on a stranger's entry into something wrong with it.
func (v *verifier) guarded(check string, seq int64, fn func()) {
	defer func() {
		if p := recover(); p != nil {
			v.report.fail(check, seq, "", "cannot be judged: %v", p)
		}
	}()
	fn()
}

// logReader fetches the tiles of a log. bad says, by index, what is wrong with an entry.
type logReader struct {
	v      *verifier
	size   int64
	leaves [][]byte
	level0 []tlog.Hash // as served; nil where a tile was missing
	tiles  int

	mu    sync.Mutex
	bad   map[int64]string     // guarded by mu
	above map[tlog.Tile][]byte // guarded by mu: hash tiles above the leaves, as served
	gone  []string             // guarded by mu: what is wrong with hash tiles
}

func (r *logReader) spoil(seq int64, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.bad[seq]; !ok {
		r.bad[seq] = fmt.Sprintf(format, args...)
	}
}

func (r *logReader) bundles(ctx context.Context) error {
	tiles := tlog.Tiles(tlog.EntriesLevel, r.size)
	return each(ctx, len(tiles), func(ctx context.Context, i int) error { return r.bundle(ctx, tiles[i]) })
}

func (r *logReader) bundle(ctx context.Context, t tlog.Tile) error {
	from, to := t.Leaves()
	data, err := r.v.web.get(ctx, r.v.city.url+"/"+t.Path(), maxVerifyBundle)
	if refusedFor(err) {
		return r.missing(ctx, t, err)
	}
	if err != nil {
		return couldNot("entries %d to %d: %w", from, to-1, err)
	}
	list, err := tlog.DecodeBundle(data, t.Width)
	for width := t.Width - 1; err != nil && width > 0 && list == nil; width-- { // as many of its first entries as can be told apart
		list = firstEntries(data, width)
	}
	for i, leaf := range list {
		r.leaves[from+int64(i)] = leaf
	}
	return nil
}

// firstEntries reads the first width entries of a bundle that may hold anything after them.
func firstEntries(data []byte, width int) [][]byte {
	end := 0
	for range width {
		if len(data)-end < 2 {
			return nil
		}
		end += 2 + int(data[end])<<8 + int(data[end+1])
		if end > len(data) {
			return nil
		}
	}
	list, err := tlog.DecodeBundle(data[:end], width)
	if err != nil {
		return nil
	}
	return list
}

// missing finds the first entry of a bundle that the log does not give out: it serves the shorter bundles before it.
func (r *logReader) missing(ctx context.Context, t tlog.Tile, refusal error) error {
	from, to := t.Leaves()
	low, high := 0, t.Width // the bundle of width low is served, that of width high is not
	var have [][]byte
	for high-low > 1 {
		half := tlog.Tile{Level: tlog.EntriesLevel, N: t.N, Width: (low + high) / 2}
		data, err := r.v.web.get(ctx, r.v.city.url+"/"+half.Path(), maxVerifyBundle)
		if err != nil && !refusedFor(err) {
			return couldNot("entries %d to %d: %w", from, to-1, err)
		}
		list, bad := tlog.DecodeBundle(data, half.Width)
		if err != nil || bad != nil {
			high = half.Width
			continue
		}
		low, have = half.Width, list
	}
	for i, leaf := range have {
		r.leaves[from+int64(i)] = leaf
	}
	r.spoil(from+int64(low), "the log committed to it and does not give it out: %v", refusal)
	return nil
}

// hashTiles fetches the tiles of every level.
func (r *logReader) hashTiles(ctx context.Context) error {
	r.level0 = make([]tlog.Hash, r.size)
	r.above = map[tlog.Tile][]byte{}
	var tiles []tlog.Tile
	for level := range tlog.Levels(r.size) {
		tiles = append(tiles, tlog.Tiles(level, r.size)...)
	}
	r.tiles = len(tiles)
	return each(ctx, len(tiles), func(ctx context.Context, i int) error {
		t := tiles[i]
		data, err := r.v.web.get(ctx, r.v.city.url+"/"+t.Path(), maxVerifyAnswer)
		if err != nil && !refusedFor(err) {
			return couldNot("%s: %w", t.Path(), err)
		}
		var hashes []tlog.Hash
		if err == nil {
			hashes, err = tlog.DecodeTile(data, t.Width)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			r.gone = append(r.gone, fmt.Sprintf("%s: %v", t.Path(), err))
			return nil
		}
		if t.Level == 0 {
			copy(r.level0[t.N*tlog.TileWidth:], hashes)
			return nil
		}
		r.above[t] = data
		return nil
	})
}

// settle decides what the log committed to, tells what differs from it, and leaves the tree of it.
func (r *logReader) settle(log *verifiedLog) error {
	report, root := r.v.report, log.checkpoint.Root
	for _, what := range r.gone {
		report.fail(checkLeaves, noEntry, "", "the log does not give out %s", what)
	}
	served, err := treeOf(r.level0)
	if err != nil {
		return couldNot("%w", err)
	}
	computed := make([]tlog.Hash, r.size)
	for i, leaf := range r.leaves {
		computed[i] = tlog.LeafHash(leaf)
	}
	fromLeaves, err := treeOf(computed)
	if err != nil {
		return couldNot("%w", err)
	}
	a, errA := served.Root(r.size)
	b, errB := fromLeaves.Root(r.size)
	if errA != nil || errB != nil {
		return couldNot("root of %d leaves", r.size)
	}
	switch {
	case a == root: // the hash tiles are what was signed: a leaf that differs is the one that is wrong
		log.tree, log.hashes = served, r.level0
		r.compare(computed)
	case b == root: // the leaves are what was signed: a hash that differs is
		log.tree, log.hashes = fromLeaves, computed
		for i := range computed {
			if computed[i] != r.level0[i] && len(r.gone) == 0 {
				report.fail(checkLeaves, int64(i), "", "the hash tile has %s, its leaf hashes to %s", r.level0[i], computed[i])
			}
		}
	default:
		log.tree, log.hashes = fromLeaves, computed
		if len(r.gone) == 0 {
			r.compare(computed)
		}
		for i, leaf := range r.leaves {
			if _, bad := r.bad[int64(i)]; leaf == nil && !bad {
				r.bad[int64(i)] = ""
			}
		}
		report.fail(checkLeaves, noEntry, "", "the checkpoint's root is %s, %d leaves give %s and the hash tiles %s", root, r.size, b, a)
	}
	for seq, what := range r.bad {
		if what != "" {
			report.fail(checkLeaves, seq, "", "%s", what)
		}
	}
	for t, data := range r.above {
		want, err := tlog.ReadTile(t, r.size, log.tree)
		if err != nil || string(want) != string(data) {
			report.fail(checkLeaves, noEntry, "", "%s does not follow from the tiles below it", t.Path())
		}
	}
	return nil
}

// compare names the leaves that do not hash to what the hash tiles say. After one that is gone the rest of its bundle is
// bad too and not named.
func (r *logReader) compare(computed []tlog.Hash) {
	for t := int64(0); t < r.size; t += tlog.TileWidth {
		to := min(r.size, t+tlog.TileWidth)
		shifted := false
		for i := t; i < to; i++ {
			_, bad := r.bad[i]
			switch {
			case bad:
				shifted = true
			case computed[i] == r.level0[i] && r.leaves[i] != nil:
			case shifted:
				r.bad[i] = ""
			case i+1 < to && computed[i] == r.level0[i+1]:
				r.bad[i], shifted = "it is dropped: the next entry stands in its place", true
			case r.leaves[i] == nil:
				r.bad[i], shifted = "the log committed to it and does not give it out", true
			default:
				r.bad[i] = fmt.Sprintf("its leaf hashes to %s, the log committed to %s", computed[i], r.level0[i])
			}
		}
	}
}

func treeOf(hashes []tlog.Hash) (*tlog.Tree, error) {
	t := new(tlog.Tree)
	for _, h := range hashes {
		if err := t.AppendHash(h); err != nil {
			return nil, err
		}
	}
	return t, nil
}
