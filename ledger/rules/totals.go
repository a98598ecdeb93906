package rules

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// Totals are what the log says of one epoch of a book: whole credits and counts.
type Totals struct {
	Book, Epoch      string
	StartsAt, EndsAt string
	Params           entry.Ref

	CapacityMonth, Cap, Unallocated int64
	BoundBy                         string

	Reserved    int64 // by first versions
	Outstanding int64 // neither spent nor released
	Minted      int64
	Votes       int64
	Burned      int64
	Expired     int64
	Tasks       int64
	Claims      int64 // in the log, less those that ended
	Mints       int64
	Issuers     []IssuerTotals // by DID
}

// Supply is what people hold of what was minted in this epoch and burned in it.
func (t Totals) Supply() int64 { return t.Minted - t.Burned - t.Expired }

// IssuerTotals is one issuer's part.
type IssuerTotals struct {
	DID                                               syntax.DID
	Allocation, Reserved, Outstanding, Minted, Claims int64
}

// Totals gives the sums of an epoch that is open.
func (s *State) Totals(book, key string) (Totals, bool) {
	ep := s.epochs[bookEpoch{book, key}]
	if ep == nil {
		return Totals{}, false
	}
	t := Totals{
		Book: book, Epoch: key, StartsAt: ep.open.StartsAt, EndsAt: ep.open.EndsAt, Params: ep.params.ref,
		CapacityMonth: ep.open.Capacity, Cap: ep.open.Cap, Unallocated: ep.open.Unallocated, BoundBy: ep.open.BoundBy,
		Reserved: ep.reserved, Outstanding: ep.outstanding, Minted: ep.minted, Votes: ep.votes, Burned: ep.burned, Expired: ep.expired,
		Tasks: ep.tasks, Claims: ep.claims, Mints: ep.mints,
	}
	for _, did := range slices.Sorted(maps.Keys(ep.issuers)) {
		i := ep.issuers[did]
		t.Issuers = append(t.Issuers, IssuerTotals{
			DID: did, Allocation: i.allocation, Reserved: i.reserved, Outstanding: i.outstanding, Minted: i.minted, Claims: i.claims,
		})
	}
	return t, true
}

// Opening gives what opened an epoch, its entry's seq, and whether it is closed by now.
func (s *State) Opening(book, key string) (open entry.EpochOpen, seq int64, closed, ok bool) {
	ep := s.epochs[bookEpoch{book, key}]
	if ep == nil {
		return open, 0, false, false
	}
	return ep.open, ep.seq, ep.closed, true
}

// Epochs gives the open epochs, by book and start.
func (s *State) Epochs() []Totals {
	var list []Totals
	for id := range s.epochs {
		t, _ := s.Totals(id.book, id.epoch)
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b Totals) int {
		if a.Book != b.Book {
			return strings.Compare(a.Book, b.Book)
		}
		return strings.Compare(a.StartsAt, b.StartsAt)
	})
	return list
}

// EpochAt gives the open epoch of a book that holds t.
func (s *State) EpochAt(book string, t time.Time) (key string, ok bool) {
	if ep := s.openAt(book, t); ep != nil {
		return ep.epoch, true
	}
	return "", false
}

// Task is what the state knows of a task.
type Task struct {
	First       string
	Org         syntax.DID
	Book, Epoch string
	Current     entry.Reserve
	Outstanding int64
}

// Task gives a task by any of its accepted versions.
func (s *State) Task(version entry.Ref) (Task, bool) {
	first, ok := s.versions[version]
	if !ok {
		return Task{}, false
	}
	return s.TaskByFirst(first)
}

// TaskByFirst gives a task by the uri of its first version.
func (s *State) TaskByFirst(first string) (Task, bool) {
	t := s.tasks[first]
	if t == nil {
		return Task{}, false
	}
	return Task{
		First: first, Org: t.org, Book: t.epoch.book, Epoch: t.epoch.epoch, Current: t.current().Reserve, Outstanding: t.outstanding,
	}, true
}

// Terms gives the terms of one accepted version.
func (s *State) Terms(v entry.Ref) (entry.Reserve, bool) {
	t := s.tasks[s.versions[v]]
	if t == nil {
		return entry.Reserve{}, false
	}
	return t.version(v).Reserve, true
}

// Counted gives the offering that an epoch counted under this uri: its price and units hold to the epoch's end.
func (s *State) Counted(book, key, uri string) (entry.CountedOffering, bool) {
	ep := s.epochs[bookEpoch{book, key}]
	if ep == nil {
		return entry.CountedOffering{}, false
	}
	c, ok := ep.counted[uri]
	return c, ok
}

// UnitsBurned gives the units of an offering burned in the month of the open epoch that holds t.
func (s *State) UnitsBurned(book, uri string, t time.Time) int64 {
	ep := s.openAt(book, t)
	if ep == nil {
		return 0
	}
	m, _ := ep.month(t)
	return s.units[unitsKey{ep.bookEpoch, uri, m}]
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
