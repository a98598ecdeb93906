package rules

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// accreditation is one version of an organization's accreditation, in force from when the log saw it until the next.
type accreditation struct {
	at     string // time of its entry
	record entry.Ref
	entry.Bind
}

func (a *accreditation) good() bool {
	return a.Status == StatusActive || a.Status == StatusConditional
}

func (a *accreditation) hasRole(roles ...string) bool {
	return slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(a.Roles, r) })
}

// covers says whether the term has the local day.
func (a *accreditation) covers(day string, loc *time.Location) bool {
	from, err := entry.ParseTime(a.ValidFrom)
	if err != nil || entry.FormatDay(from, loc) > day {
		return false
	}
	if a.ValidUntil == "" {
		return true
	}
	until, err := entry.ParseTime(a.ValidUntil)
	return err == nil && day <= entry.FormatDay(until.Add(-time.Nanosecond), loc)
}

// inScope says whether work of a category is in the accreditation's scope. Activation is leave for the desk, not a kind of work.
func (a *accreditation) inScope(category string) bool {
	work := slices.DeleteFunc(slices.Clone(a.Categories), func(c string) bool { return c == CategoryActivation })
	return category == "" || len(work) == 0 || slices.Contains(work, category)
}

// accredited gives the organization's accreditation now, whatever its status; nil where there is none.
func (s *State) accredited(org syntax.DID) *accreditation {
	if versions := s.roles[org]; len(versions) > 0 {
		return &versions[len(versions)-1]
	}
	return nil
}

// accreditedNow says whether the organization has one of the roles at this time.
func (s *State) accreditedNow(org syntax.DID, now time.Time, roles ...string) bool {
	a := s.accredited(org)
	return a != nil && a.good() && a.hasRole(roles...) && a.covers(s.day(now), s.loc)
}

// accreditedOn says whether some version that was in force on the local day gave the organization one of the roles. The first version counts for
// days before the log saw it too: its term says from when it holds.
func (s *State) accreditedOn(org syntax.DID, day string, roles ...string) bool {
	versions := s.roles[org]
	for i := range versions {
		a := &versions[i]
		if i > 0 && s.dayOf(a.at) > day {
			return false
		}
		if i+1 < len(versions) && s.dayOf(versions[i+1].at) < day {
			continue // it ended before
		}
		if a.good() && a.hasRole(roles...) && a.covers(day, s.loc) {
			return true
		}
	}
	return false
}

func (s *State) dayOf(at string) string {
	t, err := entry.ParseTime(at)
	if err != nil {
		return ""
	}
	return s.day(t)
}

// activeIn says whether the organization has a role in some part of the span, as things stand.
func (s *State) activeIn(org syntax.DID, sp span, roles ...string) bool {
	a := s.accredited(org)
	if a == nil || !a.good() || !a.hasRole(roles...) {
		return false
	}
	from, err := entry.ParseTime(a.ValidFrom)
	if err != nil || !from.Before(sp.to) {
		return false
	}
	if a.ValidUntil == "" {
		return true
	}
	until, err := entry.ParseTime(a.ValidUntil)
	return err == nil && until.After(sp.from)
}

// bareName turns a token such as org.city-sync.defs#roleIssuer into issuer, and leaves a bare name alone.
func bareName(token, prefix string) string {
	_, name, isToken := strings.Cut(token, "#")
	if !isToken {
		name = token
	}
	rest, has := strings.CutPrefix(name, prefix)
	first, size := utf8.DecodeRuneInString(rest)
	if !has || !unicode.IsUpper(first) {
		return name
	}
	return string(unicode.ToLower(first)) + rest[size:]
}

func bareNames(tokens []string, prefix string) []string {
	var names []string
	for _, t := range tokens {
		names = append(names, bareName(t, prefix))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c BindRole) decide(s *State) ([]entry.Entry, error) {
	b := entry.Bind{
		What:          entry.BindRole,
		Roles:         bareNames(c.Roles, "role"),
		Status:        c.Status,
		ValidFrom:     entry.FormatTime(c.ValidFrom),
		Delegates:     slices.Compact(slices.Sorted(slices.Values(c.Delegates))),
		Categories:    bareNames(c.Categories, "category"),
		PerEpochLimit: c.PerEpochLimit,
	}
	if !c.ValidUntil.IsZero() {
		b.ValidUntil = entry.FormatTime(c.ValidUntil)
	}
	switch b.Status {
	case StatusActive, StatusConditional, StatusSuspended, StatusRevoked:
	default:
		return nil, refuse(InvalidRecord, figures{"status": b.Status})
	}
	d := s.draft(c.Now)
	if a := s.accredited(c.Org); a != nil {
		if a.record == c.Record.Ref() && a.Status == b.Status {
			return nil, nil
		}
		if at, err := entry.ParseTime(a.at); err == nil && at.After(c.Now) {
			d.now = at // the clock was set back: versions stay in order
		}
	}
	d.addTimed(entry.Entry{Kind: entry.KindBind, Org: c.Org, Causes: []entry.Cause{c.Record}, Bind: &b})
	return d.out, nil
}

func (s *State) applyRole(e *entry.Entry) error {
	if a := s.accredited(e.Org); a != nil && e.At < a.at {
		return broken("accreditation of %s at %s, after one at %s", e.Org, e.At, a.at)
	}
	s.roles[e.Org] = append(s.roles[e.Org], accreditation{at: e.At, record: e.Causes[0].Ref(), Bind: *e.Bind})
	return nil
}
