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

func free(w *rulestest.Town, n int) int64 {
	credits, _ := w.State.Balance(rulestest.Account(n), rulestest.Book)
	return credits
}

func units(w *rulestest.Town) int64 {
	return w.State.UnitsBurned(rulestest.Book, w.Ride.Record.URI, w.Now)
}

func burned(w *rulestest.Town) int64 {
	totals, _ := w.State.Totals(rulestest.Book, rulestest.Epoch)
	return totals.Burned
}

// replays asserts that the log gives the state again.
func replays(t *testing.T, w *rulestest.Town) {
	t.Helper()
	assert.Equal(t, w.State.Digest(), w.Replay().Digest())
}

func TestHoldPutsCreditsAsideAndItsCaptureBurnsThem(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	w.Must(w.PutAside(0, 3))
	hold := w.Last()
	assert.EqualValues(t, 4, free(w, 0))
	assert.EqualValues(t, 3, units(w), "the units count at once")
	assert.Zero(t, burned(w))
	w.Refused(rules.InsufficientBalance, w.Burn(0, 2))
	w.Must(w.Capture(hold))
	assert.EqualValues(t, 4, free(w, 0))
	assert.EqualValues(t, 3, units(w))
	assert.EqualValues(t, 12, burned(w))
	w.Refused(rules.HoldUnknown, w.Capture(hold))
	w.Refused(rules.HoldUnknown, rules.EndHold{Now: w.Now, Hold: hold, Reason: entry.VoidCancelled})
	replays(t, w)
}

func TestEndedHoldGivesCreditsUnitsAndLimitBack(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{entry.VoidExpired, entry.VoidRefused, entry.VoidCancelled} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			w := rulestest.NewTown(t)
			w.Ride.PersonLimit = 3
			w.Earn(0, 1)
			w.Must(w.PutAside(0, 3))
			hold := w.Last()
			w.Refused(rules.PersonLimit, w.Burn(0, 1))
			if reason == entry.VoidExpired {
				w.Refused(rules.HoldStands, rules.EndHold{Now: w.Now, Hold: hold, Reason: reason})
				assert.Empty(t, w.State.DueHolds(w.Now))
				w.Now = w.At("2027-01-05 00:00")
				w.Refused(rules.HoldEnded, w.Capture(hold))
				due := w.State.DueHolds(w.Now)
				require.Len(t, due, 1)
				w.Must(due[0])
			} else {
				w.Must(rules.EndHold{Now: w.Now, Hold: hold, Reason: reason})
			}
			assert.EqualValues(t, 16, free(w, 0))
			assert.Zero(t, units(w))
			w.Must(w.Burn(0, 3))
			replays(t, w)
		})
	}
}

func TestHoldIsRefusedByName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(w *rulestest.Town, h *rules.PutAside)
	}{
		{rules.NotActivated, func(_ *rulestest.Town, h *rules.PutAside) { h.Resident = "did:plc:nobody" }},
		{rules.TillUnknown, func(_ *rulestest.Town, h *rules.PutAside) { h.Till = "elsewhere" }},
		{rules.TillUnknown, func(_ *rulestest.Town, h *rules.PutAside) { h.Offering.Redeemer = rulestest.Library }},
		{rules.HoldTooLong, func(_ *rulestest.Town, h *rules.PutAside) { h.Until = "2027-01-12" }},
		{rules.HoldTooLong, func(_ *rulestest.Town, h *rules.PutAside) { h.Until = "2027-01-03" }},
		{rules.HoldTooLong, func(w *rulestest.Town, h *rules.PutAside) {
			w.Now = w.At("2027-03-27 12:00")
			h.Now, h.Until = w.Now, "2027-03-29" // the epoch ends with the day before
		}},
		{rules.InvalidRecord, func(_ *rulestest.Town, h *rules.PutAside) { h.Until = "soon" }},
		{rules.FreeAnyway, func(_ *rulestest.Town, h *rules.PutAside) { h.Offering.FreeFor, h.NoneOfFreeFor = true, false }},
		{rules.OutsideWindow, func(_ *rulestest.Town, h *rules.PutAside) {
			h.Offering.Windows = []rules.Window{{Day: time.Tuesday, From: 600, To: 1200}} // today is Monday
		}},
		{rules.PublicPriceZero, func(_ *rulestest.Town, h *rules.PutAside) { h.Offering.PublicPriceMinor = 0 }},
		{rules.OfferingPaused, func(_ *rulestest.Town, h *rules.PutAside) { h.Offering.Paused = true }},
		{rules.PersonLimit, func(_ *rulestest.Town, h *rules.PutAside) { h.Offering.PersonLimit, h.Units = 1, 2 }},
		{rules.UnitsExhausted, func(w *rulestest.Town, h *rules.PutAside) {
			h.Offering, h.Units = w.Offer(rulestest.Bus, "small", 9, 9, 3, 4), 4
		}},
		{rules.InsufficientBalance, func(_ *rulestest.Town, h *rules.PutAside) { h.Units = 5 }},
	} {
		w := rulestest.NewTown(t)
		w.Earn(0, 1)
		h := w.PutAside(0, 1)
		c.change(w, &h)
		w.Refused(c.name, h)
	}
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	h := w.PutAside(0, 1)
	h.Until, h.Offering.Windows = "2027-01-05", []rules.Window{{Day: time.Tuesday, From: 600, To: 1200}}
	w.Must(h) // it opens before the hold ends
}

func TestOnePersonHasFewHolds(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 2)
	for range rules.MaxHolds {
		w.Must(w.PutAside(0, 1))
	}
	r := w.Refused(rules.HoldLimit, w.PutAside(0, 1))
	assert.EqualValues(t, rules.MaxHolds, r.Figures["limit"])
	list := w.State.HoldsOf(rulestest.Account(0))
	require.Len(t, list, rules.MaxHolds)
	w.Must(rules.EndHold{Now: w.Now, Hold: list[0].Seq, Reason: entry.VoidCancelled})
	w.Must(w.PutAside(0, 1))
}

func TestCaptureNeedsTheHoldsTillTimeAndWindow(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	w.Must(w.PutAside(0, 1))
	hold := w.Last()
	w.Must(rules.BindTill{Now: w.Now, Org: rulestest.Bus, Key: "did:key:zBack"})
	other := w.Capture(hold)
	other.Till = entry.TillID(string(rulestest.Bus), "did:key:zBack")
	w.Refused(rules.TillUnknown, other)

	w.Now = w.At("2027-01-04 13:00")
	early, late, shut := w.Capture(hold), w.Capture(hold), w.Capture(hold)
	early.At, late.At = w.At("2027-01-04 08:50"), w.At("2027-01-04 13:03")
	w.Refused(rules.InvalidRecord, early)
	w.Refused(rules.InvalidRecord, late)
	shut.Windows = []rules.Window{{Day: time.Monday, From: 600, To: 660}}
	w.Refused(rules.OutsideWindow, shut)
	shut.At = w.At("2027-01-04 10:30") // honored while it was open, told later
	w.Must(shut)
}
