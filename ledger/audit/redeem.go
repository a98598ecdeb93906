package audit

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

type unitsKey struct {
	epoch    *epoch
	offering string
	month    int64
}

// spend is a burn, or a hold and what became of it.
type spend struct {
	seq    int64 // of the burn, or of the hold
	org    syntax.DID
	epoch  *epoch
	amount int64
	units  int64
	key    unitsKey
	till   string
	day    string // of the burn or capture
	until  string // last day of a hold
	cause  entry.Cause
	state  spendState
	ended  int64   // seq of what captured or voided a hold
	undone int64   // seq of what reversed it
	person *person // with the openings
}

type spendState int

const (
	held spendState = iota
	burned
	voided
	reversed
)

// redemption is what a burn and a hold have in common.
type redemption struct {
	offering                                     entry.Ref
	units, price, month, unitsBefore, unitsMonth int64
	till                                         string
}

func (a *Auditor) burn(e *entry.Entry) {
	b := e.Burn
	s := a.redeem(e, redemption{b.Offering, b.Units, b.Price, b.Month, b.UnitsBefore, b.UnitsMonth, b.Till})
	if s == nil {
		return
	}
	s.state, s.day = burned, e.Day
	a.burned(e, s)
}

// burned takes what was redeemed out of its book.
func (a *Auditor) burned(e *entry.Entry, s *spend) {
	book := a.bookOf(e)
	a.inMonth(e, book)
	book.burn(e.Amount)
	s.epoch.sums.burned += e.Amount
	a.check(e, book.supply() >= 0, "more burned than minted in %s", e.Book)
}

// redeem checks the units and the price of a burn or a hold, and counts them.
func (a *Auditor) redeem(e *entry.Entry, r redemption) *spend {
	ep := a.epochOf(e)
	if ep == nil {
		return nil
	}
	org, bound := a.tills[r.till]
	a.check(e, bound && org == e.Org, "till %s is not bound to %s", r.till, e.Org)
	a.check(e, authority(r.offering.URI) == e.Org, "offering %s is not of %s", r.offering.URI, e.Org)
	a.check(e, e.Causes[0].Ref() == r.offering, "its cause is another record than its offering")
	a.check(e, a.roleNow(e.Org).holdsOn(e.Day, a.loc, "redeemer", "sponsor"), "%s is not accredited as redeemer", e.Org)
	a.check(e, !a.paused(e, entry.PauseRedemptions, e.Org, ""), "a %s while redemptions are paused", e.Kind)
	a.check(e, !a.paused(e, entry.PauseOffering, e.Org, r.offering.URI), "a %s of an offering that is paused", e.Kind)
	a.check(e, r.units > 0 && r.price > 0 && e.Amount == r.units*r.price, "%s of %d for %d units at %d", e.Kind, e.Amount, r.units, r.price)
	if a.check(e, r.month < int64(len(ep.open.Months)), "month %d of %d", r.month, len(ep.open.Months)) {
		m := ep.open.Months[r.month]
		a.check(e, a.localDay(m.StartsAt) <= e.Day && e.Day <= a.localDay(m.EndsAt), "%s on %s is not in month %d", e.Kind, e.Day, r.month)
	}
	key := unitsKey{ep, r.offering.URI, r.month}
	a.check(e, r.unitsBefore == a.units[key], "units burned before are %d, recomputed %d", r.unitsBefore, a.units[key])
	a.units[key] += r.units
	a.check(e, a.units[key] <= r.unitsMonth, "%d units of %d committed", a.units[key], r.unitsMonth)
	if c, ok := ep.counted[r.offering.URI]; ok {
		a.check(e, c.CID == r.offering.CID && c.Credits == r.price && c.Units == r.unitsMonth, "%s on other terms than those counted", e.Kind)
	}
	s := &spend{seq: e.Seq, org: e.Org, epoch: ep, amount: e.Amount, units: r.units, key: key, till: r.till, day: e.Day}
	a.spends[e.Seq] = s
	return s
}

// maxHoldDays bounds how long units are kept from others.
const maxHoldDays = 7

func (a *Auditor) hold(e *entry.Entry) {
	h := e.Hold
	s := a.redeem(e, redemption{h.Offering, h.Units, h.Price, h.Month, h.UnitsBefore, h.UnitsMonth, h.Till})
	if s == nil {
		return
	}
	s.until, s.cause = h.Until, e.Causes[0]
	a.inMonth(e, a.bookOf(e))
	days := daysBetween(e.Day, h.Until)
	a.check(e, days >= 0 && days <= maxHoldDays && h.Until <= a.lastDay(s.epoch.open.EndsAt), "a hold on %s until %s", e.Day, h.Until)
	b := a.bookOf(e)
	b.aside += e.Amount
	a.check(e, b.aside <= b.supply(), "more held than minted in %s", e.Book)
}

// standing gives the hold that an entry ends.
func (a *Auditor) standing(e *entry.Entry, seq int64) *spend {
	s := a.spends[seq]
	if !a.check(e, s != nil && s.seq == seq && s.until != "", "%s of entry %d, which is no hold", e.Kind, seq) {
		return nil
	}
	a.check(e, s.state == held, "a second end of hold %d", seq)
	a.check(e, s.org == e.Org && s.epoch == a.epochOf(e), "%s of a hold of another redeemer or epoch", e.Kind)
	a.check(e, e.Amount == s.amount, "%s of %d, the hold is of %d", e.Kind, e.Amount, s.amount)
	if s.state != held {
		return nil
	}
	a.bookOf(e).aside -= s.amount
	s.ended = e.Seq
	return s
}

func (a *Auditor) capture(e *entry.Entry) {
	s := a.standing(e, e.Capture.Hold)
	if s == nil {
		return
	}
	a.check(e, e.Causes[0] == s.cause, "its cause is another than its hold's")
	a.check(e, e.Capture.Till == s.till, "captured at till %s, the hold is for %s", e.Capture.Till, s.till)
	a.check(e, e.Causes[0].URI == s.key.offering, "captured for %s, the hold is for %s", e.Causes[0].URI, s.key.offering)
	a.check(e, e.Day <= s.until, "captured on %s, the hold was good until %s", e.Day, s.until)
	s.state, s.day = burned, e.Day
	a.spends[e.Seq] = s
	a.burned(e, s)
}

func (a *Auditor) void(e *entry.Entry) {
	s := a.standing(e, e.Void.Hold)
	if s == nil {
		return
	}
	switch e.Void.Reason {
	case entry.VoidExpired:
		a.check(e, e.Day > s.until, "a hold expires on %s, it is good until %s", e.Day, s.until)
	case entry.VoidRefused, entry.VoidCancelled:
	case entry.VoidBookClosed:
		ep := a.epochOf(e)
		over := ep != nil && ep.open.Phase == entry.PhaseEvent && e.Day >= a.localDay(ep.open.EndsAt)
		a.check(e, over, "a hold ends with its book, which is not over")
	default:
		a.found(e.Seq, "void for %q", e.Void.Reason)
	}
	a.inMonth(e, a.bookOf(e))
	s.state = voided
	a.giveBack(s)
}

func (a *Auditor) giveBack(s *spend) {
	if a.units[s.key] -= s.units; a.units[s.key] == 0 {
		delete(a.units, s.key)
	}
}

// keepSpends is how long what was redeemed can still be undone, with room to spare.
const keepSpends = 62 * 24 * time.Hour

// forgetSpends lets go of what can be undone no more.
func (a *Auditor) forgetSpends(e *entry.Entry) {
	day, err := time.Parse(time.DateOnly, e.Day)
	if err != nil {
		return
	}
	before := day.Add(-keepSpends).Format(time.DateOnly)
	for seq, s := range a.spends {
		if s.state != held && s.day < before {
			delete(a.spends, seq)
		}
	}
}
