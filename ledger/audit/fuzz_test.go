package audit_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// lived is a log in which everything that an entry can say happens.
func lived(t rulestest.T) *rulestest.Town {
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "first", 4))
	a, b, gone := w.Claim(0, task), w.Claim(1, task), w.Claim(2, task)
	w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
	w.Must(rules.Unclaim{Now: w.Now, Token: gone, Reason: entry.UnclaimWithdrawn})
	w.Now = task.Shifts[0].StartsAt
	w.Must(w.Verify(task, a))
	reject := w.Verify(task, b)
	reject.Outcome = entry.OutcomeRejected
	w.Must(reject)
	w.Must(w.Burn(0, 1))
	return w
}

// strange are entries that decode and that no ledger writes.
func strange(t require.TestingT, w *rulestest.Town) (at []int, leaves [][]byte) {
	add := func(want func(*entry.Entry) bool, edit func(*entry.Entry)) {
		i := slices.IndexFunc(w.Leaves, func(leaf []byte) bool {
			e, err := entry.Decode(leaf)
			require.NoError(t, err)
			return want(e)
		})
		require.GreaterOrEqual(t, i, 0)
		e, err := entry.Decode(w.Leaves[i])
		require.NoError(t, err)
		edit(e)
		leaf, err := e.Encode()
		require.NoError(t, err)
		at, leaves = append(at, i), append(leaves, leaf)
	}
	rejected := func(e *entry.Entry) bool {
		return e.Kind == entry.KindRelease && e.Release.Reason == entry.ReleaseRejected
	}
	add(rejected, func(e *entry.Entry) { e.Causes = nil })
	add(rejected, func(e *entry.Entry) { e.Release.Shifts = nil })
	add(rejected, func(e *entry.Entry) { e.Causes = append(e.Causes, e.Causes[0]) })
	for _, r := range []entry.Ratio{{Num: 1, Den: 20_000}, {Num: 0, Den: 1}, {Num: 1 << 62, Den: 1}, {Num: 1, Den: 1 << 62}} {
		add(kind(entry.KindEpochOpen), func(e *entry.Entry) { e.EpochOpen.Phase, e.EpochOpen.R = entry.PhaseSteady, r })
		add(kind(entry.KindEpochOpen), func(e *entry.Entry) { e.EpochOpen.Phase, e.EpochOpen.Delta = entry.PhaseSteady, r })
	}
	add(kind(entry.KindEpochOpen), func(e *entry.Entry) { e.EpochOpen.Months = nil })
	add(kind(entry.KindBurn), func(e *entry.Entry) { e.Burn.Month = 1_000_000_000_000 })
	add(kind(entry.KindParameters), func(e *entry.Entry) { e.Parameters.Epochs[0].TZ = "../../etc/passwd" })
	return at, leaves
}

// A5: what decodes is judged, whatever it says; the auditor runs on strangers' logs.
func TestStrangeEntriesAreFoundAndStopNothing(t *testing.T) {
	t.Parallel()
	w := lived(t)
	at, leaves := strange(t, w)
	for i, leaf := range leaves {
		log := slices.Clone(w.Leaves)
		log[at[i]] = leaf
		require.NotEmpty(t, replay(log).Findings())
		e, err := entry.Decode(leaf)
		require.NoError(t, err)
		require.NotPanics(t, func() { audit.CheckCauses(e, rulestest.City, fetch(nil)) })
		if e.Kind == entry.KindRelease {
			require.NotEmpty(t, audit.CheckCauses(e, rulestest.City, fetch(nil)))
		}
	}
}

// FuzzAuditor puts one leaf of anybody's into a log, and lets it cite one record of anybody's.
func FuzzAuditor(f *testing.F) {
	w := lived(f)
	held := records(w)
	for i, leaf := range w.Leaves {
		var record []byte
		if len(w.Entries[i].Causes) > 0 {
			record, _ = json.Marshal(held[w.Entries[i].Causes[0].CID]) // a map of texts and numbers encodes
		}
		f.Add(uint16(i), leaf, record)
	}
	at, leaves := strange(f, w)
	for i, leaf := range leaves {
		f.Add(uint16(at[i]), leaf, []byte(`{"subject":{"claim":{}},"coSigners":[1],"roles":["#","#role"],"capacity":[]}`))
	}
	f.Fuzz(func(t *testing.T, at uint16, leaf, record []byte) {
		log := slices.Clone(w.Leaves)
		log[int(at)%len(log)] = leaf
		a := replay(log)
		for _, found := range a.Findings() {
			require.True(t, found.Entry >= 0 && found.Entry < a.Size(), "%v", found)
		}
		_ = a.Totals()
		e, err := entry.Decode(leaf)
		if err != nil {
			return
		}
		var r audit.Record
		_ = json.Unmarshal(record, &r) // else no record
		for range audit.Cited(e) {
			_ = audit.CheckCauses(e, rulestest.City, func(entry.Cause) (audit.Record, error) { return r, nil })
		}
	})
}

// Parameters may plan a steady epoch with a burn rate of nothing, which no cap can be divided by.
func TestABurnRateOfNothingIsFound(t *testing.T) {
	t.Parallel()
	w := lived(t)
	log := slices.Clone(w.Leaves)
	for i, leaf := range log {
		e, err := entry.Decode(leaf)
		require.NoError(t, err)
		switch e.Kind {
		case entry.KindParameters:
			e.Parameters.CapPolicy.RStartBps = 0
			for j := range e.Parameters.Epochs {
				e.Parameters.Epochs[j].Phase = entry.PhaseSteady
			}
		case entry.KindEpochOpen:
			e.EpochOpen.Phase, e.EpochOpen.R = entry.PhaseSteady, entry.Ratio{Num: 0, Den: 10_000}
		default:
			continue
		}
		log[i], err = e.Encode()
		require.NoError(t, err)
	}
	var said []string
	for _, f := range replay(log).Findings() {
		said = append(said, f.What)
	}
	require.Contains(t, said, "a burn rate of 0")
}

// FuzzSealed puts one leaf and one opening of anybody's into a year of a validator's replay.
func FuzzSealed(f *testing.F) {
	y := live(f)
	for i, leaf := range y.Leaves {
		f.Add(uint16(i), leaf, y.Openings[int64(i)], false)
	}
	f.Fuzz(func(t *testing.T, at uint16, leaf, opening []byte, erased bool) {
		i := int(at) % len(y.Leaves)
		a := audit.New(origin)
		for j, l := range y.Leaves {
			o := y.Openings[int64(j)]
			if j == i {
				_ = a.AddSealed(int64(j), leaf, opening, erased)
			} else {
				_ = a.AddSealed(int64(j), l, o, false)
			}
		}
		for _, found := range a.Findings() {
			require.True(t, found.Entry >= 0 && found.Entry < a.Size(), "%v", found)
		}
		_, _, ok := a.Sealed()
		require.True(t, ok)
	})
}
