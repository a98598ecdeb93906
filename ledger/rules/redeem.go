package rules

import (
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// CodeTerms are what a redemption code binds.
type CodeTerms struct {
	Account entry.Account
	Book    string
	Epoch   string
	Month   int
	Price   int64 // for all units
}

// CheckCode says whether a redemption code may be made, and on which terms. A burn checks them again.
func CheckCode(s *State, c CodeRequest) (CodeTerms, error) {
	id, ok := s.residents[c.Resident]
	if !ok {
		return CodeTerms{}, refuse(NotActivated, nil)
	}
	terms, err := s.redeemable(c.Now, id, &c.Offering, c.Units)
	if err != nil {
		return CodeTerms{}, err
	}
	if c.Offering.FreeFor && !c.NoneOfFreeFor {
		return CodeTerms{}, refuse(FreeAnyway, nil)
	}
	return CodeTerms{Account: id, Book: terms.epoch.book, Epoch: terms.epoch.epoch, Month: terms.month, Price: terms.price * c.Units}, nil
}

// CheckScan says whether a code can still be confirmed: AlreadyRedeemed before CodeExpired, so that a second scan says what
// happened. usedAt is zero for a code that was not used.
func CheckScan(now, expiresAt, usedAt time.Time) error {
	if !usedAt.IsZero() {
		return refuse(AlreadyRedeemed, figures{"at": entry.FormatTime(usedAt)})
	}
	if !now.Before(expiresAt) {
		return refuse(CodeExpired, figures{"expiredAt": entry.FormatTime(expiresAt)})
	}
	return nil
}

// redemption is one that would be granted.
type redemption struct {
	epoch       *epoch
	month       int
	price       int64 // a unit
	units       int64 // committed for the month
	unitsBefore int64
}

// redeemable holds the conditions that a code and its burn share, in order.
func (s *State) redeemable(now time.Time, id entry.Account, o *Offering, units int64) (*redemption, error) {
	if !s.accreditedNow(o.Redeemer, now, RoleRedeemer, RoleSponsor) {
		return nil, refuse(NotAccredited, figures{"org": string(o.Redeemer), "role": RoleRedeemer})
	}
	ep := s.openAt(o.Book, now)
	if ep == nil || ep.epoch != o.Epoch {
		return nil, refuse(EpochClosed, figures{"epoch": o.Epoch, "book": o.Book})
	}
	r := &redemption{epoch: ep, price: o.Credits, units: o.Units()}
	counted, isCounted := ep.counted[o.Record.URI]
	if isCounted {
		if counted.CID != o.Record.CID {
			return nil, refuse(TermsFrozen, figures{"offering": counted.CID, "cited": o.Record.CID})
		}
		r.price, r.units = counted.Credits, counted.Units
	}
	if o.PublicPriceMinor <= 0 {
		return nil, refuse(PublicPriceZero, figures{"publicPriceMinor": o.PublicPriceMinor})
	}
	if units < 1 || units > maxCredits || r.price < 1 || r.price > maxCredits {
		return nil, refuse(InvalidRecord, figures{"units": units, "credits": r.price})
	}
	// What a redeemer counted into an epoch is honored to its end; a pause for cause stops codes at once.
	if o.Paused || (o.Ended && !isCounted) {
		return nil, refuse(OfferingPaused, figures{"ended": o.Ended})
	}
	if !InWindow(o.Windows, now, s.loc) {
		local := now.In(s.loc)
		return nil, refuse(OutsideWindow, figures{"day": local.Weekday().String(), "time": local.Format("15:04")})
	}
	month, ok := ep.month(now)
	if !ok {
		return nil, refuse(EpochClosed, figures{"epoch": o.Epoch, "month": "none"})
	}
	r.month = month
	r.unitsBefore = s.units[unitsKey{ep.bookEpoch, o.Record.URI, month}]
	if r.unitsBefore+units > r.units {
		return nil, refuse(UnitsExhausted, figures{"burned": r.unitsBefore, "wanted": units, "committed": r.units})
	}
	if had := s.personal[personalKey{id, ep.epoch, o.Record.URI}]; o.PersonLimit > 0 && had+units > o.PersonLimit {
		return nil, refuse(PersonLimit, figures{"had": had, "wanted": units, "limit": o.PersonLimit})
	}
	if has, _ := s.Balance(id, o.Book); units > has/r.price {
		return nil, refuse(InsufficientBalance, figures{"balance": has, "price": r.price, "units": units})
	}
	return r, nil
}

func (c Burn) decide(s *State) ([]entry.Entry, error) {
	if s.accounts[c.Account] == nil {
		return nil, refuse(NotActivated, nil)
	}
	t, ok := s.tills[c.Till]
	if !ok || t.org != c.Offering.Redeemer {
		return nil, refuse(TillUnknown, figures{"till": c.Till})
	}
	r, err := s.redeemable(c.Now, c.Account, &c.Offering, c.Units)
	if err != nil {
		return nil, err
	}
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindBurn, Epoch: r.epoch.epoch, Book: r.epoch.book, Org: c.Offering.Redeemer, Amount: r.price * c.Units,
		Causes: []entry.Cause{c.Offering.Record}, Params: new(r.epoch.params.ref),
		Burn: &entry.Burn{
			Offering: c.Offering.Record.Ref(), Units: c.Units, Price: r.price, Month: int64(r.month),
			UnitsBefore: r.unitsBefore, UnitsMonth: r.units, Till: c.Till,
		},
		Sealed: d.sealed(c.Account),
	})
	return d.out, nil
}

func (s *State) applyBurn(e *entry.Entry) error {
	acc, err := s.sealed(e)
	if err != nil {
		return err
	}
	b := e.Burn
	ep := s.epochs[bookEpoch{e.Book, e.Epoch}]
	if ep == nil || b.Month >= int64(len(ep.months)) {
		return broken("burn outside an open epoch")
	}
	if t, ok := s.tills[b.Till]; !ok || t.org != e.Org {
		return broken("burn at till %s, which %s did not bind", b.Till, e.Org)
	}
	key := unitsKey{ep.bookEpoch, b.Offering.URI, int(b.Month)}
	switch {
	case b.Units < 1 || b.Price < 1 || e.Amount != b.Units*b.Price:
		return broken("burn of %d for %d units at %d", e.Amount, b.Units, b.Price)
	case b.UnitsBefore != s.units[key] || b.UnitsBefore+b.Units > b.UnitsMonth:
		return broken("units %d and %d of %d, before were %d", b.UnitsBefore, b.Units, b.UnitsMonth, s.units[key])
	case acc.free(e.Book) < e.Amount:
		return broken("burn of %d from a balance of %d", e.Amount, acc.free(e.Book))
	}
	if c, ok := ep.counted[b.Offering.URI]; ok && (c.CID != b.Offering.CID || c.Credits != b.Price || c.Units != b.UnitsMonth) {
		return broken("burn on other terms than those counted for %s", b.Offering.URI)
	}
	s.spend(acc, e.Book, e.Amount)
	s.units[key] += b.Units
	if !e.Sealed.Erased {
		s.personal[personalKey{e.Sealed.Account, e.Epoch, b.Offering.URI}] += b.Units
	}
	ep.sums.burned += e.Amount
	return nil
}
