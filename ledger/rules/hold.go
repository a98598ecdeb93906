package rules

import (
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// Bounds of holds: what one person may keep aside, and for how long. They bind units that others would redeem.
const (
	MaxHolds    = 5
	MaxHoldDays = 7
)

// captureSkew is how far a till's clock may run ahead of ours.
const captureSkew = 2 * time.Minute

// hold is one that stands.
type hold struct {
	entry.Hold
	account entry.Account
	epoch   bookEpoch
	org     syntax.DID
	amount  int64
	cause   entry.Cause // the offering, as it was counted
	at      string      // empty for one whose person was forgotten
}

// Hold is what the state knows of a hold that stands.
type Hold struct {
	Seq      int64
	Account  entry.Account
	Book     string
	Epoch    string
	Amount   int64
	Terms    entry.Hold
	Redeemer syntax.DID
}

// Hold gives a hold that stands.
func (s *State) Hold(seq int64) (Hold, bool) {
	h := s.aside[seq]
	if h == nil {
		return Hold{}, false
	}
	return Hold{seq, h.account, h.epoch.book, h.epoch.epoch, h.amount, h.Hold, h.org}, true
}

// HoldsOf gives the holds of an account that stand, by seq.
func (s *State) HoldsOf(a entry.Account) []Hold {
	var list []Hold
	if s.asideOf[a] == 0 {
		return nil
	}
	for seq, h := range s.aside {
		if h.account == a {
			one, _ := s.Hold(seq)
			list = append(list, one)
		}
	}
	slices.SortFunc(list, func(a, b Hold) int { return int(a.Seq - b.Seq) })
	return list
}

// DueHolds gives the commands that end the holds whose last day is over, by seq.
func (s *State) DueHolds(now time.Time) []EndHold {
	var due []EndHold
	today := s.day(now)
	for seq, h := range s.aside {
		if h.Until < today {
			due = append(due, EndHold{Now: now, Hold: seq, Reason: entry.VoidExpired})
		}
	}
	slices.SortFunc(due, func(a, b EndHold) int { return int(a.Hold - b.Hold) })
	return due
}

func (c PutAside) decide(s *State) ([]entry.Entry, error) {
	id, err := s.person(c.Resident, c.Account)
	if err != nil {
		return nil, err
	}
	if t, ok := s.tills[c.Till]; !ok || t.org != c.Offering.Redeemer {
		return nil, refuse(TillUnknown, figures{"till": c.Till})
	}
	end, err := s.holdEnd(c.Now, c.Until)
	if err != nil {
		return nil, err
	}
	r, err := s.redeemable(c.Now, end, id, &c.Offering, c.Units)
	if err != nil {
		return nil, err
	}
	if last := s.day(r.epoch.to.Add(-time.Nanosecond)); c.Until > last {
		return nil, refuse(HoldTooLong, figures{"until": c.Until, "latest": last})
	}
	if c.Offering.FreeFor && !c.NoneOfFreeFor {
		return nil, refuse(FreeAnyway, nil)
	}
	if n := s.asideOf[id]; n >= MaxHolds {
		return nil, refuse(HoldLimit, figures{"holds": n, "limit": int64(MaxHolds)})
	}
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindHold, Epoch: r.epoch.epoch, Book: r.epoch.book, Org: c.Offering.Redeemer, Amount: r.price * c.Units,
		Causes: []entry.Cause{c.Offering.Record}, Params: new(r.epoch.params.ref),
		Hold: &entry.Hold{
			Offering: c.Offering.Record.Ref(), Units: c.Units, Price: r.price, Month: int64(r.month),
			UnitsBefore: r.unitsBefore, UnitsMonth: r.units, Till: c.Till, Until: c.Until,
		},
		Sealed: d.sealed(id),
	})
	return d.out, nil
}

// holdEnd is the midnight that ends a hold's last day, which must be today or one of the next days.
func (s *State) holdEnd(now time.Time, until string) (time.Time, error) {
	latest := s.day(now.In(s.loc).AddDate(0, 0, MaxHoldDays))
	day, err := time.ParseInLocation(time.DateOnly, until, s.loc)
	if err != nil {
		return time.Time{}, refuse(InvalidRecord, figures{"until": "no day"})
	}
	if until < s.day(now) || until > latest {
		return time.Time{}, refuse(HoldTooLong, figures{"until": until, "latest": latest})
	}
	return day.AddDate(0, 0, 1), nil
}

func (s *State) applyHold(e *entry.Entry) error {
	acc, err := s.sealed(e)
	if err != nil {
		return err
	}
	h := e.Hold
	ep, err := s.checkTerms(e, acc, terms{h.Offering, h.Till, h.Units, h.Price, h.Month, h.UnitsBefore, h.UnitsMonth})
	if err != nil {
		return err
	}
	if len(e.Causes) != 1 || e.Causes[0].Ref() != h.Offering {
		return broken("a hold of %s that cites another", h.Offering.URI)
	}
	if days := daysBetween(e.Day, h.Until); days < 0 || days > MaxHoldDays {
		return broken("a hold of %d days", days)
	}
	id := e.Sealed.Account
	if id != erased && s.asideOf[id] >= MaxHolds {
		return broken("a person's hold number %d", s.asideOf[id]+1)
	}
	s.setAside(acc, e.Book, e.Amount)
	s.tally(id, ep.bookEpoch, h.Offering.URI, h.Month, h.Units)
	s.aside[e.Seq] = &hold{Hold: *h, account: id, epoch: ep.bookEpoch, org: e.Org, amount: e.Amount, cause: e.Causes[0], at: e.Sealed.At}
	s.asideOf[id]++
	return nil
}

// daysBetween counts local days; -1 where one is no day.
func daysBetween(from, to string) int {
	a, errA := time.Parse(time.DateOnly, from)
	b, errB := time.Parse(time.DateOnly, to)
	if errA != nil || errB != nil {
		return -1
	}
	return int(b.Sub(a) / (24 * time.Hour))
}

func (c Capture) decide(s *State) ([]entry.Entry, error) {
	h := s.aside[c.Hold]
	if h == nil || h.account == erased {
		return nil, refuse(HoldUnknown, figures{"hold": c.Hold})
	}
	if t, ok := s.tills[c.Till]; !ok || t.org != h.org || c.Till != h.Till {
		return nil, refuse(TillUnknown, figures{"till": c.Till, "holdAt": h.Till})
	}
	if !s.accreditedNow(h.org, c.Now, RoleRedeemer, RoleSponsor) {
		return nil, refuse(NotAccredited, figures{"org": string(h.org), "role": RoleRedeemer})
	}
	if s.day(c.Now) > h.Until {
		return nil, refuse(HoldEnded, figures{"hold": c.Hold, "until": h.Until})
	}
	// When it was honored is the till's word: not before the hold, and not in the future.
	if made, err := entry.ParseTime(h.at); err != nil || c.At.Before(made.Add(-captureSkew)) || c.At.After(c.Now.Add(captureSkew)) {
		return nil, refuse(InvalidRecord, figures{"hold": c.Hold, "madeAt": h.at, "honoredAt": entry.FormatTime(c.At)})
	}
	if err := s.opens(c.Windows, c.At, time.Time{}); err != nil {
		return nil, err
	}
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindCapture, Epoch: h.epoch.epoch, Book: h.epoch.book, Org: h.org, Amount: h.amount,
		Causes: []entry.Cause{h.cause}, Params: new(s.epochs[h.epoch].params.ref),
		Capture: &entry.Capture{Hold: c.Hold, Till: c.Till}, Sealed: d.sealed(h.account),
	})
	return d.out, nil
}

// standing gives the hold that an entry ends, which must be all of it.
func (s *State) standing(e *entry.Entry, seq int64) (*hold, *account, error) {
	h := s.aside[seq]
	if h == nil {
		return nil, nil, broken("%s of %d, which is no hold that stands", e.Kind, seq)
	}
	acc := s.accounts[h.account]
	if h.epoch != (bookEpoch{e.Book, e.Epoch}) || h.org != e.Org || h.amount != e.Amount {
		return nil, nil, broken("%s of %d, the hold was %d of %s in %s", e.Kind, e.Amount, h.amount, h.org, h.epoch.epoch)
	}
	if own := acc.has(e.Book); own == nil || own.aside < e.Amount {
		return nil, nil, broken("%s of %d, which are not aside", e.Kind, e.Amount)
	}
	return h, acc, nil
}

func (s *State) endHold(seq int64, h *hold) {
	delete(s.aside, seq)
	if s.asideOf[h.account]--; s.asideOf[h.account] <= 0 {
		delete(s.asideOf, h.account)
	}
}

func (s *State) applyCapture(e *entry.Entry) error {
	h, acc, err := s.standing(e, e.Capture.Hold)
	if err != nil {
		return err
	}
	if _, err := s.sealed(e); err != nil {
		return err
	}
	if e.Sealed.Account != h.account {
		return broken("capture for another account than the hold's")
	}
	if len(e.Causes) != 1 || e.Causes[0] != h.cause || e.Params == nil || *e.Params != s.epochs[h.epoch].params.ref {
		return broken("capture of another offering than the hold's, or under other parameters")
	}
	if e.Capture.Till != h.Till || e.Day > h.Until {
		return broken("capture at till %s on %s, the hold was at %s until %s", e.Capture.Till, e.Day, h.Till, h.Until)
	}
	s.spendAside(acc, e.Book, e.Amount)
	s.epochs[h.epoch].sums.burned += e.Amount
	s.keep(e.Seq, &redeemed{
		what: e.Kind, account: h.account, epoch: h.epoch, org: h.org, offering: h.Offering.URI, units: h.Units, amount: h.amount,
		month: h.Month, at: e.Sealed.At, day: e.Day,
	})
	s.endHold(e.Capture.Hold, h)
	return nil
}

func (c EndHold) decide(s *State) ([]entry.Entry, error) {
	h := s.aside[c.Hold]
	if h == nil {
		return nil, refuse(HoldUnknown, figures{"hold": c.Hold})
	}
	switch c.Reason {
	case entry.VoidExpired:
		if s.day(c.Now) <= h.Until {
			return nil, refuse(HoldStands, figures{"hold": c.Hold, "until": h.Until})
		}
	case entry.VoidRefused, entry.VoidCancelled:
	default:
		return nil, broken("a hold ended as %q", c.Reason)
	}
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindVoid, Epoch: h.epoch.epoch, Book: h.epoch.book, Org: h.org, Amount: h.amount,
		Void: &entry.Void{Hold: c.Hold, Reason: c.Reason},
	})
	return d.out, nil
}

func (s *State) applyVoid(e *entry.Entry) error {
	h, acc, err := s.standing(e, e.Void.Hold)
	if err != nil {
		return err
	}
	switch r := e.Void.Reason; {
	case r == entry.VoidBookClosed:
		if ep := s.epochs[h.epoch]; ep.open.Phase != entry.PhaseEvent || e.Day < s.day(ep.to) {
			return broken("a hold ends with a book that is not over")
		}
	case r != entry.VoidExpired && r != entry.VoidRefused && r != entry.VoidCancelled:
		return broken("void as %q", r)
	case r == entry.VoidExpired && e.Day <= h.Until:
		return broken("void as expired on %s, the hold was until %s", e.Day, h.Until)
	}
	s.returnAside(acc, e.Book, e.Amount)
	s.tally(h.account, h.epoch, h.Offering.URI, h.Month, -h.Units)
	s.endHold(e.Void.Hold, h)
	return nil
}
