package rules

import (
	"math/big"
	"reflect"
	"slices"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// CloseEpoch fixes what an epoch of a book came to, after its last month was closed. Closed already: no entry.
type CloseEpoch struct {
	Now         time.Time
	Book, Epoch string
}

func (c CloseEpoch) decide(s *State) ([]entry.Entry, error) {
	ep := s.epochs[bookEpoch{c.Book, c.Epoch}]
	switch {
	case ep == nil:
		return nil, refuse(EpochClosed, figures{"epoch": c.Epoch, "book": c.Book, "open": false})
	case ep.closed:
		return nil, nil
	case len(ep.past) < len(ep.months):
		return nil, refuse(EpochNotOver, figures{
			"epoch": c.Epoch, "book": c.Book, "endsAt": ep.open.EndsAt, "months": int64(len(ep.months)), "closed": int64(len(ep.past)),
		})
	}
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{
		Kind: entry.KindEpochClose, Epoch: c.Epoch, Book: c.Book, Params: new(ep.params.ref), EpochClose: s.result(ep),
	})
	return d.out, nil
}

// EpochsToClose gives the epochs whose months are all closed and which are not, by book and start.
func (s *State) EpochsToClose(now time.Time) []CloseEpoch {
	var list []CloseEpoch
	for _, name := range sortedKeys(s.books) {
		for _, ep := range s.epochsOf(name) {
			if !ep.closed && len(ep.past) == len(ep.months) {
				list = append(list, CloseEpoch{Now: now, Book: name, Epoch: ep.epoch})
			}
		}
	}
	return list
}

// ClosedEpoch is an epoch of a book that was closed, and the seq of that.
type ClosedEpoch struct {
	Book, Epoch string
	Seq         int64
}

// ClosedEpochs gives the epochs that were closed, by book and start.
func (s *State) ClosedEpochs() []ClosedEpoch {
	var list []ClosedEpoch
	for _, name := range sortedKeys(s.books) {
		for _, ep := range s.epochsOf(name) {
			if ep.closed {
				list = append(list, ClosedEpoch{Book: name, Epoch: ep.epoch, Seq: ep.closedAt})
			}
		}
	}
	return list
}

// ClosedAt gives the seq of the last closing of a month of the book, 0 where there was none.
func (s *State) ClosedAt(book string) int64 {
	if b := s.books[book]; b != nil {
		return b.closedAt
	}
	return 0
}

// result is what closes an epoch: all inputs, and what the next cap would be by them.
func (s *State) result(ep *epoch) *entry.EpochClose {
	c := &entry.EpochClose{Reserved: ep.reserved, Outstanding: ep.outstanding, Minted: ep.minted, Votes: ep.votes}
	for _, m := range ep.past {
		c.Months = append(c.Months, entry.MonthFlow{
			Issued: m.Flow.I, Burned: m.Flow.B, Quiet: m.Flow.Q, Reactivated: m.Flow.R, Expired: m.Flow.X,
			Active: m.After.A, Dormant: m.After.D,
		})
	}
	rates, measured := s.measured(ep.book, ep)
	if !measured {
		rates = startRates(ep.params.CapPolicy)
	}
	c.R, c.Delta, c.Measured = rates.R, rates.Delta, measured
	if plans := s.plansAfter(ep.book, ep.to); len(plans) > 0 {
		plan := plans[0]
		p := s.paramsFor(plan.Key)
		if !measured {
			rates = startRates(p.CapPolicy)
		}
		next := EpochCap(p.CapPolicy, plan.Phase, ep.open.Capacity, rates, len(plan.Months))
		c.Next = &entry.NextCap{
			Epoch: plan.Key, Phase: plan.Phase, Capacity: ep.open.Capacity, ShareBound: next.ShareBound, BackBound: next.BacklogBound,
			Cap: next.Cap, BoundBy: next.BoundBy,
		}
	}
	return c
}

// measured gives r and δ over the months of the last two closed epochs of a book; one that closes now is the last. False before
// there are two, or where they had no stock or burned nothing, which bounds nothing.
func (s *State) measured(name string, closes *epoch) (Rates, bool) {
	closed := slices.DeleteFunc(s.epochsOf(name), func(ep *epoch) bool { return !ep.closed && ep != closes })
	if len(closed) < 2 {
		return Rates{}, false
	}
	var flows []Flow
	var before []Stock
	for _, ep := range closed[len(closed)-2:] {
		for _, m := range ep.past {
			flows, before = append(flows, m.Flow), append(before, m.Before)
		}
	}
	rates, ok := MeasuredRates(flows, before)
	return rates, ok && rates.R.Num > 0
}

// ratesNow are the rates that an epoch of the book opens with: measured, or the parameters' start values.
func (s *State) ratesNow(name string, p entry.CapPolicy) (Rates, bool) {
	if rates, ok := s.measured(name, nil); ok {
		return rates, true
	}
	return startRates(p), false
}

func sameRatio(a, b entry.Ratio) bool {
	return a.Den > 0 && b.Den > 0 && big.NewRat(a.Num, a.Den).Cmp(big.NewRat(b.Num, b.Den)) == 0
}

func (s *State) applyEpochClose(e *entry.Entry) error {
	ep := s.epochs[bookEpoch{e.Book, e.Epoch}]
	switch {
	case ep == nil || ep.closed:
		return broken("epoch %s of %s is not open", e.Epoch, e.Book)
	case len(ep.past) < len(ep.months):
		return broken("epoch %s closes with %d of %d months closed", e.Epoch, len(ep.past), len(ep.months))
	case *e.Params != ep.params.ref:
		return broken("epoch %s closes under other parameters", e.Epoch)
	}
	if want := s.result(ep); !reflect.DeepEqual(want, e.EpochClose) {
		return broken("epoch %s closes as %+v, computed %+v", e.Epoch, *e.EpochClose, *want)
	}
	ep.closed, ep.closedAt = true, e.Seq
	return nil
}
