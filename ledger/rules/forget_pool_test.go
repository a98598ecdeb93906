package rules_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// A correction takes of credits that sleep as if they had woken; the holder sleeps on, and may ask to be forgotten then.
func TestForgetsOneWhoseSleepingCreditsWereCorrected(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	task := w.Accept(w.Task(rulestest.Library, "t", 1))
	token := w.Claim(0, task)
	w.Now = task.Shifts[0].StartsAt
	m := w.Verify(task, token)
	w.Must(m)
	w.Now = w.At("2027-03-02 09:00") // a month without an act is over
	w.Must(rules.CloseMonths{Now: w.Now})
	w.Must(rules.Correct{
		Now: w.Now, Record: w.Ref(rulestest.Library, "work.verification", "w"), Author: rulestest.Library, Signed: true, Supersedes: m.Record.Ref(),
		Resolution: new(w.Ref(rulestest.City, "gov.resolution", "r")), Token: token, Outcome: entry.OutcomePartial, Minutes: 60, Credits: 8,
	})
	gone, err := rules.Forget(w.State, rulestest.Account(0), w.Now)
	require.NoError(t, err)
	require.Len(t, gone, 1)
	assert.EqualValues(t, 24, gone[0].Amount)
	assert.EqualValues(t, 8, gone[0].Woken)
	w.Must(gone[0])
	totals, _ := w.State.Totals(rulestest.Book, rulestest.Epoch)
	assert.Zero(t, totals.Supply())
	w.Now = w.At("2027-03-29 09:00")
	w.Must(rules.CloseMonths{Now: w.Now})
}

// One who woke their credits and spent them all leaves nothing to expire, and a month that still closes.
func TestForgetsOneWhoWokeAndSpentAll(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	w.Earn(1, 1)
	w.Now = w.At("2027-03-02 09:00")
	w.Must(w.Burn(0, 4))
	gone, err := rules.Forget(w.State, rulestest.Account(0), w.Now)
	require.NoError(t, err)
	for _, x := range gone {
		w.Must(x)
	}
	w.Now = w.At("2027-03-29 09:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	last := w.Entries[len(w.Entries)-1]
	require.Equal(t, entry.KindDormant, last.Kind)
	assert.EqualValues(t, 16, last.Dormant.Reactivated)
	assert.EqualValues(t, 16, last.Dormant.Dormant)
	assert.Zero(t, last.Dormant.Active)
}
