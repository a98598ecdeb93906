package audit_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// The auditor's integers and the rules' rationals give one cap, in both phases, whichever bound binds.
func TestCapIsRecomputedInEveryPhase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		phase    string
		capacity [2]int64 // units, credits
		change   func(*entry.Parameters)
		by       string
	}{
		{"launch", entry.PhaseLaunch, [2]int64{3800, 4}, func(*entry.Parameters) {}, entry.BoundByLaunch},
		{"backlog binds", entry.PhaseSteady, [2]int64{3800, 4}, func(*entry.Parameters) {}, entry.BoundByBacklog},
		{"share binds", entry.PhaseSteady, [2]int64{3800, 4}, func(p *entry.Parameters) { p.CapPolicy.AscrMaxMilli = 9000 }, entry.BoundByShare},
		{"equal bounds", entry.PhaseSteady, [2]int64{3800, 4}, func(p *entry.Parameters) {
			p.CapPolicy.RStartBps, p.CapPolicy.CapShareBps, p.CapPolicy.AscrMaxMilli = 1750, 7000, 4000
		}, entry.BoundByShare},
		{"odd numbers", entry.PhaseSteady, [2]int64{17, 13}, func(p *entry.Parameters) {
			p.CapPolicy = entry.CapPolicy{
				CapPhaseBps: 1, CapShareBps: 6789, AscrMaxMilli: 3456, DeltaCapBps: 77, RStartBps: 1234, DeltaStartBps: 55,
			}
		}, entry.BoundByBacklog},
		{"weights", entry.PhaseSteady, [2]int64{3800, 4}, func(p *entry.Parameters) {
			p.Weights = []entry.Weight{{DID: rulestest.Library, Weight: 3}, {DID: rulestest.Parks, Weight: 4}, {DID: "did:plc:nobody", Weight: 5}}
		}, entry.BoundByBacklog},
		{"nothing offered", entry.PhaseSteady, [2]int64{0, 4}, func(*entry.Parameters) {}, entry.BoundByShare},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := rulestest.New(t)
			p := w.Parameters(c.phase)
			c.change(&p)
			w.SetParameters(p)
			w.Must(w.Role(rulestest.Library, rules.RoleIssuer))
			w.Must(w.Role(rulestest.Parks, rules.RoleIssuer))
			w.Must(w.Role(rulestest.Bus, rules.RoleRedeemer))
			w.Must(rules.OpenEpoch{Now: w.Now, Epoch: rulestest.Epoch, Book: rulestest.Book, Offerings: []rules.Offering{
				w.Offer(rulestest.Bus, "ride", 90_000, 90_000, c.capacity[0], c.capacity[1]),
			}})
			a := replay(w.Leaves)
			require.Empty(t, a.Findings())
			assert.Equal(t, c.by, a.Totals()[0].BoundBy)

			last := len(w.Leaves) - 1
			good := w.Leaves[last]
			for what, change := range map[string]func(*entry.EpochOpen){
				"cap":   func(o *entry.EpochOpen) { o.Cap, o.Unallocated = o.Cap+1, o.Unallocated+1 },
				"bound": func(o *entry.EpochOpen) { o.BoundBy = "luck" },
				"share": func(o *entry.EpochOpen) { o.ShareBound++ },
			} {
				if what == "share" && c.phase == entry.PhaseLaunch {
					continue // there is none
				}
				open, err := entry.Decode(good)
				require.NoError(t, err)
				change(open.EpochOpen)
				w.Leaves[last], err = open.Encode()
				require.NoError(t, err)
				require.NotEmpty(t, replay(w.Leaves).Findings(), what)
			}
		})
	}
}
