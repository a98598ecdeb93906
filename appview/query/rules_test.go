package query_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// The AppView sums leaves; the ledger answers getCapacity from its own state. After holds, refunds, a correction, closed months and expiry
// both say the same of each epoch.
func TestTotalsAreThoseThatTheLedgerAnswers(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTownWith(t, func(w *rulestest.World, p *entry.Parameters) {
		p.DormancyMonths = 1
		p.Epochs = rulestest.Plans(w, "2027-01-04", 2)
	})
	for n := range 4 {
		w.Earn(n, 3)
	}
	w.Now = w.At("2027-01-04 13:00")
	w.Must(w.Burn(0, 2))
	w.Must(w.Burn(1, 3))
	w.Must(w.Undo(w.Last()))
	hold := func(n int, units int64) int64 {
		w.Must(w.PutAside(n, units))
		return w.Last()
	}
	w.Must(w.Capture(hold(0, 1)))
	w.Must(w.Capture(hold(1, 2)))
	w.Must(w.Undo(w.Last()))
	w.Must(rules.EndHold{Now: w.Now, Hold: hold(2, 2), Reason: entry.VoidCancelled})
	correct(w)
	same := func(held int64) {
		t.Helper()
		pool := pgtest.Schema(t, index.Migrations())
		l := logtest.New(t)
		l.AddLeaves(w.Leaves...)
		l.Follow(t, pool)
		db := query.New(pool, logtest.City)
		for _, want := range w.State.Epochs() {
			got, err := db.EpochTotals(t.Context(), want.Book, want.Epoch)
			require.NoError(t, err)
			assert.Equal(t, []int64{want.Cap, want.CapacityMonth, want.Reserved, want.Minted, want.Votes, want.Burned, want.Expired, want.Supply()},
				[]int64{got.CapEpoch, got.CapacityMonth, got.Reserved, got.Minted, got.Votes, got.Burned, got.Expired, got.Supply}, want.Epoch)
			assert.Equal(t, held, got.Held)
			for i, issuer := range want.Issuers {
				assert.Equal(t, [3]int64{issuer.Allocation, issuer.Reserved, issuer.Minted},
					[3]int64{got.Issuers[i].Allocation, got.Issuers[i].Reserved, got.Issuers[i].Minted}, "%s in %s", issuer.DID, want.Epoch)
			}
		}
		for _, e := range w.Entries {
			if e.EpochClose == nil {
				continue
			}
			d, err := db.EpochDetail(t.Context(), e.Book, e.Epoch)
			require.NoError(t, err)
			require.Len(t, d.Months, len(e.EpochClose.Months))
			for i, m := range e.EpochClose.Months {
				assert.Equal(t, m, d.Months[i].MonthFlow, "month %d", i)
			}
		}
	}
	hold(3, 1)
	same(4)
	w.Must(rules.EndHold{Now: w.Now, Hold: w.Last(), Reason: entry.VoidRefused})
	w.Now = w.At("2027-03-29 08:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	w.Must(rules.CloseEpoch{Now: w.Now, Book: rulestest.Book, Epoch: rulestest.Epoch})
	require.Positive(t, w.State.Epochs()[0].Expired, "two quiet months after the first")
	same(0)
}

// correct has a verification superseded by one that pays half, as the city ordered.
func correct(w *rulestest.Town) {
	for i := len(w.Entries) - 1; ; i-- {
		e := w.Entries[i]
		if e.Mint == nil {
			continue
		}
		resolution := w.Ref(rulestest.City, "gov.resolution", "r")
		w.Must(rules.Correct{Now: w.Now, Record: w.Ref(rulestest.Library, "work.verification", "v2"), Author: rulestest.Library, Signed: true,
			Supersedes: e.Causes[0].Ref(), Resolution: &resolution, Token: e.Nullifier, Outcome: entry.OutcomePartial, Minutes: 60, Credits: 8})
		return
	}
}
