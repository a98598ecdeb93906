package audit_test

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

const (
	festival      = "festival" // an event's own book
	festivalEpoch = "fest-2027"
)

// forgotten is a person that a log stops to know, and the entries before it happened.
type forgotten struct {
	account entry.Account
	at      int64 // seq of the first entry after it
	seqs    map[int64]bool
}

// year is a town over two epochs and one event, in which every kind of entry is written at least once.
type year struct {
	*rulestest.Town
	t    testing.TB
	gone *forgotten
}

// newYear founds the town: credits sleep for one month and expire after it.
func newYear(t testing.TB) *year {
	t.Helper()
	w := rulestest.New(t)
	p := w.Parameters(entry.PhaseLaunch)
	p.DormancyMonths = 1
	p.Epochs[1].Phase = entry.PhaseSteady
	at := func(day string) string { return entry.FormatTime(w.At(day + " 00:00")) }
	p.Epochs = append(p.Epochs, entry.EpochPlan{
		Key: festivalEpoch, Book: festival, Phase: entry.PhaseEvent, TZ: p.Epochs[0].TZ, StartsAt: at("2027-01-10"), EndsAt: at("2027-01-20"),
		Months: []entry.Month{{StartsAt: at("2027-01-10"), EndsAt: at("2027-01-20")}},
	})
	w.SetParameters(p)
	library := w.Role(rulestest.Library, rules.RoleIssuer)
	library.Categories = []string{rules.CategoryActivation}
	w.Must(library)
	w.Must(w.Role(rulestest.Parks, rules.RoleIssuer))
	w.Must(w.Role(rulestest.Bus, rules.RoleRedeemer))
	w.Must(w.Role(rulestest.Auditor, rules.RoleVerifier))
	town := &rulestest.Town{World: w, Ride: w.Offer(rulestest.Bus, "ride", 1000, 500, 200, 4)}
	w.Must(rules.OpenEpoch{Now: w.Now, Epoch: rulestest.Epoch, Book: rulestest.Book, Offerings: []rules.Offering{town.Ride}})
	w.Now = w.At("2027-01-04 09:00")
	w.Must(rules.BindTill{Now: w.Now, Org: rulestest.Bus, Key: rulestest.TillKey})
	town.Till = entry.TillID(string(rulestest.Bus), rulestest.TillKey)
	for n := range 10 {
		w.Must(rules.Activate{Now: w.Now, Issuer: rulestest.Library, Resident: rulestest.Resident(n), Account: rulestest.Account(n)})
	}
	return &year{Town: town, t: t}
}

func (y *year) on(at string) { y.Now = y.At(at) }

func (y *year) sweep() {
	for _, c := range y.State.DueHolds(y.Now) {
		y.Must(c)
	}
	y.Must(rules.CloseMonths{Now: y.Now})
	for _, c := range y.State.EpochsToClose(y.Now) {
		y.Must(c)
	}
	seed := [32]byte{byte(len(y.Entries)), 1}
	y.Must(rules.Digest{Now: y.Now, Seed: seed[:]})
}

// counters redeems in every way: burned, undone, held and captured, held and given back, held and left.
func (y *year) counters() {
	y.Must(y.Burn(0, 1))
	y.Must(y.Burn(1, 1))
	y.Must(y.Undo(y.Last()))
	y.Must(y.PutAside(0, 1))
	y.Must(y.Capture(y.Last()))
	y.Must(y.PutAside(1, 1))
	y.Must(y.Capture(y.Last()))
	y.Must(y.Undo(y.Last()))
	y.Must(y.PutAside(1, 2))
	y.Must(rules.EndHold{Now: y.Now, Hold: y.Last(), Reason: entry.VoidCancelled})
	y.Must(y.PutAside(2, 1))
}

// rulings stop things and let them go on, correct a mint and pay a rejection after all.
func (y *year) rulings(task rules.AcceptTask, first rules.Mint, rejected []byte) {
	city := func(collection, key string) entry.Cause { return y.Ref(rulestest.City, collection, key) }
	y.Must(rules.Pause{Now: y.Now, What: entry.PauseTask, Subject: task.First, Reason: "objection", Record: city("gov.resolution", "heard")})
	y.Must(rules.Resume{Now: y.Now, What: entry.PauseTask, Subject: task.First, Reason: "upheld", Record: city("gov.resolution", "ruled")})
	status := y.Ref(rulestest.Bus, "offer.offeringStatus", "ride")
	y.Must(rules.Pause{Now: y.Now, What: entry.PauseOffering, Subject: y.Ride.Record.URI, Reason: "repair", Record: status})
	y.Must(rules.Resume{Now: y.Now, What: entry.PauseOffering, Subject: y.Ride.Record.URI, Reason: "repaired", Record: status})
	y.Must(rules.Correct{
		Now: y.Now, Record: y.Ref(rulestest.Parks, "work.verification", "less"), Author: rulestest.Parks, Signed: true, Supersedes: first.Record.Ref(),
		Resolution: new(city("gov.resolution", "ruled")), Token: first.Token, Outcome: entry.OutcomePartial, Minutes: 60, Credits: 8,
	})
	anew := y.Verify(task, rejected)
	anew.Author, anew.Record = rulestest.Auditor, y.Ref(rulestest.Auditor, "work.verification", "anew")
	anew.Upheld = new(city("gov.resolution", "paid"))
	y.Must(anew)
	for _, what := range []string{entry.PauseMints, entry.PauseClaims} {
		y.Must(rules.Pause{
			Now: y.Now, What: what, Org: rulestest.Parks, Until: y.Now.Add(72 * time.Hour), Reason: "flood", Record: city("gov.decision", "stop"),
		})
	}
	y.Must(rules.Pause{
		Now: y.Now, What: entry.PauseTasks, Until: y.Now.Add(72 * time.Hour), Reason: "flood", Record: city("gov.decision", "stop"),
	})
	y.Must(rules.Resume{Now: y.Now, What: entry.PauseTasks, Reason: "dry", Record: city("gov.decision", "go")})
}

// party is the event: its own book, window and end.
func (y *year) party() {
	y.on("2027-01-11 09:00")
	snack := y.Offer(rulestest.Bus, "snack", 100, 100, 100, 2)
	snack.Book, snack.Epoch = festival, festivalEpoch
	y.Must(rules.OpenEpoch{Now: y.Now, Epoch: festivalEpoch, Book: festival, Offerings: []rules.Offering{snack}})
	task := y.Task(rulestest.Library, "stage", 2)
	task.Book, task.Epoch = festival, festivalEpoch
	y.Must(task)
	a, b := y.Claim(0, task), y.Claim(5, task)
	y.Now = task.Shifts[0].StartsAt
	y.Must(y.Verify(task, a))
	y.Must(y.Verify(task, b))
	y.Must(rules.Burn{Now: y.Now, Account: rulestest.Account(0), Offering: snack, Units: 3, Till: y.Till})
	y.on("2027-01-20 10:00")
	y.sweep()
}

// second opens the other epoch, in which the rates of the first are still those of the parameters.
func (y *year) second() {
	ride := y.Offer(rulestest.Bus, "ride2", 1000, 500, 300, 4)
	ride.Epoch = "e2027-02"
	y.Must(rules.OpenEpoch{Now: y.Now, Epoch: "e2027-02", Book: rulestest.Book, Offerings: []rules.Offering{ride}})
	y.Ride = ride
}

// forget lets one person go, as the ledger does it.
func (y *year) forget(n int) {
	id := rulestest.Account(n)
	y.Must(rules.CloseMonths{Now: y.Now})
	y.gone = &forgotten{account: id, at: y.State.Size(), seqs: map[int64]bool{}}
	for _, e := range y.Entries {
		if e.Sealed != nil && e.Sealed.Account == id {
			y.gone.seqs[e.Seq] = true
		}
	}
	gone, err := rules.Forget(y.State, id, y.Now)
	require.NoError(y.t, err)
	for _, x := range gone {
		y.Must(x)
	}
}

// live is the whole of it.
func live(t testing.TB) *year {
	t.Helper()
	y := newYear(t)
	for n := range 6 {
		y.Earn(n, 1)
	}
	task := y.Accept(y.Task(rulestest.Parks, "more", 4))
	lost, kept := y.Claim(7, task), y.Claim(8, task)
	y.Must(rules.EnterClaims{Now: y.Now, First: task.First, Shift: "a"})
	y.Must(rules.Unclaim{Now: y.Now, Token: lost, Reason: entry.UnclaimWithdrawn})
	again := y.Claim(7, task)
	y.Now = task.Shifts[0].StartsAt
	reject := y.Verify(task, kept)
	reject.Outcome = entry.OutcomeRejected
	y.Must(reject)
	first := y.Verify(task, again)
	y.Must(first)
	y.counters()
	y.rulings(task, first, kept)
	y.on("2027-01-05 09:00")
	y.sweep() // two pauses stand
	y.on("2027-01-08 09:00")
	y.sweep()
	y.party()
	y.on("2027-02-01 08:00")
	y.sweep()
	y.Must(y.Burn(1, 1))
	y.on("2027-03-02 08:00") // the others sleep from here on
	y.Must(y.Burn(1, 1))
	y.sweep()
	y.Must(y.Burn(2, 1)) // one wakes
	y.forget(4)
	y.on("2027-03-29 09:00")
	y.sweep()
	y.second()
	y.Must(y.Burn(2, 1))
	y.on("2027-06-22 09:00")
	y.sweep()
	return y
}

// replaySealed is the replay of a validator. Forgotten: as one who comes after the person was forgotten, otherwise as one who
// was there.
func (y *year) replaySealed(afterwards bool) *audit.Auditor {
	a := audit.New(origin)
	for i, leaf := range y.Leaves {
		seq := int64(i)
		if y.gone != nil && seq == y.gone.at && !afterwards {
			a.Forget(y.gone.account)
		}
		erased := afterwards && y.gone != nil && y.gone.seqs[seq]
		opening := y.Openings[seq]
		if erased {
			opening = nil
		}
		_ = a.AddSealed(seq, leaf, opening, erased) // the findings are kept
	}
	return a
}

func TestAYearInWhichEverythingHappensHasNoFindings(t *testing.T) {
	t.Parallel()
	y := live(t)
	for _, k := range []entry.Kind{
		entry.KindHold, entry.KindCapture, entry.KindVoid, entry.KindReverse, entry.KindDormant, entry.KindExpire, entry.KindEpochClose,
		entry.KindStateDigest, entry.KindPause, entry.KindResume,
	} {
		n := 0
		for _, e := range y.Entries {
			if e.Kind == k {
				n++
			}
		}
		assert.Positive(t, n, "a year without a %s", k)
	}
	require.Empty(t, replay(y.Leaves).Findings())

	there := y.replaySealed(false)
	require.Empty(t, there.Findings())
	opened, erased, ok := there.Sealed()
	assert.True(t, ok)
	assert.EqualValues(t, len(y.Openings), opened)
	assert.Zero(t, erased)
	checked, skipped := there.BalanceRoots()
	assert.Positive(t, checked)
	assert.Zero(t, skipped)

	after := y.replaySealed(true)
	require.Empty(t, after.Findings())
	_, erased, _ = after.Sealed()
	assert.Positive(t, erased)
	checked, skipped = after.BalanceRoots()
	assert.Positive(t, checked, "once what the forgotten had is expired, the roots can be computed again")
	assert.Positive(t, skipped)
}
