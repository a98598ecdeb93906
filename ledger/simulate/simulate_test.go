package simulate_test

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/simulate"
)

func berkeley() simulate.Plan {
	return simulate.Plan{
		Capacity: 15_200, Policy: entry.CapPolicy{
			CapPhaseBps: 5000, CapShareBps: 7000, AscrMaxMilli: 4000, DeltaCapBps: 100, RStartBps: 1500, DeltaStartBps: 300,
		},
		Phases: []string{entry.PhaseLaunch, entry.PhaseSteady}, EpochMonths: 3, Months: 24, IssueBps: 10_000, RBps: 1500, DeltaBps: 300,
		DormancyMonths: 12, WarmUpMonths: 5,
	}
}

// The caps of a run are the golden vectors', and a run that does as expected attains what is expected.
func TestARunHasTheCapsOfTheRules(t *testing.T) {
	t.Parallel()
	months, err := simulate.Run(berkeley())
	require.NoError(t, err)
	require.Len(t, months, 24)
	assert.Equal(t, [3]int64{22_800, 34_048, 29_184}, [3]int64{months[0].Cap, months[0].ShareBound, months[0].BacklogBound})
	assert.Equal(t, int64(29_184), months[3].Cap)
	assert.Equal(t, entry.BoundByBacklog, months[3].BoundBy)
	assert.False(t, months[5].Measured)
	assert.True(t, months[6].Measured, "two epochs are closed")
	assert.Equal(t, int64(7_600), months[2].Flow.I)
	for i := range months {
		efficiency, ok := rules.Bps(months[i].Efficiency)
		require.True(t, ok)
		expected, _ := rules.RatBps(months[i].Expected)
		assert.InDelta(t, expected, efficiency, 20, "month %d: rates are measured over whole credits", i)
	}
	for _, m := range months[:5] {
		assert.Empty(t, m.Alarms)
	}
}

// Whatever is tried: stock follows from flow, no more is redeemed than can be, an epoch issues its share of the cap and no more, and what
// sleeps expires after its months.
func TestEveryRunAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := berkeley()
		p.Capacity = rapid.Int64Range(0, 100_000).Draw(t, "capacity")
		p.Months = rapid.Int64Range(1, 60).Draw(t, "months")
		p.EpochMonths = rapid.Int64Range(1, 6).Draw(t, "epochMonths")
		p.IssueBps = rapid.Int64Range(0, 10_000).Draw(t, "issue")
		p.RBps = rapid.Int64Range(1, 9_000).Draw(t, "r")
		p.DeltaBps = rapid.Int64Range(0, 1_000).Draw(t, "delta")
		p.ReactivateBps = rapid.Int64Range(0, 10_000).Draw(t, "wake")
		p.DormancyMonths = rapid.Int64Range(0, 14).Draw(t, "dormancy")
		months, err := simulate.Run(p)
		require.NoError(t, err)
		var before rules.Stock
		var issued, quiet, gone int64
		for i, m := range months {
			after, err := before.After(m.Flow)
			require.NoError(t, err)
			require.Equal(t, after, m.After)
			require.Equal(t, before, m.Before)
			require.LessOrEqual(t, m.Flow.B, p.Capacity)
			if m.Month == 0 {
				issued = 0
			}
			issued += m.Flow.I
			require.LessOrEqual(t, issued, m.Cap)
			if int64(m.Month) == p.EpochMonths-1 && p.IssueBps == 10_000 {
				require.Equal(t, m.Cap, issued)
			}
			quiet, gone = quiet+m.Flow.Q, gone+m.Flow.X+m.Flow.R
			require.LessOrEqual(t, gone, quiet)
			if p.DormancyMonths == 0 || int64(i) <= p.DormancyMonths {
				require.Zero(t, m.Flow.X, "nothing slept long enough in month %d", i)
			}
			before = m.After
		}
		again, err := simulate.Run(p)
		require.NoError(t, err)
		require.Equal(t, months, again)
	})
}

func TestWhatSleepsExpiresAfterItsMonths(t *testing.T) {
	t.Parallel()
	p := berkeley()
	p.DormancyMonths = 2
	months, err := simulate.Run(p)
	require.NoError(t, err)
	require.Positive(t, months[1].Flow.Q)
	assert.Zero(t, months[3].Flow.X)
	assert.Equal(t, months[1].Flow.Q, months[4].Flow.X, "gone dormant at the second closing, expired at the fourth, a flow of the fifth month")
}

func TestOverIssuanceRaisesItsAlarms(t *testing.T) {
	t.Parallel()
	p := berkeley()
	p.Phases, p.RBps = []string{entry.PhaseSteady}, 300
	p.Policy.AscrMaxMilli, p.Policy.CapShareBps = 1_000_000, 10_000 // a rule that bounds no backlog
	months, err := simulate.Run(p)
	require.NoError(t, err)
	modes := map[string]bool{}
	for _, m := range months {
		for _, a := range m.Alarms {
			modes[a.Mode] = true
		}
	}
	assert.True(t, modes[rules.ModeOverIssuance])
}

func TestPlansThatCannotBeRun(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*simulate.Plan){
		"r":         func(p *simulate.Plan) { p.RBps = 0 },
		"r and δ":   func(p *simulate.Plan) { p.RBps, p.DeltaBps = 9_000, 1_001 },
		"no months": func(p *simulate.Plan) { p.Months = 0 },
		"too long":  func(p *simulate.Plan) { p.Months = simulate.MaxMonths + 1 },
		"no phase":  func(p *simulate.Plan) { p.Phases = nil },
		"phase":     func(p *simulate.Plan) { p.Phases = []string{entry.PhaseEvent} },
		"capacity":  func(p *simulate.Plan) { p.Capacity = -1 },
	} {
		p := berkeley()
		change(&p)
		_, err := simulate.Run(p)
		assert.Error(t, err, name)
	}
}

func TestTheFilesAreReadable(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{1, 24, simulate.MaxMonths} {
		p := berkeley()
		p.Months = n
		months, err := simulate.Run(p)
		require.NoError(t, err)
		var table, chart bytes.Buffer
		require.NoError(t, simulate.WriteCSV(&table, months))
		rows, err := csv.NewReader(&table).ReadAll()
		require.NoError(t, err)
		require.Len(t, rows, int(n)+1)
		require.NoError(t, simulate.WriteSVG(&chart, `<Berkeley> & "friends"`, months))
		d := xml.NewDecoder(&chart)
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}
	}
}
