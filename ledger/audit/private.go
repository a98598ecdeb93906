package audit

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// private is what the openings add to the replay: whose each act was. An auditor has it from its first leaf on, or never.
type private struct {
	people   map[entry.Account]*person
	accounts map[syntax.DID]entry.Account // of residents
	staff    map[syntax.DID][]syntax.DID
	pool     *person            // all who were forgotten, together
	limit    int64              // the highest claim limit of an epoch that was opened
	opened   int64              // openings that were checked
	erased   int64              // openings that are no more
	due      *due               // what must expire with the next entry
	most     map[entry.Ref]most // units of an offering that one person had, at most
	roots    int64              // roots of balances that were recomputed
	skipped  int64              // those that cannot be, because somebody was forgotten since or their seed is gone
}

// person is one account. A city has many, so it is kept small.
type person struct {
	resident syntax.DID
	purses   []purse
	open     int32 // claims that stand in the log, not settled
	holds    int32
	units    []had     // of offerings, by epoch
	acts     []claimed // shifts claimed and not given back, until their epoch closes
}

// purse is what a person has in one book.
type purse struct {
	book        *book
	free, aside int64
	votes       int64
	woken       int64 // slept, and an act of this month made it active again
	asleep      int32 // closings since the last act, from the one that it went dormant at
	acted       bool
}

// claimed is a shift of a task that a person claimed.
type claimed struct {
	task  *task
	shift string
}

// had are the units of an offering that a person had in an epoch.
type had struct {
	epoch    *epoch
	offering string
	units    int64
}

// most is the most that one person had of an offering, and the entry that it was reached with.
type most struct{ units, entry int64 }

// tally adds units that a person redeems, or takes them back, and gives what they had then.
func (p *person) tally(ep *epoch, offering string, units int64) int64 {
	for i := range p.units {
		if h := &p.units[i]; h.epoch == ep && h.offering == offering {
			h.units += units
			return h.units
		}
	}
	p.units = append(p.units, had{ep, offering, units})
	return units
}

func (p *purse) total() int64 { return p.free + p.aside }

func (p *purse) act() {
	if p.asleep > 0 {
		p.woken += p.total()
		p.asleep = 0
	}
	p.acted = true
}

func (p *person) in(b *book) *purse {
	for i := range p.purses {
		if p.purses[i].book == b {
			return &p.purses[i]
		}
	}
	p.purses = append(p.purses, purse{book: b})
	return &p.purses[len(p.purses)-1]
}

// AddSealed is Add with the opening of the leaf's sealed part, as a validator has it: then every act is known to be
// somebody's, and balances, limits of a person, dormancy and the roots of the balances are re-executed too. A leaf without a
// sealed part has no opening. erased says that the opening was destroyed, because its person asked to be forgotten. It must
// begin with the first leaf.
func (a *Auditor) AddSealed(seq int64, leaf, opening []byte, erased bool) error {
	if a.private == nil && a.tree.Size() == 0 {
		a.private = newPrivate()
	}
	return a.add(seq, leaf, func(e *entry.Entry) { a.unseal(e, opening, erased) })
}

// Sealed says whether the openings are at hand, and how many were checked and how many are no more.
func (a *Auditor) Sealed() (opened, erased int64, ok bool) {
	if a.private == nil {
		return 0, 0, false
	}
	return a.private.opened, a.private.erased, true
}

// BalanceRoots says how many roots of balances were recomputed, and how many cannot be any more.
func (a *Auditor) BalanceRoots() (checked, skipped int64) {
	if a.private == nil {
		return 0, 0
	}
	return a.private.roots, a.private.skipped
}

func newPrivate() *private {
	return &private{people: map[entry.Account]*person{}, accounts: map[syntax.DID]entry.Account{}, staff: map[syntax.DID][]syntax.DID{}, pool: &person{}, most: map[entry.Ref]most{}}
}

// unseal gives an entry its sealed part.
func (a *Auditor) unseal(e *entry.Entry, opening []byte, erased bool) {
	switch {
	case e.Commitment == nil:
		a.check(e, len(opening) == 0 && !erased, "an opening of what is not sealed")
	case erased:
		e.Sealed = &entry.Sealed{Erased: true}
		a.private.erased++
	case len(opening) == 0:
		a.found(e.Seq, "its opening is missing")
	default:
		o, err := entry.DecodeOpening(opening)
		if err == nil {
			err = e.Unseal(o)
		}
		if a.check(e, err == nil, "its opening: %v", err) {
			a.private.opened++
		}
	}
}

// CheckPersons holds what one person had of each offering, at most, against the limit that its record states. It needs the openings.
func (a *Auditor) CheckPersons(fetch Fetch) []Finding {
	if a.private == nil {
		return nil
	}
	var found []Finding
	for ref, m := range a.private.most {
		r, err := fetch(entry.Cause{URI: ref.URI, CID: ref.CID})
		if err != nil || r == nil {
			continue // CheckCauses says so
		}
		if limit := r.number("perPersonLimit"); limit > 0 && m.units > limit {
			found = append(found, Finding{
				Entry: m.entry, URI: ref.URI, Sealed: true, What: fmt.Sprintf("one person had %d units of it, the limit is %d", m.units, limit),
			})
		}
	}
	slices.SortFunc(found, func(x, y Finding) int { return cmp.Compare(x.Entry, y.Entry) })
	return found
}

// Forget lets go of one person, whose part becomes part of that of all who were forgotten. A validator calls it when it
// destroys the openings, before the entry that expires what the person had.
func (a *Auditor) Forget(account entry.Account) bool {
	p := a.private
	if p == nil || p.people[account] == nil {
		return false
	}
	who := p.people[account]
	for _, from := range who.purses {
		to := p.pool.in(from.book)
		to.free, to.aside, to.votes = to.free+from.free, to.aside+from.aside, to.votes+from.votes
	}
	p.pool.open += who.open
	p.pool.holds += who.holds
	for _, s := range a.spends {
		if s.person == who {
			s.person = p.pool
		}
	}
	for _, c := range a.claims {
		if c.person == who {
			c.person = p.pool
		}
	}
	delete(p.people, account)
	if p.accounts[who.resident] == account {
		delete(p.accounts, who.resident)
	}
	delete(p.staff, who.resident)
	return true
}

// replay judges what an entry means for the person whose it is, after the public part was judged.
func (p *private) replay(a *Auditor, e *entry.Entry) {
	p.overdue(a, e)
	switch e.Kind {
	case entry.KindEpochOpen:
		if set := a.inForce(e.Epoch); set != nil {
			p.limit = max(p.limit, set.ClaimLimit)
		}
	case entry.KindBind:
		if e.Bind.What == entry.BindStaff && e.Sealed != nil && !e.Sealed.Erased {
			a.check(e, e.Sealed.Resident != "" && e.Sealed.Org != "", "staff of nobody")
			p.staff[e.Sealed.Resident] = append(p.staff[e.Sealed.Resident], e.Sealed.Org)
		}
	case entry.KindActivate:
		p.activate(a, e)
	case entry.KindClaim:
		p.claim(a, e)
	case entry.KindUnclaim, entry.KindRelease:
		p.endClaim(a, e)
	case entry.KindMint:
		p.mint(a, e)
	case entry.KindBurn, entry.KindHold:
		p.redeem(a, e)
	case entry.KindCapture, entry.KindVoid, entry.KindReverse:
		p.end(a, e)
	case entry.KindDormant:
		p.closeMonth(a, e)
	case entry.KindExpire:
		p.expire(a, e)
	case entry.KindEpochClose:
		p.closeEpoch(a, e)
	case entry.KindStateDigest:
		p.balances(a, e)
	}
}

// of gives the person whose entry it is; nil where that is not known, which was found already.
func (p *private) of(a *Auditor, e *entry.Entry) *person {
	switch s := e.Sealed; {
	case s == nil:
		return nil
	case s.Erased:
		return p.pool
	default:
		who := p.people[s.Account]
		a.check(e, who != nil, "its account was not activated")
		return who
	}
}

func (p *private) activate(a *Auditor, e *entry.Entry) {
	s := e.Sealed
	if s == nil || s.Erased {
		return
	}
	zero := entry.Account{}
	a.check(e, s.Account != zero && p.people[s.Account] == nil, "an account is activated twice")
	_, had := p.accounts[s.Resident]
	a.check(e, s.Resident != "" && !had, "a person has a second account")
	p.people[s.Account] = &person{resident: s.Resident}
	p.accounts[s.Resident] = s.Account
}

func (p *private) claim(a *Auditor, e *entry.Entry) {
	who, c := p.of(a, e), a.claims[string(e.Nullifier)]
	if who == nil || c == nil || c.person != nil {
		return
	}
	c.person = who
	who.open++
	if who == p.pool {
		return
	}
	a.check(e, int64(who.open) <= p.limit, "a person's claim number %d that stands, the limit is %d", who.open, p.limit)
	one := claimed{c.task, c.shift}
	for _, had := range who.acts {
		a.check(e, had != one, "a person's second claim on one shift")
	}
	who.acts = append(who.acts, one)
	p.stoppedThen(a, e)
}

// stoppedThen checks that a claim was not made while claims were stopped: it is entered later, and only its sealed part says
// when it was made.
func (p *private) stoppedThen(a *Auditor, e *entry.Entry) {
	for _, org := range []syntax.DID{"", e.Org} {
		s := a.pauses[pauseKey{entry.PauseClaims, org, ""}]
		a.check(e, s == nil || e.Sealed.At <= s.from || s.over(e.Sealed.At), "a claim made while claims are paused")
	}
}
