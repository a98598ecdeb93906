package audit

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

type pauseKey struct {
	what    string
	org     syntax.DID // none: the whole city
	subject string
}

// decided is a decision that stopped something once.
type decided struct {
	pauseKey
	decision string
}

// pause is one that was not resumed.
type pause struct {
	from, until string // times; no until: up to the resumption
}

// maxPause bounds what the city may stop at once.
const maxPause = 28 * 24 * time.Hour

// over says whether a pause had ended by a time.
func (p *pause) over(at string) bool { return p.until != "" && p.until <= at }

// paused says whether something is certainly stopped at an entry, for the whole city or for one organization: by the entry's
// time or, where it shows none, by its day.
func (a *Auditor) paused(e *entry.Entry, what string, org syntax.DID, subject string) bool {
	for _, key := range []pauseKey{{what, "", subject}, {what, org, subject}} {
		p := a.pauses[key]
		switch {
		case p == nil:
		case e.At != "" && p.from <= e.At && !p.over(e.At):
			return true
		case e.At == "" && a.localDay(p.from) <= e.Day && (p.until == "" || e.Day < a.localDay(p.until)):
			return true
		}
	}
	return false
}

// mayStop checks who stops something or lets it go on, and gives what it is.
func (a *Auditor) mayStop(e *entry.Entry, what, subject string) pauseKey {
	by := authority(e.Causes[0].URI)
	switch what {
	case entry.PauseTask:
		t := a.tasks[subject]
		a.check(e, t != nil && t.org == e.Org, "a %s of task %s, which %q did not publish", e.Kind, subject, e.Org)
		a.check(e, a.mayRule(by), "%s may not rule on a task", by)
	case entry.PauseOffering:
		a.check(e, authority(subject) == e.Org, "a %s of offering %s, which is not of %q", e.Kind, subject, e.Org)
		a.check(e, by == e.Org || a.mayRule(by), "a %s of offering %s by %s", e.Kind, subject, by)
	case entry.PauseTasks, entry.PauseClaims, entry.PauseMints, entry.PauseRedemptions:
		a.check(e, subject == "", "a %s of all %s names %q", e.Kind, what, subject)
		a.check(e, by == a.city, "%s may not stop %s", by, what)
	default:
		a.found(e.Seq, "a %s of %q", e.Kind, what)
	}
	return pauseKey{what, e.Org, subject}
}

func (a *Auditor) pause(e *entry.Entry) {
	p := e.Pause
	key := a.mayStop(e, p.What, p.Subject)
	switch p.What {
	case entry.PauseTask:
		a.check(e, p.Until == "", "an objection holds a task until its ruling, not until %s", p.Until)
	case entry.PauseOffering:
		a.check(e, a.offeredUntil(p.Subject, p.Until), "a pause of offering %s until %q, past the epoch that counts it", p.Subject, p.Until)
	default:
		from, err1 := entry.ParseTime(e.At)
		to, err2 := entry.ParseTime(p.Until)
		a.check(e, err1 == nil && err2 == nil && from.Before(to) && to.Sub(from) <= maxPause, "a pause of %s from %s until %q", p.What, e.At, p.Until)
		by := decided{key, e.Causes[0].URI}
		a.check(e, !a.stopped[by], "a second pause of %s by %s", p.What, by.decision)
		a.stopped[by] = true
	}
	old := a.pauses[key]
	a.check(e, old == nil || old.over(e.At) || (old.until != "" && old.until <= p.Until), "a pause of %s cuts another one short", p.What)
	a.pauses[key] = &pause{from: e.At, until: p.Until}
}

// offeredUntil says whether some epoch that counts the offering lasts until then or longer.
func (a *Auditor) offeredUntil(offering, until string) bool {
	for _, ep := range a.epochs {
		if _, ok := ep.counted[offering]; ok && until != "" && until <= ep.open.EndsAt {
			return true
		}
	}
	return false
}

func (a *Auditor) resume(e *entry.Entry) {
	key := a.mayStop(e, e.Resume.What, e.Resume.Subject)
	p := a.pauses[key]
	a.check(e, p != nil, "nothing is resumed: %s %s is not paused", e.Resume.What, e.Resume.Subject)
	delete(a.pauses, key)
}

// mayRule says whether an author may rule on disputes: the city, or a civic committee that it accredited.
func (a *Auditor) mayRule(by syntax.DID) bool {
	r := a.roleNow(by)
	return by == a.city || (r.good() && r.is("civicCommittee"))
}
