package audit

import (
	"fmt"
	"slices"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

func (a *Auditor) mint(e *entry.Entry) {
	m := e.Mint
	ep := a.epochOf(e)
	c := a.claims[string(e.Nullifier)]
	if !a.check(e, c != nil && c.state != gone, "mint without a claim that stands") || ep == nil {
		return
	}
	a.check(e, c.state != paid, "a second mint of one claim")
	t := c.task
	a.check(e, t.org == e.Org && t.epoch == ep && t == a.tasks[m.First], "mint of another issuer, task or epoch than its claim's")
	a.check(e, m.Task == c.terms.Task && m.Shift == c.shift && m.Frozen == c.terms.Credits, "mint on other terms than its claim's")
	a.check(e, !a.paused(e, entry.PauseMints, t.org, ""), "a mint while mints are paused")
	a.check(e, !a.paused(e, entry.PauseTask, t.org, m.First), "a mint while an objection holds its task")
	a.check(e, ep.open.Phase != entry.PhaseEvent || e.Day <= a.lastDay(ep.open.EndsAt), "a mint after the event, whose credits ended")
	a.pay(e, c)
	a.verified(e, c)
	a.check(e, e.Votes == e.Amount*ep.params.VotesPerCredit, "%d votes for %d credits", e.Votes, e.Amount)
	a.check(e, e.Cap.Cap == ep.open.Cap && e.Cap.Before == ep.minted, "cap state is %d of %d, recomputed %d of %d",
		e.Cap.Before, e.Cap.Cap, ep.minted, ep.open.Cap)

	spent := c.frozen
	c.state, c.frozen, c.minted, c.verifier = paid, 0, e.Amount, m.Verifier
	t.frozen -= spent
	a.move(e, t, -spent)
	ep.add(t.org, func(n *sums) { n.minted += e.Amount; n.votes += e.Votes; n.mints++ })
	a.mints[e.Seq] = c
	b := a.bookOf(e)
	a.inMonth(e, b)
	b.issue(e.Amount)
	if i := ep.issuers[t.org]; i != nil {
		a.check(e, i.minted+i.outstanding <= ep.room[t.org], "allocation exceeded: %d > %d", i.minted+i.outstanding, ep.room[t.org])
	}
	a.check(e, ep.minted+ep.outstanding <= ep.open.Cap, "cap exceeded: %d > %d", ep.minted+ep.outstanding, ep.open.Cap)
}

func (a *Auditor) pay(e *entry.Entry, c *claim) {
	want := c.terms.Credits
	switch e.Mint.Outcome {
	case entry.OutcomeApproved:
	case entry.OutcomePartial:
		want = min(want, quotient(60, c.terms.TierRate, e.Mint.Minutes))
	default:
		a.found(e.Seq, "mint for outcome %q", e.Mint.Outcome)
	}
	a.check(e, e.Amount == want, "mint of %d, its terms give %d", e.Amount, want)
}

// verified checks who verified, when, and how.
func (a *Auditor) verified(e *entry.Entry, c *claim) {
	m, t := e.Mint, c.task
	a.check(e, authority(e.Causes[0].URI) == m.Verifier, "verification %s is not of %s", e.Causes[0].URI, m.Verifier)
	upheld := a.upheld(e, c)
	a.check(e, upheld || a.mayVerify(t, m.Verifier), "%s may not verify for %s", m.Verifier, t.org)
	day := a.localDay(shiftOf(c.terms, c.shift).StartsAt)
	a.check(e, a.wasOn(t.org, day, "issuer"), "%s was not accredited on %s", t.org, day)
	a.check(e, upheld || m.Verifier == t.org || a.wasOn(m.Verifier, day, "issuer", "verifier"), "%s was not accredited on %s", m.Verifier, day)
	a.check(e, a.roleNow(m.Verifier).good(), "%s is suspended or revoked", m.Verifier)
	a.check(e, e.Day >= day, "mint on %s, the shift begins on %s", e.Day, day)

	causes := 1 + len(m.CoSigners)
	if m.Resolution != nil {
		causes++
	}
	a.check(e, len(e.Causes) == causes, "%d causes for %d co-signers", len(e.Causes), len(m.CoSigners))
	seen := map[syntax.DID]bool{m.Verifier: true}
	other := false
	for i, co := range m.CoSigners {
		a.check(e, !seen[co], "%s signs twice", co)
		seen[co] = true
		other = other || co != t.org
		a.check(e, i+1 < len(e.Causes) && authority(e.Causes[i+1].URI) == co, "co-signer %s has no verification of its own", co)
		a.check(e, a.roleNow(co).holdsOn(e.Day, a.loc, "issuer", "verifier"), "co-signer %s is not accredited", co)
	}
	if what := a.weak(m, c.terms.Level, other); what != "" {
		a.found(e.Seq, "%s", what)
	}
}

// upheld checks a mint that a ruling ordered: the city says so, of a claim that was rejected, and the organization that it
// names to verify anew is accredited now.
func (a *Auditor) upheld(e *entry.Entry, c *claim) bool {
	m := e.Mint
	if m.Resolution == nil {
		return false
	}
	a.check(e, c.state == refused, "a ruling pays a claim that was not rejected")
	a.check(e, a.mayRule(authority(m.Resolution.URI)), "%s may not rule on a mint", authority(m.Resolution.URI))
	a.check(e, e.Causes[len(e.Causes)-1].Ref() == *m.Resolution, "its last cause is another record than its resolution")
	a.check(e, a.roleNow(m.Verifier).holdsOn(e.Day, a.loc, "issuer", "verifier"), "%s, which verifies anew, is not accredited", m.Verifier)
	return true
}

// weak says what is missing for the level, or nothing.
func (a *Auditor) weak(m *entry.Mint, level int64, other bool) string {
	methods := 0
	for i, name := range m.Methods {
		known := slices.Contains([]string{"attestation", "evidenceReview", "multiSignal", "audit", "checkIn"}, name)
		if known && !slices.Contains(m.Methods[:i], name) {
			methods++
		}
	}
	has := func(name string) bool { return slices.Contains(m.Methods, name) }
	two := methods >= 2 || (methods == 1 && len(m.CoSigners) > 0)
	ok := map[int64]bool{
		1: has("attestation") || has("checkIn"),
		2: has("evidenceReview"),
		3: two,
		4: two && other,
	}[level]
	if m.Level != level || !ok {
		return fmt.Sprintf("level %d by %d methods and %d co-signers, the task asks for level %d", m.Level, methods, len(m.CoSigners), level)
	}
	return ""
}
