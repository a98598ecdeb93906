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

func TestRedeemBurnsWhatTheCodeSaid(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	terms, err := rules.CheckCode(w.State, w.Code(0, 3))
	require.NoError(t, err)
	assert.EqualValues(t, 12, terms.Price)
	assert.Equal(t, rulestest.Account(0), terms.Account)
	w.Must(w.Burn(0, 3))
	credits, votes := w.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.EqualValues(t, 4, credits)
	assert.EqualValues(t, 16, votes, "votes are not spent")
	assert.EqualValues(t, 3, w.State.UnitsBurned(rulestest.Book, w.Ride.Record.URI, w.Now))
}

// Each condition is held at the code and again at the burn.
func TestRedeemRefusedAtTheCodeAndAtTheBurn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		condition string
		name      string
		units     int64
		change    func(w *rulestest.Town, o *rules.Offering)
	}{
		{"redeemer accredited", rules.NotAccredited, 1, func(w *rulestest.Town, _ *rules.Offering) {
			r := w.Role(rulestest.Bus, rules.RoleRedeemer)
			r.Status = rules.StatusSuspended
			w.Must(r)
		}},
		{"epoch open", rules.EpochClosed, 1, func(w *rulestest.Town, _ *rules.Offering) { w.Now = w.At("2027-03-29 00:00") }},
		{"of this epoch", rules.EpochClosed, 1, func(_ *rulestest.Town, o *rules.Offering) { o.Epoch = "e2027-02" }},
		{"public price", rules.PublicPriceZero, 1, func(_ *rulestest.Town, o *rules.Offering) { o.PublicPriceMinor = 0 }},
		{"price raised mid-epoch", rules.TermsFrozen, 1, func(_ *rulestest.Town, o *rules.Offering) { o.Record.CID, o.Credits = "bafyraised", 40 }},
		{"not paused", rules.OfferingPaused, 1, func(_ *rulestest.Town, o *rules.Offering) { o.Paused = true }},
		{"window", rules.OutsideWindow, 1, func(_ *rulestest.Town, o *rules.Offering) {
			o.Windows = []rules.Window{{Day: time.Tuesday, From: 0, To: 1440}}
		}},
		{"units of the month", rules.UnitsExhausted, 4, func(w *rulestest.Town, o *rules.Offering) {
			small := w.Offer(rulestest.Bus, "small", 9, 9, 3, 4)
			*o = small
		}},
		{"person limit", rules.PersonLimit, 4, func(_ *rulestest.Town, o *rules.Offering) { o.PersonLimit = 3 }},
		{"balance", rules.InsufficientBalance, 5, func(*rulestest.Town, *rules.Offering) {}},
		{"some units", rules.InvalidRecord, 0, func(*rulestest.Town, *rules.Offering) {}},
	} {
		t.Run(c.condition, func(t *testing.T) {
			t.Parallel()
			w := rulestest.NewTown(t)
			w.Earn(0, 1)
			offering := w.Ride
			c.change(w, &offering)
			code, burn := w.Code(0, c.units), w.Burn(0, c.units)
			code.Offering, burn.Offering = offering, offering
			_, err := rules.CheckCode(w.State, code)
			assert.Equal(t, c.name, rules.Refused(err), "%v", err)
			w.Refused(c.name, burn)
		})
	}
}

func TestRedeemNeedsAnAccountAndABoundTill(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	_, err := rules.CheckCode(w.State, w.Code(99, 1))
	assert.Equal(t, rules.NotActivated, rules.Refused(err))
	w.Refused(rules.NotActivated, w.Burn(99, 1))
	b := w.Burn(0, 1)
	b.Till = entry.TillID(string(rulestest.Bus), "did:key:zOther")
	w.Refused(rules.TillUnknown, b)
	w.Must(w.Role("did:plc:museum", rules.RoleRedeemer))
	w.Must(rules.BindTill{Now: w.Now, Org: "did:plc:museum", Key: "did:key:zOther"})
	b.Till = entry.TillID("did:plc:museum", "did:key:zOther")
	w.Refused(rules.TillUnknown, b)
	w.Refused(rules.NotAccredited, rules.BindTill{Now: w.Now, Org: rulestest.Library, Key: "did:key:zThird"})
}

func TestFreeAnywayIsAskedBeforeACode(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 1)
	c := w.Code(0, 1)
	c.Offering.FreeFor, c.NoneOfFreeFor = true, false
	_, err := rules.CheckCode(w.State, c)
	assert.Equal(t, rules.FreeAnyway, rules.Refused(err))
	c.NoneOfFreeFor = true
	_, err = rules.CheckCode(w.State, c)
	require.NoError(t, err)
}

func TestUnitsAndLimitsAddUpAcrossBurns(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 3)
	w.Earn(1, 3)
	small := w.Offer(rulestest.Bus, "small", 9, 9, 3, 4) // published after the epoch opened: redeemed within its own units at once
	small.PersonLimit = 4
	burn := func(n int, units int64) rules.Burn {
		b := w.Burn(n, units)
		b.Offering = small
		return b
	}
	w.Must(burn(0, 2))
	w.Refused(rules.UnitsExhausted, burn(1, 2))
	w.Must(burn(1, 1))
	w.Now = w.At("2027-02-01 00:00") // the next month has its own units
	w.Refused(rules.PersonLimit, burn(0, 3))
	w.Must(burn(0, 2))
}

func TestWithdrawnOfferingIsHonoredToTheEndOfItsEpoch(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	w.Earn(0, 2)
	b := w.Burn(0, 1)
	b.Offering.Ended = true
	w.Must(b)
	late := w.Offer(rulestest.Bus, "late", 9, 9, 3, 4)
	late.Ended = true
	b.Offering = late
	w.Refused(rules.OfferingPaused, b)
}

func TestWindowsAreLocalAndMayCrossMidnight(t *testing.T) {
	t.Parallel()
	loc := rulestest.Zone(t)
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
		require.NoError(t, err)
		return v.UTC()
	}
	weekdays := []rules.Window{{Day: time.Monday, From: 9*60 + 30, To: 15 * 60}, {Day: time.Saturday, From: 0, To: 1440}}
	night := []rules.Window{{Day: time.Saturday, From: 22 * 60, To: 2 * 60}}
	for _, c := range []struct {
		windows []rules.Window
		at      string
		open    bool
	}{
		{nil, "2027-01-05 03:00", true},
		{weekdays, "2027-01-04 09:29", false}, {weekdays, "2027-01-04 09:30", true}, {weekdays, "2027-01-04 14:59", true},
		{weekdays, "2027-01-04 15:00", false}, {weekdays, "2027-01-05 10:00", false},
		{weekdays, "2027-01-09 00:00", true}, {weekdays, "2027-01-09 23:59", true}, {weekdays, "2027-01-10 00:00", false},
		{night, "2027-01-09 21:59", false}, {night, "2027-01-09 22:00", true}, {night, "2027-01-10 01:59", true}, {night, "2027-01-10 02:00", false},
		{weekdays, "2027-03-29 09:30", true}, // after the clocks went forward
	} {
		assert.Equal(t, c.open, rules.InWindow(c.windows, at(c.at), loc), c.at)
	}
	for s, want := range map[string]int{"00:00": 0, "09:30": 570, "24:00": 1440} {
		got, err := rules.ParseClock(s)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	for _, s := range []string{"24:01", "9:30", "12:60", "ab:cd", "", "-1:00", "12-00"} {
		_, err := rules.ParseClock(s)
		assert.Error(t, err, s)
	}
}

// L11
func TestCodeIsUsedOnceAndInTime(t *testing.T) {
	t.Parallel()
	end := time.Date(2027, 1, 4, 12, 0, 0, 0, time.UTC)
	require.NoError(t, rules.CheckScan(end.Add(-1), end, time.Time{}))
	assert.Equal(t, rules.CodeExpired, rules.Refused(rules.CheckScan(end, end, time.Time{})))
	err := rules.CheckScan(end.Add(time.Hour), end, end.Add(-time.Second))
	assert.Equal(t, rules.AlreadyRedeemed, rules.Refused(err), "a second scan says what happened, however late")
	assert.Equal(t, "2027-01-04T11:59:59Z", rulestest.Refusal(t, err).Figures["at"])
}
