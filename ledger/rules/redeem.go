package rules

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

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
	id, err := s.person(c.Resident, c.Account)
	if err != nil {
		return CodeTerms{}, err
	}
	terms, err := s.redeemable(c.Now, time.Time{}, id, &c.Offering, c.Units)
	if err != nil {
		return CodeTerms{}, err
	}
	if c.Offering.FreeFor && !c.NoneOfFreeFor {
		return CodeTerms{}, refuse(FreeAnyway, nil)
	}
	return CodeTerms{Account: id, Book: terms.epoch.book, Epoch: terms.epoch.epoch, Month: terms.month, Price: terms.price * c.Units}, nil
}

// person gives the account of a resident, or the one that is named instead.
func (s *State) person(resident syntax.DID, account entry.Account) (entry.Account, error) {
	if resident != "" {
		account = s.residents[resident]
	}
	if account == erased || s.accounts[account] == nil {
		return erased, refuse(NotActivated, nil)
	}
	return account, nil
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

// redeemable holds the conditions that a code, its burn and a hold share, in order. A code and a burn need an open counter;
// a hold, which has an end, one that opens before that.
func (s *State) redeemable(now, end time.Time, id entry.Account, o *Offering, units int64) (*redemption, error) {
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
	if err := s.pausedOffering(now, o); err != nil {
		return nil, err
	}
	// What a redeemer counted into an epoch is honored to its end; a pause for cause stops codes at once.
	if o.Paused || (o.Ended && !isCounted) {
		return nil, refuse(OfferingPaused, figures{"ended": o.Ended})
	}
	if err := s.opens(o.Windows, now, end); err != nil {
		return nil, err
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
	if has := s.freeAt(id, o.Book, now); units > has/r.price {
		return nil, refuse(InsufficientBalance, figures{"balance": has, "price": r.price, "units": units})
	}
	return r, nil
}

func (c Burn) decide(s *State) ([]entry.Entry, error) {
	if _, err := s.person("", c.Account); err != nil {
		return nil, err
	}
	t, ok := s.tills[c.Till]
	if !ok || t.org != c.Offering.Redeemer {
		return nil, refuse(TillUnknown, figures{"till": c.Till})
	}
	r, err := s.redeemable(c.Now, time.Time{}, c.Account, &c.Offering, c.Units)
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
	t := terms{b.Offering, b.Till, b.Units, b.Price, b.Month, b.UnitsBefore, b.UnitsMonth}
	ep, err := s.checkTerms(e, acc, t)
	if err != nil {
		return err
	}
	s.spend(acc, e.Book, e.Amount)
	s.tally(e.Sealed.Account, ep.bookEpoch, b.Offering.URI, b.Month, b.Units)
	ep.sums.burned += e.Amount
	s.keep(e.Seq, &redeemed{
		what: e.Kind, account: e.Sealed.Account, epoch: ep.bookEpoch, org: e.Org, offering: b.Offering.URI, units: b.Units, amount: e.Amount,
		month: b.Month, at: e.Sealed.At, day: e.Day,
	})
	return nil
}

// terms are what a burn and a hold both say.
type terms struct {
	offering                                     entry.Ref
	till                                         string
	units, price, month, unitsBefore, unitsMonth int64
}

// checkTerms holds what must be true of a burn and of a hold before either is applied.
func (s *State) checkTerms(e *entry.Entry, acc *account, t terms) (*epoch, error) {
	ep := s.epochs[bookEpoch{e.Book, e.Epoch}]
	if ep == nil || t.month < 0 || t.month >= int64(len(ep.months)) {
		return nil, broken("%s outside an open epoch", e.Kind)
	}
	if bound, ok := s.tills[t.till]; !ok || bound.org != e.Org {
		return nil, broken("%s at till %s, which %s did not bind", e.Kind, t.till, e.Org)
	}
	key := unitsKey{ep.bookEpoch, t.offering.URI, int(t.month)}
	switch {
	case t.units < 1 || t.price < 1 || t.units > maxCredits || t.price > maxCredits || e.Amount != t.units*t.price:
		return nil, broken("%s of %d for %d units at %d", e.Kind, e.Amount, t.units, t.price)
	case t.unitsBefore != s.units[key] || t.unitsBefore+t.units > t.unitsMonth:
		return nil, broken("units %d and %d of %d, before were %d", t.unitsBefore, t.units, t.unitsMonth, s.units[key])
	case acc.free(e.Book) < e.Amount:
		return nil, broken("%s of %d from a balance of %d", e.Kind, e.Amount, acc.free(e.Book))
	}
	if c, ok := ep.counted[t.offering.URI]; ok && (c.CID != t.offering.CID || c.Credits != t.price || c.Units != t.unitsMonth) {
		return nil, broken("%s on other terms than those counted for %s", e.Kind, t.offering.URI)
	}
	return ep, nil
}

// tally adds units to what the month and the person had, or takes them back.
func (s *State) tally(id entry.Account, ep bookEpoch, offering string, month, units int64) {
	s.units[unitsKey{ep, offering, int(month)}] += units
	if id == erased {
		return
	}
	key := personalKey{id, ep.epoch, offering}
	if s.personal[key] += units; s.personal[key] <= 0 {
		delete(s.personal, key)
	}
}
