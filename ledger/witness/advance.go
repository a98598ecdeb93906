package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	sumdb "golang.org/x/mod/sumdb/tlog"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// errDisputed means that the log broke its word: nothing is cosigned any more. The proof is served.
var errDisputed = errors.New("the log broke its word, and the proof of it is kept")

// advance brings the copy up to a checkpoint of the log: it compares the two histories, fetches what is new, each leaf shown to be of the
// signed tree, and re-executes it. An error other than errDisputed may be retried; what was done until then stays. The caller has the turn.
func (w *Witness) advance(ctx context.Context, from *source, c tlog.Checkpoint, note []byte) error {
	if w.Dispute() != "" {
		return errDisputed
	}
	nodes := from.nodes(ctx, c)
	if err := w.compare(ctx, c, note, nodes); err != nil {
		return err
	}
	refreshed := false
	for w.state.Audited < c.Size {
		at := w.state.Audited
		list, err := w.fetch(ctx, from, c, nodes)
		if err != nil {
			return err
		}
		if !refreshed && w.cfg.Openings && erases(list) {
			if err := w.refreshOpenings(ctx); err != nil { // W5
				return err
			}
			refreshed = true
		}
		if err := w.execute(ctx, at, list, c, note, nodes); err != nil {
			return err
		}
	}
	if w.held == nil || c.Size >= w.held.Size {
		w.held = &held{Checkpoint: c, note: note}
	}
	return w.keepPolicy(ctx)
}

// compare finds out whether a signed checkpoint is of the same history as what we hold. Where it is not, the proof is saved.
func (w *Witness) compare(ctx context.Context, c tlog.Checkpoint, note []byte, nodes tlog.Nodes) error {
	if w.held != nil {
		k := min(w.held.Size, c.Size)
		theirs := c.Root
		if k < c.Size {
			var err error
			if theirs, err = tlog.Root(k, nodes); err != nil {
				return err
			}
		}
		ours, err := w.auditor.Tree().Root(k)
		if err != nil {
			return err
		}
		if ours != theirs {
			return w.forked(c, note, k, ours, theirs, nodes)
		}
	}
	// Entries beyond what we hold came with a checkpoint that was not finished. If this one has others in their place, that one is
	// left behind: its entries were never cosigned.
	if k := min(w.state.Audited, c.Size); k > 0 && (w.held == nil || k > w.held.Size) {
		theirs, err := c.Root, error(nil)
		if k < c.Size {
			theirs, err = tlog.Root(k, nodes)
		}
		ours, err2 := w.auditor.Tree().Root(k)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if ours != theirs {
			size := int64(0)
			if w.held != nil {
				size = w.held.Size
			}
			w.log.Warn("the log left a checkpoint behind that was never finished", "entries", w.state.Audited, "back to", size)
			return w.reload(ctx, size)
		}
	}
	return nil
}

// fetch gets the new entries of one bundle, and shows that each is of the signed tree.
func (w *Witness) fetch(ctx context.Context, from *source, c tlog.Checkpoint, nodes tlog.Nodes) ([][]byte, error) {
	at := w.state.Audited
	n := at / tlog.TileWidth
	width := min(tlog.TileWidth, c.Size-n*tlog.TileWidth)
	all, err := from.bundle(ctx, tlog.Tile{Level: tlog.EntriesLevel, N: n, Width: int(width)})
	if err != nil {
		return nil, err
	}
	list := all[at-n*tlog.TileWidth:]
	indexes := make([]int64, len(list))
	for i := range list {
		indexes[i] = sumdb.StoredHashIndex(0, at+int64(i))
	}
	hashes, err := nodes.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	for i, leaf := range list {
		if tlog.LeafHash(leaf) != hashes[i] {
			return nil, fmt.Errorf("%w: entry %d", errServed, at+int64(i))
		}
	}
	return list, nil
}

// erases says whether some entry tells that openings were erased, or a day has passed: one who had nothing is forgotten without an entry.
func erases(list [][]byte) bool {
	for _, leaf := range list {
		e, err := entry.Decode(leaf)
		if err != nil {
			continue
		}
		switch e.Kind {
		case entry.KindExpire:
			if e.Expire.Reason == entry.ExpireErased {
				return true
			}
		case entry.KindStateDigest:
			return true
		}
	}
	return false
}

// execute re-executes entries and keeps those that broke no rule. The first that did is proved and ends all cosigning.
func (w *Witness) execute(ctx context.Context, at int64, list [][]byte, c tlog.Checkpoint, note []byte, nodes tlog.Nodes) error {
	if err := w.fetchOpenings(ctx, at, list); err != nil {
		return err
	}
	for i, leaf := range list {
		seq := at + int64(i)
		err := w.add(seq, leaf)
		if errors.Is(err, errServed) { // it cannot be judged yet: the auditor goes back to what is on the disk
			return errors.Join(err, w.reload(ctx, at))
		}
		if err != nil {
			return w.broke(seq, leaf, err, list[:i], c, note, nodes)
		}
	}
	if err := w.folder.addBundle(at, list); err != nil {
		return errors.Join(err, w.reload(ctx, at)) // the auditor is ahead of the disk
	}
	next := w.state
	next.Audited = at + int64(len(list))
	if err := w.folder.writeState(&next); err != nil {
		return errors.Join(err, w.reload(ctx, at))
	}
	w.state = next
	w.metrics.audited.Set(float64(next.Audited))
	return nil
}

// fetchOpenings gets what is sealed in entries that are about to be re-executed, and waits until all of it is there.
func (w *Witness) fetchOpenings(ctx context.Context, at int64, list [][]byte) error {
	if w.openings == nil {
		return nil
	}
	missing := func() int64 {
		for i, leaf := range list {
			seq := at + int64(i)
			if _, ok := w.openings[seq]; ok {
				continue
			}
			if e, err := entry.Decode(leaf); err == nil && e.Commitment != nil {
				return seq
			}
		}
		return -1
	}
	for from := missing(); from >= 0; {
		got, next, err := w.source.openings(ctx, w.key, from, w.clock.Now())
		if err != nil {
			return fmt.Errorf("openings from %d: %w", from, err)
		}
		if err := w.folder.addOpenings(got); err != nil {
			return err
		}
		for _, o := range got {
			w.openings[o.Seq] = o.Sealed
		}
		still := missing()
		if still >= 0 && (still < next || next <= from) {
			return fmt.Errorf("the ledger gives no opening of entry %d", still)
		}
		from = still
	}
	return nil
}

// refreshOpenings lets go of what the ledger erased, and re-executes the copy without it.
func (w *Witness) refreshOpenings(ctx context.Context) error {
	all := map[int64][]byte{}
	for from := int64(0); ; {
		got, next, err := w.source.openings(ctx, w.key, from, w.clock.Now())
		if err != nil {
			return fmt.Errorf("openings from %d: %w", from, err)
		}
		for _, o := range got {
			all[o.Seq] = o.Sealed
		}
		if len(got) == 0 || next <= from || next > got[len(got)-1].Seq+1 {
			break
		}
		from = next
	}
	gone := false
	for seq, sealed := range w.openings {
		now, ok := all[seq]
		if !ok && sealed != nil {
			return fmt.Errorf("the ledger no longer gives the opening of entry %d, nor says that it erased it", seq)
		}
		gone = gone || now == nil && sealed != nil
	}
	if !gone {
		return nil
	}
	if err := w.folder.replaceOpenings(all); err != nil {
		return err
	}
	return w.reload(ctx, w.state.Audited)
}

// broke keeps the proof that an entry breaks the log's rules. W3
func (w *Witness) broke(seq int64, leaf []byte, finding error, chunk [][]byte, c tlog.Checkpoint, note []byte, nodes tlog.Nodes) error {
	p := &Proof{
		Kind: ProofEntry, Entry: seq, Leaf: leaf, Checkpoint: string(note),
		What: fmt.Sprintf("entry %d: %v", seq, firstFinding(finding)),
	}
	inclusion, err := tlog.ProveInclusion(c.Size, seq, nodes)
	if err != nil {
		return errors.Join(err, w.reload(context.Background(), w.state.Audited))
	}
	hashes, err := tlog.ProveConsistency(c.Size, seq+1, nodes)
	if err != nil {
		return errors.Join(err, w.reload(context.Background(), w.state.Audited))
	}
	p.Inclusion, p.Hashes = fromHashes(inclusion), fromHashes(hashes)
	bytes := 0
	err = w.folder.leaves(w.state.Audited, func(_ int64, before []byte) error {
		if bytes += len(before); bytes > maxBefore {
			return errTooLong
		}
		p.Before = append(p.Before, before)
		return nil
	})
	p.Before = append(p.Before, chunk...)
	if err != nil || int64(len(p.Before)) != seq {
		p.Before = nil // the proof needs a copy beside it
	}
	p.Sealed = w.openings != nil && !w.public(p)
	return w.save(p, fmt.Sprintf("entry-%d", seq))
}

var errTooLong = errors.New("too long for a proof")

func firstFinding(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) > 0 {
		err = many.Unwrap()[0]
	}
	var f audit.Finding
	if errors.As(err, &f) {
		return errors.New(f.What)
	}
	return err
}

// public says whether anybody can confirm the proof, without openings.
func (w *Witness) public(p *Proof) bool {
	own := func(seq int64) (out []byte, err error) {
		list, err := w.folder.bundle(seq/tlog.TileWidth, int(seq%tlog.TileWidth)+1)
		if err != nil {
			return nil, err
		}
		return list[seq%tlog.TileWidth], nil
	}
	q := *p
	q.Origin = w.cfg.Origin
	_, err := q.Check(w.logKeys(), own)
	return err == nil
}

// forked keeps the proof that the log signed two histories. W3
func (w *Witness) forked(c tlog.Checkpoint, note []byte, k int64, ours, theirs tlog.Hash, nodes tlog.Nodes) error {
	a, err := tlog.ProveConsistency(w.held.Size, k, w.auditor.Tree())
	if err != nil {
		return err
	}
	b, err := tlog.ProveConsistency(c.Size, k, nodes)
	if err != nil {
		return err
	}
	return w.save(&Proof{
		Kind: ProofFork, Size: k, What: fmt.Sprintf("two histories: checkpoints of %d and %d entries disagree on the first %d", w.held.Size, c.Size, k),
		A: &Side{Checkpoint: string(w.held.note), Root: ours[:], Hashes: fromHashes(a)},
		B: &Side{Checkpoint: string(note), Root: theirs[:], Hashes: fromHashes(b)},
	}, fmt.Sprintf("fork-%d-%x", k, theirs[:4]))
}

// save keeps a proof and ends all cosigning. The proof is on the disk before anybody hears of it.
func (w *Witness) save(p *Proof, name string) error {
	p.Origin, p.Witness, p.LogKeys = w.cfg.Origin, w.key.VerifierKey(), w.logKeys()
	p.At = entry.FormatTime(w.clock.Now())
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	names, err := w.folder.proofs()
	if err != nil {
		return err
	}
	if len(names) < maxProofs {
		if err := w.folder.put(folderProofs+"/"+name+".json", append(raw, '\n'), 0o644); err != nil {
			return err
		}
	}
	w.disputed(p.What)
	w.log.Error("the log broke its word: nothing more is cosigned", "proof", name, "what", p.What)
	return errDisputed
}

// keepPolicy keeps the text of the policy that the log names: who the other witnesses are, and by whom a successor is named.
func (w *Witness) keepPolicy(ctx context.Context) error {
	if w.policy == nil {
		return nil
	}
	is := func(text []byte) bool {
		h := sha256.Sum256(text)
		return text != nil && bytes.Equal(h[:], w.policy)
	}
	text, err := w.folder.get(filePolicy, tlog.MaxPolicy)
	if err != nil || is(text) {
		return err
	}
	text, err = w.source.get(ctx, filePolicy, tlog.MaxPolicy)
	if err != nil || !is(text) {
		w.log.Warn("the policy that the log names is not to be had", "err", err)
		return nil // it may be served a moment later; nothing rests on it here
	}
	return w.folder.put(filePolicy, text, 0o644)
}
