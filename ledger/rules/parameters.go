package rules

import (
	"fmt"
	"slices"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

type parameters struct {
	ref entry.Ref
	entry.Parameters
}

func (p *parameters) plan(key string) *entry.EpochPlan {
	i := slices.IndexFunc(p.Epochs, func(e entry.EpochPlan) bool { return e.Key == key })
	if i < 0 {
		return nil
	}
	return &p.Epochs[i]
}

func (p *parameters) tier(n int64) *entry.Tier {
	i := slices.IndexFunc(p.Tiers, func(t entry.Tier) bool { return t.N == n })
	if i < 0 {
		return nil
	}
	return &p.Tiers[i]
}

func (c SetParameters) decide(s *State) ([]entry.Entry, error) {
	ref := c.Record.Ref()
	if slices.ContainsFunc(s.params, func(p parameters) bool { return p.ref == ref }) {
		return nil, nil
	}
	p := c.Parameters
	if err := checkParameters(&p); err != nil {
		return nil, refuse(ParametersInvalid, figures{"what": err.Error()})
	}
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{Kind: entry.KindParameters, Causes: []entry.Cause{c.Record}, Params: &ref, Parameters: &p})
	return d.out, nil
}

// checkParameters refuses what no epoch could be opened or paid with.
func checkParameters(p *entry.Parameters) error {
	set := parameters{Parameters: *p}
	if set.plan(p.EffectiveEpoch) == nil {
		return fmt.Errorf("epoch %q is not among the epochs", p.EffectiveEpoch)
	}
	for i, e := range p.Epochs {
		if set.plan(e.Key) != &p.Epochs[i] {
			return fmt.Errorf("epoch %q is there twice", e.Key)
		}
		if err := checkPlan(e); err != nil {
			return fmt.Errorf("epoch %q: %w", e.Key, err)
		}
	}
	for i, t := range p.Tiers {
		if set.tier(t.N) != &p.Tiers[i] || t.CreditsPerHour <= 0 || t.CreditsPerHour > maxCredits || t.BandBps < 0 || t.BandBps > bps {
			return fmt.Errorf("tier %d", t.N)
		}
	}
	c := p.CapPolicy
	for _, share := range []int64{c.CapPhaseBps, c.CapShareBps, c.DeltaCapBps, c.RStartBps, c.DeltaStartBps} {
		if share < 0 || share > bps {
			return fmt.Errorf("a share of %d basis points", share)
		}
	}
	switch {
	case c.RStartBps == 0:
		return fmt.Errorf("a burn rate of 0 bounds nothing")
	case c.AscrMaxMilli < 0 || c.AscrMaxMilli > 1_000_000:
		return fmt.Errorf("ascrMaxMilli %d", c.AscrMaxMilli)
	case p.ClaimLimit < 1 || p.ClaimLimit > 1000:
		return fmt.Errorf("claimLimit %d", p.ClaimLimit)
	case p.ClaimLapseDays < 1 || p.ClaimLapseDays > 1000:
		return fmt.Errorf("claimLapseDays %d", p.ClaimLapseDays)
	case p.DormancyMonths < 0 || p.DormancyMonths > 1200:
		return fmt.Errorf("dormancyMonths %d", p.DormancyMonths)
	case p.VotesPerCredit < 0 || p.VotesPerCredit > 100:
		return fmt.Errorf("votesPerCredit %d", p.VotesPerCredit)
	}
	for _, w := range p.Weights {
		if w.Weight < 0 || w.Weight > maxCredits {
			return fmt.Errorf("weight %d of %s", w.Weight, w.DID)
		}
	}
	return nil
}

func checkPlan(e entry.EpochPlan) error {
	switch e.Phase {
	case entry.PhaseLaunch, entry.PhaseSteady:
		if e.Book != "" {
			return fmt.Errorf("a book of its own in phase %q", e.Phase)
		}
	case entry.PhaseEvent:
		if e.Book == "" || len(e.Months) != 1 {
			return fmt.Errorf("an event has a book of its own and one month")
		}
	default:
		return fmt.Errorf("phase %q", e.Phase)
	}
	whole, err := spanOf(e.StartsAt, e.EndsAt)
	if err != nil {
		return err
	}
	if len(e.Months) == 0 {
		return fmt.Errorf("no months")
	}
	at := whole.from
	for _, m := range e.Months {
		month, err := spanOf(m.StartsAt, m.EndsAt)
		if err != nil {
			return err
		}
		if !month.from.Equal(at) {
			return fmt.Errorf("a month begins at %s, the one before ends at %s", m.StartsAt, entry.FormatTime(at))
		}
		at = month.to
	}
	if !at.Equal(whole.to) {
		return fmt.Errorf("its months end at %s", entry.FormatTime(at))
	}
	return nil
}

// span is a time from, inclusive, to, exclusive.
type span struct{ from, to time.Time }

func (s span) holds(t time.Time) bool { return !t.Before(s.from) && t.Before(s.to) }

func spanOf(from, to string) (span, error) {
	f, err := entry.ParseTime(from)
	if err != nil {
		return span{}, err
	}
	t, err := entry.ParseTime(to)
	if err != nil {
		return span{}, err
	}
	if !f.Before(t) {
		return span{}, fmt.Errorf("%s is not before %s", from, to)
	}
	return span{f, t}, nil
}

func (s *State) applyParameters(e *entry.Entry) error {
	if err := checkParameters(e.Parameters); err != nil {
		return broken("%v", err)
	}
	if e.Causes[0].Ref() != *e.Params {
		return broken("its cause is another record")
	}
	s.params = append(s.params, parameters{ref: *e.Params, Parameters: *e.Parameters})
	return nil
}

// paramsFor gives the set in force for an epoch: the last that names it and takes effect with it or before.
func (s *State) paramsFor(key string) *parameters {
	for i := len(s.params) - 1; i >= 0; i-- {
		p := &s.params[i]
		plan := p.plan(key)
		if plan != nil && p.plan(p.EffectiveEpoch).StartsAt <= plan.StartsAt { // one layout, so text orders as time
			return p
		}
	}
	return nil
}

// Parameters gives the parameter set in force for an epoch.
func (s *State) Parameters(epoch string) (entry.Ref, entry.Parameters, bool) {
	if p := s.paramsFor(epoch); p != nil {
		return p.ref, p.Parameters, true
	}
	return entry.Ref{}, entry.Parameters{}, false
}
