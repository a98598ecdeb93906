package rules_test

import (
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

func (s *shift) holdTask() rules.Pause {
	return rules.Pause{
		Now: s.Now, What: entry.PauseTask, Subject: s.task.First, Reason: "disputeNonDisplacement",
		Record: s.Ref(rulestest.City, "gov.resolution", "r-hold"),
	}
}

func stop(w *rulestest.Town, what string, org syntax.DID, decision string) rules.Pause {
	return rules.Pause{
		Now: w.Now, What: what, Org: org, Until: w.Now.Add(48 * time.Hour), Reason: "flood", Record: w.Ref(rulestest.City, "gov.decision", decision),
	}
}

func TestPauseStopsWhatItSaysUntilItIsOver(t *testing.T) {
	t.Parallel()
	for _, org := range []syntax.DID{"", rulestest.Library} {
		w := rulestest.NewTown(t)
		w.Earn(1, 2)
		task := w.Accept(w.Task(rulestest.Library, "t", 5))
		token := w.Claim(0, task)
		parks := w.Accept(w.Task(rulestest.Parks, "t", 5))
		redeemer := org
		if org != "" {
			redeemer = rulestest.Bus
		}
		for _, what := range []string{entry.PauseTasks, entry.PauseClaims, entry.PauseMints} {
			w.Must(stop(w, what, org, "d"))
		}
		w.Must(stop(w, entry.PauseRedemptions, redeemer, "d"))
		until := entry.FormatTime(w.Now.Add(48 * time.Hour))
		w.Now = task.Shifts[0].StartsAt
		check := func(err error, what string) {
			t.Helper()
			require.Equal(t, rules.Paused, rules.Refused(err))
			r := rulestest.Refusal(t, err)
			assert.Equal(t, what, r.Figures["what"])
			assert.Equal(t, until, r.Figures["until"])
			assert.Equal(t, "flood", r.Figures["reason"])
		}
		_, err := w.TryClaim(w.ClaimOf(2, task))
		check(err, entry.PauseClaims)
		check(w.Refused(rules.Paused, w.Task(rulestest.Library, "u", 1)), entry.PauseTasks)
		check(w.Refused(rules.Paused, w.Verify(task, token)), entry.PauseMints)
		_, err = rules.CheckCode(w.State, w.Code(1, 1))
		check(err, entry.PauseRedemptions)
		check(w.Refused(rules.Paused, w.Burn(1, 1)), entry.PauseRedemptions)
		if org != "" { // nobody else is stopped
			w.Claim(2, parks)
			w.Must(w.Task(rulestest.Parks, "u", 1))
		}
		w.Now = w.Now.Add(48 * time.Hour) // over, without an entry
		w.Must(w.Verify(task, token))
		w.Must(w.Burn(1, 1))
		w.Must(w.Task(rulestest.Library, "v", 1))
		require.Equal(t, w.State.Digest(), w.Replay().Digest())
	}
}

func TestPauseIsBoundedAndADecisionStopsOnce(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	p := stop(w, entry.PauseMints, "", "d")
	p.Until = w.Now.Add(rules.MaxPause + time.Second)
	assert.EqualValues(t, 28, w.Refused(rules.PauseTooLong, p).Figures["days"])
	p.Until = w.Now
	w.Refused(rules.PauseTooLong, p)
	p.Until = w.Now.Add(rules.MaxPause)
	w.Must(p)

	shorter := stop(w, entry.PauseMints, "", "e")
	size := len(w.Entries)
	w.Must(shorter) // what is stopped for longer stays so
	assert.Len(t, w.Entries, size)

	w.Now = p.Until
	again := stop(w, entry.PauseMints, "", "d")
	again.Record = p.Record
	w.Refused(rules.DecisionSpent, again)
	again.Record.URI += "2"
	w.Must(again)
	w.Refused(rules.InvalidRecord, stop(w, "everything", "", "f"))
	w.Refused(rules.TaskNotAccepted, rules.Pause{Now: w.Now, What: entry.PauseTask, Subject: "at://did:plc:x/y/z", Record: p.Record})
	w.Refused(rules.EpochClosed, rules.Pause{Now: w.Now, What: entry.PauseOffering, Subject: "at://did:plc:x/y/z", Record: p.Record})
}

func TestPausedOfferingStopsItsCodesUntilItsEpochEndsAtMost(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(1, 1)
	w.Must(rules.Pause{
		Now: w.Now, What: entry.PauseOffering, Subject: w.Ride.Record.URI, Reason: "strike", Record: w.Ref(rulestest.Bus, "offer.offeringStatus", "s"),
	})
	last := w.Entries[len(w.Entries)-1]
	assert.Equal(t, rulestest.Bus, last.Org)
	assert.Equal(t, "2027-03-29T07:00:00Z", last.Pause.Until)
	assert.Equal(t, w.Ride.Record.URI, w.Refused(rules.Paused, w.Burn(1, 1)).Figures["subject"])
	resume := rules.Resume{
		Now: w.Now, What: entry.PauseOffering, Subject: w.Ride.Record.URI, Record: w.Ref(rulestest.Bus, "offer.offeringStatus", "t"),
	}
	w.Must(resume)
	w.Must(w.Burn(1, 1))
	size := len(w.Entries)
	w.Must(resume)
	assert.Len(t, w.Entries, size, "nothing is paused any more")
}

// A log that pauses for longer than a decision may, or twice by one, is broken. R3
func TestForgedPausesAreBroken(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	forge := func(change func(*entry.Entry)) error {
		entries, err := rules.Decide(w.State, stop(w, entry.PauseMints, "", "d"))
		require.NoError(t, err)
		e := entries[0]
		change(&e)
		return rules.Apply(w.State, e)
	}
	long := func(e *entry.Entry) { e.Pause.Until = entry.FormatTime(w.Now.Add(rules.MaxPause + time.Second)) }
	require.ErrorIs(t, forge(long), rules.ErrBroken)
	require.ErrorIs(t, forge(func(e *entry.Entry) { e.Pause.Until = "" }), rules.ErrBroken)
	require.ErrorIs(t, forge(func(e *entry.Entry) { e.Pause.What = entry.PauseTask }), rules.ErrBroken)
	require.ErrorIs(t, forge(func(e *entry.Entry) { e.Kind, e.Resume = entry.KindResume, &entry.Resume{What: entry.PauseMints} }), rules.ErrBroken)
}
