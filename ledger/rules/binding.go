package rules

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

func (c BindTill) decide(s *State) ([]entry.Entry, error) {
	if !s.accreditedNow(c.Org, c.Now, RoleRedeemer, RoleSponsor) {
		return nil, refuse(NotAccredited, figures{"org": string(c.Org), "role": RoleRedeemer})
	}
	id := entry.TillID(string(c.Org), c.Key)
	if _, ok := s.tills[id]; ok {
		return nil, nil
	}
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{Kind: entry.KindBind, Org: c.Org, Bind: &entry.Bind{What: entry.BindTill, Till: id, Key: c.Key}})
	return d.out, nil
}

func (c BindStaff) decide(s *State) ([]entry.Entry, error) {
	if !s.accreditedNow(c.Org, c.Now, RoleIssuer, RoleVerifier) {
		return nil, refuse(NotAccredited, figures{"org": string(c.Org), "role": RoleVerifier})
	}
	if s.Staff(c.Resident, c.Org) {
		return nil, nil
	}
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindBind, Bind: &entry.Bind{What: entry.BindStaff},
		Sealed: &entry.Sealed{At: entry.FormatTime(c.Now), Org: c.Org, Resident: c.Resident},
	})
	return d.out, nil
}

func (s *State) applyBind(e *entry.Entry) error {
	switch e.Bind.What {
	case entry.BindRole:
		return s.applyRole(e)
	case entry.BindTill:
		if e.Bind.Till != entry.TillID(string(e.Org), e.Bind.Key) {
			return broken("till %s has another id", e.Bind.Till)
		}
		if _, ok := s.tills[e.Bind.Till]; ok {
			return broken("till %s is bound already", e.Bind.Till)
		}
		s.tills[e.Bind.Till] = till{org: e.Org, key: e.Bind.Key}
		return nil
	case entry.BindStaff:
		if e.Sealed != nil && e.Sealed.Erased {
			return nil
		}
		if e.Sealed == nil || e.Sealed.Resident == "" || e.Sealed.Org == "" {
			return broken("its sealed part is missing")
		}
		orgs := s.staff[e.Sealed.Resident]
		if orgs == nil {
			orgs = map[syntax.DID]bool{}
			s.staff[e.Sealed.Resident] = orgs
		}
		orgs[e.Sealed.Org] = true
		return nil
	}
	return s.applyWitnessing(e)
}

func (c Activate) decide(s *State) ([]entry.Entry, error) {
	if err := CheckDesk(s, c.Issuer, c.Now); err != nil {
		return nil, err
	}
	if _, ok := s.residents[c.Resident]; ok {
		return nil, refuse(AlreadyActivated, nil)
	}
	if _, ok := s.accounts[c.Account]; ok || c.Account == erased {
		return nil, &Refusal{Name: AlreadyActivated, Figures: figures{"account": "not fresh"}, Alarm: true}
	}
	d := s.draft(c.Now)
	sealed := d.sealed(c.Account)
	sealed.Resident = c.Resident
	d.add(entry.Entry{Kind: entry.KindActivate, Org: c.Issuer, Sealed: sealed})
	return d.out, nil
}

// CheckDesk says whether an issuer has a desk where residents are activated and given cards.
func CheckDesk(s *State, issuer syntax.DID, now time.Time) error {
	if !s.accreditedNow(issuer, now, RoleIssuer) {
		return refuse(NotAccredited, figures{"org": string(issuer), "role": RoleIssuer})
	}
	if !s.accredited(issuer).allowsActivation() {
		return refuse(NotAccredited, figures{"org": string(issuer), "category": CategoryActivation})
	}
	return nil
}

func (a *accreditation) allowsActivation() bool {
	for _, c := range a.Categories {
		if c == CategoryActivation {
			return true
		}
	}
	return false
}

func (s *State) applyActivate(e *entry.Entry) error {
	if e.Sealed != nil && e.Sealed.Erased {
		return nil // an account that was forgotten: its acts are those of all such
	}
	if e.Sealed == nil || e.Sealed.Account == erased {
		return broken("its sealed part is missing")
	}
	if _, ok := s.accounts[e.Sealed.Account]; ok {
		return broken("the account is open already")
	}
	if _, ok := s.residents[e.Sealed.Resident]; ok && e.Sealed.Resident != "" {
		return broken("the resident has an account")
	}
	s.accounts[e.Sealed.Account] = &account{resident: e.Sealed.Resident}
	if e.Sealed.Resident != "" {
		s.residents[e.Sealed.Resident] = e.Sealed.Account
	}
	return nil
}
