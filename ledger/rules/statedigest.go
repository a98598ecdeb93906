package rules

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// Digest fixes what the log comes to: the public facts and, by book, the balances. Seed is 32 random bytes, which stay in the opening.
type Digest struct {
	Now  time.Time
	Seed []byte
}

// balances are the sum trees at one size of the log. They are no part of the state: what they say follows from it.
type balances struct {
	size  int64 // entries before the digest
	seed  []byte
	trees map[string]*entry.SumTree
}

func (c Digest) decide(s *State) ([]entry.Entry, error) {
	b, err := s.balances(c.Seed)
	if err != nil {
		return nil, err
	}
	sum := s.facts(entry.FormatTime(c.Now)).Digest()
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{
		Kind: entry.KindStateDigest, StateDigest: &entry.StateDigest{Digest: sum[:], Balances: b.roots()},
		Sealed: &entry.Sealed{Seed: slices.Clone(c.Seed)},
	})
	return d.out, nil
}

// balances builds the trees by a seed. Deciding on a digest and applying it ask for the same ones, so the last are kept.
func (s *State) balances(seed []byte) (*balances, error) {
	if t := s.built; t != nil && t.size == s.size && bytes.Equal(t.seed, seed) {
		return t, nil
	}
	holders := map[string][]entry.Holder{}
	for name := range s.books {
		holders[name] = nil
	}
	for id, a := range s.accounts {
		for i := range a.books {
			if h := &a.books[i]; h.total() > 0 {
				holders[h.book] = append(holders[h.book], entry.Holder{Account: id, Credits: h.total()})
			}
		}
	}
	b := &balances{size: s.size, seed: slices.Clone(seed), trees: map[string]*entry.SumTree{}}
	for name, list := range holders {
		tree, err := entry.NewSumTree(b.seed, name, list)
		if err != nil {
			return nil, broken("balances of %s: %v", name, err)
		}
		b.trees[name] = tree
	}
	s.built = b
	return b, nil
}

func (b *balances) roots() []entry.BalancesRoot {
	var list []entry.BalancesRoot
	for _, name := range sortedKeys(b.trees) {
		list = append(list, b.trees[name].Root())
	}
	return list
}

// BalanceProof gives both shares of an account's balance in the last stateDigest, the root they lead to, and that entry's seq. False
// where there is no digest yet, or where somebody was forgotten since and its tree with them.
func (s *State) BalanceProof(id entry.Account, book string) (shares [2]entry.Share, root entry.BalancesRoot, seq int64, ok bool) {
	if s.trees == nil || s.trees.trees[book] == nil {
		return shares, root, 0, false
	}
	tree := s.trees.trees[book]
	shares, ok = tree.Prove(id)
	return shares, tree.Root(), s.trees.size, ok
}

// facts are the public facts, at the time of the digest.
func (s *State) facts(at string) *entry.Facts {
	f := &entry.Facts{Entries: s.size, Rules: s.version}
	for name, b := range s.books {
		f.Book(name, b.stock.A, b.stock.D, b.flow.I, b.flow.B, b.flow.X)
	}
	for id, ep := range s.epochs {
		f.Epoch(id.book, id.epoch, entry.EpochSums{
			Cap: ep.open.Cap, Reserved: ep.reserved, Outstanding: ep.outstanding, Minted: ep.minted, Votes: ep.votes, Burned: ep.burned,
			Expired: ep.expired, Tasks: ep.tasks, Claims: ep.claims, Mints: ep.mints, Closed: ep.closed,
		})
		for did, i := range ep.issuers {
			f.Issuer(id.book, id.epoch, string(did), i.allocation, i.reserved, i.outstanding, i.minted, i.claims)
		}
	}
	for first, t := range s.tasks {
		f.Task(first, t.outstanding)
	}
	for seq, h := range s.aside {
		f.Hold(seq, h.amount)
	}
	for k, p := range s.pauses {
		until := ""
		if !p.until.IsZero() {
			until = entry.FormatTime(p.until)
		}
		if until == "" || at < until { // one layout, so text orders as time
			f.Pause(k.what, k.subject, string(k.org), until)
		}
	}
	for k, n := range s.units {
		f.Units(k.book, k.epoch, k.offering, int64(k.month), n)
	}
	return f
}

func (s *State) applyStateDigest(e *entry.Entry) error {
	d := e.StateDigest
	if sum := s.facts(e.At).Digest(); !bytes.Equal(sum[:], d.Digest) {
		return broken("the digest is %x, the entries before it give %x", d.Digest, sum)
	}
	sorted := slices.IsSortedFunc(d.Balances, func(a, b entry.BalancesRoot) int { return strings.Compare(a.Book, b.Book) })
	if !sorted || len(d.Balances) != len(s.books) {
		return broken("%d roots of balances, there are %d books", len(d.Balances), len(s.books))
	}
	for _, r := range d.Balances {
		if b := s.books[r.Book]; b == nil || r.Sum != b.supply() {
			return broken("the balances of %s sum to %d", r.Book, r.Sum)
		}
	}
	if e.Sealed == nil || (len(e.Sealed.Seed) == 0 && !e.Sealed.Erased) {
		return broken("its seed is missing")
	}
	// Where the seed was deleted, or the openings of one who had a balance then, nobody can build the trees again.
	if e.Sealed.Erased || s.pooled() {
		s.trees = nil
		return nil
	}
	b, err := s.balances(e.Sealed.Seed)
	if err != nil {
		return err
	}
	for i, r := range b.roots() {
		if have := d.Balances[i]; have.Height != r.Height || !bytes.Equal(have.Root, r.Root) {
			return broken("the root over the balances of %s is %x, they give %x", r.Book, have.Root, r.Root)
		}
	}
	s.trees, s.built = b, nil
	return nil
}

// pooled says that the forgotten have credits: whose they were is not known.
func (s *State) pooled() bool {
	return slices.ContainsFunc(s.pool().books, func(h holding) bool { return h.total() > 0 })
}
