package rules

import (
	"math/big"

	"city-sync.org/citysync/ledger/entry"
)

const (
	bps        = 10_000
	milli      = 1_000
	maxCredits = 1_000_000_000

	maxCapacity = 1_000_000_000_000 // of one offering a month: far below overflow of any sum
)

// Cap is the cap of one epoch, with both bounds of the steady phase.
type Cap struct {
	IMax         *big.Rat // highest sustainable issuance a month; nil in the launch phase
	ShareBound   int64    // of the epoch, floored
	BacklogBound int64
	Cap          int64
	BoundBy      string
}

// Rates are r and δ.
type Rates struct{ R, Delta entry.Ratio }

// startRates are the rates before two epochs have closed.
func startRates(p entry.CapPolicy) Rates {
	return Rates{R: entry.Ratio{Num: p.RStartBps, Den: bps}, Delta: entry.Ratio{Num: p.DeltaStartBps, Den: bps}}
}

// EpochCap computes a cap exactly: one rational for the whole epoch, floored once. capacity is C, of a month.
func EpochCap(p entry.CapPolicy, phase string, capacity int64, rates Rates, months int) Cap {
	epoch := new(big.Rat).Mul(big.NewRat(capacity, 1), big.NewRat(int64(months), 1))
	if phase == entry.PhaseLaunch {
		return Cap{Cap: floor(epoch.Mul(epoch, big.NewRat(p.CapPhaseBps, bps))), BoundBy: entry.BoundByLaunch}
	}
	if phase == entry.PhaseEvent { // its credits end with it: no stock stays that a rate could bound
		return Cap{Cap: floor(epoch.Mul(epoch, big.NewRat(p.CapShareBps, bps))), BoundBy: entry.BoundByEvent}
	}
	r := big.NewRat(rates.R.Num, rates.R.Den)
	out := big.NewRat(rates.Delta.Num, rates.Delta.Den) // δc, then r + δc
	if most := big.NewRat(p.DeltaCapBps, bps); out.Cmp(most) > 0 {
		out = most
	}
	out.Add(out, r)

	iMax := new(big.Rat).Mul(big.NewRat(capacity, 1), out)
	iMax.Quo(iMax, r)
	share := new(big.Rat).Mul(iMax, big.NewRat(p.CapShareBps*int64(months), bps))
	backlog := new(big.Rat).Mul(epoch, out)
	backlog.Mul(backlog, big.NewRat(p.AscrMaxMilli, milli))

	c := Cap{IMax: iMax, ShareBound: floor(share), BacklogBound: floor(backlog), BoundBy: entry.BoundByShare}
	c.Cap = c.ShareBound
	if backlog.Cmp(share) < 0 {
		c.Cap, c.BoundBy = c.BacklogBound, entry.BoundByBacklog
	}
	return c
}

// floor of a number that is not negative.
func floor(r *big.Rat) int64 { return new(big.Int).Quo(r.Num(), r.Denom()).Int64() }

// Units is what an offering counts a month: the least of what is possible, what costs little, and what is committed.
func (o *Offering) Units() int64 { return max(0, min(o.Physical, o.Marginal, o.Committed)) }

// Allocate splits a cap between issuers: equally, or by weight where there are weights. What is left over stays unallocated.
func Allocate(total int64, issuers []entry.Weight) (shares []entry.Allocation, left int64) {
	sum := new(big.Int)
	for _, w := range issuers {
		sum.Add(sum, big.NewInt(w.Weight))
	}
	left = total
	for _, w := range issuers {
		var share int64
		if sum.Sign() > 0 {
			part := new(big.Int).Mul(big.NewInt(total), big.NewInt(w.Weight))
			share = part.Quo(part, sum).Int64()
		}
		shares = append(shares, entry.Allocation{DID: w.DID, Amount: share})
		left -= share
	}
	return shares, left
}
