package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// published is what the ledger wrote into its own repository.
type published struct {
	author      *author
	checkpoints []publishedCheckpoint // by size
	receipts    map[int64]publishedReceipt
}

type publishedCheckpoint struct {
	uri    string
	cid    string
	record citysync.LedgerCheckpoint
}

type publishedReceipt struct {
	uri    string
	cid    string
	record citysync.LedgerReceipt
}

// readPublished fetches the ledger's repository. It must come before the checkpoint: then nothing in it may be ahead of the log.
func (v *verifier) readPublished(ctx context.Context) (*published, error) {
	a, err := v.authors.get(ctx, v.city.ledger)
	if err != nil {
		return nil, couldNot("the ledger's account: %w", err)
	}
	full, err := v.authors.repository(ctx, a)
	if errors.Is(err, errCouldNot) {
		return nil, err
	}
	p := &published{author: a, receipts: map[int64]publishedReceipt{}}
	if err != nil {
		v.report.fail(checkReceipts, noEntry, "at://"+v.city.ledger.String(), "%v", err)
		return p, nil
	}
	for r := range full.Records() {
		collection, rkey, _ := strings.Cut(r.Path, "/")
		uri := "at://" + v.city.ledger.String() + "/" + r.Path
		switch collection {
		case lexicons.LedgerCheckpoint:
			var c citysync.LedgerCheckpoint
			if v.readable(checkCheckpoints, uri, collection, rkey, r, c.UnmarshalCBOR, func() string { return lexicons.SeqKey(c.TreeSize) }) {
				p.checkpoints = append(p.checkpoints, publishedCheckpoint{uri, r.CID.String(), c})
			}
		case lexicons.LedgerReceipt:
			var c citysync.LedgerReceipt
			if v.readable(checkReceipts, uri, collection, rkey, r, c.UnmarshalCBOR, func() string { return lexicons.SeqKey(c.Seq) }) {
				p.receipts[c.Seq] = publishedReceipt{uri, r.CID.String(), c}
			}
		}
	}
	slices.SortFunc(p.checkpoints, func(a, b publishedCheckpoint) int { return cmp.Compare(a.record.TreeSize, b.record.TreeSize) })
	return p, nil
}

// readable decodes a record that the ledger published under the key that its content gives.
func (v *verifier) readable(check, uri, collection, rkey string, r repo.Record, decode func(io.Reader) error, key func() string) bool {
	err := lexicons.Validate(collection, rkey, r.Data)
	if err == nil {
		err = decode(bytes.NewReader(r.Data))
	}
	if err == nil && key() != rkey {
		err = fmt.Errorf("it is about %s", key())
	}
	if err != nil {
		v.report.fail(check, noEntry, uri, "%v", err)
		return false
	}
	return true
}

func (v *verifier) checkPublished(p *published, log *verifiedLog) {
	var before *publishedCheckpoint
	good := int64(0)
	for i := range p.checkpoints {
		c := &p.checkpoints[i]
		r := &c.record
		wrong := func(format string, args ...any) { v.report.fail(checkCheckpoints, noEntry, c.uri, format, args...) }
		note, err := v.openNote([]byte(r.Note), r.At)
		switch {
		case err != nil:
			wrong("its note: %v", err)
		case note.Origin != r.Origin || r.Origin != v.city.ledger.String():
			wrong("it is of the log %q", r.Origin)
		case note.Size != r.TreeSize || !bytes.Equal(note.Root[:], r.RootHash):
			wrong("it says size %d and root %x, its note says %d and %x", r.TreeSize, []byte(r.RootHash), note.Size, note.Root[:])
		}
		v.balancesOf(c.uri, note, err, r.BalancesRoot, log)
		v.linked(c, before)
		before = c
		if r.TreeSize > log.checkpoint.Size {
			wrong("the log went back: it had %d entries here and has %d now", r.TreeSize, log.checkpoint.Size)
			continue
		}
		root, err := log.tree.Root(r.TreeSize)
		if err != nil || !bytes.Equal(root[:], r.RootHash) {
			v.report.fail(checkCheckpoints, good, c.uri, "the log changed between entries %d and %d: the root of %d entries is %s, published was %x",
				good, r.TreeSize-1, r.TreeSize, root, []byte(r.RootHash))
			continue
		}
		good = r.TreeSize
	}
	detail := ""
	if before != nil {
		detail = fmt.Sprintf("the last of %d entries", before.record.TreeSize)
	}
	v.report.looked(checkCheckpoints, len(p.checkpoints), detail)
}

func (v *verifier) linked(c, before *publishedCheckpoint) {
	switch prev := c.record.Previous; {
	case before == nil && prev != nil:
		v.report.fail(checkCheckpoints, noEntry, c.uri, "it follows %s, which is not there", prev.Uri)
	case before != nil && (prev == nil || prev.Uri != before.uri || prev.Cid != before.cid):
		v.report.fail(checkCheckpoints, noEntry, c.uri, "it does not name %s as the one before it", before.uri)
	}
}

// checkReceipts compares every receipt with its leaf, and looks for those that are not there.
func (v *verifier) checkReceipts(ctx context.Context, p *published, log *verifiedLog) error {
	for _, seq := range slices.Sorted(maps.Keys(p.receipts)) {
		v.checkReceipt(p.receipts[seq], log)
	}
	v.report.looked(checkReceipts, len(p.receipts), "")
	missing := missingReceipts(p, log)
	for try := 0; len(missing) > 0 && try < v.patience; try++ { // a checkpoint may be published a moment before the last receipts
		if err := pause(ctx, v.web.wait*4); err != nil {
			return couldNot("%w", err)
		}
		p.author.again()
		later, err := v.readPublished(ctx)
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(seq int64) bool {
			r, ok := later.receipts[seq]
			if ok {
				v.checkReceipt(r, log)
				v.report.looked(checkReceipts, 1, "")
			}
			return ok
		})
	}
	for _, seq := range missing {
		v.report.fail(checkReceipts, seq, v.receiptURI(seq), "the entry's receipt is missing")
	}
	return nil
}

func (v *verifier) receiptURI(seq int64) string {
	return "at://" + v.city.ledger.String() + "/" + lexicons.LedgerReceipt + "/" + lexicons.SeqKey(seq)
}

func (v *verifier) checkReceipt(r publishedReceipt, log *verifiedLog) {
	seq := r.record.Seq
	if seq < 0 || seq >= log.checkpoint.Size {
		v.report.fail(checkReceipts, seq, r.uri, "a receipt of an entry that the log of %d entries does not have", log.checkpoint.Size)
		return
	}
	if !bytes.Equal(r.record.LeafHash, log.hashes[seq][:]) {
		v.report.fail(checkReceipts, seq, r.uri, "its leafHash is %x, the log has %x", []byte(r.record.LeafHash), log.hashes[seq][:])
	}
	if e := log.entries[seq]; e != nil {
		for _, what := range audit.ReceiptDiffers(&r.record, e, log.basis(e)) {
			v.report.fail(checkReceipts, seq, r.uri, "%s", what)
		}
	}
}

// basis is the entry that another one's receipt rests on; nil where there is none.
func (l *verifiedLog) basis(e *entry.Entry) *entry.Entry {
	if seq, ok := e.Basis(); ok && seq < e.Seq {
		return l.entries[seq]
	}
	if e.Kind != entry.KindExpire {
		return nil
	}
	for _, open := range l.entries[:e.Seq] {
		if open != nil && open.Kind == entry.KindEpochOpen && open.Book == e.Book && open.Epoch == e.Epoch {
			return open
		}
	}
	return nil
}

func missingReceipts(p *published, log *verifiedLog) []int64 {
	if len(p.checkpoints) == 0 {
		return nil
	}
	last := p.checkpoints[len(p.checkpoints)-1].record.TreeSize
	var missing []int64
	for seq := int64(0); seq < min(last, log.checkpoint.Size); seq++ {
		e := log.entries[seq]
		if _, ok := p.receipts[seq]; !ok && e != nil && e.Kind.Receipt() != "" {
			missing = append(missing, seq)
		}
	}
	return missing
}
