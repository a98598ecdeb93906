package rules_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

func claimRefused(t *testing.T, w *rulestest.Town, name string, c rules.ClaimRequest) *rules.Refusal {
	t.Helper()
	before, held := w.State.Digest(), w.State.HeldDigest()
	_, err := w.TryClaim(c)
	require.Equal(t, name, rules.Refused(err), "%v", err)
	assert.Equal(t, before, w.State.Digest())
	assert.Equal(t, held, w.State.HeldDigest())
	return rulestest.Refusal(t, err)
}

func TestClaimRefusedEntryNotActive(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	c := w.ClaimOf(0, w.Accept(w.Task(rulestest.Library, "t", 1)))
	c.EntryActive = false
	claimRefused(t, w, rules.EntryNotActive, c)
}

func TestClaimRefusedSelfVerification(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	r := w.Role(rulestest.Library, rules.RoleIssuer)
	r.Delegates = append(r.Delegates, rulestest.Auditor)
	w.Must(r)
	task := w.Accept(w.Task(rulestest.Library, "t", 5))
	c := w.ClaimOf(0, task)
	c.Resident = rulestest.Library
	claimRefused(t, w, rules.SelfVerification, c)
	c.Resident = rulestest.Auditor
	claimRefused(t, w, rules.SelfVerification, c)
	w.Must(rules.BindStaff{Now: w.Now, Org: rulestest.Library, Resident: rulestest.Resident(0)})
	w.Must(rules.BindStaff{Now: w.Now, Org: rulestest.Auditor, Resident: rulestest.Resident(1)})
	claimRefused(t, w, rules.SelfVerification, w.ClaimOf(0, task))
	claimRefused(t, w, rules.SelfVerification, w.ClaimOf(1, task))
	w.Claim(2, task)
	w.Claim(0, w.Accept(w.Task(rulestest.Parks, "u", 1)))
}

func TestClaimRefusedNotActivated(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 1))
	r := claimRefused(t, w, rules.NotActivated, w.ClaimOf(99, task))
	assert.False(t, r.Waiting(), "a claim waits for its task, never for an activation")
}

func TestClaimWaitsForItsTask(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Task(rulestest.Library, "t", 1)
	r := claimRefused(t, w, rules.TaskNotAccepted, w.ClaimOf(0, task))
	assert.Equal(t, []string{task.Task.URI}, r.WaitFor)
}

func TestClaimRefusedClaimWindowClosed(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	early := w.Task(rulestest.Library, "t", 5)
	early.ClaimOpensAt, early.ClaimClosesAt = w.At("2027-01-04 09:30"), w.At("2027-01-04 11:00")
	w.Must(early)
	for _, c := range []struct {
		at   string
		open bool
	}{{"09:29", false}, {"09:30", true}, {"10:59", true}, {"11:00", false}} {
		req := w.ClaimOf(len(w.Leaves)%2, early)
		req.Now = w.At("2027-01-04 " + c.at)
		_, err := rules.DecideClaim(w.State, req)
		assert.Equal(t, c.open, err == nil, "%s: %v", c.at, err)
		if !c.open {
			assert.Equal(t, rules.ClaimWindowClosed, rules.Refused(err))
		}
	}
	plain := w.Accept(w.Task(rulestest.Library, "u", 5))
	late := w.ClaimOf(0, plain)
	late.Now = plain.Shifts[0].EndsAt
	claimRefused(t, w, rules.ClaimWindowClosed, late)
	before := w.ClaimOf(0, plain)
	before.Now = w.At("2027-01-03 23:59")
	claimRefused(t, w, rules.ClaimWindowClosed, before)

	w.Must(w.Version(plain))
	r := claimRefused(t, w, rules.ClaimWindowClosed, w.ClaimOf(0, plain))
	assert.Equal(t, true, r.Figures["superseded"])
}

func TestClaimRefusedSealedTask(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Task(rulestest.Library, "t", 1)
	task.Entry.Sensitivity = entry.SensitivitySealed
	w.Must(task)
	c := w.ClaimOf(0, task)
	claimRefused(t, w, rules.SealedTask, c)
	c.Sealed = true
	_, err := w.TryClaim(c)
	require.NoError(t, err)
}

func TestClaimRefusedAlreadyClaimed(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 5))
	token := w.Claim(0, task)
	claimRefused(t, w, rules.AlreadyClaimed, w.ClaimOf(0, task))
	w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
	claimRefused(t, w, rules.AlreadyClaimed, w.ClaimOf(0, task))
	edited := w.Accept(w.Version(task))
	claimRefused(t, w, rules.AlreadyClaimed, w.ClaimOf(0, edited))
	w.Now = task.Shifts[0].StartsAt
	w.Must(w.Verify(task, token))
	claimRefused(t, w, rules.AlreadyClaimed, w.ClaimOf(0, edited))
}

func TestClaimRefusedSlotsFull(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 2))
	w.Claim(0, task)
	w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
	w.Claim(1, task)
	r := claimRefused(t, w, rules.SlotsFull, w.ClaimOf(2, task))
	assert.EqualValues(t, 2, r.Figures["slots"])
}

func TestClaimRefusedClaimLimit(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		task := w.Accept(w.Task(rulestest.Library, key, 1))
		w.Claim(0, task)
		if key < "c" {
			w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
		}
	}
	task := w.Accept(w.Task(rulestest.Library, "f", 2))
	r := claimRefused(t, w, rules.ClaimLimit, w.ClaimOf(0, task))
	assert.Equal(t, map[string]any{"open": int64(5), "claimLimit": int64(5)}, map[string]any(r.Figures))
	w.Claim(1, task)
}

// The order of ledger's list decides which name a claim with several faults gets.
func TestClaimFaultsAreNamedInOrder(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Task(rulestest.Library, "t", 1)
	task.Entry.Sensitivity = entry.SensitivitySealed
	w.Must(task)
	c := w.ClaimOf(0, task)
	c.EntryActive, c.Resident, c.Now = false, rulestest.Library, w.At("2027-02-01 00:00")
	claimRefused(t, w, rules.EntryNotActive, c)
	c.EntryActive = true
	claimRefused(t, w, rules.SelfVerification, c)
	c.Resident = rulestest.Resident(99)
	claimRefused(t, w, rules.NotActivated, c)
	c.Resident = rulestest.Resident(0)
	claimRefused(t, w, rules.ClaimWindowClosed, c)
	c.Now = w.Now
	claimRefused(t, w, rules.SealedTask, c)
}

// L13
func TestClaimsEnterInOneBatchSortedByNullifier(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 8))
	var tokens [][]byte
	for n := range 6 {
		tokens = append(tokens, w.Claim(n, task))
	}
	size := len(w.Entries)
	w.Now = task.Shifts[0].StartsAt
	w.Must(w.Verify(task, tokens[3]))
	batch := w.Entries[size:]
	require.Len(t, batch, 7)
	for i, e := range batch[:6] {
		assert.Equal(t, entry.KindClaim, e.Kind)
		assert.Empty(t, e.At)
		if i > 0 {
			assert.Negative(t, bytes.Compare(batch[i-1].Nullifier, e.Nullifier))
		}
	}
	assert.Equal(t, entry.KindMint, batch[6].Kind)

	w.Claim(7, task)
	assert.Empty(t, w.State.HeldShifts(w.Now))
	w.Now = task.Shifts[0].EndsAt
	due := w.State.HeldShifts(w.Now)
	require.Len(t, due, 1)
	w.Must(due[0])
	assert.Empty(t, w.State.HeldShifts(w.Now))
}

func TestWithdrawnClaimFreesItsSlot(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 1))

	token := w.Claim(0, task)
	entries, err := rules.DecideDrop(w.State, token, w.Now)
	require.NoError(t, err)
	assert.Empty(t, entries, "a held claim leaves no trace in the log")
	assert.True(t, rules.DropClaim(w.State, token))
	assert.False(t, rules.DropClaim(w.State, token))

	token = w.Claim(1, task)
	w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
	w.Refused(rules.ProofSubmitted, rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimWithdrawn, Proven: true})
	w.Must(rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimWithdrawn})
	assert.EqualValues(t, 16, outstanding(w, task))
	w.Refused(rules.ClaimMissing, rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimWithdrawn})
	again := w.Claim(1, task)
	assert.Equal(t, token, again)
	w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
}

func TestClaimWithoutProofLapsesAfterFourteenDays(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 1))
	token := w.Claim(0, task)
	w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
	w.Now = w.At("2027-01-18 11:59")
	assert.Empty(t, w.State.Lapsing(w.Now))
	w.Refused(rules.NotLapsed, rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimLapsed})
	w.Now = w.At("2027-01-18 12:00")
	assert.Equal(t, [][]byte{token}, w.State.Lapsing(w.Now))
	w.Refused(rules.ProofSubmitted, rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimLapsed, Proven: true})
	w.Must(rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimLapsed})
	assert.EqualValues(t, 0, outstanding(w, task), "the shift is over: nobody can take the slot")
	w.Refused(rules.ClaimMissing, w.Verify(task, token))
}

// A claim on an older, dearer version gives the difference back when it ends.
func TestSlotOfAnOlderVersionOpensAtTheNewTerms(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 2))
	held := w.Claim(0, task)
	cheaper := w.Version(task)
	cheaper.Credits, cheaper.Entry.MinMinutes, cheaper.Entry.MaxMinutes = 8, 60, 60
	w.Must(cheaper)
	assert.EqualValues(t, 16+8, outstanding(w, task))
	entries, err := rules.DecideDrop(w.State, held, w.Now)
	require.NoError(t, err)
	w.Apply(entries)
	rules.DropClaim(w.State, held)
	assert.EqualValues(t, 8+8, outstanding(w, task))
	w.Claim(1, cheaper)
	w.Claim(2, cheaper)
	claimRefused(t, w, rules.SlotsFull, w.ClaimOf(3, cheaper))

	// A dearer one would need more than was frozen: the slot closes.
	other := w.Accept(w.Task(rulestest.Library, "u", 1))
	token := w.Claim(4, other)
	w.Must(rules.EnterClaims{Now: w.Now, First: other.First, Shift: "a"})
	dearer := w.Version(other)
	dearer.Entry.Tier, dearer.Credits = 2, 24
	w.Must(dearer)
	w.Must(rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimWithdrawn})
	assert.EqualValues(t, 0, outstanding(w, other))
	claimRefused(t, w, rules.SlotsFull, w.ClaimOf(5, dearer))
}
