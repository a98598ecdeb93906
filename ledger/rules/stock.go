package rules

import (
	"math/big"

	"city-sync.org/citysync/ledger/entry"
)

// Flow is what happened to a book in a month: minted, burned, gone dormant, reactivated, expired.
type Flow struct{ I, B, Q, R, X int64 }

// Stock is what people hold: active and dormant.
type Stock struct{ A, D int64 }

// Supply is all that people hold.
func (s Stock) Supply() int64 { return s.A + s.D }

// After is the stock after a month. The error wraps ErrBroken: no flow takes more than there is.
func (s Stock) After(f Flow) (Stock, error) {
	next := Stock{A: s.A + f.I - f.B - f.Q + f.R, D: s.D + f.Q - f.X - f.R}
	if next.A < 0 || next.D < 0 {
		return s, broken("stock %d active, %d dormant", next.A, next.D)
	}
	return next, nil
}

// Indicators are a month's published ratios, exact. One whose denominator is zero is not defined: its Den is 0.
type Indicators struct {
	Efficiency  entry.Ratio // η = B/I
	Utilization entry.Ratio // U = B/C
	Backlog     entry.Ratio // ASCR = A/C
	Engagement  entry.Ratio // DR = D/S
	Issuance    entry.Ratio // ICR = I/C
}

// Indicate gives the indicators of a month that ended with this stock.
func Indicate(f Flow, end Stock, capacity int64) Indicators {
	return Indicators{
		Efficiency:  entry.Ratio{Num: f.B, Den: f.I},
		Utilization: entry.Ratio{Num: f.B, Den: capacity},
		Backlog:     entry.Ratio{Num: end.A, Den: capacity},
		Engagement:  entry.Ratio{Num: end.D, Den: end.Supply()},
		Issuance:    entry.Ratio{Num: f.I, Den: capacity},
	}
}

// Milli rounds a ratio, half up, to thousandths; false where it is not defined.
func Milli(r entry.Ratio) (int64, bool) { return rounded(r, milli) }

// Bps rounds a ratio, half up, to basis points; false where it is not defined.
func Bps(r entry.Ratio) (int64, bool) { return rounded(r, bps) }

// RatBps rounds an exact number as Bps does; false for none.
func RatBps(r *big.Rat) (int64, bool) {
	if r == nil || r.Sign() < 0 {
		return 0, false
	}
	scaled := new(big.Rat).Mul(r, big.NewRat(bps, 1))
	return floor(scaled.Add(scaled, big.NewRat(1, 2))), true
}

func rounded(r entry.Ratio, unit int64) (int64, bool) {
	if r.Den <= 0 || r.Num < 0 {
		return 0, false
	}
	scaled := new(big.Rat).Mul(big.NewRat(r.Num, r.Den), big.NewRat(unit, 1))
	return floor(scaled.Add(scaled, big.NewRat(1, 2))), true
}

// MeasuredRates are r = ΣB_t / ΣA_(t−1) and δ = ΣQ_t / ΣA_(t−1) over months, each with the active stock before it. False
// while there was no stock to measure against.
func MeasuredRates(flows []Flow, before []Stock) (Rates, bool) {
	var b, q, a int64
	for i := range min(len(flows), len(before)) {
		b, q, a = b+flows[i].B, q+flows[i].Q, a+before[i].A
	}
	if a == 0 {
		return Rates{}, false
	}
	return Rates{R: entry.Ratio{Num: b, Den: a}, Delta: entry.Ratio{Num: q, Den: a}}, true
}
