package rules_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

func TestUndoGivesCreditsUnitsAndLimitBackOnce(t *testing.T) {
	t.Parallel()
	for _, what := range []entry.Kind{entry.KindBurn, entry.KindCapture} {
		t.Run(string(what), func(t *testing.T) {
			t.Parallel()
			w := rulestest.NewTown(t)
			w.Ride.PersonLimit = 3
			w.Earn(0, 1)
			if what == entry.KindBurn {
				w.Must(w.Burn(0, 3))
			} else {
				w.Must(w.PutAside(0, 3))
				w.Must(w.Capture(w.Last()))
			}
			of := w.Last()
			w.Now = w.Now.Add(rules.UndoWindow - time.Second)
			w.Must(w.Undo(of))
			assert.EqualValues(t, 16, free(w, 0))
			assert.Zero(t, units(w))
			assert.Zero(t, burned(w))
			r := w.Refused(rules.AlreadyReversed, w.Undo(of))
			assert.EqualValues(t, w.Last(), r.Figures["by"])
			w.Must(w.Burn(0, 3))
			replays(t, w)
		})
	}
}

func TestUndoIsTooLateAfterFiveMinutesOrAtTheVouchersEnd(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	w.Must(w.Burn(0, 1))
	of, made := w.Last(), w.Now
	shown := func(after, end time.Duration) rules.Undo {
		w.Now = made.Add(after)
		u := w.Undo(of)
		u.Until = made.Add(end)
		return u
	}
	w.Now = made.Add(rules.UndoWindow)
	w.Refused(rules.UndoTooLate, w.Undo(of))
	w.Refused(rules.UndoTooLate, shown(time.Hour, time.Hour))
	w.Refused(rules.UndoTooLate, shown(rules.VoucherLife, 1000*time.Hour)) // no voucher lives longer, whatever it says
	w.Must(shown(time.Hour, time.Hour+time.Second))
	w.Refused(rules.UndoTooLate, w.Undo(1)) // no burn at all
	w.Refused(rules.UndoTooLate, w.Undo(1_000_000))
}

func TestUndoIsForATillOfTheSameRedeemer(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	w.Must(w.Burn(0, 1))
	of := w.Last()
	w.Must(w.Role("did:plc:museum", rules.RoleRedeemer))
	w.Must(rules.BindTill{Now: w.Now, Org: "did:plc:museum", Key: "did:key:zOther"})
	w.Must(rules.BindTill{Now: w.Now, Org: rulestest.Bus, Key: "did:key:zBack"})
	u := w.Undo(of)
	u.Till = entry.TillID("did:plc:museum", "did:key:zOther")
	w.Refused(rules.TillUnknown, u)
	u.Till = "nowhere"
	w.Refused(rules.TillUnknown, u)
	u.Till, u.Reason = entry.TillID(string(rulestest.Bus), "did:key:zBack"), "because"
	w.Refused(rules.InvalidRecord, u)
	u.Reason = entry.ReverseRefused
	w.Must(u)
}

// Burns are remembered for as long as they can be taken back, and no longer: the state does not grow with them.
func TestBurnsOfEarlierDaysAreForgotten(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	w.Must(w.Burn(0, 1))
	of := w.Last()
	for _, day := range []string{"2027-01-05", "2027-01-06"} {
		w.Now = w.At(day + " 10:00")
		w.Must(w.Burn(0, 1))
	}
	u := w.Undo(of)
	u.Now = w.At("2027-01-04 09:01") // even for a clock that went back
	w.Refused(rules.UndoTooLate, u)
	replays(t, w)
}

// R3
func TestForgedHoldsAndReversalsAreBroken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		make  func(w *rulestest.Town) rules.Command
		forge func(e *entry.Entry)
	}{
		"hold of more than there is": {putAside, func(e *entry.Entry) { e.Hold.Units, e.Amount = 9, 36 }},
		"hold over the month":        {putAside, func(e *entry.Entry) { e.Hold.UnitsMonth = 1 }},
		"hold of other units before": {putAside, func(e *entry.Entry) { e.Hold.UnitsBefore = 1 }},
		"hold at a wrong price":      {putAside, func(e *entry.Entry) { e.Hold.Price = 3; e.Amount = 6 }},
		"hold for too long":          {putAside, func(e *entry.Entry) { e.Hold.Until = "2027-01-12" }},
		"hold of yesterday":          {putAside, func(e *entry.Entry) { e.Hold.Until = "2027-01-03" }},
		"hold at a strange till":     {putAside, func(e *entry.Entry) { e.Hold.Till = "x" }},
		"hold of nobody":             {putAside, func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(77) }},
		"capture of no hold":         {capture, func(e *entry.Entry) { e.Capture.Hold = 1 }},
		"capture of a part":          {capture, func(e *entry.Entry) { e.Amount-- }},
		"capture elsewhere":          {capture, func(e *entry.Entry) { e.Capture.Till = "x" }},
		"capture after its day":      {capture, func(e *entry.Entry) { e.Day = "2027-01-05" }},
		"capture of another's":       {capture, func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(1) }},
		"hold of another offering":   {putAside, func(e *entry.Entry) { e.Causes[0].CID = "x" }},
		"capture of another offer":   {capture, func(e *entry.Entry) { e.Causes[0].CID = "x" }},
		"capture by another":         {capture, func(e *entry.Entry) { e.Org = rulestest.Library }},
		"void of no hold":            {void, func(e *entry.Entry) { e.Void.Hold = 2 }},
		"void of more":               {void, func(e *entry.Entry) { e.Amount++ }},
		"void as nothing":            {void, func(e *entry.Entry) { e.Void.Reason = "" }},
		"void as expired too early":  {void, func(e *entry.Entry) { e.Void.Reason = entry.VoidExpired }},
		"reversal of no burn":        {undo, func(e *entry.Entry) { e.Reverse.Of = 2 }},
		"reversal of another kind":   {undo, func(e *entry.Entry) { e.Reverse.What = entry.KindCapture }},
		"reversal of a part":         {undo, func(e *entry.Entry) { e.Amount-- }},
		"reversal of votes":          {undo, func(e *entry.Entry) { e.Votes = 1 }},
		"reversal days later":        {undo, func(e *entry.Entry) { e.Day = "2027-01-06" }},
		"reversal elsewhere":         {undo, func(e *entry.Entry) { e.Reverse.Till = "x" }},
		"reversal as nothing":        {undo, func(e *entry.Entry) { e.Reverse.Reason = entry.ReverseCorrected }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := rulestest.NewTown(t)
			w.Earn(0, 1)
			entries, err := rules.Decide(w.State, c.make(w))
			assert.NoError(t, err)
			c.forge(&entries[0])
			assert.ErrorIs(t, rules.Apply(w.State, entries[0]), rules.ErrBroken)
		})
	}
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	entries, err := rules.Decide(w.State, undo(w))
	assert.NoError(t, err)
	assert.NoError(t, rules.Apply(w.State, entries[0]))
	entries[0].Seq++
	assert.ErrorIs(t, rules.Apply(w.State, entries[0]), rules.ErrBroken, "the same reversal twice")
}

func putAside(w *rulestest.Town) rules.Command { return w.PutAside(0, 2) }

func capture(w *rulestest.Town) rules.Command {
	w.Must(w.PutAside(0, 2))
	return w.Capture(w.Last())
}

func void(w *rulestest.Town) rules.Command {
	w.Must(w.PutAside(0, 2))
	return rules.EndHold{Now: w.Now, Hold: w.Last(), Reason: entry.VoidRefused}
}

func undo(w *rulestest.Town) rules.Command {
	w.Must(w.Burn(0, 2))
	return w.Undo(w.Last())
}
