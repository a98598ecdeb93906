package rules_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// yearTown is a town whose epoch of three months is followed by others of the same length, so that a year can pass.
func yearTown(t rulestest.T, dormancyMonths int64) *rulestest.Town {
	t.Helper()
	return rulestest.NewTownWith(t, func(w *rulestest.World, p *entry.Parameters) {
		p.DormancyMonths = dormancyMonths
		p.Epochs = rulestest.Plans(w, "2027-01-04", 6)
	})
}

// openNext opens the epoch that holds the town's day, as the city would.
func openNext(t rulestest.T, w *rulestest.Town, key string) {
	t.Helper()
	ride := w.Ride
	ride.Epoch = key
	w.Must(rules.OpenEpoch{Now: w.Now, Epoch: key, Book: rulestest.Book, Offerings: []rules.Offering{ride}})
	w.Ride = ride
}

func kinds(entries []entry.Entry) []entry.Kind {
	var list []entry.Kind
	for _, e := range entries {
		list = append(list, e.Kind)
	}
	return list
}

func audited(t rulestest.T, w *rulestest.World) {
	t.Helper()
	a := audit.New("did:plc:ledger")
	for seq, leaf := range w.Leaves {
		require.NoError(t, a.AddSealed(int64(seq), leaf, w.Openings[int64(seq)], false))
	}
}

// Whoever acts after the end of a month closes it first; the act counts in the next.
func TestAnActAfterTheMonthClosesItFirst(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 12)
	w.Earn(0, 2)
	w.Earn(1, 1)
	w.Now = w.At("2027-02-01 00:00")
	before := len(w.Entries)
	w.Must(w.Burn(0, 1))
	added := w.Entries[before:]
	require.Equal(t, []entry.Kind{entry.KindDormant, entry.KindBurn}, kinds(added))
	assert.Equal(t, entry.Dormant{
		Month: 0, StartsAt: "2027-01-04T08:00:00Z", EndsAt: "2027-02-01T08:00:00Z", Issued: 48, Active: 48,
	}, *added[0].Dormant)
	assert.Zero(t, added[0].Amount, "both earned in the month")
	w.Must(rules.CloseMonths{Now: w.Now}) // closed already: nothing
	require.Len(t, w.Entries, before+2)

	w.Now = w.At("2027-03-01 07:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	second := w.Entries[len(w.Entries)-1]
	assert.EqualValues(t, 16, second.Amount, "person 1 did nothing in the second month")
	assert.Equal(t, [2]int64{28, 16}, [2]int64{second.Dormant.Active, second.Dormant.Dormant})
	require.Equal(t, w.State.Digest(), w.Replay().Digest(), "R2")
	audited(t, w.World)
}

// Dormant credits can be spent; spending wakes all that is left.
func TestAnActWakesWhatSleeps(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 12)
	w.Earn(0, 2)
	w.Now = w.At("2027-03-01 00:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	last := w.Entries[len(w.Entries)-1]
	require.EqualValues(t, 32, last.Dormant.Dormant)
	asleep := w.State.Expiry(rulestest.Account(0), rulestest.Book, w.Now)
	assert.Equal(t, w.At("2027-03-01 00:00").UTC(), asleep.Asleep.UTC())
	w.Must(w.Burn(0, 1))
	assert.Zero(t, w.State.Expiry(rulestest.Account(0), rulestest.Book, w.Now))
	w.Now = w.At("2027-03-29 00:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	last = w.Entries[len(w.Entries)-1]
	assert.Equal(t, [4]int64{4, 32, 28, 0}, [4]int64{last.Dormant.Burned, last.Dormant.Reactivated, last.Dormant.Active, last.Dormant.Dormant})
	audited(t, w.World)
}

// Credits expire after dormancyMonths closings asleep; until then one act saves them.
func TestCreditsExpireAfterTheirMonthsAsleep(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 3)
	w.Earn(0, 2)
	w.Earn(1, 1)
	for i, end := range []string{"2027-02-01", "2027-03-01", "2027-03-29", "2027-04-26", "2027-05-24", "2027-06-21"} {
		w.Now = w.At(end + " 00:00")
		if i == 3 {
			w.Now = w.At("2027-03-29 06:00")
			openNext(t, w, "e2027-02")
			w.Must(w.Burn(1, 1)) // at 3 of 4 closings
			w.Now = w.At(end + " 00:00")
		}
		before := len(w.Entries)
		w.Must(rules.CloseMonths{Now: w.Now})
		added := w.Entries[before:]
		if i != 4 {
			require.Equal(t, []entry.Kind{entry.KindDormant}, kinds(added), end)
			continue
		}
		require.Equal(t, []entry.Kind{entry.KindDormant, entry.KindExpire}, kinds(added))
		assert.Equal(t, entry.Expire{Reason: entry.ExpireDormancy, Month: 1}, *added[1].Expire)
		assert.EqualValues(t, 32, added[1].Amount)
	}
	credits, votes := w.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.Equal(t, [2]int64{0, 32}, [2]int64{credits, votes}, "votes are not credits")
	credits, _ = w.State.Balance(rulestest.Account(1), rulestest.Book)
	assert.EqualValues(t, 12, credits)
	totals, _ := w.State.Totals(rulestest.Book, "e2027-02")
	assert.EqualValues(t, 32, totals.Expired)
	last := w.Entries[len(w.Entries)-1]
	assert.Equal(t, [2]int64{32, 12}, [2]int64{last.Dormant.Expired, last.Dormant.Active + last.Dormant.Dormant})
	require.Equal(t, w.State.Digest(), w.Replay().Digest(), "R2")
	audited(t, w.World)
}

// What is due to expire in the moment that somebody wants to spend it cannot be spent.
func TestNobodySpendsWhatExpiresAtThatMoment(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 1)
	w.Earn(0, 1)
	w.Now = w.At("2027-03-01 00:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	w.Now = w.At("2027-03-28 23:59")
	w.Must(w.Burn(0, 1))
	w.Now = w.At("2027-03-29 00:00")
	openNext(t, w, "e2027-02")
	w.Now = w.At("2027-05-24 00:00") // two months at once
	w.Ride.Epoch = "e2027-02"
	r := w.Refused(rules.InsufficientBalance, w.Burn(0, 1))
	assert.EqualValues(t, 0, r.Figures["balance"])
}

func TestWarningsCountDownToAPlannedEnd(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 3)
	w.Earn(0, 1)
	w.Now = w.At("2027-03-01 00:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	end := w.At("2027-05-24 00:00") // asleep since 1 March, three closings on
	for _, c := range []struct {
		at   time.Time
		want int
	}{
		{w.Now, 0}, {end.AddDate(0, 0, -60).Add(-time.Second), 0}, {end.AddDate(0, 0, -60), 60}, {end.AddDate(0, 0, -30), 30},
		{end.AddDate(0, 0, -8), 30}, {end.AddDate(0, 0, -7), 7}, {end.Add(-time.Minute), 7},
	} {
		x := w.State.Expiry(rulestest.Account(0), rulestest.Book, c.at)
		assert.Equal(t, c.want, x.Warning, c.at)
		assert.Equal(t, end.UTC(), x.ExpiresAt.UTC())
		assert.EqualValues(t, 16, x.Amount)
	}
	assert.Zero(t, w.State.Expiry(rulestest.Account(1), rulestest.Book, w.Now), "who has nothing loses nothing")
}

// An entry after a month that nobody closed, a wrong flow, and an expiry that is left out stop the replay.
func TestForgedMonthsStopTheReplay(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 1)
	w.Earn(0, 2)
	w.Earn(1, 1)
	w.Now = w.At("2027-03-01 00:00")
	entries, err := rules.Decide(w.State, w.Burn(1, 1))
	require.NoError(t, err)
	require.Equal(t, []entry.Kind{entry.KindDormant, entry.KindDormant, entry.KindBurn}, kinds(entries))
	forge := func(name string, change func(*rules.State, []entry.Entry) []entry.Entry) {
		s := w.Replay()
		list := []entry.Entry{}
		for _, e := range entries {
			if e.Dormant != nil {
				e.Dormant = new(*e.Dormant)
			}
			list = append(list, e)
		}
		var err error
		for i, e := range change(s, list) {
			e.Seq = s.Size()
			if err = rules.Apply(s, e); err != nil {
				require.ErrorIs(t, err, rules.ErrBroken, "%s at %d", name, i)
				return
			}
		}
		t.Errorf("%s was applied", name)
	}
	forge("a burn before the closing", func(_ *rules.State, l []entry.Entry) []entry.Entry { return l[2:] })
	forge("a month left out", func(_ *rules.State, l []entry.Entry) []entry.Entry { return l[1:] })
	forge("too much quiet", func(_ *rules.State, l []entry.Entry) []entry.Entry {
		l[0].Amount, l[0].Dormant.Active, l[0].Dormant.Dormant = 1, l[0].Dormant.Active-1, 1
		return l
	})
	forge("too little quiet", func(_ *rules.State, l []entry.Entry) []entry.Entry {
		l[1].Amount, l[1].Dormant.Active, l[1].Dormant.Dormant = 47, 1, 47
		return l
	})
	forge("another stock", func(_ *rules.State, l []entry.Entry) []entry.Entry { l[0].Dormant.Active++; return l })
	forge("another issuance", func(_ *rules.State, l []entry.Entry) []entry.Entry {
		l[0].Dormant.Issued, l[0].Dormant.Active = 49, 49
		return l
	})
	forge("a day early", func(_ *rules.State, l []entry.Entry) []entry.Entry { l[0].Day = "2027-01-31"; return l })

	w.Apply(entries)
	w.Now = w.At("2027-03-29 00:00")
	closing, err := rules.Decide(w.State, rules.CloseMonths{Now: w.Now})
	require.NoError(t, err)
	require.Equal(t, []entry.Kind{entry.KindDormant, entry.KindExpire}, kinds(closing))
	entries = closing
	forge("an expiry that is too small", func(_ *rules.State, l []entry.Entry) []entry.Entry { l[1].Amount--; return l })
	forge("an expiry that is too big", func(_ *rules.State, l []entry.Entry) []entry.Entry { l[1].Amount++; return l })
	forge("an expiry without its month", func(_ *rules.State, l []entry.Entry) []entry.Entry { return l[1:] })
	forge("an expiry left out", func(s *rules.State, l []entry.Entry) []entry.Entry {
		m := rules.CloseMonths{Now: w.At("2027-04-26 00:00")}
		require.NoError(t, rules.Apply(s, l[0]))
		open, err := rules.Decide(s, rules.OpenEpoch{Now: w.Now, Epoch: "e2027-02", Book: rulestest.Book})
		require.NoError(t, err)
		require.NoError(t, rules.Apply(s, open[0]))
		next, err := rules.Decide(s, m)
		require.NoError(t, err)
		return next
	})
}

// A log that began under the first rules, which knew no months, goes on under these: what it did until then is the first month's.
func TestALogOfTheFirstRulesGoesOn(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 12)
	w.Earn(0, 1)
	s := rules.NewState(w.State.Location())
	for seq, leaf := range w.Leaves {
		e, err := entry.Decode(leaf)
		require.NoError(t, err)
		if raw := w.Openings[int64(seq)]; raw != nil {
			rulestest.Unseal(t, e, raw)
		}
		if seq == 0 {
			e.RulesVersion.Version = 1
		}
		require.NoError(t, rules.Apply(s, *e))
	}
	require.EqualValues(t, 1, s.RulesVersion())
	now := w.At("2027-02-03 09:00")
	next, err := rules.Decide(s, rules.RulesVersion{Now: now, Version: rules.Version})
	require.NoError(t, err)
	require.NoError(t, rules.Apply(s, next[0]))
	again, err := rules.Decide(s, rules.RulesVersion{Now: now, Version: rules.Version})
	require.NoError(t, err)
	require.Empty(t, again)
	next[0].RulesVersion.Version = 1
	next[0].Seq = s.Size()
	require.ErrorIs(t, rules.Apply(s, next[0]), rules.ErrBroken, "there is no way back")
	closing, err := rules.Decide(s, rules.CloseMonths{Now: now})
	require.NoError(t, err)
	require.Equal(t, []entry.Kind{entry.KindDormant}, kinds(closing))
	assert.EqualValues(t, 16, closing[0].Dormant.Issued)
	require.NoError(t, rules.Apply(s, closing[0]))
}
