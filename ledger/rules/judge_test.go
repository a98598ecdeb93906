package rules_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

var startRates = rules.Rates{R: entry.Ratio{Num: 15, Den: 100}, Delta: entry.Ratio{Num: 3, Den: 100}}

// From an empty start the expected efficiency by epoch is about .14, .45, .62, .72.
func TestExpectedEfficiencyFromAnEmptyStart(t *testing.T) {
	t.Parallel()
	months := make([]rules.MonthFigures, 12)
	for i := range months {
		months[i].Flow.I, months[i].Rates = 1_000, startRates
	}
	expected := rules.ExpectedEfficiency(months)
	for epoch, want := range []float64{.14, .45, .62, .72} {
		var sum float64
		for _, m := range expected[3*epoch : 3*epoch+3] {
			v, _ := m.Float64()
			sum += v / 3
		}
		assert.InDelta(t, want, sum, .01, "epoch %d", epoch)
	}
	months[4].Flow.I = 0
	require.Nil(t, rules.ExpectedEfficiency(months)[4], "nothing issued: not defined")
}

// path makes months of a book by what was issued and redeemed.
func path(capacity int64, flows ...rules.Flow) []rules.MonthFigures {
	var stock rules.Stock
	list := make([]rules.MonthFigures, len(flows))
	for i, f := range flows {
		after, err := stock.After(f)
		if err != nil {
			panic(err)
		}
		list[i] = rules.MonthFigures{Flow: f, Before: stock, After: after, Capacity: capacity, Rates: startRates}
		stock = after
	}
	return list
}

func repeat(n int, f rules.Flow) []rules.Flow {
	list := make([]rules.Flow, n)
	for i := range list {
		list[i] = f
	}
	return list
}

func responses(m rules.MonthFigures) []string {
	var list []string
	for _, a := range m.Alarms {
		list = append(list, a.Response)
	}
	return list
}

func TestAlarmsComeAfterMonthsInARowAndNeverInTheWarmUp(t *testing.T) {
	t.Parallel()
	// Nobody redeems: efficiency is nothing, the backlog grows by a capacity every month.
	months := path(1_000, repeat(12, rules.Flow{I: 1_000})...)
	rules.Judge(months, 5)
	for i := range 6 {
		assert.Empty(t, months[i].Alarms, "month %d", i)
	}
	assert.Equal(t, []string{rules.ResponseEmergencyReview, rules.ResponseDanger}, responses(months[6]))
	for _, a := range months[7].Alarms {
		assert.Equal(t, rules.ModeOverIssuance, a.Mode)
	}
	rules.Judge(months, 0)
	assert.Empty(t, months[0].Alarms)
	assert.Equal(t, []string{rules.ResponseEmergencyReview}, responses(months[2]), "in the first month nothing was expected")
	assert.Equal(t, []string{rules.ResponseEmergencyReview, rules.ResponseCaution}, responses(months[5]))
}

func TestAHealthyBookRaisesNothing(t *testing.T) {
	t.Parallel()
	flows := repeat(3, rules.Flow{I: 600, B: 300})
	flows = append(flows, repeat(12, rules.Flow{I: 600, B: 480, Q: 10})...)
	months := path(1_000, flows...)
	rules.Judge(months, 5)
	for i, m := range months {
		assert.Empty(t, m.Alarms, "month %d: %+v", i, m.Alarms)
	}
}

func TestEachTriggerIsBoundToItsFailureMode(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flows    []rules.Flow
		response string
		mode     string
	}{
		"redeemers at their limit":  {repeat(6, rules.Flow{I: 900, B: 850}), rules.ResponseRecruitRedeemers, rules.ModeSaturation},
		"more than can be redeemed": {repeat(6, rules.Flow{I: 1_300, B: 700}), rules.ResponseReprice, rules.ModeOverIssuance},
		"redeemed well, with room":  {repeat(6, rules.Flow{I: 300, B: 240}), rules.ResponseMayExpand, rules.ModeUnderIssuance},
		"people fall asleep": {
			[]rules.Flow{{I: 1_000, B: 500}, {I: 600, B: 240}, {I: 600, B: 200, Q: 700}, {I: 600, B: 150, Q: 300}, {I: 600, B: 100, Q: 350}},
			rules.ResponseRetention, rules.ModeCredentialExclusion,
		},
	} {
		months := path(1_000, c.flows...)
		rules.Judge(months, 0)
		last := months[len(months)-1]
		found := false
		for _, a := range last.Alarms {
			found = found || (a.Response == c.response && a.Mode == c.mode)
		}
		assert.True(t, found, "%s: %+v", name, last.Alarms)
	}
}

func TestOneFullOfferingAmongEmptyOnesIsNamed(t *testing.T) {
	t.Parallel()
	months := path(1_000, repeat(3, rules.Flow{I: 600, B: 480})...)
	full := entry.Ref{URI: "at://did:plc:pool/org.city-sync.offer.offering/swim", CID: "bafy1"}
	for i := range months {
		months[i].Offerings = []rules.OfferingUse{{full, 90, 100}, {entry.Ref{URI: "b", CID: "c"}, 50, 100}}
	}
	rules.Judge(months, 0)
	var named []entry.Ref
	for _, a := range months[1].Alarms {
		if a.Offering != nil {
			named = append(named, *a.Offering)
			assert.Equal(t, [2]string{rules.ModeSaturation, rules.ResponseReprice}, [2]string{a.Mode, a.Response})
			assert.EqualValues(t, 9_000, a.Value)
		}
	}
	assert.Equal(t, []entry.Ref{full}, named)
	months[1].Offerings[1].Units = 51
	rules.Judge(months, 0)
	for _, a := range append(months[1].Alarms, months[2].Alarms...) {
		assert.Nil(t, a.Offering, "others are used too: nothing to reprice")
	}
}

func TestTargetsConflictUnderABurnRateOfAFifth(t *testing.T) {
	t.Parallel()
	assert.True(t, rules.TargetsConflict(entry.Ratio{Num: 1_999, Den: 10_000}))
	assert.False(t, rules.TargetsConflict(entry.Ratio{Num: 1, Den: 5}))
}

// No cell that is withheld can be computed: whoever knows the totals and every published cell still finds several values for it.
func TestNoSuppressedCellCanBeComputed(t *testing.T) {
	t.Parallel()
	withheldSome := false
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.Int64Range(5, 12).Draw(t, "k")
		people := rapid.SliceOfN(rapid.Int64Range(1, 30), 0, 9).Draw(t, "people")
		var cells []rules.Cell
		var total int64
		for i, n := range people {
			cells = append(cells, rules.Cell{Category: fmt.Sprint(i), People: n, Mints: 2 * n, Issued: 16 * n})
			total += n
		}
		shown := rules.Suppress(cells, k)
		if len(shown) == 0 {
			return // no name, no figure
		}
		require.Len(t, shown, len(cells))
		var withheld, rest int64 = 0, total
		for _, c := range shown {
			if c.Suppressed {
				withheld++
				require.Zero(t, c.People+c.Mints+c.Issued)
				continue
			}
			require.GreaterOrEqual(t, c.People, k)
			rest -= c.People
		}
		if withheld == 0 {
			return
		}
		withheldSome = true
		// What is left is split over the cells withheld, each of one person or more.
		require.GreaterOrEqual(t, withheld, int64(2))
		require.GreaterOrEqual(t, rest, k)
		require.Greater(t, rest, withheld, "there is more than one way to split it")
	})
	require.True(t, withheldSome)
}
