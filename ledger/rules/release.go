package rules

import (
	"slices"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

func (c ReleaseSlots) decide(s *State) ([]entry.Entry, error) {
	t := s.tasks[c.First]
	if t == nil {
		return nil, &Refusal{Name: TaskNotAccepted, Figures: figures{"first": c.First}, WaitFor: []string{c.First}}
	}
	switch {
	case c.Reason == entry.ReleaseCancelled && !c.Ordered && c.Author != t.org:
		return nil, refuse(NotAuthorized, figures{"author": string(c.Author), "issuer": string(t.org)})
	case c.Reason != entry.ReleaseCancelled && c.Reason != entry.ReleaseExpired:
		return nil, broken("slots cannot be released as %q", c.Reason)
	}
	v := t.current()
	var ids []string
	var amount int64
	for _, sh := range v.Shifts {
		n := t.shifts[sh.ID]
		if n.released || (len(c.Shifts) > 0 && !slices.Contains(c.Shifts, sh.ID)) {
			continue
		}
		if c.Reason == entry.ReleaseExpired && c.Now.Before(v.window(&sh).to) {
			continue
		}
		free := v.free(sh.ID, n)
		if free == 0 && c.Reason == entry.ReleaseExpired {
			continue
		}
		ids = append(ids, sh.ID)
		amount += free * v.Credits
	}
	if len(ids) == 0 {
		return nil, nil
	}
	d := s.draft(c.Now)
	e := entry.Entry{
		Kind: entry.KindRelease, Epoch: t.epoch.epoch, Book: t.epoch.book, Org: t.org, Amount: amount,
		Release: &entry.Release{First: c.First, Reason: c.Reason, Shifts: ids},
	}
	if c.Cause != nil {
		e.Causes = []entry.Cause{*c.Cause}
	}
	d.addTimed(e)
	return d.out, nil
}

func (s *State) applyRelease(e *entry.Entry) error {
	r := e.Release
	t := s.tasks[r.First]
	if t == nil || t.org != e.Org || t.epoch.bookEpoch != (bookEpoch{e.Book, e.Epoch}) {
		return broken("release of an unknown task %s", r.First)
	}
	for _, id := range r.Shifts {
		if t.shifts[id] == nil {
			return broken("release of an unknown shift %q", id)
		}
	}
	switch r.Reason {
	case entry.ReleaseCancelled, entry.ReleaseExpired:
		for _, id := range r.Shifts {
			t.shifts[id].released = true
		}
	case entry.ReleaseWithdrawn:
		if len(r.Shifts) != 1 {
			return broken("release of a held claim on %d shifts", len(r.Shifts))
		}
		t.shifts[r.Shifts[0]].closed += r.Closed
	case entry.ReleaseVersion:
	case entry.ReleaseRejected:
		if err := s.applyRejection(e); err != nil {
			return err
		}
	default:
		return broken("release for %q", r.Reason)
	}
	return t.reserve(-e.Amount)
}

// ExpiredSlots gives the releases that are due by now, because slots can be claimed no more.
func (s *State) ExpiredSlots(now time.Time) []ReleaseSlots {
	var due []ReleaseSlots
	for _, first := range sortedKeys(s.tasks) {
		ask := ReleaseSlots{Now: now, First: first, Reason: entry.ReleaseExpired}
		if entries, err := ask.decide(s); err == nil && len(entries) > 0 {
			due = append(due, ask)
		}
	}
	return due
}
