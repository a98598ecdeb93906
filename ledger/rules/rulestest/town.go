package rulestest

import (
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// Organizations of a town.
const (
	Library = syntax.DID("did:plc:library")
	Parks   = syntax.DID("did:plc:parks")
	Auditor = syntax.DID("did:plc:auditor") // a verifier, named by nobody at first
	Bus     = syntax.DID("did:plc:bus")
	TillKey = "did:key:zDnaTill"
)

// Town is a world with an open epoch: two issuers with 600 credits each, one redeemer with a till, ten residents.
type Town struct {
	*World
	Ride rules.Offering
	Till string
}

// NewTown sets up a town on the day before its epoch and goes to the first morning of it.
func NewTown(t T) *Town {
	t.Helper()
	return NewTownWith(t, func(*World, *entry.Parameters) {})
}

// NewTownWith is NewTown under other parameters.
func NewTownWith(t T, change func(*World, *entry.Parameters)) *Town {
	t.Helper()
	w := New(t)
	p := w.Parameters(entry.PhaseLaunch)
	change(w, &p)
	w.SetParameters(p)
	library := w.Role(Library, rules.RoleIssuer)
	library.Categories = []string{rules.CategoryActivation}
	w.Must(library)
	w.Must(w.Role(Parks, rules.RoleIssuer))
	w.Must(w.Role(Auditor, rules.RoleVerifier))
	w.Must(w.Role(Bus, rules.RoleRedeemer))
	town := &Town{World: w, Ride: w.Offer(Bus, "ride", 1000, 500, 200, 4)} // 800 a month: a cap of 1200
	w.Must(rules.OpenEpoch{Now: w.Now, Epoch: Epoch, Book: Book, Offerings: []rules.Offering{town.Ride}})
	w.Now = w.At("2027-01-04 09:00")
	w.Must(rules.BindTill{Now: w.Now, Org: Bus, Key: TillKey})
	town.Till = entry.TillID(string(Bus), TillKey)
	for n := range 10 {
		w.Must(rules.Activate{Now: w.Now, Issuer: Library, Resident: Resident(n), Account: Account(n)})
	}
	return town
}

// Task is a pseudonymous task of level 1 with one shift of two hours that pays 16, today from 10 to 12.
func (w *Town) Task(org syntax.DID, key string, slots int64) rules.AcceptTask {
	ref := w.Ref(org, "work.task", key)
	day := w.Now.In(w.State.Location()).Format("2006-01-02")
	return rules.AcceptTask{
		Now: w.Now, Task: ref, First: ref.URI, Author: org, Epoch: Epoch, Book: Book, Credits: 16,
		Shifts: []rules.Shift{{ID: "a", StartsAt: w.At(day + " 10:00"), EndsAt: w.At(day + " 12:00"), Slots: slots}},
		Entry: rules.CatalogEntry{
			Ref: w.Ref(City, "catalog.entry", key).Ref(), Active: true, Tier: 1, MinMinutes: 120, MaxMinutes: 120, Level: 1,
			Sensitivity: entry.SensitivityPseudonymous,
		},
	}
}

// Accept puts a task in the log and gives it back.
func (w *Town) Accept(c rules.AcceptTask) rules.AcceptTask {
	w.t.Helper()
	w.Must(c)
	return c
}

// Version is a later version of a task: a new cid under the same uri.
func (w *Town) Version(c rules.AcceptTask) rules.AcceptTask {
	next := w.Ref(c.Author, "work.task", "x")
	c.Now = w.Now
	c.Task.CID, c.Task.Rev = next.CID, next.Rev
	return c
}

// ClaimOf is the claim of a person on the first shift of a task.
func (w *Town) ClaimOf(n int, c rules.AcceptTask) rules.ClaimRequest {
	return rules.ClaimRequest{
		Now: w.Now, Resident: Resident(n), Task: c.Task.Ref(), Shift: c.Shifts[0].ID, EntryActive: true, EpochKey: EpochKey,
	}
}

// TryClaim holds a claim if it is not refused.
func (w *Town) TryClaim(c rules.ClaimRequest) (*rules.HeldClaim, error) {
	w.t.Helper()
	h, err := rules.DecideClaim(w.State, c)
	if err != nil {
		return nil, err
	}
	require.NoError(w.t, rules.HoldClaim(w.State, h))
	return h, nil
}

// Claim holds a claim and gives its token.
func (w *Town) Claim(n int, c rules.AcceptTask) []byte {
	w.t.Helper()
	h, err := w.TryClaim(w.ClaimOf(n, c))
	require.NoError(w.t, err)
	return h.Token
}

// Verify is an approval of a claim by the task's author, by attestation.
func (w *Town) Verify(c rules.AcceptTask, token []byte) rules.Mint {
	return rules.Mint{
		Now: w.Now, Record: w.Ref(c.Author, "work.verification", "v"), Author: c.Author, Signed: true, Task: c.Task.Ref(),
		Shift: c.Shifts[0].ID, Token: token, Outcome: entry.OutcomeApproved, Credits: c.Credits, Level: c.Entry.Level,
		Methods: []string{"org.city-sync.defs#methodAttestation"},
	}
}

// Earn gives a person 16 credits per task: accepted, claimed and verified in the shift.
func (w *Town) Earn(n, times int) {
	w.t.Helper()
	back := w.Now
	for i := range times {
		task := w.Accept(w.Task(Library, string(Resident(n))[8:]+string(rune('a'+i)), 1))
		token := w.Claim(n, task)
		w.Now = task.Shifts[0].StartsAt
		w.Must(w.Verify(task, token))
		w.Now = back
	}
}

// Code is a person's wish for units of the ride.
func (w *Town) Code(n int, units int64) rules.CodeRequest {
	return rules.CodeRequest{Now: w.Now, Resident: Resident(n), Offering: w.Ride, Units: units, NoneOfFreeFor: true}
}

// Burn is the burn of a person's units of the ride at the till.
func (w *Town) Burn(n int, units int64) rules.Burn {
	return rules.Burn{Now: w.Now, Account: Account(n), Offering: w.Ride, Units: units, Till: w.Till}
}

// PutAside is a hold of a person's units of the ride at the till, until the end of today.
func (w *Town) PutAside(n int, units int64) rules.PutAside {
	return rules.PutAside{
		Now: w.Now, Resident: Resident(n), Offering: w.Ride, Units: units, Till: w.Till, NoneOfFreeFor: true,
		Until: entry.FormatDay(w.Now, w.State.Location()),
	}
}

// Capture is the capture of a hold, honored now.
func (w *Town) Capture(hold int64) rules.Capture {
	return rules.Capture{Now: w.Now, Hold: hold, Till: w.Till, At: w.Now}
}

// Undo takes a burn back at the till.
func (w *Town) Undo(of int64) rules.Undo {
	return rules.Undo{Now: w.Now, Of: of, Till: w.Till, Reason: entry.ReverseUndone}
}

// Last is the seq of the last entry.
func (w *World) Last() int64 { return w.State.Size() - 1 }
