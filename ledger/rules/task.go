package rules

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// task is one task with all its accepted versions.
type task struct {
	first       string
	org         syntax.DID
	epoch       *epoch
	versions    []version // the last is current
	shifts      map[string]*slots
	outstanding int64                             // of the reservation: neither spent nor released
	people      map[string]map[entry.Account]bool // by shift: whose claims have not ended
}

func (t *task) claimants(shift string) map[entry.Account]bool {
	if t.people[shift] == nil {
		t.people[shift] = map[entry.Account]bool{}
	}
	return t.people[shift]
}

// version is one accepted version: the terms of every claim made on it.
type version struct {
	entry.Reserve
	opens  time.Time
	closes time.Time // zero: with each shift
}

// slots are the slots of one shift, by id, over all versions.
type slots struct {
	most     int64 // in any version
	taken    int64 // claims in the log that have not ended
	held     int64 // claims beside the log
	closed   int64 // will not open again
	released bool  // nobody can claim any more
}

func (t *task) current() *version { return &t.versions[len(t.versions)-1] }

func (t *task) version(cid entry.Ref) *version {
	for i := range t.versions { // slices.IndexFunc would copy each, and a mint asks four times
		if v := &t.versions[i]; v.Task == cid {
			return v
		}
	}
	return nil
}

func (v *version) shift(id string) *entry.Shift {
	for i := range v.Shifts {
		if s := &v.Shifts[i]; s.ID == id {
			return s
		}
	}
	return nil
}

// window gives when a shift of the version can be claimed: never after the shift's end.
func (v *version) window(s *entry.Shift) span {
	end, err := entry.ParseTime(s.EndsAt)
	if err != nil {
		return span{}
	}
	if !v.closes.IsZero() && v.closes.Before(end) {
		end = v.closes
	}
	return span{v.opens, end}
}

// free is the number of slots of a shift that the version offers and nobody has.
func (v *version) free(id string, n *slots) int64 {
	s := v.shift(id)
	if s == nil {
		return 0
	}
	if n == nil {
		return s.Slots
	}
	if n.released {
		return 0
	}
	return max(0, s.Slots-n.taken-n.held-n.closed)
}

// wanted is the reservation that the version's free slots need.
func (t *task) wanted(v *version) int64 {
	var sum int64
	for _, s := range v.Shifts {
		sum += v.free(s.ID, t.shifts[s.ID]) * v.Credits
	}
	return sum
}

func (c AcceptTask) decide(s *State) ([]entry.Entry, error) {
	if _, ok := s.versions[c.Task.Ref()]; ok {
		return nil, nil
	}
	ep, r, err := s.checkTask(c)
	if err != nil {
		return nil, err
	}
	v := &version{Reserve: *r}
	t := s.tasks[c.First]
	now := int64(0)
	if t != nil {
		now = t.wanted(t.current())
	} else {
		t = &task{}
	}
	change := t.wanted(v) - now
	if err := ep.room(c.Author, max(0, change), s.accredited(c.Author)); err != nil {
		return nil, err
	}

	d := s.draft(c.Now)
	common := entry.Entry{Epoch: c.Epoch, Book: c.Book, Org: c.Author, Causes: []entry.Cause{c.Task}}
	if change < 0 {
		release := common
		release.Kind, release.Amount = entry.KindRelease, -change
		release.Release = &entry.Release{First: c.First, Reason: entry.ReleaseVersion}
		d.addTimed(release)
	}
	reserve := common
	reserve.Kind, reserve.Amount, reserve.Reserve = entry.KindReserve, max(0, change), r
	reserve.Params = new(ep.params.ref)
	reserve.Cap = &entry.CapState{Cap: ep.open.Cap, Before: ep.minted + ep.outstanding + min(0, change)}
	d.addTimed(reserve)
	return d.out, nil
}

// checkTask holds everything but the room.
func (s *State) checkTask(c AcceptTask) (*epoch, *entry.Reserve, error) {
	a := s.accredited(c.Author)
	if a == nil || !a.good() || !a.hasRole(RoleIssuer) {
		return nil, nil, refuse(NotAccredited, figures{"org": string(c.Author), "role": RoleIssuer})
	}
	if !a.inScope(c.Entry.Category) {
		return nil, nil, refuse(NotAccredited, figures{"org": string(c.Author), "category": c.Entry.Category})
	}
	if err := checkShifts(c); err != nil {
		return nil, nil, err
	}
	for _, sh := range c.Shifts {
		if day := s.day(sh.StartsAt); !a.covers(day, s.loc) {
			return nil, nil, refuse(NotAccredited, figures{"org": string(c.Author), "day": day})
		}
	}
	if !c.Entry.Active {
		return nil, nil, refuse(EntryNotActive, figures{"entry": c.Entry.Ref.URI})
	}
	ep := s.epochs[bookEpoch{c.Book, c.Epoch}]
	if ep == nil {
		return nil, nil, &Refusal{
			Name: EpochClosed, Figures: figures{"epoch": c.Epoch, "book": c.Book}, WaitFor: []string{"epochOpen " + c.Book + " " + c.Epoch},
		}
	}
	if !c.Now.Before(ep.to) {
		return nil, nil, refuse(EpochClosed, figures{"epoch": c.Epoch, "endsAt": ep.open.EndsAt})
	}
	for _, sh := range c.Shifts {
		if !ep.holds(sh.StartsAt) {
			return nil, nil, refuse(EpochClosed, figures{"epoch": c.Epoch, "shift": sh.ID, "startsAt": entry.FormatTime(sh.StartsAt)})
		}
	}
	rate, err := ep.band(c)
	if err != nil {
		return nil, nil, err
	}
	if err := s.paused(c.Now, entry.PauseTasks, c.Author); err != nil {
		return nil, nil, err
	}
	if c.First != c.Task.URI && s.tasks[c.First] == nil {
		return nil, nil, &Refusal{Name: TaskNotAccepted, Figures: figures{"first": c.First}, WaitFor: []string{c.First}}
	}
	if t := s.tasks[c.First]; t != nil {
		if t.org != c.Author {
			return nil, nil, refuse(NotAuthorized, figures{"author": string(c.Author), "issuer": string(t.org)})
		}
		if t.epoch != ep {
			return nil, nil, refuse(TermsFrozen, figures{"epoch": t.epoch.epoch, "book": t.epoch.book})
		}
	}
	return ep, c.terms(ep, rate), nil
}

func checkShifts(c AcceptTask) error {
	if len(c.Shifts) == 0 || len(c.Shifts) > 100 {
		return refuse(InvalidRecord, figures{"shifts": int64(len(c.Shifts))})
	}
	seen := map[string]bool{}
	for _, sh := range c.Shifts {
		if sh.ID == "" || seen[sh.ID] || sh.Slots < 1 || sh.Slots > 10_000 || !sh.StartsAt.Before(sh.EndsAt) {
			return refuse(InvalidRecord, figures{"shift": sh.ID, "slots": sh.Slots})
		}
		seen[sh.ID] = true
	}
	if c.Credits < 1 || c.Credits > maxCredits {
		return refuse(InvalidRecord, figures{"credits": c.Credits})
	}
	if c.Entry.Level < 1 || c.Entry.Level > 4 {
		return refuse(InvalidRecord, figures{"level": c.Entry.Level})
	}
	switch c.Entry.Sensitivity {
	case entry.SensitivityPublic, entry.SensitivityPseudonymous, entry.SensitivitySealed:
		return nil
	}
	return refuse(InvalidRecord, figures{"sensitivity": c.Entry.Sensitivity})
}

// band checks the credits against the tier: rate × the time that is paid, give or take the band. That time is what the entry allows, as
// far as the shortest shift has room for it; an entry that names no least time is paid for the most. A shift may be open for longer.
func (ep *epoch) band(c AcceptTask) (rate int64, err error) {
	tier := ep.params.tier(c.Entry.Tier)
	if tier == nil {
		return 0, refuse(OutsideTierBand, figures{"tier": c.Entry.Tier})
	}
	most := int64(24 * 60)
	for _, sh := range c.Shifts {
		most = min(most, int64(sh.EndsAt.Sub(sh.StartsAt)/time.Minute))
	}
	if c.Entry.MaxMinutes > 0 {
		most = min(most, c.Entry.MaxMinutes)
	}
	least := most
	if c.Entry.MinMinutes > 0 {
		least = c.Entry.MinMinutes
	}
	// credits × 60 × bps between rate × least × (bps − band) and rate × most × (bps + band)
	paid := c.Credits * 60 * bps
	if paid < tier.CreditsPerHour*least*(bps-tier.BandBps) || paid > tier.CreditsPerHour*most*(bps+tier.BandBps) {
		return 0, refuse(OutsideTierBand, figures{
			"credits": c.Credits, "tierRate": tier.CreditsPerHour, "minMinutes": least, "maxMinutes": most, "bandBps": tier.BandBps,
		})
	}
	return tier.CreditsPerHour, nil
}

func (c AcceptTask) terms(ep *epoch, rate int64) *entry.Reserve {
	r := &entry.Reserve{
		Task: c.Task.Ref(), First: c.First, Entry: c.Entry.Ref, Credits: c.Credits,
		Tier: c.Entry.Tier, TierRate: rate, MinMinutes: c.Entry.MinMinutes, MaxMinutes: c.Entry.MaxMinutes,
		Level: c.Entry.Level, Sensitivity: c.Entry.Sensitivity,
		ClaimOpensAt: ep.open.StartsAt,
	}
	if !c.ClaimOpensAt.IsZero() {
		r.ClaimOpensAt = entry.FormatTime(c.ClaimOpensAt)
	}
	if !c.ClaimClosesAt.IsZero() {
		r.ClaimClosesAt = entry.FormatTime(c.ClaimClosesAt)
	}
	for _, sh := range c.Shifts {
		r.Shifts = append(r.Shifts, entry.Shift{
			ID: sh.ID, StartsAt: entry.FormatTime(sh.StartsAt), EndsAt: entry.FormatTime(sh.EndsAt), Slots: sh.Slots,
		})
	}
	return r
}

// room refuses an amount that does not fit what an issuer, or the city, has left.
func (ep *epoch) room(org syntax.DID, wanted int64, a *accreditation) error {
	i := ep.issuers[org]
	if i == nil {
		i = &issuer{}
	}
	allocation := i.allocation
	if a != nil && a.PerEpochLimit > 0 {
		allocation = min(allocation, a.PerEpochLimit)
	}
	if used := i.minted + i.outstanding; used+wanted > allocation {
		return refuse(AllocationExceeded, figures{
			"reserved": used, "wanted": wanted, "total": used + wanted, "allocation": allocation,
		})
	}
	if used := ep.minted + ep.outstanding; used+wanted > ep.open.Cap {
		return refuse(CapExceeded, figures{"reserved": used, "wanted": wanted, "total": used + wanted, "cap": ep.open.Cap})
	}
	return nil
}

func (s *State) applyReserve(e *entry.Entry) error {
	r := e.Reserve
	ep := s.epochs[bookEpoch{e.Book, e.Epoch}]
	if ep == nil || ep.issuers[e.Org] == nil {
		return broken("the epoch is not open for %s", e.Org)
	}
	if _, ok := s.versions[r.Task]; ok {
		return broken("version %s is accepted already", r.Task.CID)
	}
	if e.Cap.Cap != ep.open.Cap || e.Cap.Before != ep.minted+ep.outstanding {
		return broken("cap state %d of %d, is %d of %d", e.Cap.Before, e.Cap.Cap, ep.minted+ep.outstanding, ep.open.Cap)
	}
	if err := ep.room(e.Org, e.Amount, nil); err != nil {
		return broken("%v", err)
	}
	v := version{Reserve: *r}
	var err error
	if v.opens, err = entry.ParseTime(r.ClaimOpensAt); err != nil {
		return broken("%v", err)
	}
	if r.ClaimClosesAt != "" {
		if v.closes, err = entry.ParseTime(r.ClaimClosesAt); err != nil {
			return broken("%v", err)
		}
	}
	t := s.tasks[r.First]
	if t == nil {
		t = &task{first: r.First, org: e.Org, epoch: ep, shifts: map[string]*slots{}, people: map[string]map[entry.Account]bool{}}
		if t.wanted(&v) != e.Amount || r.Task.URI != r.First {
			return broken("a first version of %d credits reserves %d", t.wanted(&v), e.Amount)
		}
		s.tasks[r.First] = t
		ep.count(e.Org, func(n *sums) { n.reserved += e.Amount; n.tasks++ })
	} else if t.org != e.Org || t.epoch != ep {
		return broken("task %s changes its issuer or epoch", r.First)
	}
	t.versions = append(t.versions, v)
	s.versions[r.Task] = r.First
	for _, sh := range r.Shifts {
		n := t.shifts[sh.ID]
		if n == nil {
			n = &slots{}
			t.shifts[sh.ID] = n
		}
		n.most = max(n.most, sh.Slots)
	}
	return t.reserve(e.Amount)
}

// count changes the sums of an issuer and of the whole epoch alike.
func (ep *epoch) count(org syntax.DID, change func(*sums)) {
	change(&ep.sums)
	if i := ep.issuers[org]; i != nil {
		change(&i.sums)
	}
}

// reserve moves the task's outstanding reservation, which never goes below zero.
func (t *task) reserve(amount int64) error {
	t.outstanding += amount
	t.epoch.count(t.org, func(n *sums) { n.outstanding += amount })
	if t.outstanding < 0 || t.epoch.outstanding < 0 {
		return broken("the reservation of %s would be %d", t.first, t.outstanding)
	}
	return nil
}
