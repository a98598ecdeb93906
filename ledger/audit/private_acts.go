package audit

import (
	"slices"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// endClaim settles a claim that pays nothing: after a withdrawal the shift can be claimed again, after a rejection not.
func (p *private) endClaim(a *Auditor, e *entry.Entry) {
	c := a.claims[string(e.Nullifier)]
	if c == nil || c.person == nil || len(e.Nullifier) == 0 {
		return
	}
	p.settle(c)
	if e.Kind == entry.KindUnclaim {
		c.person.acts = slices.DeleteFunc(c.person.acts, func(s claimed) bool { return s == claimed{c.task, c.shift} })
	}
}

func (p *private) settle(c *claim) {
	if !c.settled {
		c.settled = true
		c.person.open--
	}
}

// actOf notes an act of a person in a book. When the forgotten acted is not known.
func (p *private) actOf(who *person, purse *purse) {
	if who != p.pool {
		purse.act()
	}
}

// when checks that the sealed time of an act is of the day that the leaf shows.
func (p *private) when(a *Auditor, e *entry.Entry) {
	if e.Sealed.Erased {
		return
	}
	a.check(e, a.localDay(e.Sealed.At) == e.Day, "its day is %s, its sealed time %q", e.Day, e.Sealed.At)
	if ep, n, m := a.bookOf(e).due(); m != nil && a.version >= 2 {
		a.check(e, e.Sealed.At < m.EndsAt, "a %s at %s, before month %d of %s was closed", e.Kind, e.Sealed.At, n, ep.key)
	}
}

func (p *private) mint(a *Auditor, e *entry.Entry) {
	who, c := p.of(a, e), a.claims[string(e.Nullifier)]
	if who == nil || c == nil {
		return
	}
	p.when(a, e)
	if !a.check(e, c.person == who, "a mint for another person than the claim's") {
		return
	}
	p.settle(c)
	if who != p.pool {
		a.check(e, e.Sealed.At >= shiftOf(c.terms, c.shift).StartsAt, "a mint before its shift begins")
		a.check(e, !p.actsFor(a, who.resident, e.Mint.Verifier, c.task.org), "a person verifies what they claimed")
	}
	purse := who.in(a.bookOf(e))
	p.actOf(who, purse)
	purse.free += e.Amount
	purse.votes += e.Votes
}

// actsFor says whether a person is the verifier or the issuer, or verifies for one of them or for whom the issuer named.
func (p *private) actsFor(a *Auditor, resident, verifier, issuer syntax.DID) bool {
	orgs := []syntax.DID{verifier, issuer}
	if r := a.roleNow(issuer); r != nil {
		orgs = append(orgs, r.bind.Delegates...)
	}
	for _, org := range orgs {
		if resident == org || slices.Contains(p.staff[resident], org) {
			return true
		}
	}
	return false
}

// maxHolds bounds what one person keeps from others.
const maxHolds = 5

func (p *private) redeem(a *Auditor, e *entry.Entry) {
	who, s := p.of(a, e), a.spends[e.Seq]
	if who == nil || s == nil {
		return
	}
	p.when(a, e)
	s.person = who
	purse := who.in(a.bookOf(e))
	a.check(e, purse.free >= e.Amount, "a %s of %d from a balance of %d", e.Kind, e.Amount, purse.free)
	p.actOf(who, purse)
	purse.free -= e.Amount
	if who != p.pool {
		if n, ref := who.tally(s.epoch, s.key.offering, s.units), e.Causes[0].Ref(); n > p.most[ref].units {
			p.most[ref] = most{n, e.Seq}
		}
	}
	if e.Kind == entry.KindHold {
		purse.aside += e.Amount
		who.holds++
		a.check(e, who.holds <= maxHolds || who == p.pool, "a person's hold number %d", who.holds)
	}
}

// end is what becomes of a hold, a burn or a mint.
func (p *private) end(a *Auditor, e *entry.Entry) {
	switch {
	case e.Kind == entry.KindReverse && e.Reverse.What == entry.KindMint:
		p.correct(a, e)
		return
	case e.Kind == entry.KindReverse:
		if s := a.spends[e.Reverse.Of]; s != nil && s.person != nil && s.undone == e.Seq {
			s.person.in(a.bookOf(e)).free += e.Amount
			s.person.tally(s.epoch, s.key.offering, -s.units)
		}
		return
	}
	seq := int64(0)
	if e.Kind == entry.KindCapture {
		seq = e.Capture.Hold
	} else {
		seq = e.Void.Hold
	}
	s := a.spends[seq]
	if s == nil || s.person == nil || s.ended != e.Seq {
		return // found already
	}
	purse := s.person.in(a.bookOf(e))
	s.person.holds--
	purse.aside -= e.Amount
	a.check(e, purse.aside >= 0, "a %s of %d that were not put aside", e.Kind, e.Amount)
	if e.Kind == entry.KindVoid {
		purse.free += e.Amount
		s.person.tally(s.epoch, s.key.offering, -s.units)
		return
	}
	if who := p.of(a, e); who != nil {
		p.when(a, e)
		a.check(e, who == s.person, "a capture of another person's hold")
	}
	p.actOf(s.person, purse)
}

// correct takes back what a mint gave, and no more than is there. What slept and is taken counts as woken, so that the stock of
// dormant credits falls by it.
func (p *private) correct(a *Auditor, e *entry.Entry) {
	c := a.mints[e.Reverse.Of]
	if c == nil || c.person == nil {
		return
	}
	purse := c.person.in(a.bookOf(e))
	a.check(e, e.Amount <= purse.free, "a correction of %d from a balance of %d", e.Amount, purse.free)
	a.check(e, e.Reverse.Short == 0 || c.person == p.pool || purse.free == e.Amount, "a correction is short by %d, %d are left", e.Reverse.Short,
		purse.free-e.Amount)
	if purse.asleep > 0 {
		purse.woken += e.Amount
	}
	purse.free -= e.Amount
	purse.votes -= e.Votes
}
