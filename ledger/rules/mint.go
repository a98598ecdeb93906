package rules

import (
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// Methods of verification, as bare names.
const (
	MethodAttestation    = "attestation"
	MethodEvidenceReview = "evidenceReview"
	MethodMultiSignal    = "multiSignal"
	MethodAudit          = "audit"
	MethodCheckIn        = "checkIn"
)

// subject is what a verification is about, as far as the conditions have found it.
type subject struct {
	issuer syntax.DID
	task   *task    // nil while it is not accepted
	terms  *version // frozen
	shift  *entry.Shift
	claim  *claim     // nil while it is only held
	held   *HeldClaim // nil once it is entered
	pay    int64
	cosign []CoSigner // that count
}

func (c Mint) decide(s *State) ([]entry.Entry, error) {
	sub, err := c.check(s)
	if err != nil {
		return nil, err
	}
	d := s.draft(c.Now)
	t := sub.task
	if sub.held != nil {
		d.enter(t.first, c.Shift)
	}
	ep := t.epoch
	e := entry.Entry{
		Epoch: ep.epoch, Book: ep.book, Org: t.org, Nullifier: slices.Clone(c.Token), Causes: []entry.Cause{c.Record},
	}
	if c.Outcome == entry.OutcomeRejected {
		e.Kind, e.Amount = entry.KindRelease, sub.reserved()
		e.Release = &entry.Release{First: t.first, Reason: entry.ReleaseRejected, Shifts: []string{c.Shift}}
		d.add(e)
		return d.out, nil
	}
	account := sub.account()
	e.Kind, e.Amount, e.Votes = entry.KindMint, sub.pay, sub.pay*ep.params.VotesPerCredit
	e.Params = new(ep.params.ref)
	e.Cap = &entry.CapState{Cap: ep.open.Cap, Before: ep.minted}
	e.Mint = &entry.Mint{
		Task: sub.terms.Task, First: t.first, Shift: c.Shift, Verifier: c.Author, Outcome: c.Outcome, Minutes: c.Minutes,
		Frozen: sub.terms.Credits, Level: sub.terms.Level, Methods: bareNames(c.Methods, "method"),
	}
	for _, co := range sub.cosign {
		e.Causes = append(e.Causes, co.Record)
		e.Mint.CoSigners = append(e.Mint.CoSigners, co.Org)
	}
	if c.Upheld != nil {
		e.Causes = append(e.Causes, *c.Upheld)
		e.Mint.Resolution = new(c.Upheld.Ref())
	}
	e.Sealed = d.sealed(account)
	d.add(e)
	return d.out, nil
}

func (sub *subject) account() entry.Account {
	if sub.held != nil {
		return sub.held.Account
	}
	return sub.claim.account
}

// reserved is what stands of the reservation for this claim: nothing after a rejection.
func (sub *subject) reserved() int64 {
	if sub.held != nil {
		return sub.terms.Credits
	}
	return sub.claim.reserved
}

// check holds the conditions of a mint, in order; the first that fails names the refusal.
func (c Mint) check(s *State) (*subject, error) {
	sub := &subject{}
	for _, condition := range []func(*State, *subject) error{
		c.authorized,  // 1
		c.accredited,  // 2
		c.accepted,    // 3
		c.claimStands, // 4
		c.notMinted,   // 5
		c.termsFrozen, // 6
		c.notOwn,      // 7
		c.begun,       // 8
		c.methodsMet,  // 9
		c.notHeld,     // 10
		c.room,        // 11
	} {
		if err := condition(s, sub); err != nil {
			return nil, err
		}
	}
	return sub, nil
}

// authorized: signed by the author's key, and the author is the task's or a verifier its accreditation names. Whose a task is
// stands in its uri, so a task need not be known for this.
func (c Mint) authorized(s *State, sub *subject) error {
	if !c.Signed {
		return refuse(BadSignature, figures{"author": string(c.Author)})
	}
	sub.task = s.tasks[s.versions[c.Task]]
	sub.issuer = authority(c.Task.URI)
	if c.Upheld != nil {
		return nil // the city's resolution names the author
	}
	a := s.accredited(sub.issuer)
	if c.Author != sub.issuer && (a == nil || !slices.Contains(a.Delegates, c.Author)) {
		return refuse(NotAuthorized, figures{"author": string(c.Author), "issuer": string(sub.issuer)})
	}
	return nil
}

// authority is the DID in an at-uri.
func authority(uri string) syntax.DID {
	did, _, _ := strings.Cut(strings.TrimPrefix(uri, "at://"), "/")
	return syntax.DID(did)
}

// accredited: the issuer on the work date, and the author then and now. The work date is that of the frozen terms where the
// claim is known; where the shift is not, a later condition says so.
func (c Mint) accredited(s *State, sub *subject) error {
	if day, ok := c.workDay(s, sub.task); ok {
		if !s.accreditedOn(sub.issuer, day, RoleIssuer) {
			return refuse(NotAccredited, figures{"org": string(sub.issuer), "day": day})
		}
		if c.Author != sub.issuer && c.Upheld == nil && !s.accreditedOn(c.Author, day, RoleIssuer, RoleVerifier) {
			return refuse(NotAccredited, figures{"org": string(c.Author), "day": day})
		}
	}
	if c.Upheld != nil && !s.accreditedNow(c.Author, c.Now, RoleIssuer, RoleVerifier) {
		return refuse(NotAccredited, figures{"org": string(c.Author), "role": RoleVerifier})
	}
	if a := s.accredited(c.Author); a == nil || !a.good() {
		return refuse(NotAccredited, figures{"org": string(c.Author), "status": statusOf(a)})
	}
	return nil
}

func statusOf(a *accreditation) string {
	if a == nil {
		return "none"
	}
	return a.Status
}

// workDay is the local day on which the shift begins.
func (c Mint) workDay(s *State, t *task) (string, bool) {
	if t == nil {
		return "", false
	}
	terms := c.Task
	if h := s.held[string(c.Token)]; h != nil {
		terms = h.Task
	} else if cl := s.claims[string(c.Token)]; cl != nil {
		terms = cl.terms
	}
	v := t.version(terms)
	if v == nil || v.shift(c.Shift) == nil {
		return "", false
	}
	return s.dayOf(v.shift(c.Shift).StartsAt), true
}

// accepted: the version that is cited was accepted, and its credits would not have ended already with their event.
func (c Mint) accepted(_ *State, sub *subject) error {
	if sub.task == nil {
		return &Refusal{Name: TaskNotAccepted, Figures: figures{"task": c.Task.URI}, WaitFor: []string{c.Task.URI}}
	}
	if ep := sub.task.epoch; ep.open.Phase == entry.PhaseEvent && !c.Now.Before(ep.to) && c.Outcome != entry.OutcomeRejected {
		return refuse(EpochClosed, figures{"epoch": ep.epoch, "book": ep.book, "endsAt": ep.open.EndsAt})
	}
	return nil
}

// claimStands: a claim with this subject is in the log, or held for it.
func (c Mint) claimStands(s *State, sub *subject) error {
	if c.ByClaim && sub.task.version(c.Task).Sensitivity != entry.SensitivityPublic {
		return refuse(ClaimMissing, figures{"subject": "a public claim on a task that is not public"})
	}
	if c.ByClaim && c.Outcome == entry.OutcomeRejected {
		return refuse(ClaimMissing, figures{"subject": "a rejection that names a public claim"})
	}
	sub.held, sub.claim = s.held[string(c.Token)], s.claims[string(c.Token)]
	if sub.held != nil {
		sub.claim = nil
	} else if sub.claim != nil && (sub.claim.status == ended || sub.claim.account == erased) {
		return refuse(ClaimMissing, figures{"claim": "ended"})
	}
	if sub.held == nil && sub.claim == nil {
		return &Refusal{Name: ClaimMissing, WaitFor: []string{"claim"}}
	}
	return nil
}

func (c Mint) notMinted(_ *State, sub *subject) error {
	if sub.claim != nil && sub.claim.status == minted {
		return refuse(AlreadyMinted, nil)
	}
	turned := sub.claim != nil && sub.claim.status == rejected
	if turned && c.Outcome == entry.OutcomeRejected {
		return refuse(AlreadyRejected, nil)
	}
	if c.Upheld != nil && !turned {
		return refuse(NotAuthorized, figures{"author": string(c.Author), "claim": "not rejected"})
	}
	return nil
}

// termsFrozen: task, shift and credits are the claim's.
func (c Mint) termsFrozen(_ *State, sub *subject) error {
	terms, shift, task := entry.Ref{}, "", (*task)(nil)
	if sub.held != nil {
		terms, shift, task = sub.held.Task, sub.held.Shift, sub.task
		if sub.held.First != sub.task.first {
			task = nil
		}
	} else {
		terms, shift, task = sub.claim.terms, sub.claim.shift, sub.claim.task
	}
	if task != sub.task || terms != c.Task || shift != c.Shift {
		return refuse(TermsFrozen, figures{"task": terms.CID, "cited": c.Task.CID, "shift": shift})
	}
	sub.terms = task.version(terms)
	sub.shift = sub.terms.shift(shift)
	switch c.Outcome {
	case entry.OutcomeRejected:
		return nil
	case entry.OutcomeApproved:
		sub.pay = sub.terms.Credits
	case entry.OutcomePartial:
		sub.pay = PartialPay(sub.terms.TierRate, c.Minutes, sub.terms.Credits)
	default:
		return refuse(InvalidRecord, figures{"outcome": c.Outcome})
	}
	if c.Credits != sub.pay || sub.pay == 0 {
		return refuse(TermsFrozen, figures{"credits": c.Credits, "frozen": sub.pay})
	}
	return nil
}

// PartialPay is what partial work pays: the tier rate for its minutes, floored, and never more than the frozen credits.
func PartialPay(tierRate, minutes, frozen int64) int64 {
	if minutes <= 0 {
		return 0
	}
	return min(tierRate*min(minutes, 24*60)/60, frozen)
}

// notOwn: the verifier is not the claimant, nor is it one person acting for both.
func (c Mint) notOwn(s *State, sub *subject) error {
	resident := s.accounts[sub.account()].resident
	if resident == c.Author || s.staff[resident][c.Author] || s.actsFor(resident, sub.task.org) {
		return refuse(SelfVerification, figures{"author": string(c.Author)})
	}
	return nil
}

func (c Mint) begun(_ *State, sub *subject) error {
	starts, err := entry.ParseTime(sub.shift.StartsAt)
	if err != nil || c.Now.Before(starts) {
		return refuse(TooEarly, figures{"startsAt": sub.shift.StartsAt})
	}
	return nil
}

// methodsMet: the methods and co-signers of the task's level. Rejecting needs none.
func (c Mint) methodsMet(s *State, sub *subject) error {
	if c.Outcome == entry.OutcomeRejected {
		return nil
	}
	sub.cosign = c.counting(s)
	methods := known(c.Methods)
	if c.Level < sub.terms.Level || !levelMet(sub.terms.Level, methods, sub.cosign, sub.task.org) {
		return refuse(MethodsMissing, figures{
			"level": sub.terms.Level, "stated": c.Level, "methods": int64(len(methods)), "coSigners": int64(len(sub.cosign)),
		})
	}
	return nil
}

func levelMet(level int64, methods []string, cosign []CoSigner, issuer syntax.DID) bool {
	strong := len(methods) >= 2 || (len(methods) == 1 && len(cosign) > 0)
	switch level {
	case 1:
		return slices.Contains(methods, MethodAttestation) || slices.Contains(methods, MethodCheckIn)
	case 2:
		return slices.Contains(methods, MethodEvidenceReview)
	case 3:
		return strong
	case 4:
		return strong && slices.ContainsFunc(cosign, func(c CoSigner) bool { return c.Org != issuer })
	}
	return false
}

func known(tokens []string) []string {
	return slices.DeleteFunc(bareNames(tokens, "method"), func(m string) bool {
		switch m {
		case MethodAttestation, MethodEvidenceReview, MethodMultiSignal, MethodAudit, MethodCheckIn:
			return false
		}
		return true
	})
}

const maxCoSigners = 8

// counting gives the co-signers that count: accredited organizations other than the author, each once, that verified the
// same subject in their own repository and are named by the verification.
func (c Mint) counting(s *State) []CoSigner {
	var list []CoSigner
	for _, co := range c.CoSigners {
		seen := slices.ContainsFunc(list, func(l CoSigner) bool { return l.Org == co.Org })
		if seen || co.Org == c.Author || !co.Signed || !co.Supported || len(list) == maxCoSigners {
			continue
		}
		if co.Task != c.Task || co.Shift != c.Shift || string(co.Token) != string(c.Token) || co.Outcome == entry.OutcomeRejected {
			continue
		}
		if s.accreditedNow(co.Org, c.Now, RoleIssuer, RoleVerifier) {
			list = append(list, co)
		}
	}
	slices.SortFunc(list, func(a, b CoSigner) int { return strings.Compare(string(a.Org), string(b.Org)) })
	return list
}

// notHeld: no admitted objection holds the task, and mints are not stopped. A rejection pays nothing, so only the objection stops it.
func (c Mint) notHeld(s *State, sub *subject) error {
	if err := s.heldByDispute(sub.task, c.Now); err != nil {
		return err
	}
	if c.Outcome == entry.OutcomeRejected {
		return nil
	}
	return s.paused(c.Now, entry.PauseMints, sub.task.org)
}

// room: the reservation was made for this, so a failure is an alarm, except after a rejection, which released it.
func (c Mint) room(s *State, sub *subject) error {
	if c.Outcome == entry.OutcomeRejected {
		return nil
	}
	ep, reserved := sub.task.epoch, sub.reserved()
	more := max(0, sub.pay-reserved)
	if err := ep.room(sub.task.org, more, nil); err != nil {
		r := err.(*Refusal) //nolint:errorlint // room gives nothing else
		r.Alarm = reserved > 0
		return r
	}
	if sub.task.outstanding < reserved {
		return &Refusal{Name: AllocationExceeded, Figures: figures{"outstanding": sub.task.outstanding, "frozen": reserved}, Alarm: true}
	}
	return nil
}

func (s *State) applyMint(e *entry.Entry) error {
	acc, err := s.sealed(e)
	if err != nil {
		return err
	}
	c, m := s.claims[string(e.Nullifier)], e.Mint
	if c == nil || (c.status != standing && c.status != rejected) {
		return broken("mint without a claim that stands")
	}
	t, ep := c.task, c.task.epoch
	v := t.version(c.terms)
	switch {
	case c.account != e.Sealed.Account:
		return broken("mint for another account than the claim's")
	case t.org != e.Org || ep.bookEpoch != (bookEpoch{e.Book, e.Epoch}):
		return broken("mint of another issuer or epoch than the claim's")
	case c.terms != m.Task || c.shift != m.Shift || t.first != m.First || m.Frozen != v.Credits:
		return broken("mint on other terms than the claim's")
	case e.Amount <= 0 || e.Amount > v.Credits:
		return broken("mint of %d, frozen are %d", e.Amount, v.Credits)
	case m.Resolution != nil && c.status != rejected:
		return broken("a resolution turns a claim that was not rejected")
	case e.Votes != e.Amount*ep.params.VotesPerCredit:
		return broken("%d votes for %d credits", e.Votes, e.Amount)
	case e.Cap.Cap != ep.open.Cap || e.Cap.Before != ep.minted:
		return broken("cap state %d of %d, is %d of %d", e.Cap.Before, e.Cap.Cap, ep.minted, ep.open.Cap)
	}
	if err := t.reserve(-c.reserved); err != nil {
		return err
	}
	i := ep.issuers[t.org]
	if ep.minted+ep.outstanding+e.Amount > ep.open.Cap || i == nil || i.minted+i.outstanding+e.Amount > i.allocation {
		return broken("mint of %d is over the cap or the allocation", e.Amount)
	}
	if c.status == standing {
		acc.open--
	}
	c.status, c.reserved, c.mint, c.paid = minted, 0, e.Seq, e.Amount
	ep.count(t.org, func(n *sums) { n.minted += e.Amount; n.votes += e.Votes; n.mints++ })
	s.earn(acc, e.Book, e.Amount, e.Votes)
	return nil
}

// applyRejection settles a claim that pays nothing. Its slot stays taken.
func (s *State) applyRejection(e *entry.Entry) error {
	c := s.claims[string(e.Nullifier)]
	if c == nil || c.status != standing || c.task.first != e.Release.First || e.Amount != c.reserved {
		return broken("rejection without a claim that stands, or of another amount")
	}
	c.status, c.reserved = rejected, 0
	s.accounts[c.account].open--
	return nil
}
