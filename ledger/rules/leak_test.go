package rules_test

import (
	"fmt"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// Each test is named after a leak of the closest prototype.

// No cap of any kind. L7
func TestLeakNoCap(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Must(w.Task(rulestest.Library, "a", 37))
	w.Refused(rules.AllocationExceeded, w.Task(rulestest.Library, "b", 1))
	w.Must(w.Task(rulestest.Parks, "c", 37))
	totals, _ := w.State.Totals(rulestest.Book, rulestest.Epoch)
	assert.LessOrEqual(t, totals.Outstanding+totals.Minted, totals.Cap)
}

// A stranger registers as issuer and mints to himself in four calls. L6
func TestLeakStrangerMints(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	const stranger = syntax.DID("did:plc:stranger")
	task := w.Task(stranger, "t", 1)
	w.Refused(rules.NotAccredited, task)
	w.Refused(rules.NotAccredited, rules.Activate{Now: w.Now, Issuer: stranger, Resident: stranger, Account: rulestest.Account(50)})
	_, err := w.TryClaim(w.ClaimOf(0, task))
	assert.Equal(t, rules.TaskNotAccepted, rules.Refused(err))
	w.Refused(rules.NotAccredited, w.Verify(task, make([]byte, 32)))

	real := w.Accept(w.Task(rulestest.Library, "u", 1))
	token := w.Claim(0, real)
	m := w.Verify(real, token)
	m.Author = stranger
	w.Refused(rules.NotAuthorized, m)
}

// VOTE amount free to choose. L9
func TestLeakVoteFreeToChoose(t *testing.T) {
	t.Parallel()
	for _, per := range []int64{0, 1, 2} {
		t.Run(fmt.Sprint(per), func(t *testing.T) {
			t.Parallel()
			w := rulestest.New(t)
			p := w.Parameters(entry.PhaseLaunch)
			p.VotesPerCredit = per
			w.SetParameters(p)
			town := &rulestest.Town{World: w}
			r := w.Role(rulestest.Library, rules.RoleIssuer)
			r.Categories = []string{rules.CategoryActivation}
			w.Must(r)
			w.Must(w.Role(rulestest.Bus, rules.RoleRedeemer))
			w.Must(rules.OpenEpoch{Now: w.Now, Epoch: rulestest.Epoch, Book: rulestest.Book,
				Offerings: []rules.Offering{w.Offer(rulestest.Bus, "ride", 1000, 500, 200, 4)}})
			w.Now = w.At("2027-01-04 09:00")
			w.Must(rules.Activate{Now: w.Now, Issuer: rulestest.Library, Resident: rulestest.Resident(0), Account: rulestest.Account(0)})
			town.Earn(0, 1)
			credits, votes := w.State.Balance(rulestest.Account(0), rulestest.Book)
			assert.Equal(t, credits*per, votes)
			assert.EqualValues(t, 16, credits)
		})
	}
}

// Issuer verifies its own work.
func TestLeakOwnVerification(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	// Even an issuer that had itself activated.
	w.Must(rules.Activate{Now: w.Now, Issuer: rulestest.Library, Resident: rulestest.Library, Account: rulestest.Account(60)})
	task := w.Accept(w.Task(rulestest.Library, "t", 2))
	c := w.ClaimOf(0, task)
	c.Resident = rulestest.Library
	claimRefused(t, w, rules.SelfVerification, c)
	token := w.Claim(0, task)
	w.Must(rules.BindStaff{Now: w.Now, Org: rulestest.Library, Resident: rulestest.Resident(0)})
	w.Now = task.Shifts[0].StartsAt
	w.Refused(rules.SelfVerification, w.Verify(task, token))
}

// Revoked issuer keeps minting; work done before is verified by an organization that the city names for it.
func TestLeakRevokedIssuerKeepsMinting(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Task(rulestest.Library, "t", 2)
	task.Shifts = append(task.Shifts, rules.Shift{
		ID: "later", StartsAt: task.Shifts[0].StartsAt.AddDate(0, 0, 7), EndsAt: task.Shifts[0].EndsAt.AddDate(0, 0, 7), Slots: 1,
	})
	w.Must(task)
	token := w.Claim(0, task)
	later := w.ClaimOf(1, task)
	later.Shift = "later"
	held, err := w.TryClaim(later)
	require.NoError(t, err)

	w.Now = w.At("2027-01-06 12:00")
	r := w.Role(rulestest.Library, rules.RoleIssuer)
	r.Status, r.Delegates = rules.StatusRevoked, []syntax.DID{rulestest.Auditor}
	w.Must(r)

	w.Refused(rules.NotAccredited, w.Verify(task, token))
	w.Refused(rules.NotAccredited, w.Task(rulestest.Library, "u", 1))
	m := w.Verify(task, token)
	m.Author, m.Record = rulestest.Auditor, w.Ref(rulestest.Auditor, "work.verification", "v")
	w.Must(m)

	w.Now = w.At("2027-01-11 11:00") // work after the revocation is nobody's to verify
	m = w.Verify(task, held.Token)
	m.Author, m.Shift, m.Record = rulestest.Auditor, "later", w.Ref(rulestest.Auditor, "work.verification", "w")
	w.Refused(rules.NotAccredited, m)
}

// Reward cut after submission. L8
func TestLeakPayCutAfterSubmission(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 2))
	token := w.Claim(0, task)
	cut := w.Version(task)
	cut.Credits, cut.Entry.MinMinutes, cut.Entry.MaxMinutes = 8, 60, 60
	w.Must(cut)
	w.Now = task.Shifts[0].StartsAt
	lower := w.Verify(cut, token)
	w.Refused(rules.TermsFrozen, lower)
	w.Must(w.Verify(task, token))
	credits, _ := w.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.EqualValues(t, 16, credits)
}

// One claimant blocks a ten-slot task.
func TestLeakOneClaimantBlocksTenSlots(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 10))
	w.Claim(0, task)
	claimRefused(t, w, rules.AlreadyClaimed, w.ClaimOf(0, task))
	for n := 1; n < 10; n++ {
		w.Claim(n, task)
	}
}

// One person holds every task.
func TestLeakOnePersonHoldsEveryTask(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	held := 0
	for i := range 9 {
		if _, err := w.TryClaim(w.ClaimOf(0, w.Accept(w.Task(rulestest.Library, fmt.Sprint(i), 1)))); err == nil {
			held++
		} else {
			assert.Equal(t, rules.ClaimLimit, rules.Refused(err))
		}
	}
	assert.Equal(t, 5, held)
}

// Work done in time cannot be verified after expiry.
func TestLeakWorkInTimeNotVerifiableLater(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 3))
	token := w.Claim(0, task)
	w.Now = task.Shifts[0].EndsAt
	for _, c := range w.State.HeldShifts(w.Now) {
		w.Must(c)
	}
	for _, c := range w.State.ExpiredSlots(w.Now) {
		w.Must(c)
	}
	w.Now = w.At("2027-04-02 09:00") // after the epoch itself
	w.Refused(rules.ProofSubmitted, rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimLapsed, Proven: true})
	w.Must(w.Verify(task, token))
}

// Tasks not bound to what was approved.
func TestLeakTasksNotBoundToWhatWasApproved(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	draft := w.Task(rulestest.Library, "t", 1)
	draft.Entry.Active = false
	w.Refused(rules.EntryNotActive, draft)
	rich := w.Task(rulestest.Library, "t", 1)
	rich.Credits = 400
	w.Refused(rules.OutsideTierBand, rich)
	good := w.Accept(w.Task(rulestest.Library, "t", 1))
	edited := w.Version(good)
	edited.Credits = 400
	w.Refused(rules.OutsideTierBand, edited)
	edited = w.Version(good)
	edited.Entry.Active = false
	w.Refused(rules.EntryNotActive, edited)
}

// Event credits pooled and immortal: they are of a book of their own, spent nowhere else, and end with the event, held or not.
func TestLeakEventCreditsPooledAndImmortal(t *testing.T) {
	t.Parallel()
	w := newEventTown(t)
	w.Now = w.At("2027-05-15 09:00")
	task := w.Accept(w.eventTask("crew"))
	first, late := w.Claim(0, task), w.Claim(1, task)
	w.Now = w.At("2027-05-15 10:00")
	w.Must(w.Verify(task, first))
	credits, _ := w.State.Balance(rulestest.Account(0), mceBook)
	require.EqualValues(t, 16, credits)
	standard, _ := w.State.Balance(rulestest.Account(0), rulestest.Book)
	require.Zero(t, standard, "nothing is pooled")
	openNext(t, w.Town, "e2027-02")
	w.Refused(rules.InsufficientBalance, w.Burn(0, 1))
	wrong := w.coffee
	wrong.Book, wrong.Epoch = rulestest.Book, "e2027-02"
	w.Refused(rules.InsufficientBalance, rules.Burn{Now: w.Now, Account: rulestest.Account(0), Offering: wrong, Units: 1, Till: w.till})
	w.Must(w.coffees(0, 1))
	x := w.State.Expiry(rulestest.Account(0), mceBook, w.At("2027-06-10 09:00"))
	assert.Equal(t, [2]int64{12, 7}, [2]int64{x.Amount, int64(x.Warning)}, "its end is told")

	w.Now = w.At("2027-06-13 23:00")
	w.Must(rules.PutAside{
		Now: w.Now, Resident: rulestest.Resident(0), Offering: w.coffee, Units: 1, Till: w.till, Until: "2027-06-13", NoneOfFreeFor: true,
	})
	w.Now = w.At("2027-06-14 00:00")
	before := len(w.Entries)
	w.Refused(rules.EpochClosed, w.coffees(0, 1))
	r := w.Refused(rules.EpochClosed, w.Verify(task, late))
	assert.Equal(t, mceBook, r.Figures["book"])
	w.Must(rules.CloseMonths{Now: w.Now})
	var event []entry.Entry
	for _, e := range w.Entries[before:] {
		if e.Book == mceBook {
			event = append(event, e)
		}
	}
	require.Equal(t, []entry.Kind{entry.KindVoid, entry.KindDormant, entry.KindExpire}, kinds(event))
	assert.Equal(t, entry.VoidBookClosed, event[0].Void.Reason)
	assert.Equal(t, entry.Expire{Reason: entry.ExpireBookClosed, Active: 12}, *event[2].Expire)
	assert.EqualValues(t, 12, event[2].Amount)
	credits, _ = w.State.Balance(rulestest.Account(0), mceBook)
	assert.Zero(t, credits)
	w.Must(rules.CloseEpoch{Now: w.Now, Book: mceBook, Epoch: mce})
	require.Equal(t, w.State.Digest(), w.Replay().Digest(), "R2")
	audited(t, w.World)
}
