package audit

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

type paramSet struct {
	ref entry.Ref
	*entry.Parameters
}

func (p *paramSet) plan(key string) *entry.EpochPlan {
	for i := range p.Epochs {
		if p.Epochs[i].Key == key {
			return &p.Epochs[i]
		}
	}
	return nil
}

// covers says whether a plan is for a book: an event's for its own alone, any other for every book that is no event's.
func (p *paramSet) covers(plan *entry.EpochPlan, book string) bool {
	if plan.Phase == entry.PhaseEvent {
		return plan.Book == book && len(plan.Months) == 1
	}
	ofEvent := func(o entry.EpochPlan) bool { return o.Phase == entry.PhaseEvent && o.Book == book }
	return plan.Book == "" && !slices.ContainsFunc(p.Epochs, ofEvent)
}

func (p *paramSet) tier(n int64) *entry.Tier {
	for i := range p.Tiers {
		if p.Tiers[i].N == n {
			return &p.Tiers[i]
		}
	}
	return nil
}

// epoch is an open epoch of a book, with its sums.
type epoch struct {
	book, key string
	params    *paramSet
	open      *entry.EpochOpen
	counted   map[string]entry.CountedOffering
	issuers   map[syntax.DID]*sums
	room      map[syntax.DID]int64 // allocations
	months    []entry.MonthFlow    // closed
	before    []int64              // active stock at the start of each
	closed    bool
	sums
}

type sums struct{ reserved, outstanding, minted, votes, burned, expired, tasks, claims, mints int64 }

func (ep *epoch) add(org syntax.DID, change func(*sums)) {
	change(&ep.sums)
	if i := ep.issuers[org]; i != nil {
		change(i)
	}
}

func epochID(book, key string) string { return book + "\n" + key }

func (a *Auditor) parameters(e *entry.Entry) {
	p := paramSet{ref: *e.Params, Parameters: e.Parameters}
	a.check(e, e.Causes[0].Ref() == *e.Params, "its cause is another record than its parameter set")
	if a.city == "" {
		a.city = authority(e.Params.URI)
	}
	a.check(e, authority(e.Params.URI) == a.city, "parameters of %s, the city is %s", authority(e.Params.URI), a.city)
	if a.check(e, p.plan(p.EffectiveEpoch) != nil, "epoch %q is not among its epochs", p.EffectiveEpoch) {
		a.zone(e, p.plan(p.EffectiveEpoch).TZ)
	}
	a.params = append(a.params, p)
}

// zone takes the city's time zone from the parameters.
func (a *Auditor) zone(e *entry.Entry, name string) {
	loc, err := time.LoadLocation(name)
	if a.check(e, err == nil && name != "", "time zone %q is unknown", name) {
		a.loc = loc
	}
}

// inForce is the set that holds for an epoch: the last that plans it and takes effect no later than it.
func (a *Auditor) inForce(key string) *paramSet {
	for i := len(a.params) - 1; i >= 0; i-- {
		p := &a.params[i]
		plan, effective := p.plan(key), p.plan(p.EffectiveEpoch)
		if plan != nil && effective != nil && effective.StartsAt <= plan.StartsAt {
			return p
		}
	}
	return nil
}

func (a *Auditor) epochOpen(e *entry.Entry) {
	o := e.EpochOpen
	p := a.inForce(e.Epoch)
	if !a.check(e, p != nil && p.ref == *e.Params, "epoch %s opens under parameters that are not in force", e.Epoch) {
		return
	}
	a.check(e, a.epochs[epochID(e.Book, e.Epoch)] == nil, "epoch %s of %s is opened twice", e.Epoch, e.Book)
	for _, other := range a.epochs {
		apart := other.book != e.Book || other.key == e.Epoch || other.open.EndsAt <= o.StartsAt || o.EndsAt <= other.open.StartsAt
		a.check(e, apart, "epoch %s overlaps %s", e.Epoch, other.key)
	}
	plan := p.plan(e.Epoch)
	a.check(e, plan.StartsAt == o.StartsAt && plan.EndsAt == o.EndsAt && plan.TZ == o.TZ && plan.Phase == o.Phase &&
		slices.Equal(plan.Months, o.Months), "epoch %s is not as the parameters plan it", e.Epoch)
	a.check(e, p.covers(plan, e.Book), "epoch %s is not planned for %s", e.Epoch, e.Book)
	a.check(e, e.At < o.EndsAt, "epoch %s is over", e.Epoch)
	a.zone(e, o.TZ)

	ep := &epoch{
		book: e.Book, key: e.Epoch, params: p, open: o,
		counted: map[string]entry.CountedOffering{}, issuers: map[syntax.DID]*sums{}, room: map[syntax.DID]int64{},
	}
	from := max(e.At, o.StartsAt)
	capacity := new(big.Int)
	for _, c := range o.Offerings {
		_, twice := ep.counted[c.URI]
		a.check(e, !twice, "offering %s is counted twice", c.URI)
		a.check(e, authority(c.URI) == c.DID, "offering %s is not of %s", c.URI, c.DID)
		a.check(e, !a.paused(e, entry.PauseOffering, c.DID, c.URI), "offering %s is counted while it is paused", c.URI)
		a.check(e, a.active(c.DID, from, o.EndsAt, "redeemer", "sponsor"), "offering %s of %s, which is no redeemer", c.URI, c.DID)
		ep.counted[c.URI] = c
		capacity.Add(capacity, new(big.Int).Mul(big.NewInt(c.Units), big.NewInt(c.Credits)))
	}
	a.check(e, capacity.IsInt64() && capacity.Int64() == o.Capacity, "capacity is %d, its offerings give %s", o.Capacity, capacity)
	a.checkCap(e, p.CapPolicy)
	a.checkAllocations(e, p, from)
	for _, al := range o.Allocations {
		ep.issuers[al.DID], ep.room[al.DID] = &sums{}, al.Amount
	}
	a.epochs[epochID(e.Book, e.Epoch)] = ep
	a.bookOf(e).opened(ep)
}

// active says whether an organization has a role somewhere between two times, by its accreditation as it stands.
func (a *Auditor) active(org syntax.DID, from, to string, names ...string) bool {
	r := a.roleNow(org)
	return r.good() && r.is(names...) && r.bind.ValidFrom < to && (r.bind.ValidUntil == "" || r.bind.ValidUntil > from)
}

// checkCap recomputes rates and cap.
func (a *Auditor) checkCap(e *entry.Entry, p entry.CapPolicy) {
	o := e.EpochOpen
	r, delta, _ := a.bookOf(e).ratesFor(p)
	if !a.check(e, same(o.R, r) && same(o.Delta, delta), "rates r %d/%d and δ %d/%d are not those of the parameters, nor measured: recomputed %d/%d and %d/%d",
		o.R.Num, o.R.Den, o.Delta.Num, o.Delta.Den, r.Num, r.Den, delta.Num, delta.Den) && o.Phase == entry.PhaseSteady {
		return // other rates have no cap to recompute
	}
	want, ok := capOf(p, o.Phase, o.Capacity, len(o.Months), r, delta)
	if !a.check(e, ok, "a burn rate of 0") {
		return
	}
	a.check(e, o.ShareBound == want.share && o.BackBound == want.backlog, "bounds are %d and %d, recomputed %d and %d",
		o.ShareBound, o.BackBound, want.share, want.backlog)
	a.check(e, o.Cap == want.limit, "cap is %d by %s, recomputed %d", o.Cap, o.BoundBy, want.limit)
	a.check(e, o.BoundBy == want.by, "cap is bound by %s, not by %s", want.by, o.BoundBy)
}

func same(a, b entry.Ratio) bool {
	return new(big.Int).Mul(big.NewInt(a.Num), big.NewInt(b.Den)).Cmp(new(big.Int).Mul(big.NewInt(b.Num), big.NewInt(a.Den))) == 0
}

// quotient is the product of the factors over the denominator, floored; -1 if it does not fit.
func quotient(den int64, factors ...int64) int64 {
	n := big.NewInt(1)
	for _, f := range factors {
		n.Mul(n, big.NewInt(f))
	}
	n.Quo(n, big.NewInt(den))
	if !n.IsInt64() {
		return -1
	}
	return n.Int64()
}

func (a *Auditor) checkAllocations(e *entry.Entry, p *paramSet, from string) {
	o := e.EpochOpen
	weights := map[syntax.DID]int64{}
	for org := range a.roles {
		if a.active(org, from, o.EndsAt, "issuer") {
			weights[org] = 1
		}
	}
	if len(p.Weights) > 0 {
		listed := map[syntax.DID]int64{}
		for _, w := range p.Weights {
			if weights[w.DID] > 0 && w.Weight > 0 {
				listed[w.DID] = w.Weight
			}
		}
		weights = listed
	}
	var sum int64
	for _, w := range weights {
		sum += w
	}
	left := o.Cap
	want := map[syntax.DID]int64{}
	for org, w := range weights {
		want[org] = quotient(sum, o.Cap, w)
		left -= want[org]
	}
	got := map[syntax.DID]int64{}
	for _, al := range o.Allocations {
		got[al.DID] = al.Amount
	}
	a.check(e, maps.Equal(want, got) && len(got) == len(o.Allocations), "allocations are not those recomputed: %s", describe(want, got))
	a.check(e, o.Unallocated == left, "unallocated is %d, recomputed %d", o.Unallocated, left)
}

func describe(want, got map[syntax.DID]int64) string {
	for _, org := range slices.Sorted(maps.Keys(want)) {
		if got[org] != want[org] {
			return fmt.Sprintf("%s has %d, recomputed %d", org, got[org], want[org])
		}
	}
	return fmt.Sprintf("%d issuers, recomputed %d", len(got), len(want))
}
