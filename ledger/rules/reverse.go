package rules

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// How long a redemption can be taken back: by the counter that burned it, or, shown by a voucher, while that is good.
const (
	UndoWindow  = 5 * time.Minute
	VoucherLife = 12 * time.Hour
)

// keepBurns is for how many days past its own a burn is known: a voucher may cross one midnight.
const keepBurns = 1

// redeemed is a burn or a capture that may still be reversed.
type redeemed struct {
	what     entry.Kind
	account  entry.Account
	epoch    bookEpoch
	org      syntax.DID
	offering string
	units    int64
	amount   int64
	month    int64
	at       string // empty for one whose person was forgotten
	day      string
	reversed int64 // seq of what reversed it; 0: it stands
}

// keep remembers a burn, and forgets those of earlier days.
func (s *State) keep(seq int64, r *redeemed) {
	for len(s.burnOrder) > 0 {
		first := s.burnOrder[0]
		if day := s.burns[first].day; day == r.day || daysBetween(day, r.day) <= keepBurns {
			break
		}
		delete(s.burns, first)
		s.burnOrder = s.burnOrder[1:]
	}
	s.burns[seq] = r
	s.burnOrder = append(s.burnOrder, seq)
}

// Holder gives the account that an entry acts on where the entry does not say it itself: of a void or a reversal, asked
// before it is applied.
func (s *State) Holder(e *entry.Entry) (entry.Account, bool) {
	switch e.Kind {
	case entry.KindVoid:
		if h := s.aside[e.Void.Hold]; h != nil {
			return h.account, true
		}
	case entry.KindReverse:
		if c := s.claims[string(e.Nullifier)]; c != nil && e.Reverse.What == entry.KindMint {
			return c.account, true
		}
		if r := s.burns[e.Reverse.Of]; r != nil {
			return r.account, true
		}
	}
	return erased, false
}

func (c Undo) decide(s *State) ([]entry.Entry, error) {
	r := s.burns[c.Of]
	if r == nil || r.account == erased {
		return nil, refuse(UndoTooLate, figures{"of": c.Of})
	}
	if t, ok := s.tills[c.Till]; !ok || t.org != r.org {
		return nil, refuse(TillUnknown, figures{"till": c.Till})
	}
	if r.reversed != 0 {
		return nil, refuse(AlreadyReversed, figures{"of": c.Of, "by": r.reversed})
	}
	at, err := entry.ParseTime(r.at)
	if err != nil {
		return nil, broken("burn %d has no time", c.Of)
	}
	until := at.Add(UndoWindow)
	if latest := at.Add(VoucherLife); c.Until.After(latest) {
		until = latest
	} else if c.Until.After(until) {
		until = c.Until
	}
	if !c.Now.Before(until) {
		return nil, refuse(UndoTooLate, figures{"of": c.Of, "until": entry.FormatTime(until)})
	}
	if c.Reason != entry.ReverseRefused && c.Reason != entry.ReverseUndone {
		return nil, refuse(InvalidRecord, figures{"reason": c.Reason})
	}
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindReverse, Epoch: r.epoch.epoch, Book: r.epoch.book, Org: r.org, Amount: r.amount,
		Reverse: &entry.Reverse{Of: c.Of, What: r.what, Reason: c.Reason, Till: c.Till},
	})
	return d.out, nil
}

func (s *State) applyReverse(e *entry.Entry) error {
	switch e.Reverse.What {
	case entry.KindBurn, entry.KindCapture:
		return s.reverseBurn(e)
	case entry.KindMint:
		return s.applyCorrection(e)
	}
	return broken("reversal of a %s", e.Reverse.What)
}

// reverseBurn gives credits and units back. The burn stays the act that it was: nothing falls asleep by it.
func (s *State) reverseBurn(e *entry.Entry) error {
	r, v := s.burns[e.Reverse.Of], e.Reverse
	switch {
	case r == nil || r.what != v.What:
		return broken("reversal of %d, which is no late %s", v.Of, v.What)
	case r.reversed != 0:
		return broken("burn %d was reversed by %d", v.Of, r.reversed)
	case r.epoch != (bookEpoch{e.Book, e.Epoch}) || r.org != e.Org || r.amount != e.Amount || v.Short != 0 || e.Votes != 0:
		return broken("reversal of %d, the burn was %d of %s in %s", e.Amount, r.amount, r.org, r.epoch.epoch)
	case daysBetween(r.day, e.Day) > keepBurns:
		return broken("reversal on %s of a burn on %s", e.Day, r.day)
	case v.Reason != entry.ReverseRefused && v.Reason != entry.ReverseUndone:
		return broken("reversal of a burn as %q", v.Reason)
	}
	if t, ok := s.tills[v.Till]; !ok || t.org != r.org {
		return broken("reversal at till %s, which %s did not bind", v.Till, r.org)
	}
	s.unspend(s.accounts[r.account], e.Book, e.Amount)
	s.tally(r.account, r.epoch, r.offering, r.month, -r.units)
	s.epochs[r.epoch].sums.burned -= e.Amount
	r.reversed = e.Seq
	return nil
}

// forgetBurns lets the burns of a forgotten person be those of all such: nobody is left to give them back to.
func (s *State) forgetBurns(a entry.Account) {
	for _, r := range s.burns {
		if r.account == a {
			r.account, r.at = erased, ""
		}
	}
}
