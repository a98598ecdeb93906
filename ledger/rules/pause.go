package rules

import (
	"cmp"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// MaxPause is the longest that one decision stops tasks, claims, mints or redemptions.
const MaxPause = 28 * 24 * time.Hour

// Pause stops something for a time. A task is stopped until it is resumed, an offering until its epoch ends at most, what a decision
// stops until a time of at most MaxPause from now, and each decision does so once. Who may say so is checked by whoever fills it in;
// what a pause can do is only ever less than before. Again the same: no entry.
type Pause struct {
	Now     time.Time
	What    string // of entry.PauseTask and so on
	Org     syntax.DID
	Subject string    // first uri of a task, uri of an offering
	Until   time.Time // of what a decision stops
	Reason  string
	Record  entry.Cause
}

// Resume ends a pause before its time. Nothing is paused: no entry.
type Resume struct {
	Now     time.Time
	What    string
	Org     syntax.DID
	Subject string
	Reason  string
	Record  entry.Cause
}

// pauseKey says what is paused. Without org it is the whole city.
type pauseKey struct {
	what    string
	org     syntax.DID
	subject string
}

type pause struct {
	until  time.Time // zero: until it is resumed
	since  string
	reason string
}

func (p *pause) holds(now time.Time) bool { return p.until.IsZero() || now.Before(p.until) }

func (c Pause) decide(s *State) ([]entry.Entry, error) {
	key := pauseKey{c.What, c.Org, c.Subject}
	until, err := c.bound(s, &key)
	if err != nil {
		return nil, err
	}
	// What is stopped for longer already is stopped; a pause is never cut short by another one.
	if have := s.pauses[key]; have != nil && have.holds(c.Now) && (have.until.IsZero() || !have.until.Before(until)) {
		return nil, nil
	}
	if byDecision(c.What) && s.spent[spentKey{key, c.Record.URI}] {
		return nil, refuse(DecisionSpent, figures{"what": c.What, "decision": c.Record.URI})
	}
	body := &entry.Pause{What: c.What, Subject: c.Subject, Reason: c.Reason}
	if !until.IsZero() {
		body.Until = entry.FormatTime(until)
	}
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{Kind: entry.KindPause, Org: key.org, Causes: []entry.Cause{c.Record}, Pause: body})
	return d.out, nil
}

// bound says until when it is paused at most, and whose it is.
func (c Pause) bound(s *State, key *pauseKey) (time.Time, error) {
	switch {
	case c.What == entry.PauseTask:
		t := s.tasks[c.Subject]
		if t == nil {
			return time.Time{}, refuse(TaskNotAccepted, figures{"task": c.Subject})
		}
		key.org = t.org
		return time.Time{}, nil
	case c.What == entry.PauseOffering:
		ep := s.epochOf(c.Subject, c.Now)
		if ep == nil {
			return time.Time{}, refuse(EpochClosed, figures{"offering": c.Subject})
		}
		key.org = authority(c.Subject)
		return ep.to, nil
	case !byDecision(c.What):
		return time.Time{}, refuse(InvalidRecord, figures{"what": c.What})
	case !c.Until.After(c.Now):
		return time.Time{}, refuse(PauseTooLong, figures{"until": entry.FormatTime(c.Until), "now": entry.FormatTime(c.Now)})
	case c.Until.After(c.Now.Add(MaxPause)):
		return time.Time{}, refuse(PauseTooLong, figures{
			"until": entry.FormatTime(c.Until), "most": entry.FormatTime(c.Now.Add(MaxPause)), "days": int64(MaxPause / (24 * time.Hour)),
		})
	}
	key.subject = ""
	return c.Until.UTC().Truncate(time.Second), nil
}

// byDecision are the pauses that stop a whole kind of act, of the city or of one organization.
func byDecision(what string) bool {
	switch what {
	case entry.PauseTasks, entry.PauseClaims, entry.PauseMints, entry.PauseRedemptions:
		return true
	}
	return false
}

// epochOf gives the epoch that counts an offering now, or the first that will.
func (s *State) epochOf(offering string, now time.Time) (first *epoch) {
	for _, ep := range s.epochs {
		if _, ok := ep.counted[offering]; !ok || !now.Before(ep.to) {
			continue
		}
		if first == nil || cmp.Or(ep.from.Compare(first.from), strings.Compare(ep.String(), first.String())) < 0 {
			first = ep
		}
	}
	return first
}

// OfferingOpen says whether an epoch that is not over counts the offering.
func (s *State) OfferingOpen(uri string, now time.Time) bool { return s.epochOf(uri, now) != nil }

func (c Resume) decide(s *State) ([]entry.Entry, error) {
	key := pauseKey{c.What, c.Org, c.Subject}
	switch c.What {
	case entry.PauseTask:
		if t := s.tasks[c.Subject]; t != nil {
			key.org = t.org
		}
	case entry.PauseOffering:
		key.org = authority(c.Subject)
	}
	if p := s.pauses[key]; p == nil || !p.holds(c.Now) {
		return nil, nil
	}
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{
		Kind: entry.KindResume, Org: key.org, Causes: []entry.Cause{c.Record},
		Resume: &entry.Resume{What: c.What, Subject: c.Subject, Reason: c.Reason},
	})
	return d.out, nil
}

// Paused says whether this is stopped now.
func (s *State) Paused(now time.Time, what string, org syntax.DID, subject string) bool {
	p := s.pauses[pauseKey{what, org, subject}]
	return p != nil && p.holds(now)
}

// paused refuses what is stopped, for the whole city or for one organization.
func (s *State) paused(now time.Time, what string, org syntax.DID) error {
	for _, key := range []pauseKey{{what: what}, {what: what, org: org}} {
		if p := s.pauses[key]; p != nil && p.holds(now) {
			return p.refusal(&key)
		}
	}
	return nil
}

func (p *pause) refusal(key *pauseKey) *Refusal {
	f := figures{"what": key.what, "reason": p.reason}
	for name, text := range map[string]string{"org": string(key.org), "subject": key.subject} {
		if text != "" {
			f[name] = text
		}
	}
	if !p.until.IsZero() {
		f["until"] = entry.FormatTime(p.until)
	}
	return refuse(Paused, f)
}

// pausedOffering refuses codes, holds and burns of an offering that is stopped, alone or with all of its redeemer's or the city's.
func (s *State) pausedOffering(now time.Time, o *Offering) error {
	key := pauseKey{entry.PauseOffering, o.Redeemer, o.Record.URI}
	if p := s.pauses[key]; p != nil && p.holds(now) {
		return p.refusal(&key)
	}
	return s.paused(now, entry.PauseRedemptions, o.Redeemer)
}

// heldByDispute refuses what an admitted objection to the task holds.
func (s *State) heldByDispute(t *task, now time.Time) error {
	p := s.pauses[pauseKey{entry.PauseTask, t.org, t.first}]
	if p == nil || !p.holds(now) {
		return nil
	}
	return refuse(HeldByDispute, figures{
		"what": entry.PauseTask, "org": string(t.org), "subject": t.first, "since": p.since, "reason": p.reason,
	})
}

// spentKey is a decision that stopped something once.
type spentKey struct {
	pauseKey
	decision string
}

func (s *State) applyPause(e *entry.Entry) error {
	key := pauseKey{e.Pause.What, e.Org, e.Pause.Subject}
	p := &pause{since: e.At, reason: e.Pause.Reason}
	at, err := entry.ParseTime(e.At)
	if err != nil {
		return broken("%v", err)
	}
	if e.Pause.Until != "" {
		if p.until, err = entry.ParseTime(e.Pause.Until); err != nil {
			return broken("%v", err)
		}
	}
	switch {
	case key.what == entry.PauseTask:
		if t := s.tasks[key.subject]; t == nil || t.org != key.org || !p.until.IsZero() {
			return broken("pause of the task %s of %s until %q", key.subject, key.org, e.Pause.Until)
		}
	case key.what == entry.PauseOffering:
		ep := s.epochOf(key.subject, at)
		if ep == nil || authority(key.subject) != key.org || p.until.IsZero() || p.until.After(ep.to) {
			return broken("pause of the offering %s of %s until %q", key.subject, key.org, e.Pause.Until)
		}
	case !byDecision(key.what) || key.subject != "" || p.until.IsZero() || p.until.After(at.Add(MaxPause)):
		return broken("pause of %s until %q", key.what, e.Pause.Until)
	default:
		by := spentKey{key, e.Causes[0].URI}
		if s.spent[by] {
			return broken("a second pause by %s", by.decision)
		}
		s.spent[by] = true
	}
	if have := s.pauses[key]; have != nil && have.holds(at) && (have.until.IsZero() || p.until.Before(have.until)) {
		return broken("a pause of %s cuts another one short", key.what)
	}
	s.pauses[key] = p
	return nil
}

func (s *State) applyResume(e *entry.Entry) error {
	key := pauseKey{e.Resume.What, e.Org, e.Resume.Subject}
	if s.pauses[key] == nil {
		return broken("%s %s of %s is not paused", key.what, key.subject, key.org)
	}
	delete(s.pauses, key)
	return nil
}

func (k pauseKey) String() string {
	return strings.Join([]string{k.what, string(k.org), k.subject}, "\n")
}
