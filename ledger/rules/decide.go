package rules

import (
	"fmt"
	"slices"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// Version is the version of these rules. Version 1 knew no months: nothing went dormant, expired, was held, reversed or paused.
const Version = 2

// Decide answers a command with the entries it makes, in order and with their seq, or refuses it with a *Refusal. No
// entries and no error mean that what is asked for stands already. It never changes the state.
func Decide(s *State, c Command) ([]entry.Entry, error) {
	if _, first := c.(RulesVersion); s.version == 0 && !first {
		return nil, fmt.Errorf("%w: a log begins with the version of its rules, not with %T", ErrBroken, c)
	}
	return c.decide(s)
}

// draft collects the entries of one command.
type draft struct {
	s      *State
	now    time.Time
	out    []entry.Entry
	closed []string // books whose months were closed
}

func (s *State) draft(now time.Time) *draft { return &draft{s: s, now: now} }

// add gives the entry its place and its day. One that changes a book comes after the months that are over.
func (d *draft) add(e entry.Entry) {
	if changesBook(e.Kind) && !slices.Contains(d.closed, e.Book) {
		_ = d.closeMonths(e.Book) // what cannot be closed stays open, and Apply stops at the entry
	}
	d.put(e)
}

func (d *draft) put(e entry.Entry) {
	e.Seq = d.s.size + int64(len(d.out))
	e.Day = d.s.day(d.now)
	d.out = append(d.out, e)
}

// addTimed is add for an entry that concerns organizations alone, which shows its time.
func (d *draft) addTimed(e entry.Entry) {
	e.At = entry.FormatTime(d.now)
	d.add(e)
}

func (d *draft) sealed(a entry.Account) *entry.Sealed {
	return &entry.Sealed{Account: a, At: entry.FormatTime(d.now)}
}

func (c RulesVersion) decide(s *State) ([]entry.Entry, error) {
	if c.Version == s.version {
		return nil, nil
	}
	if c.Version != Version || c.Version < s.version {
		return nil, fmt.Errorf("%w: rules version %d is not compiled in", ErrBroken, c.Version)
	}
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{Kind: entry.KindRulesVersion, RulesVersion: &entry.RulesVersion{Version: c.Version}})
	return d.out, nil
}
