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
		{KindHold, e.Hold != nil},
		{KindCapture, e.Capture != nil},
		{KindVoid, e.Void != nil},
		{KindReverse, e.Reverse != nil},
		{KindDormant, e.Dormant != nil},
		{KindExpire, e.Expire != nil},
		{KindEpochClose, e.EpochClose != nil},
		{KindPause, e.Pause != nil},
		{KindResume, e.Resume != nil},
		{KindStateDigest, e.StateDigest != nil},
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
		if m.Resolution != nil {
			if err := m.Resolution.check(); err != nil {
				return err
			}
		}
		return errors.Join(m.Task.check(), short(m.First, m.Shift, string(m.Verifier), m.Outcome), short(m.Methods...),
			inRange(m.Minutes, m.Frozen, m.Level))
	case KindBurn:
		b := e.Burn
		return errors.Join(b.Offering.check(), short(b.Till), inRange(b.Units, b.Price, b.Month, b.UnitsBefore, b.UnitsMonth))
	}
	return e.checkLater()
}

// checkLater is checkBody for the kinds that rest on earlier entries.
func (e *Entry) checkLater() error {
	switch e.Kind {
	case KindHold:
		h := e.Hold
		return errors.Join(h.Offering.check(), short(h.Till), checkDay(h.Until), inRange(h.Units, h.Price, h.Month, h.UnitsBefore, h.UnitsMonth))
	case KindCapture:
		return errors.Join(short(e.Capture.Till), inRange(e.Capture.Hold))
	case KindVoid:
		return errors.Join(short(e.Void.Reason), inRange(e.Void.Hold))
	case KindReverse:
		r := e.Reverse
		if e.Amount == 0 && (r.What != KindMint || r.Short == 0) {
			return errors.New("reverse of nothing")
		}
		return errors.Join(short(r.Reason, r.Till, string(r.What)), inRange(r.Of, r.Short))
	case KindDormant:
		d := e.Dormant
		return errors.Join(times(d.StartsAt, d.EndsAt), inRange(d.Month, d.Issued, d.Burned, d.Reactivated, d.Expired, d.Active, d.Dormant))
	case KindExpire:
		x := e.Expire
		return errors.Join(short(x.Reason), inRange(x.Month, x.Active, x.Woken))
	case KindEpochClose:
		return e.EpochClose.check()
	case KindPause:
		p := e.Pause
		return errors.Join(timesOrNone(p.Until), short(p.What, p.Subject, p.Reason))
	case KindResume:
		return short(e.Resume.What, e.Resume.Subject, e.Resume.Reason)
	case KindStateDigest:
		return e.StateDigest.check()
	}
	return nil
}

func (c *EpochClose) check() error {
	if c.R.Den <= 0 || c.R.Num < 0 || c.Delta.Den <= 0 || c.Delta.Num < 0 {
		return errors.New("rate out of range")
	}
	for _, m := range c.Months {
		if err := inRange(m.Issued, m.Burned, m.Quiet, m.Reactivated, m.Expired, m.Active, m.Dormant); err != nil {
			return err
		}
	}
	if n := c.Next; n != nil {
		if err := errors.Join(short(n.Epoch, n.Phase, n.BoundBy), inRange(n.Capacity, n.ShareBound, n.BackBound, n.Cap)); err != nil {
			return err
		}
	}
	return inRange(c.Reserved, c.Outstanding, c.Minted, c.Votes)
}

func (d *StateDigest) check() error {
	if len(d.Digest) != 32 {
		return fmt.Errorf("digest of %d bytes", len(d.Digest))
	}
	for _, b := range d.Balances {
		if len(b.Root) != 32 || b.Height > 40 {
			return errors.New("root of balances of another form")
		}
		if err := errors.Join(short(b.Book), inRange(b.Sum, b.Height)); err != nil {
			return err
		}
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
		if err := errors.Join(times(e.StartsAt, e.EndsAt), checkMonths(e.Months), short(e.Key, e.TZ, e.Phase, e.Book)); err != nil {
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
	role := b.Status != "" || b.ValidFrom != "" || b.ValidUntil != "" || len(b.Roles)+len(b.Delegates)+len(b.Categories) > 0 || b.PerEpochLimit != 0
	for _, f := range []struct {
		name      string
		has, want bool
	}{
		{"the terms of a role", role, b.What == BindRole},
		{"status", b.Status != "", b.What == BindRole},
		{"validFrom", b.ValidFrom != "", b.What == BindRole},
		{"till", b.Till != "", b.What == BindTill},
		{"key", b.Key != "", b.What == BindTill || b.What == BindWitness || b.What == BindLogKey},
		{"class", b.Class != "", b.What == BindWitness},
		{"openings", b.Openings, b.What == BindWitness && b.Openings},
		{"hash", len(b.Hash) > 0, b.What == BindPolicy},
		{"quorum", len(b.Quorum) > 0, b.What == BindLogKey && len(b.Quorum) > 0},
	} {
		if f.has != f.want {
			return fmt.Errorf("binding of a %s: %s is %t, not %t", b.What, f.name, f.has, f.want)
		}
	}
	if len(b.Hash) != 0 && len(b.Hash) != 32 {
		return fmt.Errorf("hash of %d bytes", len(b.Hash))
	}
	for _, q := range b.Quorum {
		if len(q.Sig) == 0 || len(q.Sig) > 256 {
			return fmt.Errorf("signature of %d bytes", len(q.Sig))
		}
		if err := short(q.Key); err != nil {
			return err
		}
	}
	for _, d := range b.Delegates {
		if err := short(string(d)); err != nil {
			return err
		}
	}
	return errors.Join(timesOrNone(b.ValidFrom, b.ValidUntil), short(b.Roles...), short(b.Categories...),
		short(b.Status, b.Till, b.Key, b.Class), inRange(b.PerEpochLimit))
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
