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
	a.pay(e, c)
	a.verified(e, c)
	a.check(e, e.Votes == e.Amount*ep.params.VotesPerCredit, "%d votes for %d credits", e.Votes, e.Amount)
	a.check(e, e.Cap.Cap == ep.open.Cap && e.Cap.Before == ep.minted, "cap state is %d of %d, recomputed %d of %d",
		e.Cap.Before, e.Cap.Cap, ep.minted, ep.open.Cap)

	spent := c.frozen
	c.state, c.frozen = paid, 0
	t.frozen -= spent
	a.move(e, t, -spent)
	ep.add(t.org, func(n *sums) { n.minted += e.Amount; n.votes += e.Votes; n.mints++ })
	a.supply[e.Book] += e.Amount
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
	a.check(e, a.mayVerify(t, m.Verifier), "%s may not verify for %s", m.Verifier, t.org)
	day := a.localDay(shiftOf(c.terms, c.shift).StartsAt)
	a.check(e, a.wasOn(t.org, day, "issuer"), "%s was not accredited on %s", t.org, day)
	a.check(e, m.Verifier == t.org || a.wasOn(m.Verifier, day, "issuer", "verifier"), "%s was not accredited on %s", m.Verifier, day)
	a.check(e, a.roleNow(m.Verifier).good(), "%s is suspended or revoked", m.Verifier)
	a.check(e, e.Day >= day, "mint on %s, the shift begins on %s", e.Day, day)

	a.check(e, len(e.Causes) == 1+len(m.CoSigners), "%d causes for %d co-signers", len(e.Causes), len(m.CoSigners))
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

func (a *Auditor) burn(e *entry.Entry) {
	b := e.Burn
	ep := a.epochOf(e)
	if ep == nil {
		return
	}
	org, bound := a.tills[b.Till]
	a.check(e, bound && org == e.Org, "till %s is not bound to %s", b.Till, e.Org)
	a.check(e, authority(b.Offering.URI) == e.Org, "offering %s is not of %s", b.Offering.URI, e.Org)
	a.check(e, e.Causes[0].Ref() == b.Offering, "its cause is another record than its offering")
	a.check(e, a.roleNow(e.Org).holdsOn(e.Day, a.loc, "redeemer", "sponsor"), "%s is not accredited as redeemer", e.Org)
	a.check(e, b.Units > 0 && b.Price > 0 && e.Amount == b.Units*b.Price, "burn of %d for %d units at %d", e.Amount, b.Units, b.Price)
	if a.check(e, b.Month < int64(len(ep.open.Months)), "month %d of %d", b.Month, len(ep.open.Months)) {
		m := ep.open.Months[b.Month]
		a.check(e, a.localDay(m.StartsAt) <= e.Day && e.Day <= a.localDay(m.EndsAt), "burn on %s is not in month %d", e.Day, b.Month)
	}
	key := fmt.Sprintf("%s\n%s\n%d", epochID(e.Book, e.Epoch), b.Offering.URI, b.Month)
	a.check(e, b.UnitsBefore == a.units[key], "units burned before are %d, recomputed %d", b.UnitsBefore, a.units[key])
	a.units[key] += b.Units
	a.check(e, a.units[key] <= b.UnitsMonth, "%d units of %d committed", a.units[key], b.UnitsMonth)
	if c, ok := ep.counted[b.Offering.URI]; ok {
		a.check(e, c.CID == b.Offering.CID && c.Credits == b.Price && c.Units == b.UnitsMonth, "burn on other terms than those counted")
	}
	ep.sums.burned += e.Amount
	a.supply[e.Book] -= e.Amount
	a.check(e, a.supply[e.Book] >= 0, "more burned than minted in %s", e.Book)
}
