package audit

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// digested is a stateDigest, and the hash over its balances, as checkpoints name it.
type digested struct {
	seq  int64
	hash tlog.Hash
}

// checkBalances holds what a checkpoint says of the balances against the newest stateDigest that it covers: a checkpoint without it, or with
// an older one, would hide from a resident what the log says of the balances now.
func (a *Auditor) checkBalances(c tlog.Checkpoint) error {
	seq, hash, ok, err := c.Balances()
	if err != nil {
		return err
	}
	n, _ := slices.BinarySearchFunc(a.digests, c.Size, func(d digested, size int64) int { return cmp.Compare(d.seq, size) })
	switch {
	case n == 0 && ok:
		return fmt.Errorf("it has the balances of entry %d, which is no stateDigest", seq)
	case n == 0:
		return nil
	}
	switch newest := a.digests[n-1]; {
	case !ok:
		return fmt.Errorf("it has no balances, and entry %d has", newest.seq)
	case seq != newest.seq:
		return fmt.Errorf("it has the balances of entry %d, the newest are those of entry %d", seq, newest.seq)
	case hash != newest.hash:
		return fmt.Errorf("it says %s of the balances, entry %d gives %s", hash, seq, newest.hash)
	}
	return nil
}

// stateDigest recomputes what the entries before it come to, as far as anybody can.
func (a *Auditor) stateDigest(e *entry.Entry) {
	d := e.StateDigest
	hash, err := entry.BalancesHash(d.Balances)
	a.check(e, err == nil, "its balances: %v", err)
	a.digests = append(a.digests, digested{e.Seq, hash})
	facts := a.facts(e)
	want := facts.Digest()
	a.check(e, bytes.Equal(d.Digest, want[:]), "digest is %x, the entries give %x", d.Digest, want)
	seen := map[string]bool{}
	for _, b := range d.Balances {
		a.check(e, !seen[b.Book], "the balances of %s are there twice", b.Book)
		seen[b.Book] = true
		var held int64
		if known := a.books[b.Book]; known != nil {
			held = known.supply()
		}
		a.check(e, b.Sum == held, "balances of %s sum up to %d, %d are held", b.Book, b.Sum, held)
	}
	for name, b := range a.books {
		a.check(e, seen[name] || b.supply() == 0, "the balances of %s are missing", name)
	}
}

// facts are what the entries before a digest come to.
func (a *Auditor) facts(e *entry.Entry) *entry.Facts {
	f := &entry.Facts{Entries: e.Seq, Rules: a.version}
	for name, b := range a.books {
		f.Book(name, b.active, b.dormant, b.issued, b.burned, b.expired)
	}
	for _, ep := range a.epochs {
		f.Epoch(ep.book, ep.key, entry.EpochSums{
			Cap: ep.open.Cap, Reserved: ep.reserved, Outstanding: ep.outstanding, Minted: ep.minted, Votes: ep.votes, Burned: ep.burned,
			Expired: ep.expired, Tasks: ep.tasks, Claims: ep.claims, Mints: ep.mints, Closed: ep.closed,
		})
		for org, i := range ep.issuers {
			f.Issuer(ep.book, ep.key, string(org), ep.room[org], i.reserved, i.outstanding, i.minted, i.claims)
		}
	}
	for first, t := range a.tasks {
		f.Task(first, t.pool)
	}
	for key, n := range a.units {
		f.Units(key.epoch.book, key.epoch.key, key.offering, key.month, n)
	}
	for seq, s := range a.spends {
		if s.state == held && seq == s.seq {
			f.Hold(seq, s.amount)
		}
	}
	for key, p := range a.pauses {
		if !p.over(e.At) {
			f.Pause(key.what, key.subject, string(key.org), p.until)
		}
	}
	return f
}

// balances recomputes the roots of the sum trees over what everybody holds. Where the seed was deleted, or the openings of one
// who had a balance then, nobody can.
func (p *private) balances(a *Auditor, e *entry.Entry) {
	if e.Sealed == nil {
		return // found already
	}
	pooled := slices.ContainsFunc(p.pool.purses, func(x purse) bool { return x.total() != 0 })
	if e.Sealed.Erased || pooled {
		p.skipped += int64(len(e.StateDigest.Balances))
		return
	}
	held := map[*book][]entry.Holder{}
	for id, who := range p.people {
		for i := range who.purses {
			if x := &who.purses[i]; x.total() != 0 {
				held[x.book] = append(held[x.book], entry.Holder{Account: id, Credits: x.total()})
			}
		}
	}
	for _, said := range e.StateDigest.Balances {
		tree, err := entry.NewSumTree(e.Sealed.Seed, said.Book, held[a.books[said.Book]])
		if !a.check(e, err == nil, "balances of %s: %v", said.Book, err) {
			continue
		}
		p.roots++
		got := tree.Root()
		a.check(e, bytes.Equal(got.Root, said.Root) && got.Height == said.Height && got.Sum == said.Sum,
			"the root over the balances of %s is %x, they give %x", said.Book, said.Root, got.Root)
	}
}
