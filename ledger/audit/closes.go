package audit

import (
	"math/big"
	"slices"

	"city-sync.org/citysync/ledger/entry"
)

// rates gives r and δ over the months of the last two closed epochs of a book; false while there are no two, or while there
// was no stock to measure against.
func (b *book) rates() (r, delta entry.Ratio, measured bool) {
	var closed []*epoch
	for _, ep := range b.epochs {
		if ep.closed {
			closed = append(closed, ep)
		}
	}
	if len(closed) < 2 {
		return r, delta, false
	}
	var burned, quiet, active int64
	for _, ep := range closed[len(closed)-2:] {
		for i, m := range ep.months {
			burned, quiet, active = burned+m.Burned, quiet+m.Quiet, active+ep.before[i]
		}
	}
	if active == 0 || burned == 0 {
		return r, delta, false
	}
	return entry.Ratio{Num: burned, Den: active}, entry.Ratio{Num: quiet, Den: active}, true
}

// ratesFor are those that a cap of the book is computed with now.
func (b *book) ratesFor(p entry.CapPolicy) (r, delta entry.Ratio, measured bool) {
	if r, delta, measured = b.rates(); measured {
		return r, delta, true
	}
	return entry.Ratio{Num: p.RStartBps, Den: 10_000}, entry.Ratio{Num: p.DeltaStartBps, Den: 10_000}, false
}

// bounds are a cap and what it follows from. share and backlog are of the steady phase only.
type bounds struct {
	share, backlog, limit int64
	by                    string
}

// capOf computes an epoch's cap over integers alone: every factor is brought over one denominator before the one division.
// False where the burn rate is 0, which no cap can be divided by.
func capOf(p entry.CapPolicy, phase string, capacity int64, months int, r, delta entry.Ratio) (bounds, bool) {
	whole := product(capacity, int64(months))
	switch phase {
	case entry.PhaseLaunch:
		return bounds{limit: floor(whole, product(p.CapPhaseBps), product(10_000)), by: entry.BoundByLaunch}, true
	case entry.PhaseEvent:
		return bounds{limit: floor(whole, product(p.CapShareBps), product(10_000)), by: entry.BoundByEvent}, true
	}
	if r.Num <= 0 {
		return bounds{}, false
	}
	// δc = min(δ, deltaCap); r + δc = out / (r.Den · δc.Den)
	if product(delta.Num, 10_000).Cmp(product(p.DeltaCapBps, delta.Den)) > 0 {
		delta = entry.Ratio{Num: p.DeltaCapBps, Den: 10_000}
	}
	out := new(big.Int).Add(product(r.Num, delta.Den), product(delta.Num, r.Den))
	b := bounds{
		share:   floor(new(big.Int).Mul(whole, out), product(p.CapShareBps), product(10_000, delta.Den, r.Num)),
		backlog: floor(new(big.Int).Mul(whole, out), product(p.AscrMaxMilli), product(1_000, delta.Den, r.Den)),
		by:      entry.BoundByShare,
	}
	b.limit = min(b.share, b.backlog)
	// the smaller one before it is floored: ascrMax against capShare / r
	if capacity > 0 && product(p.AscrMaxMilli, 10_000, r.Num).Cmp(product(p.CapShareBps, 1_000, r.Den)) < 0 {
		b.by = entry.BoundByBacklog
	}
	return b, true
}

func product(factors ...int64) *big.Int {
	n := big.NewInt(1)
	for _, f := range factors {
		n.Mul(n, big.NewInt(f))
	}
	return n
}

// floor is a·b over the denominator, floored; -1 if it does not fit.
func floor(a, b, den *big.Int) int64 {
	n := new(big.Int).Mul(a, b)
	n.Quo(n, den)
	if !n.IsInt64() {
		return -1
	}
	return n.Int64()
}

// closeEpoch recomputes what an epoch came to, and the cap that would be next.
func (a *Auditor) closeEpoch(e *entry.Entry) {
	c, b := e.EpochClose, a.bookOf(e)
	ep := a.epochOf(e)
	if ep == nil {
		return
	}
	a.check(e, !ep.closed, "epoch %s of %s is closed twice", ep.key, ep.book)
	a.check(e, e.At >= ep.open.EndsAt, "epoch %s is closed before it ended", ep.key)
	a.check(e, len(ep.months) == len(ep.open.Months), "epoch %s is closed after %d of %d months", ep.key, len(ep.months), len(ep.open.Months))
	a.check(e, slices.Equal(c.Months, ep.months), "months are not those that were closed")
	a.check(e, c.Reserved == ep.reserved && c.Outstanding == ep.outstanding && c.Minted == ep.minted && c.Votes == ep.votes,
		"reserved, outstanding, minted and votes are %d, %d, %d, %d, recomputed %d, %d, %d, %d",
		c.Reserved, c.Outstanding, c.Minted, c.Votes, ep.reserved, ep.outstanding, ep.minted, ep.votes)
	ep.closed = true
	r, delta, measured := b.ratesFor(ep.params.CapPolicy)
	a.check(e, c.Measured == measured && same(c.R, r) && same(c.Delta, delta), "rates are r %d/%d and δ %d/%d, recomputed %d/%d and %d/%d",
		c.R.Num, c.R.Den, c.Delta.Num, c.Delta.Den, r.Num, r.Den, delta.Num, delta.Den)
	a.checkNext(e, ep, r, delta)
}

func (a *Auditor) checkNext(e *entry.Entry, ep *epoch, r, delta entry.Ratio) {
	plan, p := a.planAfter(ep)
	n := e.EpochClose.Next
	if plan == nil || n == nil {
		a.check(e, plan == nil && n == nil, "the next cap is there %t, an epoch after it is planned %t", n != nil, plan != nil)
		return
	}
	want, ok := capOf(p.CapPolicy, plan.Phase, ep.open.Capacity, len(plan.Months), r, delta)
	a.check(e, ok, "a burn rate of 0")
	a.check(e, *n == entry.NextCap{
		Epoch: plan.Key, Phase: plan.Phase, Capacity: ep.open.Capacity, ShareBound: want.share, BackBound: want.backlog, Cap: want.limit, BoundBy: want.by,
	}, "next is %s with a cap of %d by %s, recomputed %s with %d by %s", n.Epoch, n.Cap, n.BoundBy, plan.Key, want.limit, want.by)
}

// planAfter gives the plan of the epoch that follows one, and the parameters in force for it.
func (a *Auditor) planAfter(ep *epoch) (*entry.EpochPlan, *paramSet) {
	var next *entry.EpochPlan
	var set *paramSet
	for i := range a.params {
		for _, plan := range a.params[i].Epochs {
			p := a.inForce(plan.Key)
			if p == nil || !p.covers(p.plan(plan.Key), ep.book) {
				continue
			}
			if c := p.plan(plan.Key); c.StartsAt >= ep.open.EndsAt && (next == nil || c.StartsAt < next.StartsAt) {
				next, set = c, p
			}
		}
	}
	return next, set
}
