package entry

import (
	"errors"
	"fmt"
)

func (e *Entry) checkBody() error {
	for _, b := range [...]struct { // an activation says everything in the common fields
		kind Kind
		has  bool
	}{
		{KindRulesVersion, e.RulesVersion != nil},
		{KindParameters, e.Parameters != nil},
		{KindBind, e.Bind != nil},
		{KindEpochOpen, e.EpochOpen != nil},
		{KindReserve, e.Reserve != nil},
		{KindRelease, e.Release != nil},
		{KindClaim, e.Claim != nil},
		{KindUnclaim, e.Unclaim != nil},
		{KindMint, e.Mint != nil},
		{KindBurn, e.Burn != nil},
	} {
		if b.has != (b.kind == e.Kind) {
			return fmt.Errorf("kind %s and the body of %s do not agree", e.Kind, b.kind)
		}
	}
	switch e.Kind {
	case KindRulesVersion:
		return inRange(e.RulesVersion.Version)
	case KindParameters:
		return e.Parameters.check()
	case KindBind:
		return e.Bind.check()
	case KindEpochOpen:
		return e.EpochOpen.check()
	case KindReserve:
		return e.Reserve.check()
	case KindRelease:
		r := e.Release
		return errors.Join(short(r.Shifts...), short(r.First, r.Reason), inRange(r.Closed))
	case KindClaim:
		return errors.Join(e.Claim.Task.check(), short(e.Claim.First, e.Claim.Shift))
	case KindUnclaim:
		u := e.Unclaim
		return errors.Join(short(u.First, u.Shift, u.Reason), inRange(u.Closed))
	case KindMint:
		m := e.Mint
		return errors.Join(m.Task.check(), short(m.First, m.Shift, string(m.Verifier), m.Outcome), short(m.Methods...),
			inRange(m.Minutes, m.Frozen, m.Level))
	case KindBurn:
		b := e.Burn
		return errors.Join(b.Offering.check(), short(b.Till), inRange(b.Units, b.Price, b.Month, b.UnitsBefore, b.UnitsMonth))
	}
	return nil
}

func times(texts ...string) error {
	for _, s := range texts {
		if _, err := ParseTime(s); err != nil {
			return err
		}
	}
	return nil
}

func timesOrNone(texts ...string) error {
	for _, s := range texts {
		if s == "" {
			continue
		}
		if err := times(s); err != nil {
			return err
		}
	}
	return nil
}

func checkMonths(months []Month) error {
	for _, m := range months {
		if err := times(m.StartsAt, m.EndsAt); err != nil {
			return err
		}
	}
	return nil
}

func (p *Parameters) check() error {
	for _, e := range p.Epochs {
		if err := errors.Join(times(e.StartsAt, e.EndsAt), checkMonths(e.Months), short(e.Key, e.TZ, e.Phase)); err != nil {
			return err
		}
	}
	for _, t := range p.Tiers {
		if err := inRange(t.N, t.CreditsPerHour, t.BandBps); err != nil {
			return err
		}
	}
	for _, w := range p.Weights {
		if err := errors.Join(inRange(w.Weight), short(string(w.DID))); err != nil {
			return err
		}
	}
	c := p.CapPolicy
	return errors.Join(
		inRange(c.CapPhaseBps, c.CapShareBps, c.AscrMaxMilli, c.DeltaCapBps, c.RStartBps, c.DeltaStartBps),
		inRange(p.DormancyMonths, p.WarmUpMonths, p.ClaimLimit, p.ClaimLapseDays, p.VotesPerCredit, p.KMin),
		short(p.EffectiveEpoch))
}

func (b *Bind) check() error {
	role := b.Status != "" && b.ValidFrom != ""
	till := b.Till != "" && b.Key != ""
	switch b.What {
	case BindRole:
		if !role || b.Till != "" || b.Key != "" {
			return errors.New("binding of a role without its terms")
		}
	case BindTill:
		if !till || b.Status != "" || b.ValidFrom != "" || b.ValidUntil != "" || len(b.Roles)+len(b.Delegates)+len(b.Categories) > 0 {
			return errors.New("binding of a till of another form")
		}
	case BindStaff:
		if b.Status != "" || b.ValidFrom != "" || b.ValidUntil != "" || b.Till != "" || b.Key != "" ||
			len(b.Roles)+len(b.Delegates)+len(b.Categories) > 0 {
			return errors.New("binding of staff with a public part")
		}
	}
	for _, d := range b.Delegates {
		if err := short(string(d)); err != nil {
			return err
		}
	}
	return errors.Join(timesOrNone(b.ValidFrom, b.ValidUntil), short(b.Roles...), short(b.Categories...),
		short(b.Status, b.Till, b.Key), inRange(b.PerEpochLimit))
}

func (o *EpochOpen) check() error {
	if o.R.Den <= 0 || o.R.Num < 0 || o.Delta.Den <= 0 || o.Delta.Num < 0 {
		return errors.New("rate out of range")
	}
	for _, c := range o.Offerings {
		if err := errors.Join(Ref{c.URI, c.CID}.check(), short(c.Rev, string(c.DID)), inRange(c.Units, c.Credits)); err != nil {
			return err
		}
	}
	for _, a := range o.Allocations {
		if err := errors.Join(short(string(a.DID)), inRange(a.Amount)); err != nil {
			return err
		}
	}
	return errors.Join(times(o.StartsAt, o.EndsAt), checkMonths(o.Months), short(o.TZ, o.Phase, o.BoundBy),
		inRange(o.Capacity, o.ShareBound, o.BackBound, o.Cap, o.Unallocated))
}

func (r *Reserve) check() error {
	if len(r.Shifts) == 0 || len(r.Shifts) > 100 {
		return fmt.Errorf("%d shifts", len(r.Shifts))
	}
	for _, s := range r.Shifts {
		if err := errors.Join(short(s.ID), times(s.StartsAt, s.EndsAt), inRange(s.Slots)); err != nil {
			return err
		}
	}
	return errors.Join(r.Task.check(), r.Entry.check(), short(r.First, r.Sensitivity), times(r.ClaimOpensAt), timesOrNone(r.ClaimClosesAt),
		inRange(r.Credits, r.Tier, r.TierRate, r.MinMinutes, r.MaxMinutes, r.Level))
}
