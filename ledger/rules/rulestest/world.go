// Package rulestest builds logs for tests: a world applies commands as a ledger would, and keeps the leaves and openings.
package rulestest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"
	_ "time/tzdata" // the city's zone on any machine

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// What every world has.
const (
	City  = syntax.DID("did:plc:city")
	Book  = "standard"
	Epoch = "e2027-01"
)

// T is the part of a test that a world needs; rapid's has it too.
type T interface {
	require.TestingT
	Helper()
}

// World is a log in the making.
type World struct {
	t     T
	State *rules.State
	Now   time.Time

	Entries  []entry.Entry    // with their sealed parts
	Leaves   [][]byte         // by seq
	Openings map[int64][]byte // encoded
	random   io.Reader
	cids     int
}

// Zone is the city's time zone.
func Zone(t T) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("America/Los_Angeles")
	require.NoError(t, err)
	return loc
}

// New is a world whose log has the version of its rules.
func New(t T) *World {
	t.Helper()
	w := &World{t: t, State: rules.NewState(Zone(t)), Openings: map[int64][]byte{}, random: rand.NewChaCha8([32]byte{7})}
	w.Now = w.At("2027-01-02 09:00")
	w.Must(rules.RulesVersion{Now: w.Now, Version: rules.Version})
	return w
}

// At is a local time, "2006-01-02 15:04".
func (w *World) At(s string) time.Time {
	w.t.Helper()
	at, err := time.ParseInLocation("2006-01-02 15:04", s, w.State.Location())
	require.NoError(w.t, err)
	return at
}

// Ref is a fresh version of a record.
func (w *World) Ref(org syntax.DID, collection, key string) entry.Cause {
	w.cids++
	return entry.Cause{
		URI: fmt.Sprintf("at://%s/org.city-sync.%s/%s", org, collection, key), CID: fmt.Sprintf("bafy%06d", w.cids),
		Rev: fmt.Sprintf("rev%06d", w.cids), Key: "did:key:z" + string(org),
	}
}

// Try asks and applies: each entry by way of its leaf and its opening.
func (w *World) Try(c rules.Command) error {
	w.t.Helper()
	entries, err := rules.Decide(w.State, c)
	if err != nil {
		return err
	}
	w.Apply(entries)
	return nil
}

// Apply seals, encodes, decodes, unseals and applies.
func (w *World) Apply(entries []entry.Entry) {
	w.t.Helper()
	for _, e := range entries {
		opening, err := e.Seal(w.random)
		require.NoError(w.t, err)
		leaf, err := e.Encode()
		require.NoError(w.t, err)
		back, err := entry.Decode(leaf)
		require.NoError(w.t, err)
		if opening != nil {
			raw, err := opening.Encode()
			require.NoError(w.t, err)
			w.Openings[e.Seq] = raw
			Unseal(w.t, back, raw)
		}
		require.NoError(w.t, rules.Apply(w.State, *back))
		w.Entries = append(w.Entries, *back)
		w.Leaves = append(w.Leaves, leaf)
	}
}

// Unseal gives an entry its sealed part from an encoded opening.
func Unseal(t T, e *entry.Entry, raw []byte) {
	t.Helper()
	opening, err := entry.DecodeOpening(raw)
	require.NoError(t, err)
	require.NoError(t, e.Unseal(opening))
}

// Replay is the state that the leaves and openings give.
func (w *World) Replay() *rules.State {
	w.t.Helper()
	s := rules.NewState(w.State.Location())
	for seq, leaf := range w.Leaves {
		e, err := entry.Decode(leaf)
		require.NoError(w.t, err)
		if raw := w.Openings[int64(seq)]; raw != nil {
			Unseal(w.t, e, raw)
		}
		require.NoError(w.t, rules.Apply(s, *e))
	}
	return s
}

// Must is Try that may not fail.
func (w *World) Must(c rules.Command) {
	w.t.Helper()
	require.NoError(w.t, w.Try(c))
}

// Refused asks for what must be refused by this name and leave the state as it was.
func (w *World) Refused(name string, c rules.Command) *rules.Refusal {
	w.t.Helper()
	before, size := w.State.Digest(), len(w.Leaves)
	err := w.Try(c)
	require.Equal(w.t, name, rules.Refused(err), "%v", err)
	require.Equal(w.t, before, w.State.Digest(), "a refusal leaves no trace")
	require.Len(w.t, w.Leaves, size)
	return Refusal(w.t, err)
}

// Refusal is the refusal that an error is.
func Refusal(t T, err error) *rules.Refusal {
	t.Helper()
	var r *rules.Refusal
	require.ErrorAs(t, err, &r)
	return r
}

// Parameters are the defaults of the economics, for the first epoch of 2027 and the one after it.
func (w *World) Parameters(phase string) entry.Parameters {
	at := func(day string) string { return entry.FormatTime(w.At(day + " 00:00")) }
	plan := func(key string, days ...string) entry.EpochPlan {
		p := entry.EpochPlan{Key: key, StartsAt: at(days[0]), EndsAt: at(days[len(days)-1]), TZ: "America/Los_Angeles", Phase: phase}
		for i := range len(days) - 1 {
			p.Months = append(p.Months, entry.Month{StartsAt: at(days[i]), EndsAt: at(days[i+1])})
		}
		return p
	}
	return entry.Parameters{
		EffectiveEpoch: Epoch,
		Epochs: []entry.EpochPlan{
			plan(Epoch, "2027-01-04", "2027-02-01", "2027-03-01", "2027-03-29"),
			plan("e2027-02", "2027-03-29", "2027-04-26", "2027-05-24", "2027-06-21"),
		},
		CapPolicy: entry.CapPolicy{
			CapPhaseBps: 5000, CapShareBps: 7000, AscrMaxMilli: 4000, DeltaCapBps: 100, RStartBps: 1500, DeltaStartBps: 300,
		},
		Tiers: []entry.Tier{
			{N: 1, CreditsPerHour: 8}, {N: 2, CreditsPerHour: 12}, {N: 3, CreditsPerHour: 16}, {N: 4, CreditsPerHour: 20},
		},
		DormancyMonths: 12, WarmUpMonths: 5, ClaimLimit: 5, ClaimLapseDays: 14, VotesPerCredit: 1, KMin: 10,
	}
}

// Plans are n epochs of three months of four weeks from a day on: e2027-01, e2027-02, …, the first in launch phase, the others steady.
func Plans(w *World, from string, n int) []entry.EpochPlan {
	w.t.Helper()
	at := w.At(from + " 00:00")
	var plans []entry.EpochPlan
	for i := range n {
		p := entry.EpochPlan{Key: fmt.Sprintf("e2027-%02d", i+1), StartsAt: entry.FormatTime(at), TZ: "America/Los_Angeles", Phase: entry.PhaseSteady}
		if i == 0 {
			p.Phase = entry.PhaseLaunch
		}
		for range 3 {
			end := at.AddDate(0, 0, 28)
			p.Months = append(p.Months, entry.Month{StartsAt: entry.FormatTime(at), EndsAt: entry.FormatTime(end)})
			at = end
		}
		p.EndsAt = entry.FormatTime(at)
		plans = append(plans, p)
	}
	return plans
}

// SetParameters puts parameters in the log.
func (w *World) SetParameters(p entry.Parameters) {
	w.t.Helper()
	w.Must(rules.SetParameters{Now: w.Now, Record: w.Ref(City, "gov.parameterSet", fmt.Sprint(w.cids)), Parameters: p})
}

// Role is an accreditation for the whole of 2027.
func (w *World) Role(org syntax.DID, roles ...string) rules.BindRole {
	return rules.BindRole{
		Now: w.Now, Record: w.Ref(City, "registry.accreditation", string(org)), Org: org, Roles: roles, Status: rules.StatusActive,
		ValidFrom: w.At("2027-01-01 00:00"), ValidUntil: w.At("2028-01-01 00:00"),
	}
}

// Offer is an offering of a redeemer, open at all times.
func (w *World) Offer(redeemer syntax.DID, key string, physical, marginal, committed, credits int64) rules.Offering {
	return rules.Offering{
		Record: w.Ref(redeemer, "offer.offering", key), Redeemer: redeemer, Book: Book, Epoch: Epoch, Credits: credits,
		Physical: physical, Marginal: marginal, Committed: committed, PublicPriceMinor: 500,
	}
}

// Account is the account that a test gives to a number.
func Account(n int) entry.Account { return entry.Account{1, byte(n >> 8), byte(n)} }

// Resident is the DID of the person with a number.
func Resident(n int) syntax.DID { return syntax.DID(fmt.Sprintf("did:plc:resident%d", n)) }

// EpochKey is the key of every epoch of a world.
var EpochKey = [32]byte{42}
