package rules

import (
	"maps"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// epoch is one open epoch of a book.
type epoch struct {
	seq int64 // of its opening
	bookEpoch
	span
	months   []span
	lastDays []string    // of the months: an entry of a later day is after the month
	params   *parameters // frozen when it opened
	open     entry.EpochOpen
	counted  map[string]entry.CountedOffering // by uri
	issuers  map[syntax.DID]*issuer
	past     []pastMonth // months that were closed
	closed   bool
	closedAt int64 // seq of that
	sums
}

// issuer is one issuer's share of a cap.
type issuer struct {
	allocation int64
	sums
}

// sums are whole credits and counts; outstanding is what is neither spent nor released.
type sums struct {
	reserved, outstanding, minted, votes, burned, expired int64
	tasks, claims, mints                                  int64
}

// month gives the index of the month that holds t.
func (ep *epoch) month(t time.Time) (int, bool) {
	i := slices.IndexFunc(ep.months, func(m span) bool { return m.holds(t) })
	return i, i >= 0
}

// openAt gives the open epoch of a book that holds t.
func (s *State) openAt(book string, t time.Time) *epoch {
	for _, e := range s.epochs {
		if e.book == book && e.holds(t) { // epochs of a book do not overlap
			return e
		}
	}
	return nil
}

// overlapping gives an open epoch of the book that shares some time with the span.
func (s *State) overlapping(book string, sp span) *epoch {
	for _, e := range s.epochs {
		if e.book == book && e.from.Before(sp.to) && sp.from.Before(e.to) {
			return e
		}
	}
	return nil
}

func (c OpenEpoch) decide(s *State) ([]entry.Entry, error) {
	id := bookEpoch{c.Book, c.Epoch}
	p := s.paramsFor(c.Epoch)
	if p == nil {
		return nil, refuse(ParametersMissing, figures{"epoch": c.Epoch})
	}
	if s.epochs[id] != nil {
		return nil, refuse(EpochAlreadyOpen, figures{"epoch": c.Epoch, "book": c.Book})
	}
	plan := p.plan(c.Epoch)
	if book := s.bookOf(p, plan, c.Book); book != c.Book {
		return nil, refuse(BookMismatch, figures{"epoch": c.Epoch, "book": c.Book, "of": book})
	}
	whole, err := spanOf(plan.StartsAt, plan.EndsAt)
	if err != nil {
		return nil, broken("parameters of epoch %s: %v", c.Epoch, err)
	}
	if !c.Now.Before(whole.to) {
		return nil, refuse(EpochOver, figures{"epoch": c.Epoch, "endsAt": plan.EndsAt})
	}
	if other := s.overlapping(c.Book, whole); other != nil {
		return nil, refuse(EpochAlreadyOpen, figures{"epoch": other.epoch, "book": c.Book})
	}
	left := span{from: whole.from, to: whole.to}
	if c.Now.After(left.from) {
		left.from = c.Now
	}
	open := entry.EpochOpen{
		StartsAt: plan.StartsAt, EndsAt: plan.EndsAt, TZ: plan.TZ, Months: slices.Clone(plan.Months), Phase: plan.Phase,
		Offerings: s.count(c, left),
	}
	for _, o := range open.Offerings {
		open.Capacity += o.Units * o.Credits
	}
	rates, _ := s.ratesNow(c.Book, p.CapPolicy)
	open.R, open.Delta = rates.R, rates.Delta
	limit := EpochCap(p.CapPolicy, plan.Phase, open.Capacity, rates, len(plan.Months))
	open.Cap, open.BoundBy, open.ShareBound, open.BackBound = limit.Cap, limit.BoundBy, limit.ShareBound, limit.BacklogBound
	open.Allocations, open.Unallocated = Allocate(limit.Cap, s.shares(p, left))

	d := s.draft(c.Now)
	d.addTimed(entry.Entry{Kind: entry.KindEpochOpen, Epoch: c.Epoch, Book: c.Book, Params: new(p.ref), EpochOpen: &open})
	return d.out, nil
}

// bookOf gives the book that a plan is for, where it is for one: an event's is for its own alone, all others are for any book that
// is no event's. "" means that the plan is not for the book asked for, nor for one that could be named.
func (s *State) bookOf(p *parameters, plan *entry.EpochPlan, asked string) string {
	if plan.Phase == entry.PhaseEvent {
		return plan.Book
	}
	for i := range p.Epochs {
		if e := &p.Epochs[i]; e.Phase == entry.PhaseEvent && e.Book == asked {
			return ""
		}
	}
	return asked
}

// count gives the offerings that C counts, by uri.
func (s *State) count(c OpenEpoch, left span) []entry.CountedOffering {
	counted := map[string]entry.CountedOffering{}
	for _, o := range c.Offerings {
		if CheckOffering(s, o, left.from) != nil || o.Book != c.Book || o.Epoch != c.Epoch || o.Paused || o.Ended || o.Units() == 0 {
			continue
		}
		counted[o.Record.URI] = entry.CountedOffering{
			URI: o.Record.URI, CID: o.Record.CID, Rev: o.Record.Rev, DID: o.Redeemer, Units: o.Units(), Credits: o.Credits,
		}
	}
	var list []entry.CountedOffering
	for _, uri := range slices.Sorted(maps.Keys(counted)) {
		list = append(list, counted[uri])
	}
	return list
}

// CheckOffering says whether an offering can stand at all: NotAccredited, PublicPriceZero or InvalidRecord.
func CheckOffering(s *State, o Offering, now time.Time) error {
	if !s.activeIn(o.Redeemer, span{now, now.Add(time.Second)}, RoleRedeemer, RoleSponsor) {
		return refuse(NotAccredited, figures{"org": string(o.Redeemer), "role": RoleRedeemer})
	}
	if o.PublicPriceMinor <= 0 {
		return refuse(PublicPriceZero, figures{"publicPriceMinor": o.PublicPriceMinor})
	}
	if o.Credits <= 0 || o.Credits > maxCredits || o.Units() > maxCapacity/o.Credits {
		return refuse(InvalidRecord, figures{"credits": o.Credits, "units": o.Units()})
	}
	return nil
}

// shares gives the issuers that are active in the rest of the epoch, with their weights.
func (s *State) shares(p *parameters, left span) []entry.Weight {
	var list []entry.Weight
	for _, org := range slices.Sorted(maps.Keys(s.roles)) {
		if !s.activeIn(org, left, RoleIssuer) {
			continue
		}
		weight := int64(1)
		if len(p.Weights) > 0 {
			weight = 0
			for _, w := range p.Weights {
				if w.DID == org {
					weight = w.Weight
				}
			}
		}
		if weight > 0 {
			list = append(list, entry.Weight{DID: org, Weight: weight})
		}
	}
	return list
}

func (s *State) applyEpochOpen(e *entry.Entry) error {
	id := bookEpoch{e.Book, e.Epoch}
	o := e.EpochOpen
	p := s.paramsFor(e.Epoch)
	if s.epochs[id] != nil || p == nil || p.ref != *e.Params {
		return broken("epoch %s of %s is open, or has other parameters", e.Epoch, e.Book)
	}
	if plan := p.plan(e.Epoch); s.version >= 2 && (s.bookOf(p, plan, e.Book) != e.Book || plan.Phase != o.Phase) {
		return broken("epoch %s is not planned for %s, or in another phase", e.Epoch, e.Book)
	}
	whole, err := spanOf(o.StartsAt, o.EndsAt)
	if err != nil {
		return broken("%v", err)
	}
	if other := s.overlapping(e.Book, whole); other != nil {
		return broken("epoch %s overlaps %s", e.Epoch, other.epoch)
	}
	ep := &epoch{
		seq: e.Seq, bookEpoch: id, span: whole, params: p, open: *o,
		counted: map[string]entry.CountedOffering{}, issuers: map[syntax.DID]*issuer{},
	}
	for _, m := range o.Months {
		month, err := spanOf(m.StartsAt, m.EndsAt)
		if err != nil {
			return broken("%v", err)
		}
		ep.months = append(ep.months, month)
		ep.lastDays = append(ep.lastDays, s.day(month.to.Add(-time.Second)))
	}
	var capacity int64
	for _, c := range o.Offerings {
		ep.counted[c.URI] = c
		capacity += c.Units * c.Credits
	}
	if rates, _ := s.ratesNow(e.Book, p.CapPolicy); !sameRatio(rates.R, o.R) || !sameRatio(rates.Delta, o.Delta) {
		return broken("rates r %d/%d and δ %d/%d are not the book's", o.R.Num, o.R.Den, o.Delta.Num, o.Delta.Den)
	}
	limit := EpochCap(p.CapPolicy, o.Phase, capacity, Rates{o.R, o.Delta}, len(o.Months))
	if capacity != o.Capacity || limit.Cap != o.Cap || limit.BoundBy != o.BoundBy {
		return broken("capacity %d and cap %d, computed %d and %d", o.Capacity, o.Cap, capacity, limit.Cap)
	}
	total := o.Unallocated
	for _, a := range o.Allocations {
		ep.issuers[a.DID] = &issuer{allocation: a.Amount}
		total += a.Amount
	}
	if total != o.Cap || len(ep.issuers) != len(o.Allocations) {
		return broken("allocations and the rest are %d of a cap of %d", total, o.Cap)
	}
	s.epochs[id] = ep
	b := s.book(e.Book)
	b.epoch = s.openMonth(e.Book)
	return nil
}
