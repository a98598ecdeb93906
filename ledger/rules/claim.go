package rules

import (
	"bytes"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// ClaimRequest is a claim as the ledger sees it.
type ClaimRequest struct {
	Now         time.Time
	Resident    syntax.DID
	Task        entry.Ref // the version the resident saw
	Shift       string
	Sealed      bool     // by the sealed way, not a public record
	EntryActive bool     // the catalog entry is active now
	EpochKey    [32]byte // of the task's epoch
}

// HeldClaim is a slot held beside the log.
type HeldClaim struct {
	Token   []byte
	First   string
	Task    entry.Ref // the frozen terms
	Shift   string
	Account entry.Account
	At      time.Time
}

// claim is a claim in the log.
type claim struct {
	token    []byte
	task     *task
	terms    entry.Ref // the version whose terms are frozen
	shift    string
	account  entry.Account
	status   claimStatus
	reserved int64 // of the task's reservation, for this claim
	mint     int64 // seq of its mint
	paid     int64 // by the mint, less what a correction took or could not take any more
}

type claimStatus int64

const (
	standing claimStatus = iota
	minted
	rejected
	ended // withdrawn or lapsed
)

// DecideClaim says whether a claim takes a slot now. The answer is given to HoldClaim once it is kept.
func DecideClaim(s *State, c ClaimRequest) (*HeldClaim, error) {
	first, ok := s.versions[c.Task]
	if !ok {
		return nil, &Refusal{Name: TaskNotAccepted, Figures: figures{"task": c.Task.URI}, WaitFor: []string{c.Task.URI}}
	}
	t := s.tasks[first]
	v := t.version(c.Task)
	sh := v.shift(c.Shift)
	if sh == nil {
		return nil, refuse(InvalidRecord, figures{"shift": c.Shift})
	}
	if !c.EntryActive {
		return nil, refuse(EntryNotActive, figures{"entry": v.Entry.URI})
	}
	if s.actsFor(c.Resident, t.org) {
		return nil, refuse(SelfVerification, figures{"issuer": string(t.org)})
	}
	id, ok := s.residents[c.Resident]
	if !ok {
		return nil, refuse(NotActivated, nil)
	}
	if err := s.paused(c.Now, entry.PauseClaims, t.org); err != nil {
		return nil, err
	}
	if err := t.checkWindow(v, sh, c.Now); err != nil {
		return nil, err
	}
	if v.Sensitivity == entry.SensitivitySealed && !c.Sealed {
		return nil, refuse(SealedTask, nil)
	}
	token := entry.Token(c.EpochKey, first, c.Shift, id)
	if s.holds(token) {
		return nil, refuse(AlreadyClaimed, figures{"shift": c.Shift})
	}
	n := t.shifts[c.Shift]
	if v.free(c.Shift, n) == 0 {
		return nil, refuse(SlotsFull, figures{"shift": c.Shift, "slots": sh.Slots, "taken": n.taken + n.held})
	}
	limit := t.epoch.params.ClaimLimit
	if open := s.openClaims(id); open >= limit {
		return nil, refuse(ClaimLimit, figures{"open": open, "claimLimit": limit})
	}
	return &HeldClaim{Token: token, First: first, Task: c.Task, Shift: c.Shift, Account: id, At: c.Now}, nil
}

// checkWindow lets a claim in on the current version, while its window is open.
func (t *task) checkWindow(v *version, sh *entry.Shift, now time.Time) error {
	if v != t.current() {
		return refuse(ClaimWindowClosed, figures{"superseded": true, "current": t.current().Task.CID})
	}
	w := v.window(sh)
	if t.shifts[sh.ID].released || !w.holds(now) {
		return refuse(ClaimWindowClosed, figures{"opensAt": entry.FormatTime(w.from), "closesAt": entry.FormatTime(w.to)})
	}
	return nil
}

// actsFor says whether an account is the organization's, a delegate's, or one whose holder verifies for either.
func (s *State) actsFor(did, org syntax.DID) bool {
	orgs := []syntax.DID{org}
	if a := s.accredited(org); a != nil {
		orgs = append(orgs, a.Delegates...)
	}
	for _, o := range orgs {
		if did == o || s.staff[did][o] {
			return true
		}
	}
	return false
}

func (s *State) holds(token []byte) bool {
	if s.held[string(token)] != nil {
		return true
	}
	c := s.claims[string(token)]
	return c != nil && c.status != ended
}

// openClaims counts a person's claims, held or entered, that are not yet settled.
func (s *State) openClaims(id entry.Account) int64 {
	return s.accounts[id].open + s.accounts[id].held
}

// HoldClaim keeps a claim beside the log: one that DecideClaim just gave, or, after a replay, one that was kept. The error
// wraps ErrBroken.
func HoldClaim(s *State, h *HeldClaim) error {
	t := s.tasks[h.First]
	switch {
	case t == nil || t.version(h.Task) == nil || t.shifts[h.Shift] == nil:
		return broken("held claim on an unknown task %s", h.First)
	case s.accounts[h.Account] == nil:
		return broken("held claim of an unknown account")
	case s.holds(h.Token):
		return broken("claim held twice on %s", h.First)
	}
	s.held[string(h.Token)] = h
	t.shifts[h.Shift].held++
	s.accounts[h.Account].held++
	return nil
}

// Held gives the claim held under a token.
func (s *State) Held(token []byte) (*HeldClaim, bool) {
	h, ok := s.held[string(token)]
	return h, ok
}

// DecideDrop says what ending a held claim means for the log: nothing for most; a release where its slot does not open
// again or the task's current version pays less. Apply those entries, then call DropClaim.
func DecideDrop(s *State, token []byte, now time.Time) ([]entry.Entry, error) {
	h := s.held[string(token)]
	if h == nil {
		return nil, refuse(ClaimMissing, nil)
	}
	t := s.tasks[h.First]
	amount, closed := t.freed(h.Shift, t.version(h.Task).Credits, now, func(n *slots, by int64) { n.held += by })
	if amount == 0 && closed == 0 {
		return nil, nil
	}
	d := s.draft(now)
	d.add(entry.Entry{
		Kind: entry.KindRelease, Epoch: t.epoch.epoch, Book: t.epoch.book, Org: t.org, Amount: amount,
		Release: &entry.Release{First: h.First, Reason: entry.ReleaseWithdrawn, Shifts: []string{h.Shift}, Closed: closed},
	})
	return d.out, nil
}

// DropClaim forgets a held claim. It says whether there was one.
func DropClaim(s *State, token []byte) bool {
	h := s.held[string(token)]
	if h == nil {
		return false
	}
	delete(s.held, string(token))
	s.tasks[h.First].shifts[h.Shift].held--
	s.accounts[h.Account].held--
	return true
}

// freed says what of a reservation of frozen credits is released when a slot of the shift becomes free, and how many slots
// do not open again. A slot opens again if it can still be claimed and what was frozen for it suffices.
func (t *task) freed(shift string, frozen int64, now time.Time, take func(*slots, int64)) (amount, closed int64) {
	v := t.current()
	n := *t.shifts[shift]
	sh := v.shift(shift)
	if sh == nil || n.released || !v.window(sh).holds(now) {
		return frozen, 1
	}
	before := v.free(shift, &n)
	take(&n, -1)
	need := (v.free(shift, &n) - before) * v.Credits
	if need > frozen {
		return frozen, 1
	}
	return frozen - need, 0
}

// HeldShifts gives, by task and shift, which held claims must be entered by now, because their window has closed.
func (s *State) HeldShifts(now time.Time) []EnterClaims {
	due := map[EnterClaims]bool{}
	for _, h := range s.held {
		t := s.tasks[h.First]
		v := t.version(h.Task)
		if !now.Before(v.window(v.shift(h.Shift)).to) {
			due[EnterClaims{First: h.First, Shift: h.Shift}] = true
		}
	}
	var list []EnterClaims
	for c := range due {
		c.Now = now
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b EnterClaims) int {
		return bytes.Compare([]byte(a.First+"\n"+a.Shift), []byte(b.First+"\n"+b.Shift))
	})
	return list
}

func (c EnterClaims) decide(s *State) ([]entry.Entry, error) {
	d := s.draft(c.Now)
	d.enter(c.First, c.Shift)
	return d.out, nil
}

// enter adds the held claims of a shift, sorted by nullifier, so that neither time nor order says whose is whose.
func (d *draft) enter(first, shift string) {
	var batch []*HeldClaim
	for _, h := range d.s.held {
		if h.First == first && h.Shift == shift {
			batch = append(batch, h)
		}
	}
	slices.SortFunc(batch, func(a, b *HeldClaim) int { return bytes.Compare(a.Token, b.Token) })
	for _, h := range batch {
		t := d.s.tasks[first]
		d.add(entry.Entry{
			Kind: entry.KindClaim, Epoch: t.epoch.epoch, Book: t.epoch.book, Org: t.org, Nullifier: h.Token,
			Claim:  &entry.Claim{Task: h.Task, First: first, Shift: shift},
			Sealed: &entry.Sealed{Account: h.Account, At: entry.FormatTime(h.At)},
		})
	}
}

func (s *State) applyClaim(e *entry.Entry) error {
	acc, err := s.sealed(e)
	if err != nil {
		return err
	}
	t := s.tasks[e.Claim.First]
	if t == nil || t.org != e.Org || t.epoch.bookEpoch != (bookEpoch{e.Book, e.Epoch}) {
		return broken("claim on an unknown task %s", e.Claim.First)
	}
	v := t.version(e.Claim.Task)
	if v == nil || v.shift(e.Claim.Shift) == nil {
		return broken("claim on an unknown version or shift of %s", e.Claim.First)
	}
	n := t.shifts[e.Claim.Shift]
	if h := s.held[string(e.Nullifier)]; h != nil {
		if h.Account != e.Sealed.Account || h.Task != e.Claim.Task || h.Shift != e.Claim.Shift || h.First != e.Claim.First {
			return broken("the held claim has other terms")
		}
		DropClaim(s, e.Nullifier)
	}
	if s.holds(e.Nullifier) || (!e.Sealed.Erased && s.claimed(t, e.Claim.Shift, e.Sealed.Account)) {
		return broken("a second claim of one account on a shift of %s", t.first)
	}
	if n.taken+1 > n.most {
		return broken("%d claims on %d slots", n.taken+1, n.most)
	}
	n.taken++
	acc.open++
	s.claims[string(e.Nullifier)] = &claim{
		token: e.Nullifier, task: t, terms: e.Claim.Task, shift: e.Claim.Shift, account: e.Sealed.Account, reserved: v.Credits,
	}
	t.claimants(e.Claim.Shift)[e.Sealed.Account] = true
	t.epoch.count(t.org, func(n *sums) { n.claims++ })
	return nil
}

func (s *State) claimed(t *task, shift string, a entry.Account) bool { return t.claimants(shift)[a] }

func (c Unclaim) decide(s *State) ([]entry.Entry, error) {
	cl := s.claims[string(c.Token)]
	if cl == nil || cl.status == ended {
		return nil, refuse(ClaimMissing, nil)
	}
	switch {
	case cl.status == minted:
		return nil, refuse(AlreadyMinted, nil)
	case cl.status == rejected, c.Proven && c.Reason != entry.UnclaimErased:
		return nil, refuse(ProofSubmitted, nil)
	}
	t := cl.task
	if c.Reason == entry.UnclaimLapsed {
		if lapses := t.lapsesAt(cl); c.Now.Before(lapses) {
			return nil, refuse(NotLapsed, figures{"lapsesAt": entry.FormatTime(lapses)})
		}
	} else if c.Reason != entry.UnclaimWithdrawn && c.Reason != entry.UnclaimErased {
		return nil, broken("a claim cannot end as %q", c.Reason)
	}
	amount, closed := t.freed(cl.shift, cl.reserved, c.Now, func(n *slots, by int64) { n.taken += by })
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindUnclaim, Epoch: t.epoch.epoch, Book: t.epoch.book, Org: t.org, Amount: amount, Nullifier: cl.token,
		Unclaim: &entry.Unclaim{First: t.first, Shift: cl.shift, Reason: c.Reason, Closed: closed},
	})
	return d.out, nil
}

// lapsesAt is when a claim without a proof ends: days after the end of its shift.
func (t *task) lapsesAt(c *claim) time.Time {
	end, err := entry.ParseTime(t.version(c.terms).shift(c.shift).EndsAt)
	if err != nil {
		return time.Time{}
	}
	return end.AddDate(0, 0, int(t.epoch.params.ClaimLapseDays))
}

// Lapsing gives the tokens of claims, sorted, that lapse by now unless a proof was seen.
func (s *State) Lapsing(now time.Time) [][]byte {
	var due [][]byte
	for _, token := range sortedKeys(s.claims) {
		if c := s.claims[token]; c.status == standing && !now.Before(c.task.lapsesAt(c)) {
			due = append(due, c.token)
		}
	}
	return due
}

func (s *State) applyUnclaim(e *entry.Entry) error {
	c := s.claims[string(e.Nullifier)]
	if c == nil || c.status != standing || c.task.first != e.Unclaim.First || c.shift != e.Unclaim.Shift {
		return broken("unclaim without a claim that stands")
	}
	if e.Amount > c.reserved {
		return broken("unclaim releases %d of %d", e.Amount, c.reserved)
	}
	c.status, c.reserved = ended, 0
	n := c.task.shifts[c.shift]
	n.taken--
	n.closed += e.Unclaim.Closed
	delete(c.task.claimants(c.shift), c.account)
	s.accounts[c.account].open--
	c.task.epoch.count(c.task.org, func(n *sums) { n.claims-- })
	return c.task.reserve(-e.Amount)
}
