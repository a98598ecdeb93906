// Package simulate runs a city's cap rule on months that have not been: parameters in, stock and flow out, so that a committee can try a
// cap before it adopts it. The caps are the rules' own; what people do with their credits is two rates. Whole credits and exact
// rationals only: the same plan gives the same months everywhere.
package simulate

import (
	"errors"
	"fmt"
	"math/big"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// Bounds of a plan.
const (
	MaxMonths   = 600
	maxCapacity = 1_000_000_000
	maxBps      = 10_000
)

// Plan is what is tried.
type Plan struct {
	Capacity      int64 // C, credits a month, the same in every epoch
	Policy        entry.CapPolicy
	Phases        []string // of the epochs in order; the last one goes on
	EpochMonths   int64
	Months        int64
	IssueBps      int64 // of each epoch's cap, issued evenly over its months
	RBps          int64 // share of the active stock that people redeem in a month
	DeltaBps      int64 // share of it that falls asleep in a month
	ReactivateBps int64 // share of the dormant stock that wakes in a month

	DormancyMonths int64 // after which what sleeps expires; 0: never
	WarmUpMonths   int64
}

// Check says what no plan can have.
func (p *Plan) Check() error {
	for _, b := range []struct {
		name      string
		n         int64
		low, high int64
	}{
		{"capacity", p.Capacity, 0, maxCapacity},
		{"months", p.Months, 1, MaxMonths},
		{"months of an epoch", p.EpochMonths, 1, 12},
		{"issue-bps", p.IssueBps, 0, maxBps},
		{"r-bps", p.RBps, 1, maxBps},
		{"delta-bps", p.DeltaBps, 0, maxBps - p.RBps},
		{"reactivate-bps", p.ReactivateBps, 0, maxBps},
		{"dormancy-months", p.DormancyMonths, 0, 1200},
		{"warm-up-months", p.WarmUpMonths, 0, 120},
		{"rStartBps", p.Policy.RStartBps, 1, maxBps},
		{"deltaStartBps", p.Policy.DeltaStartBps, 0, maxBps},
		{"capPhaseBps", p.Policy.CapPhaseBps, 0, maxBps},
		{"capShareBps", p.Policy.CapShareBps, 0, maxBps},
		{"deltaCapBps", p.Policy.DeltaCapBps, 0, maxBps},
		{"ascrMaxMilli", p.Policy.AscrMaxMilli, 0, 1_000_000},
	} {
		if b.n < b.low || b.n > b.high {
			return fmt.Errorf("%s is %d, must be %d to %d", b.name, b.n, b.low, b.high)
		}
	}
	if len(p.Phases) == 0 {
		return errors.New("no phase")
	}
	for _, phase := range p.Phases {
		if phase != entry.PhaseLaunch && phase != entry.PhaseSteady {
			return fmt.Errorf("phase %q is neither launch nor steady", phase)
		}
	}
	return nil
}

// Month is one month of a run.
type Month struct {
	rules.MonthFigures
	Number       int64 // from 1
	EpochNo      int64 // from 1
	Phase        string
	Cap          int64 // of the epoch
	BoundBy      string
	ShareBound   int64 // both bounds of the epoch, also where its phase does not ask for them
	BacklogBound int64
	Measured     bool // the epoch's rates are measured, over the two before it
}

// Run gives the months of a plan.
func Run(p Plan) ([]Month, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	r := &run{plan: p}
	for n := range p.Months {
		if n%p.EpochMonths == 0 {
			r.open(n / p.EpochMonths)
		}
		if err := r.month(n); err != nil {
			return nil, err
		}
	}
	figures := make([]rules.MonthFigures, len(r.months))
	for i := range r.months {
		figures[i] = r.months[i].MonthFigures
	}
	rules.Judge(figures, p.WarmUpMonths)
	for i := range figures {
		r.months[i].MonthFigures = figures[i]
	}
	return r.months, nil
}

type run struct {
	plan   Plan
	months []Month
	epoch  Month // what all its months have alike
	stock  rules.Stock
	asleep []int64 // what went dormant, by month, as far as it still sleeps; oldest first
	owed   int64   // of the month before: it expired when that was closed
}

// open fixes an epoch's cap, as the ledger would at this capacity.
func (r *run) open(n int64) {
	p := &r.plan
	phase := p.Phases[min(n, int64(len(p.Phases)-1))]
	rates := rules.Rates{R: entry.Ratio{Num: p.Policy.RStartBps, Den: maxBps}, Delta: entry.Ratio{Num: p.Policy.DeltaStartBps, Den: maxBps}}
	measured := false
	if last := 2 * int(p.EpochMonths); len(r.months) >= last {
		var flows []rules.Flow
		var before []rules.Stock
		for _, m := range r.months[len(r.months)-last:] {
			flows, before = append(flows, m.Flow), append(before, m.Before)
		}
		if got, ok := rules.MeasuredRates(flows, before); ok && got.R.Num > 0 {
			rates, measured = got, true
		}
	}
	limit := rules.EpochCap(p.Policy, phase, p.Capacity, rates, int(p.EpochMonths))
	steady := rules.EpochCap(p.Policy, entry.PhaseSteady, p.Capacity, rates, int(p.EpochMonths))
	r.epoch = Month{
		EpochNo: n + 1, Phase: phase, Cap: limit.Cap, BoundBy: limit.BoundBy, ShareBound: steady.ShareBound, BacklogBound: steady.BacklogBound,
		Measured: measured,
	}
	r.epoch.Epoch, r.epoch.Capacity, r.epoch.Rates = fmt.Sprintf("%d", n+1), p.Capacity, rates
}

// month runs one month: what is redeemed and what falls asleep is of the stock before it; no more is redeemed than can be.
func (r *run) month(n int64) error {
	p := &r.plan
	at := n % p.EpochMonths
	f := rules.Flow{
		I: part(r.epoch.Cap, p.IssueBps*(at+1), maxBps*p.EpochMonths) - part(r.epoch.Cap, p.IssueBps*at, maxBps*p.EpochMonths),
		B: min(part(r.stock.A, p.RBps, maxBps), p.Capacity), Q: part(r.stock.A, p.DeltaBps, maxBps), X: r.owed,
	}
	r.owed = 0
	f.R = part(r.stock.D-f.X, p.ReactivateBps, maxBps)
	after, err := r.stock.After(f)
	if err != nil {
		return err
	}
	r.sleep(f)
	m := r.epoch
	m.Number, m.Month = n+1, int(at)
	m.Flow, m.Before, m.After = f, r.stock, after
	r.months = append(r.months, m)
	r.stock = after
	return nil
}

// sleep keeps what went dormant by month. What wakes is the oldest; what slept for too long expires with the next month.
func (r *run) sleep(f rules.Flow) {
	woken := f.R
	for i := range r.asleep {
		took := min(woken, r.asleep[i])
		r.asleep[i] -= took
		woken -= took
	}
	r.asleep = append(r.asleep, f.Q)
	if d := r.plan.DormancyMonths; d > 0 && int64(len(r.asleep)) > d {
		r.owed, r.asleep = r.asleep[0], r.asleep[1:]
	}
}

// part is n·num/den, floored.
func part(n, num, den int64) int64 {
	v := new(big.Int).Mul(big.NewInt(n), big.NewInt(num))
	return v.Quo(v, big.NewInt(den)).Int64()
}
