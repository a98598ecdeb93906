package rules

import "city-sync.org/citysync/ledger/entry"

func (s *State) applyEpochClose(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }
