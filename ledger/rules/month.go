package rules

import "city-sync.org/citysync/ledger/entry"

func (s *State) applyDormant(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }

func (s *State) applyExpire(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }
