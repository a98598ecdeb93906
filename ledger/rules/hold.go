package rules

import "city-sync.org/citysync/ledger/entry"

func (s *State) applyHold(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }

func (s *State) applyCapture(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }

func (s *State) applyVoid(e *entry.Entry) error { return broken("%s is not applied", e.Kind) }
