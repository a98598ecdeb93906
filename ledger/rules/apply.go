package rules

import (
	"fmt"

	"city-sync.org/citysync/ledger/entry"
)

// Apply changes the state by one entry, whose sealed part must be there. An error wraps ErrBroken, and the state must not
// be used after it.
func Apply(s *State, e entry.Entry) error {
	if e.Seq != s.size {
		return broken("entry %d comes as number %d", e.Seq, s.size)
	}
	if (e.Seq == 0) != (s.version == 0) || (e.Seq == 0 && e.Kind != entry.KindRulesVersion) {
		return broken("entry 0 is a %s, not the version of the rules", e.Kind)
	}
	if err := s.inMonth(&e); err != nil {
		return fmt.Errorf("entry %d (%s): %w", e.Seq, e.Kind, err)
	}
	if err := s.apply(&e); err != nil {
		return fmt.Errorf("entry %d (%s): %w", e.Seq, e.Kind, err)
	}
	s.size++
	return nil
}

func (s *State) apply(e *entry.Entry) error {
	switch e.Kind {
	case entry.KindRulesVersion:
		if v := e.RulesVersion.Version; v > Version || v <= s.version {
			return broken("rules version %d follows %d, compiled in is %d", v, s.version, Version)
		}
		s.version = e.RulesVersion.Version
		return nil
	case entry.KindParameters:
		return s.applyParameters(e)
	case entry.KindBind:
		return s.applyBind(e)
	case entry.KindActivate:
		return s.applyActivate(e)
	case entry.KindEpochOpen:
		return s.applyEpochOpen(e)
	case entry.KindReserve:
		return s.applyReserve(e)
	case entry.KindRelease:
		return s.applyRelease(e)
	case entry.KindClaim:
		return s.applyClaim(e)
	case entry.KindUnclaim:
		return s.applyUnclaim(e)
	case entry.KindMint:
		return s.applyMint(e)
	case entry.KindBurn:
		return s.applyBurn(e)
	case entry.KindHold:
		return s.applyHold(e)
	case entry.KindCapture:
		return s.applyCapture(e)
	case entry.KindVoid:
		return s.applyVoid(e)
	case entry.KindReverse:
		return s.applyReverse(e)
	}
	return s.applyTime(e)
}

// applyTime is apply for the kinds that months and days bring, and for what stops or starts something for a time.
func (s *State) applyTime(e *entry.Entry) error {
	switch e.Kind {
	case entry.KindDormant:
		return s.applyDormant(e)
	case entry.KindExpire:
		return s.applyExpire(e)
	case entry.KindEpochClose:
		return s.applyEpochClose(e)
	case entry.KindPause:
		return s.applyPause(e)
	case entry.KindResume:
		return s.applyResume(e)
	case entry.KindStateDigest:
		return s.applyStateDigest(e)
	}
	return broken("kind %q is unknown", e.Kind)
}

// sealed gives the entry's account, which must be open: its own, or that of all who were forgotten.
func (s *State) sealed(e *entry.Entry) (*account, error) {
	if e.Sealed == nil || (e.Sealed.Account == erased) != e.Sealed.Erased {
		return nil, broken("its sealed part is missing")
	}
	a := s.accounts[e.Sealed.Account]
	if a == nil {
		return nil, broken("its account is not activated")
	}
	return a, nil
}
