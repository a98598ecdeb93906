package audit

import (
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// task is a task as the log shows it. pool is its outstanding reservation.
type task struct {
	org      syntax.DID
	epoch    *epoch
	versions map[entry.Ref]*entry.Reserve
	most     map[string]int64 // slots of a shift, in any version
	taken    map[string]int64 // claims of a shift that have not ended
	pool     int64
	frozen   int64 // of open claims: never more than the pool
}

type claim struct {
	task   *task
	terms  *entry.Reserve
	shift  string
	state  claimState
	frozen int64 // what is reserved for it

	minted    int64 // credits, less what was corrected
	verifier  syntax.DID
	corrected []entry.Ref // the verifications that superseded the first
	person    *person     // with the openings
	settled   bool        // the same: it counts no more against its person's limit
}

type claimState int

const (
	open claimState = iota
	paid
	refused
	gone
)

func shiftOf(r *entry.Reserve, id string) *entry.Shift {
	for i := range r.Shifts {
		if r.Shifts[i].ID == id {
			return &r.Shifts[i]
		}
	}
	return nil
}

// epochOf gives the entry's epoch, or notes that it is not open.
func (a *Auditor) epochOf(e *entry.Entry) *epoch {
	ep := a.epochs[epochID(e.Book, e.Epoch)]
	a.check(e, ep != nil, "epoch %s of %s is not open", e.Epoch, e.Book)
	if ep != nil && e.Params != nil {
		a.check(e, *e.Params == ep.params.ref, "parameter set %s, the epoch has %s", e.Params.URI, ep.params.ref.URI)
	}
	return ep
}

func (a *Auditor) reserve(e *entry.Entry) {
	r := e.Reserve
	ep := a.epochOf(e)
	if ep == nil {
		return
	}
	a.check(e, authority(r.Task.URI) == e.Org && authority(r.First) == e.Org, "task %s is not of %s", r.Task.URI, e.Org)
	a.check(e, e.Causes[0].Ref() == r.Task, "its cause is another record than its task")
	who := a.roleNow(e.Org)
	a.check(e, who.good() && who.is("issuer"), "%s is not accredited as issuer", e.Org)
	a.check(e, e.At < ep.open.EndsAt, "epoch %s is over", ep.key)
	a.check(e, !a.paused(e, entry.PauseTasks, e.Org, ""), "a task is accepted while tasks are paused")
	a.terms(e, ep, who)

	_, twice := a.first[r.Task]
	a.check(e, !twice, "version %s is accepted twice", r.Task.CID)
	var whole int64
	for _, s := range r.Shifts {
		whole += s.Slots * r.Credits
	}
	t := a.tasks[r.First]
	if t == nil {
		t = &task{
			org: e.Org, epoch: ep,
			versions: map[entry.Ref]*entry.Reserve{}, most: map[string]int64{}, taken: map[string]int64{},
		}
		a.tasks[r.First] = t
		a.check(e, r.Task.URI == r.First, "first version %s is not known", r.First)
		a.check(e, e.Amount == whole, "reserves %d, its slots are %d", e.Amount, whole)
		ep.add(e.Org, func(n *sums) { n.tasks++; n.reserved += e.Amount })
	}
	a.check(e, t.org == e.Org && t.epoch == ep, "task %s changes its issuer or epoch", r.First)
	a.check(e, e.Amount <= whole, "reserves %d, its slots are %d", e.Amount, whole)
	a.check(e, e.Cap.Cap == ep.open.Cap && e.Cap.Before == ep.minted+ep.outstanding, "cap state is %d of %d, recomputed %d of %d",
		e.Cap.Before, e.Cap.Cap, ep.minted+ep.outstanding, ep.open.Cap)
	t.versions[r.Task] = r
	a.first[r.Task] = r.First
	for _, s := range r.Shifts {
		t.most[s.ID] = max(t.most[s.ID], s.Slots)
	}
	a.move(e, t, e.Amount)
	room := ep.room[e.Org]
	if who != nil && who.bind.PerEpochLimit > 0 {
		room = min(room, who.bind.PerEpochLimit)
	}
	if i := ep.issuers[e.Org]; a.check(e, i != nil, "%s has no allocation", e.Org) {
		a.check(e, i.minted+i.outstanding <= room, "allocation exceeded: %d > %d", i.minted+i.outstanding, room)
	}
	a.check(e, ep.minted+ep.outstanding <= ep.open.Cap, "cap exceeded: %d > %d", ep.minted+ep.outstanding, ep.open.Cap)
}

// terms checks shifts, tier and pay.
func (a *Auditor) terms(e *entry.Entry, ep *epoch, who *role) {
	r := e.Reserve
	seen := map[string]bool{}
	longest := int64(24 * 60)
	for _, s := range r.Shifts {
		from, err1 := entry.ParseTime(s.StartsAt)
		to, err2 := entry.ParseTime(s.EndsAt)
		ok := err1 == nil && err2 == nil && from.Before(to) && !seen[s.ID] && s.Slots > 0
		a.check(e, ok, "shift %q is there twice, empty or ends before it begins", s.ID)
		seen[s.ID] = true
		a.check(e, ep.open.StartsAt <= s.StartsAt && s.StartsAt < ep.open.EndsAt, "shift %q begins outside the epoch", s.ID)
		a.check(e, who != nil && who.term(entry.FormatDay(from, a.loc), a.loc), "%s is not accredited on the day of shift %q", e.Org, s.ID)
		longest = min(longest, int64(to.Sub(from)/time.Minute))
	}
	tier := ep.params.tier(r.Tier)
	if !a.check(e, tier != nil && tier.CreditsPerHour == r.TierRate, "tier %d has another rate than %d", r.Tier, r.TierRate) {
		return
	}
	if r.MaxMinutes > 0 {
		longest = min(longest, r.MaxMinutes)
	}
	shortest := longest // an entry that names no least time is paid for the most
	if r.MinMinutes > 0 {
		shortest = r.MinMinutes
	}
	// in sixtieths of a credit and basis points
	pay := r.Credits * 60 * 10_000
	a.check(e, r.Credits > 0 && pay >= r.TierRate*shortest*(10_000-tier.BandBps) && pay <= r.TierRate*longest*(10_000+tier.BandBps),
		"%d credits are outside the band of tier %d for %d to %d minutes", r.Credits, r.Tier, shortest, longest)
	a.check(e, r.Level >= 1 && r.Level <= 4, "there is no level %d", r.Level)
	a.check(e, slices.Contains([]string{"public", "pseudonymous", "sealed"}, r.Sensitivity), "sensitivity %q", r.Sensitivity)
}

// move changes a task's pool, which never sinks below what its open claims need.
func (a *Auditor) move(e *entry.Entry, t *task, amount int64) {
	t.pool += amount
	t.epoch.add(t.org, func(n *sums) { n.outstanding += amount })
	a.check(e, t.pool >= t.frozen, "the task's reservation is %d, its open claims need %d", t.pool, t.frozen)
}

func (a *Auditor) release(e *entry.Entry) {
	r := e.Release
	t := a.tasks[r.First]
	if !a.check(e, t != nil && t.org == e.Org && t.epoch == a.epochOf(e), "release of task %s, which %s did not reserve in this epoch",
		r.First, e.Org) {
		return
	}
	for _, id := range r.Shifts {
		_, known := t.most[id]
		a.check(e, known, "shift %q is unknown", id)
	}
	switch r.Reason {
	case entry.ReleaseRejected:
		c := a.claims[string(e.Nullifier)]
		if !a.check(e, c != nil && c.state == open && c.task == t, "rejection without a claim that stands") {
			return
		}
		a.check(e, len(r.Shifts) == 1 && r.Shifts[0] == c.shift, "rejection of shifts %q, its claim is of %q", r.Shifts, c.shift)
		a.check(e, e.Amount == c.frozen, "rejection releases %d, reserved are %d", e.Amount, c.frozen)
		a.check(e, !a.paused(e, entry.PauseTask, t.org, r.First), "a rejection while an objection holds its task")
		a.check(e, len(e.Causes) == 1 && a.mayVerify(t, authority(e.Causes[0].URI)), "rejection by one who may not verify for %s", t.org)
		c.state = refused
		t.frozen -= c.frozen
		c.frozen = 0
	case entry.ReleaseCancelled, entry.ReleaseExpired, entry.ReleaseVersion, entry.ReleaseWithdrawn:
		a.check(e, len(e.Nullifier) == 0, "release as %s with a nullifier", r.Reason)
		for _, c := range e.Causes {
			ordered := r.Reason == entry.ReleaseCancelled && a.mayRule(authority(c.URI))
			a.check(e, ordered || authority(c.URI) == e.Org, "release caused by %s, which is not of %s", c.URI, e.Org)
		}
	default:
		a.found(e.Seq, "release for %q", r.Reason)
	}
	a.move(e, t, -e.Amount)
}

func (a *Auditor) mayVerify(t *task, org syntax.DID) bool {
	return org == t.org || a.roleNow(t.org).delegate(org)
}

func (a *Auditor) claim(e *entry.Entry) {
	c := e.Claim
	t := a.tasks[c.First]
	if !a.check(e, t != nil && t.org == e.Org && t.epoch == a.epochOf(e) && t.versions[c.Task] != nil,
		"claim on %s, which was not accepted", c.Task.URI) {
		return
	}
	terms := t.versions[c.Task]
	if !a.check(e, shiftOf(terms, c.Shift) != nil, "shift %q is unknown", c.Shift) {
		return
	}
	had := a.claims[string(e.Nullifier)]
	a.check(e, had == nil || had.state == gone, "a second claim with one nullifier")
	t.taken[c.Shift]++
	a.check(e, t.taken[c.Shift] <= t.most[c.Shift], "%d claims on %d slots of shift %q", t.taken[c.Shift], t.most[c.Shift], c.Shift)
	a.claims[string(e.Nullifier)] = &claim{task: t, terms: terms, shift: c.Shift, frozen: terms.Credits}
	t.frozen += terms.Credits
	a.move(e, t, 0)
	t.epoch.add(t.org, func(n *sums) { n.claims++ })
}

func (a *Auditor) unclaim(e *entry.Entry) {
	c := a.claims[string(e.Nullifier)]
	if !a.check(e, c != nil && c.state == open && c.shift == e.Unclaim.Shift && c.task == a.tasks[e.Unclaim.First],
		"unclaim without a claim that stands") {
		return
	}
	a.check(e, e.Amount <= c.frozen, "unclaim releases %d, reserved are %d", e.Amount, c.frozen)
	if e.Unclaim.Reason == entry.UnclaimLapsed {
		end, err := entry.ParseTime(shiftOf(c.terms, c.shift).EndsAt)
		lapse := end.AddDate(0, 0, int(c.task.epoch.params.ClaimLapseDays))
		a.check(e, err == nil && e.Day >= entry.FormatDay(lapse, a.loc), "a claim lapses before its time")
	} else {
		a.check(e, e.Unclaim.Reason == entry.UnclaimWithdrawn || e.Unclaim.Reason == entry.UnclaimErased, "unclaim for %q", e.Unclaim.Reason)
	}
	c.state = gone
	c.task.taken[c.shift]--
	c.task.frozen -= c.frozen
	c.frozen = 0
	a.move(e, c.task, -e.Amount)
	c.task.epoch.add(c.task.org, func(n *sums) { n.claims-- })
}
