package rules

import "city-sync.org/citysync/ledger/entry"

func (s *State) applyPause(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }

func (s *State) applyResume(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }
