package audit

import (
	"slices"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// maxUndoDays bounds, by days, how long after a burn it can be undone: the log shows no time of a person's act.
const maxUndoDays = 1

func (a *Auditor) reverse(e *entry.Entry) {
	r := e.Reverse
	a.check(e, r.Of < e.Seq, "entry %d is reversed before it is there", r.Of)
	switch r.What {
	case entry.KindBurn, entry.KindCapture:
		a.undo(e)
	case entry.KindMint:
		a.correct(e)
	default:
		a.found(e.Seq, "a %s cannot be reversed", r.What)
	}
}

// undo checks the reversal of a burn or a capture: all of it, by its till, soon.
func (a *Auditor) undo(e *entry.Entry) {
	r := e.Reverse
	s := a.spends[r.Of]
	what := entry.KindBurn
	if s != nil && s.until != "" {
		what = entry.KindCapture
	}
	isHold := s != nil && s.until != "" && r.Of == s.seq
	if !a.check(e, s != nil && what == r.What && !isHold, "reversal of a %s, which entry %d is not", r.What, r.Of) {
		return
	}
	if !a.check(e, s.state == burned, "a second reversal of entry %d", r.Of) {
		return
	}
	a.check(e, r.Reason == entry.ReverseRefused || r.Reason == entry.ReverseUndone, "a %s is reversed for %q", r.What, r.Reason)
	a.check(e, s.org == e.Org && s.epoch == a.epochOf(e), "reversal of what another redeemer or epoch burned")
	org, bound := a.tills[r.Till]
	a.check(e, bound && org == s.org, "till %s is not bound to %s", r.Till, s.org)
	a.check(e, e.Amount == s.amount && r.Short == 0 && e.Votes == 0, "reversal of %d, %d were burned", e.Amount, s.amount)
	a.check(e, len(e.Causes) == 0, "a redemption is reversed by a record")
	a.check(e, daysBetween(s.day, e.Day) <= maxUndoDays, "burned on %s, undone on %s", s.day, e.Day)
	s.state, s.undone = reversed, e.Seq
	a.giveBack(s)
	b := a.bookOf(e)
	a.inMonth(e, b)
	b.burn(-e.Amount)
	s.epoch.sums.burned -= e.Amount
}

func daysBetween(from, to string) int {
	f, err1 := time.Parse(time.DateOnly, from)
	t, err2 := time.Parse(time.DateOnly, to)
	if err1 != nil || err2 != nil {
		return 0
	}
	return int(t.Sub(f) / (24 * time.Hour))
}

// correct checks the reversal of a mint, as far as leaves show it: the verifier and the city say so, and no more is taken
// than was given.
func (a *Auditor) correct(e *entry.Entry) {
	r := e.Reverse
	c := a.mints[r.Of]
	if !a.check(e, c != nil, "reversal of a mint, which entry %d is not", r.Of) {
		return
	}
	ep := c.task.epoch
	a.check(e, r.Reason == entry.ReverseCorrected, "a mint is reversed for %q", r.Reason)
	a.check(e, c.task.org == e.Org && ep == a.epochOf(e), "reversal of a mint of another issuer or epoch")
	a.check(e, r.Till == "", "a mint is reversed at a till")
	a.check(e, a.claims[string(e.Nullifier)] == c, "reversal of entry %d under the nullifier of another claim", r.Of)
	a.check(e, e.Amount+r.Short <= c.minted, "reversal of %d, %d were minted", e.Amount+r.Short, c.minted)
	a.check(e, e.Votes == e.Amount*ep.params.VotesPerCredit, "%d votes for %d credits", e.Votes, e.Amount)
	if a.check(e, len(e.Causes) == 2, "a mint is reversed by %d records", len(e.Causes)) {
		by := authority(e.Causes[0].URI)
		// who minted it, were it only because a ruling named it; the issuer's other delegates did not
		a.check(e, by == c.task.org || by == c.verifier, "%s may not verify for %s", by, c.task.org)
		a.check(e, a.roleNow(by).good(), "%s is suspended or revoked", by)
		a.check(e, a.mayRule(authority(e.Causes[1].URI)), "%s may not order a correction", authority(e.Causes[1].URI))
		a.check(e, !slices.Contains(c.corrected, e.Causes[0].Ref()), "a second reversal of entry %d by one verification", r.Of)
		c.corrected = append(c.corrected, e.Causes[0].Ref())
	}
	c.minted -= e.Amount + r.Short
	b := a.bookOf(e)
	a.inMonth(e, b)
	b.issue(-e.Amount)
	ep.add(c.task.org, func(n *sums) { n.minted -= e.Amount; n.votes -= e.Votes })
	a.check(e, b.supply() >= 0, "more reversed than is held in %s", e.Book)
}
