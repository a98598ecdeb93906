package rules_test

import (
	"encoding/csv"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// units a month: physical, marginal, committed; price
const berkeleyOfferings = `60000,9000,1500,4
4800,1100,240,8
12000,3000,150,20
600,130,80,16
120,40,40,12
300,60,20,60
400,40,30,24
500,150,60,10`

const mexicoOfferings = `900000,60000,4000,4
400000,30000,2000,5
200000,20000,1000,5
20000,4000,300,20
6000,1500,400,10
1000,300,250,12
3000,800,200,15
8000,900,120,25`

// issuer, tier, hours, credits, slots
const berkeleyCatalog = `LIB,2,2,24,60
LIB,4,1.5,30,72
LIB,1,1,8,96
PRK,1,2,16,120
PRK,2,2.5,30,48
PRK,3,1.5,24,40
FOO,1,2,16,150
FOO,4,2,40,30
FOO,3,2,32,24
PRE,2,1.5,18,60
PRE,1,2,16,90
PRE,4,3,60,20
SEN,1,1,8,160
SEN,2,1,12,100
SEN,1,3,24,60`

const mexicoCatalog = `CC,2,2,24,200
CC,1,1,8,300
BO,1,3,24,250
BO,2,3,36,120
BI,2,1.5,18,160
BI,3,2,32,60
BI,4,2,40,40
PC,1,2,16,300
PC,2,2,24,150
PC,4,4,80,30
BA,1,2,16,400
BA,4,2,40,80
MO,2,2,24,150
MO,4,1,20,120
MO,1,1,8,500`

func table(t *testing.T, text string) [][]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(t, err)
	return rows
}

func num(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err)
	return n
}

// pilot opens an epoch with a city's offerings and publishes its catalog.
type pilot struct {
	*rulestest.World
	totals rules.Totals
	tasks  map[string]rules.AcceptTask
}

func newPilot(t *testing.T, offerings, catalog string, issuers []string, p func(*entry.Parameters)) *pilot {
	t.Helper()
	w := rulestest.New(t)
	set := w.Parameters(entry.PhaseLaunch)
	p(&set)
	w.SetParameters(set)
	for _, id := range issuers {
		w.Must(w.Role(did(id), rules.RoleIssuer))
	}
	w.Must(w.Role("did:plc:redeemer", rules.RoleRedeemer))
	open := rules.OpenEpoch{Now: w.Now, Epoch: rulestest.Epoch, Book: rulestest.Book}
	for i, r := range table(t, offerings) {
		open.Offerings = append(open.Offerings,
			w.Offer("did:plc:redeemer", fmt.Sprint(i), num(t, r[0]), num(t, r[1]), num(t, r[2]), num(t, r[3])))
	}
	free := w.Offer("did:plc:redeemer", "free", 100, 100, 100, 5)
	free.PublicPriceMinor = 0 // refused: it must not count
	open.Offerings = append(open.Offerings, free)
	require.Equal(t, rules.PublicPriceZero, rules.Refused(rules.CheckOffering(w.State, free, w.Now)))
	w.Must(open)

	c := &pilot{World: w, tasks: map[string]rules.AcceptTask{}}
	for i, r := range table(t, catalog) {
		id := fmt.Sprintf("%s-%02d", r[0], i)
		task := c.task(t, id, r)
		w.Must(task)
		c.tasks[id] = task
	}
	c.totals, _ = w.State.Totals(rulestest.Book, rulestest.Epoch)
	return c
}

func did(id string) syntax.DID { return syntax.DID("did:plc:" + strings.ToLower(id)) }

func (c *pilot) task(t *testing.T, id string, r []string) rules.AcceptTask {
	t.Helper()
	hours, err := strconv.ParseFloat(r[2], 64)
	require.NoError(t, err)
	minutes := int64(hours * 60)
	ref := c.Ref(did(r[0]), "work.task", id)
	start := c.At("2027-01-12 10:00")
	return rules.AcceptTask{
		Now: c.Now, Task: ref, First: ref.URI, Author: did(r[0]), Epoch: rulestest.Epoch, Book: rulestest.Book, Credits: num(t, r[3]),
		Shifts: []rules.Shift{{ID: "a", StartsAt: start, EndsAt: start.Add(time.Duration(minutes) * time.Minute), Slots: num(t, r[4])}},
		Entry: rules.CatalogEntry{
			Ref: c.Ref(rulestest.City, "catalog.entry", id).Ref(), Active: true, Tier: num(t, r[1]), MinMinutes: minutes, MaxMinutes: minutes,
			Level: 1, Sensitivity: entry.SensitivityPseudonymous,
		},
	}
}

func TestGoldenVector1BerkeleyLaunch(t *testing.T) {
	t.Parallel()
	c := newPilot(t, berkeleyOfferings, berkeleyCatalog, []string{"LIB", "PRK", "FOO", "PRE", "SEN"}, func(*entry.Parameters) {})
	assert.EqualValues(t, 15_200, c.totals.CapacityMonth)
	assert.EqualValues(t, 22_800, c.totals.Cap)
	assert.Equal(t, "7600", aMonth(c.totals.Cap))
	assert.Len(t, c.tasks, 15)
	assert.Len(t, c.totals.Issuers, 5)
	assert.Equal(t, entry.BoundByLaunch, c.totals.BoundBy)
	assert.EqualValues(t, 0, c.totals.Unallocated)
	assert.EqualValues(t, 20_696, c.totals.Reserved)
	assert.EqualValues(t, 20_696, c.totals.Outstanding)
	reserved := map[syntax.DID]int64{}
	for _, i := range c.totals.Issuers {
		assert.EqualValues(t, 4_560, i.Allocation)
		reserved[i.DID] = i.Reserved
	}
	assert.Equal(t, map[syntax.DID]int64{
		did("LIB"): 4_368, did("PRK"): 4_320, did("FOO"): 4_368, did("PRE"): 3_720, did("SEN"): 3_920,
	}, reserved)

	more := c.task(t, "PRE-more", []string{"PRE", "4", "3", "60", "26"})
	r := c.Refused(rules.AllocationExceeded, more)
	assert.Equal(t, map[string]any{"reserved": int64(3_720), "wanted": int64(1_560), "total": int64(5_280), "allocation": int64(4_560)},
		map[string]any(r.Figures))
}

func TestGoldenVector2BerkeleySteady(t *testing.T) {
	t.Parallel()
	w := rulestest.New(t)
	p := w.Parameters(entry.PhaseSteady).CapPolicy
	rates := rules.Rates{R: entry.Ratio{Num: 15, Den: 100}, Delta: entry.Ratio{Num: 3, Den: 100}}
	c := rules.EpochCap(p, entry.PhaseSteady, 15_200, rates, 3)
	assert.Equal(t, "48640/3", c.IMax.String())
	assert.EqualValues(t, 34_048, c.ShareBound)
	assert.EqualValues(t, 29_184, c.BacklogBound)
	assert.Equal(t, "9728", aMonth(c.BacklogBound))
	least := rates
	least.Delta = entry.Ratio{Num: 1, Den: 100} // δ_c: what is above it gives no more
	assert.Equal(t, c, rules.EpochCap(p, entry.PhaseSteady, 15_200, least, 3))
	assert.EqualValues(t, 29_184, c.Cap)
	assert.Equal(t, entry.BoundByBacklog, c.BoundBy)
	for total, want := range map[int64][2]int64{34_048: {6_809, 3}, 29_184: {5_836, 4}} {
		shares, left := rules.Allocate(total, equalWeights(5))
		assert.Len(t, shares, 5)
		assert.Equal(t, want, [2]int64{shares[0].Amount, left})
	}
	s := newPilot(t, berkeleyOfferings, "", []string{"LIB", "PRK", "FOO", "PRE", "SEN"}, func(p *entry.Parameters) {
		p.Epochs[0].Phase = entry.PhaseSteady
	})
	assert.EqualValues(t, 29_184, s.totals.Cap)
	assert.EqualValues(t, 4, s.totals.Unallocated)
}

func TestGoldenVector3MexicoCity(t *testing.T) {
	t.Parallel()
	issuers := []string{"CC", "BO", "BI", "PC", "BA", "MO"}
	c := newPilot(t, mexicoOfferings, mexicoCatalog, issuers, func(*entry.Parameters) {})
	assert.EqualValues(t, 50_000, c.totals.CapacityMonth)
	assert.EqualValues(t, 75_000, c.totals.Cap)
	assert.Equal(t, "25000", aMonth(c.totals.Cap))
	assert.Len(t, c.totals.Issuers, 6)
	assert.EqualValues(t, 54_320, c.totals.Reserved)
	for _, i := range c.totals.Issuers {
		assert.EqualValues(t, 12_500, i.Allocation)
	}

	rates := rules.Rates{R: entry.Ratio{Num: 12, Den: 100}, Delta: entry.Ratio{Num: 4, Den: 100}}
	steady := rules.EpochCap(c.Parameters(entry.PhaseSteady).CapPolicy, entry.PhaseSteady, 50_000, rates, 3)
	assert.Equal(t, "162500/3", steady.IMax.String())
	assert.EqualValues(t, 113_750, steady.ShareBound)
	assert.EqualValues(t, 78_000, steady.BacklogBound)
	assert.EqualValues(t, 78_000, steady.Cap)
	assert.Equal(t, entry.BoundByBacklog, steady.BoundBy)
	assert.Equal(t, "26000", aMonth(steady.BacklogBound))
	shares, left := rules.Allocate(steady.ShareBound, equalWeights(6))
	assert.Len(t, shares, 6)
	assert.Equal(t, [2]int64{18_958, 2}, [2]int64{shares[0].Amount, left})
}

// The steady phase of vectors 2 and 3 as epochs that open in a log: what each says of itself is what anybody computes from it.
func TestGoldenVectors2And3OpenAsEpochsInTheSteadyPhase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		offerings        string
		issuers          []string
		r, delta         int64 // basis points
		capacity         int64
		iMax             string
		share, backlog   int64
		allocation, left int64
	}{
		"Berkeley": {
			berkeleyOfferings, []string{"LIB", "PRK", "FOO", "PRE", "SEN"}, 1_500, 300, 15_200, "48640/3", 34_048, 29_184, 5_836, 4,
		},
		"Mexico City": {
			mexicoOfferings, []string{"CC", "BO", "BI", "PC", "BA", "MO"}, 1_200, 400, 50_000, "162500/3", 113_750, 78_000, 13_000, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPilot(t, c.offerings, "", c.issuers, func(p *entry.Parameters) {
				p.Epochs[0].Phase = entry.PhaseSteady
				p.CapPolicy.RStartBps, p.CapPolicy.DeltaStartBps = c.r, c.delta
			})
			i := slices.IndexFunc(p.Entries, func(e entry.Entry) bool { return e.Kind == entry.KindEpochOpen })
			require.GreaterOrEqual(t, i, 0)
			open := p.Entries[i].EpochOpen
			assert.Equal(t, entry.PhaseSteady, open.Phase)
			assert.Equal(t, c.capacity, open.Capacity)
			assert.Equal(t, [2]int64{c.r, c.delta}, [2]int64{open.R.Num * 10_000 / open.R.Den, open.Delta.Num * 10_000 / open.Delta.Den})
			anybody := rules.EpochCap(rulestest.New(t).Parameters("").CapPolicy, open.Phase, open.Capacity, rules.Rates{R: open.R, Delta: open.Delta}, 3)
			assert.Equal(t, c.iMax, anybody.IMax.String())
			assert.Equal(t, open.Cap, anybody.Cap)
			assert.Equal(t, [2]int64{c.share, c.backlog}, [2]int64{open.ShareBound, open.BackBound})
			assert.Equal(t, c.backlog, open.Cap)
			assert.Equal(t, entry.BoundByBacklog, open.BoundBy)
			require.Len(t, open.Allocations, len(c.issuers))
			sum := c.left
			for _, a := range open.Allocations {
				assert.Equal(t, c.allocation, a.Amount, "%s", a.DID)
				sum += a.Amount
			}
			assert.Equal(t, open.Cap, sum)
			assert.Equal(t, c.left, p.totals.Unallocated)
			assert.Equal(t, c.backlog, p.totals.Cap)
			require.Equal(t, p.State.Digest(), p.Replay().Digest(), "R2")
			audited(t, p.World)
		})
	}
}

// aMonth is a month's part of what an epoch of three has.
func aMonth(epoch int64) string { return big.NewRat(epoch, 3).RatString() }

func equalWeights(n int) []entry.Weight {
	list := make([]entry.Weight, n)
	for i := range list {
		list[i] = entry.Weight{DID: did(fmt.Sprint(i)), Weight: 1}
	}
	return list
}

func TestGoldenVector4StockAndFlow(t *testing.T) {
	t.Parallel()
	flows := []rules.Flow{{I: 5_200, B: 620}, {I: 6_900, B: 1_030, Q: 137}, {I: 7_400, B: 1_650, Q: 309}}
	want := []rules.Stock{{A: 4_580}, {A: 10_313, D: 137}, {A: 15_754, D: 446}}
	var s rules.Stock
	for i, f := range flows {
		var err error
		s, err = s.After(f)
		require.NoError(t, err)
		assert.Equal(t, want[i], s)
	}
	assert.EqualValues(t, 16_200, s.Supply())
	var issued, burned int64
	for _, f := range flows {
		issued, burned = issued+f.I, burned+f.B
	}
	assert.Equal(t, [3]int64{19_500, 3_300, 16_200}, [3]int64{issued, burned, issued - burned})
	n := rules.Indicate(flows[2], s, 15_200)
	for name, c := range map[string]struct {
		ratio entry.Ratio
		milli int64
	}{
		"efficiency": {n.Efficiency, 223}, "utilization": {n.Utilization, 109}, "backlog": {n.Backlog, 1_036},
		"issuance": {n.Issuance, 487}, "engagement": {n.Engagement, 28},
	} {
		got, ok := rules.Milli(c.ratio)
		assert.True(t, ok, name)
		assert.Equal(t, c.milli, got, name)
	}
	_, ok := rules.Bps(entry.Ratio{Num: 1})
	assert.False(t, ok, "without issuance there is no efficiency")
	_, err := s.After(rules.Flow{B: 20_000})
	assert.ErrorIs(t, err, rules.ErrBroken)
}

// The flows of vector 4, each month against the active stock before it: nothing can be measured in the first.
func TestRatesAreMeasuredAgainstTheStockBefore(t *testing.T) {
	t.Parallel()
	flows := []rules.Flow{{I: 5_200, B: 620}, {I: 6_900, B: 1_030, Q: 137}, {I: 7_400, B: 1_650, Q: 309}}
	before := []rules.Stock{{}, {A: 4_580}, {A: 10_313, D: 137}}
	rates, ok := rules.MeasuredRates(flows[1:], before[1:])
	require.True(t, ok)
	assert.Equal(t, rules.Rates{R: entry.Ratio{Num: 2_680, Den: 14_893}, Delta: entry.Ratio{Num: 446, Den: 14_893}}, rates)
	_, ok = rules.MeasuredRates(flows[:1], before[:1])
	assert.False(t, ok)
}

func TestGoldenVector5RoomBesideAnEvent(t *testing.T) {
	t.Parallel()
	share := big.NewRat(34_048, 3)
	iMax := rules.EpochCap(rulestest.New(t).Parameters("").CapPolicy, entry.PhaseSteady, 15_200,
		rules.Rates{R: entry.Ratio{Num: 15, Den: 100}, Delta: entry.Ratio{Num: 3, Den: 100}}, 3).IMax
	assert.Equal(t, "68512/3", new(big.Rat).Add(share, big.NewRat(11_488, 1)).String())
	assert.Equal(t, "4864", new(big.Rat).Sub(iMax, share).RatString())
}

func TestWeightedAllocationsFloorAndLeaveTheRest(t *testing.T) {
	t.Parallel()
	shares, left := rules.Allocate(100, []entry.Weight{{DID: "a", Weight: 1}, {DID: "b", Weight: 2}, {DID: "c", Weight: 4}})
	assert.Equal(t, []entry.Allocation{{DID: "a", Amount: 14}, {DID: "b", Amount: 28}, {DID: "c", Amount: 57}}, shares)
	assert.EqualValues(t, 1, left)
	none, all := rules.Allocate(100, nil)
	assert.Empty(t, none)
	assert.EqualValues(t, 100, all)
}
