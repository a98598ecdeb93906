package rules_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

func TestTaskRefusedInOrderOfItsConditions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		condition string
		name      string
		change    func(*rulestest.Town, *rules.AcceptTask)
	}{
		{"an issuer", rules.NotAccredited, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Author = "did:plc:stranger" }},
		{"by role", rules.NotAccredited, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Author = rulestest.Bus }},
		{"not suspended", rules.NotAccredited, func(w *rulestest.Town, _ *rules.AcceptTask) {
			r := w.Role(rulestest.Library, rules.RoleIssuer)
			r.Status = rules.StatusSuspended
			w.Must(r)
		}},
		{"in its term", rules.NotAccredited, func(w *rulestest.Town, _ *rules.AcceptTask) {
			r := w.Role(rulestest.Library, rules.RoleIssuer)
			r.ValidUntil = w.At("2027-01-04 00:00")
			w.Must(r)
		}},
		{"in its scope", rules.NotAccredited, func(w *rulestest.Town, c *rules.AcceptTask) {
			r := w.Role(rulestest.Library, rules.RoleIssuer)
			r.Categories = []string{rules.CategoryActivation, "reading"}
			w.Must(r)
			c.Entry.Category = "rivers"
		}},
		{"entry active", rules.EntryNotActive, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Entry.Active = false }},
		{"epoch open", rules.EpochClosed, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Epoch = "e2027-02" }},
		{"epoch not over", rules.EpochClosed, func(w *rulestest.Town, c *rules.AcceptTask) { c.Now = w.At("2027-03-29 00:00") }},
		{"shift in the epoch", rules.EpochClosed, func(w *rulestest.Town, c *rules.AcceptTask) {
			c.Shifts[0].StartsAt, c.Shifts[0].EndsAt = w.At("2027-04-01 10:00"), w.At("2027-04-01 12:00")
		}},
		{"above the band", rules.OutsideTierBand, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Credits = 17 }},
		{"below the band", rules.OutsideTierBand, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Credits = 15 }},
		{"paid for time the shift does not have", rules.OutsideTierBand, func(_ *rulestest.Town, c *rules.AcceptTask) {
			c.Shifts[0].EndsAt = c.Shifts[0].StartsAt.Add(time.Hour)
		}},
		{"a known tier", rules.OutsideTierBand, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Entry.Tier = 9 }},
		{"allocation", rules.AllocationExceeded, func(_ *rulestest.Town, c *rules.AcceptTask) { c.Shifts[0].Slots = 38 }},
		{"limit of the accreditation", rules.AllocationExceeded, func(w *rulestest.Town, _ *rules.AcceptTask) {
			r := w.Role(rulestest.Library, rules.RoleIssuer)
			r.PerEpochLimit = 100
			w.Must(r)
		}},
	} {
		t.Run(c.condition, func(t *testing.T) {
			t.Parallel()
			w := rulestest.NewTown(t)
			task := w.Task(rulestest.Library, "t", 10)
			c.change(w, &task)
			w.Refused(c.name, task)
		})
	}
	w := rulestest.NewTown(t)
	w.Must(w.Task(rulestest.Library, "t", 37)) // 592 of 600
}

func TestTaskWaitsForItsEpoch(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Task(rulestest.Library, "t", 1)
	task.Book = "event"
	r := w.Refused(rules.EpochClosed, task)
	assert.Equal(t, []string{"epochOpen event e2027-01"}, r.WaitFor)
}

func TestTaskAcceptedOnce(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 10))
	w.Must(task)
	totals, _ := w.State.Totals(rulestest.Book, rulestest.Epoch)
	assert.EqualValues(t, 160, totals.Reserved)
	assert.EqualValues(t, 1, totals.Tasks)
}

func TestShiftMayBeOpenForLongerThanIsPaid(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Task(rulestest.Library, "t", 1)
	task.Entry.MinMinutes, task.Entry.MaxMinutes = 0, 120
	task.Shifts[0].EndsAt = task.Shifts[0].StartsAt.Add(5 * time.Hour)
	w.Must(task) // two hours at 8
	task = w.Task(rulestest.Library, "u", 1)
	task.Entry.MinMinutes, task.Entry.MaxMinutes = 0, 120
	task.Shifts[0].EndsAt = task.Shifts[0].StartsAt.Add(5 * time.Hour)
	task.Credits = 15
	w.Refused(rules.OutsideTierBand, task)
}

func TestTaskBandWidens(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	p := w.Parameters(entry.PhaseLaunch)
	p.EffectiveEpoch = "e2027-02"
	p.Tiers[0].BandBps = 1000
	w.SetParameters(p)
	w.Now = w.At("2027-03-29 09:00")
	open := rules.OpenEpoch{Now: w.Now, Epoch: "e2027-02", Book: rulestest.Book}
	ride := w.Offer(rulestest.Bus, "ride2", 1000, 500, 200, 4)
	ride.Epoch = "e2027-02"
	open.Offerings = []rules.Offering{ride}
	w.Must(open)
	task := w.Task(rulestest.Library, "t", 1)
	task.Epoch, task.Credits = "e2027-02", 17 // 16 ± 1.6
	w.Must(task)
	task = w.Task(rulestest.Library, "u", 1)
	task.Epoch, task.Credits = "e2027-02", 18
	w.Refused(rules.OutsideTierBand, task)
}

func TestNewVersionMovesOnlyTheDifferenceForFreeSlots(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 10)) // 160
	w.Claim(0, task)                                     // 1 at 16 stays as it is

	longer := w.Version(task)
	longer.Credits, longer.Entry.MinMinutes, longer.Entry.MaxMinutes = 24, 180, 180
	longer.Shifts = []rules.Shift{{ID: "a", StartsAt: task.Shifts[0].StartsAt, EndsAt: task.Shifts[0].EndsAt.Add(time.Hour), Slots: 10}}
	w.Must(longer)
	assert.EqualValues(t, 16+9*24, outstanding(w, longer))

	fewer := w.Version(task)
	fewer.Shifts = []rules.Shift{task.Shifts[0]}
	fewer.Shifts[0].Slots = 5
	w.Must(fewer)
	assert.EqualValues(t, 16+4*16, outstanding(w, fewer))
	totals, _ := w.State.Totals(rulestest.Book, rulestest.Epoch)
	assert.EqualValues(t, 160, totals.Reserved, "reserved is the first version's")
	assert.EqualValues(t, 1, totals.Tasks)

	stranger := w.Version(task)
	stranger.Author = rulestest.Parks
	w.Refused(rules.NotAuthorized, stranger)
}

func outstanding(w *rulestest.Town, c rules.AcceptTask) int64 {
	task, _ := w.State.Task(c.Task.Ref())
	return task.Outstanding
}

func TestCancelledAndExpiredSlotsAreReleased(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 10))
	token := w.Claim(0, task)
	cancel := rules.ReleaseSlots{Now: w.Now, First: task.First, Reason: entry.ReleaseCancelled, Author: rulestest.Parks}
	w.Refused(rules.NotAuthorized, cancel)
	cancel.Author = rulestest.Library
	w.Must(cancel)
	assert.EqualValues(t, 16, outstanding(w, task), "the claim keeps its own")
	_, err := w.TryClaim(w.ClaimOf(1, task))
	assert.Equal(t, rules.ClaimWindowClosed, rules.Refused(err))
	w.Now = task.Shifts[0].StartsAt
	w.Must(w.Verify(task, token))
	assert.EqualValues(t, 0, outstanding(w, task))

	other := w.Accept(w.Task(rulestest.Library, "u", 10))
	assert.Empty(t, w.State.ExpiredSlots(w.Now))
	w.Now = other.Shifts[0].EndsAt
	due := w.State.ExpiredSlots(w.Now)
	require.Len(t, due, 1)
	w.Must(due[0])
	assert.EqualValues(t, 0, outstanding(w, other))
	assert.Empty(t, w.State.ExpiredSlots(w.Now))
}

func TestEpochOpensOnceWithParametersAndBeforeItsEnd(t *testing.T) {
	t.Parallel()
	w := rulestest.New(t)
	open := rules.OpenEpoch{Now: w.Now, Epoch: rulestest.Epoch, Book: rulestest.Book}
	w.Refused(rules.ParametersMissing, open)
	w.SetParameters(w.Parameters(entry.PhaseLaunch))
	late := open
	late.Now = w.At("2027-03-29 00:00")
	w.Refused(rules.EpochOver, late)
	w.Must(open)
	w.Refused(rules.EpochAlreadyOpen, open)
}

func TestParametersThatPlanNothingAreRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*entry.Parameters){
		"effective in no epoch": func(p *entry.Parameters) { p.EffectiveEpoch = "never" },
		"months with a hole":    func(p *entry.Parameters) { p.Epochs[0].Months[1].StartsAt = p.Epochs[0].Months[1].EndsAt },
		"no months":             func(p *entry.Parameters) { p.Epochs[0].Months = nil },
		"no burn rate":          func(p *entry.Parameters) { p.CapPolicy.RStartBps = 0 },
		"a share above one":     func(p *entry.Parameters) { p.CapPolicy.CapShareBps = 10_001 },
		"a tier twice":          func(p *entry.Parameters) { p.Tiers[1].N = 1 },
		"another phase":         func(p *entry.Parameters) { p.Epochs[0].Phase = "party" },
		"an epoch twice":        func(p *entry.Parameters) { p.Epochs[1].Key = p.Epochs[0].Key },
		"no claims":             func(p *entry.Parameters) { p.ClaimLimit = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := rulestest.New(t)
			p := w.Parameters(entry.PhaseLaunch)
			change(&p)
			w.Refused(rules.ParametersInvalid, rules.SetParameters{Now: w.Now, Record: w.Ref(rulestest.City, "gov.parameterSet", "p"), Parameters: p})
		})
	}
}

func TestParametersChangeWithTheNextEpochOnly(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	p := w.Parameters(entry.PhaseLaunch)
	p.VotesPerCredit = 3
	w.SetParameters(p) // takes effect with an epoch that is open already
	w.Earn(0, 1)
	_, votes := w.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.EqualValues(t, 16, votes)
}
