package audit_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// forged is a log whose operator wrote what its rules would never make, and sealed it like any other.
type forged struct {
	leaves   [][]byte
	openings map[int64][]byte
}

// forge writes entries anew, each at its place. What is sealed is sealed again, so that an edit of the sealed part holds.
func forge(t *testing.T, entries []entry.Entry) forged {
	t.Helper()
	f := forged{openings: map[int64][]byte{}}
	random := rand.NewChaCha8([32]byte{11})
	for i := range entries {
		entries[i].Seq = int64(i)
		opening, err := entries[i].Seal(random)
		require.NoError(t, err)
		if opening != nil {
			f.openings[int64(i)], err = opening.Encode()
			require.NoError(t, err)
		}
		leaf, err := entries[i].Encode()
		require.NoError(t, err)
		f.leaves = append(f.leaves, leaf)
	}
	return f
}

func (f forged) sealed() *audit.Auditor {
	a := audit.New(origin)
	for i, leaf := range f.leaves {
		_ = a.AddSealed(int64(i), leaf, f.openings[int64(i)], false) // the findings are kept
	}
	return a
}

// copies are the entries of a log, apart from it.
func copies(t *testing.T, w *rulestest.World) []entry.Entry {
	t.Helper()
	var list []entry.Entry
	for i, leaf := range w.Leaves {
		e, err := entry.Decode(leaf)
		require.NoError(t, err)
		if s := w.Entries[i].Sealed; s != nil {
			sealed := *s
			sealed.Seed = slices.Clone(s.Seed)
			e.Sealed = &sealed
		}
		list = append(list, *e)
	}
	return list
}

// at gives the n-th entry that is wanted.
func at(t *testing.T, list []entry.Entry, n int, want func(*entry.Entry) bool) int {
	t.Helper()
	for i := range list {
		if want(&list[i]) {
			if n == 0 {
				return i
			}
			n--
		}
	}
	require.Fail(t, "no such entry")
	return -1
}

func requireFound(t *testing.T, found []audit.Finding, from int, says string) {
	t.Helper()
	i := slices.IndexFunc(found, func(f audit.Finding) bool { return strings.Contains(f.What, says) })
	require.GreaterOrEqual(t, i, 0, "want %q, found %v", says, found)
	assert.GreaterOrEqual(t, found[i].Entry, int64(from), "nothing before the evil is wrong")
}

func expiry(reason string) func(*entry.Entry) bool {
	return func(e *entry.Entry) bool { return e.Kind == entry.KindExpire && e.Expire.Reason == reason }
}

func inBook(k entry.Kind, book string) func(*entry.Entry) bool {
	return func(e *entry.Entry) bool { return e.Kind == k && e.Book == book }
}

func paused(what string) func(*entry.Entry) bool {
	return func(e *entry.Entry) bool { return e.Kind == entry.KindPause && e.Pause.What == what }
}

func byStranger(e *entry.Entry) { e.Causes[0].URI = "at://did:plc:stranger/x/y" }

func correction(e *entry.Entry) bool {
	return e.Kind == entry.KindReverse && e.Reverse.What == entry.KindMint
}

func anew(e *entry.Entry) bool { return e.Kind == entry.KindMint && e.Mint.Resolution != nil }

const (
	edited   = iota
	inserted // a changed copy after the entry
	dropped
)

func twist(t *testing.T, list []entry.Entry, how, i int, edit func(*entry.Entry)) []entry.Entry {
	t.Helper()
	switch how {
	case dropped:
		return slices.Delete(list, i, i+1)
	case inserted:
		leaf, err := list[i].Encode()
		require.NoError(t, err)
		again, err := entry.Decode(leaf)
		require.NoError(t, err)
		if s := list[i].Sealed; s != nil {
			sealed := *s
			again.Sealed = &sealed
		}
		edit(again)
		return slices.Insert(list, i+1, *again)
	}
	edit(&list[i])
	return list
}

// A1: every new kind has an evil log, and anybody can name its entry.
func TestEvilYearsAreNamedByAnyone(t *testing.T) {
	t.Parallel()
	w := live(t)
	is := kind
	for _, c := range []struct {
		name string
		how  int
		want func(*entry.Entry) bool
		nth  int
		edit func(*entry.Entry)
		says string
	}{
		{"hold over the units", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Hold.Units, e.Amount = 300, 1200 }, "units of 200 committed"},
		{"hold at another price", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Hold.Price, e.Amount = 1, 1 }, "hold on other terms than those counted"},
		{"hold of another sum", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Amount++ }, "hold of 5 for 1 units at 4"},
		{"hold for weeks", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Hold.Until = "2027-01-30" }, "a hold on 2027-01-04 until 2027-01-30"},
		{"hold into the past", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Hold.Until = "2027-01-01" }, "a hold on 2027-01-04 until 2027-01-01"},
		{"hold in no month", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Hold.Month = 2 }, "is not in month 2"},
		{"hold whose units are forgotten", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Hold.UnitsBefore = 0 }, "units burned before are 0"},
		{"hold at a stranger's till", edited, is(entry.KindHold), 0, func(e *entry.Entry) { e.Hold.Till = "nosuch" }, "till nosuch is not bound"},
		{"captured twice", inserted, is(entry.KindCapture), 0, func(*entry.Entry) {}, "a second end of hold"},
		{"captured at another till", edited, is(entry.KindCapture), 0, func(e *entry.Entry) { e.Capture.Till = "other" }, "captured at till other"},
		{"captured for another offering", edited, is(entry.KindCapture), 0, func(e *entry.Entry) { e.Causes[0].URI = "at://x" }, "captured for at://x"},
		{"captured for more", edited, is(entry.KindCapture), 0, func(e *entry.Entry) { e.Amount++ }, "capture of 5, the hold is of 4"},
		{"captured too late", edited, is(entry.KindCapture), 0, func(e *entry.Entry) { e.Day = "2027-01-09" }, "the hold was good until 2027-01-04"},
		{"capture of a burn", edited, is(entry.KindCapture), 0, func(e *entry.Entry) { e.Capture.Hold-- }, "which is no hold"},
		{"voided twice", inserted, is(entry.KindVoid), 0, func(*entry.Entry) {}, "a second end of hold"},
		{"void of what was captured", edited, is(entry.KindVoid), 0, func(e *entry.Entry) { e.Void.Hold = 0 }, "which is no hold"},
		{"a hold that expires in time", edited, is(entry.KindVoid), 0, func(e *entry.Entry) { e.Void.Reason = entry.VoidExpired }, "it is good until"},
		{"void for no reason", edited, is(entry.KindVoid), 0, func(e *entry.Entry) { e.Void.Reason = "gift" }, `void for "gift"`},
		{"reversed twice", inserted, is(entry.KindReverse), 0, func(*entry.Entry) {}, "a second reversal of entry"},
		{"reversed for more", edited, is(entry.KindReverse), 0, func(e *entry.Entry) { e.Amount = 40 }, "reversal of 40, 4 were burned"},
		{"reversal of another kind", edited, is(entry.KindReverse), 0, func(e *entry.Entry) { e.Reverse.What = entry.KindCapture }, "reversal of a capture, which entry"},
		{"reversal of an activation", edited, is(entry.KindReverse), 0, func(e *entry.Entry) { e.Reverse.What = entry.KindActivate }, "a activate cannot be reversed"},
		{"reversed days later", edited, is(entry.KindReverse), 0, func(e *entry.Entry) { e.Day = "2027-01-06" }, "burned on 2027-01-04, undone on 2027-01-06"},
		{"reversed at a stranger's till", edited, is(entry.KindReverse), 0, func(e *entry.Entry) { e.Reverse.Till = "nosuch" }, "till nosuch is not bound"},
		{"reversed by a ruling", edited, is(entry.KindReverse), 0, func(e *entry.Entry) { e.Reverse.Reason = entry.ReverseCorrected }, `a burn is reversed for "corrected"`},
		{"reversed with a short part", edited, is(entry.KindReverse), 0, func(e *entry.Entry) { e.Reverse.Short = 2 }, "reversal of 4, 4 were burned"},
		{"more dormant than the flows", edited, inBook(entry.KindDormant, rulestest.Book), 0, func(e *entry.Entry) { e.Amount++ }, "the flows give"},
		{"issued out of nothing", edited, inBook(entry.KindDormant, rulestest.Book), 0, func(e *entry.Entry) { e.Dormant.Issued++ }, "the entries give"},
		{"burned out of nothing", edited, inBook(entry.KindDormant, rulestest.Book), 0, func(e *entry.Entry) { e.Dormant.Burned++ }, "the entries give"},
		{"expired out of nothing", edited, inBook(entry.KindDormant, rulestest.Book), 1, func(e *entry.Entry) { e.Dormant.Expired++ }, "the entries give"},
		{"a month skipped", dropped, inBook(entry.KindDormant, rulestest.Book), 1, nil, "was closed"},
		{"a month closed twice", inserted, inBook(entry.KindDormant, rulestest.Book), 0, func(*entry.Entry) {}, "is due"},
		{"a month of other bounds", edited, inBook(entry.KindDormant, rulestest.Book), 0, func(e *entry.Entry) {
			e.Dormant.EndsAt = "2027-02-02T08:00:00Z"
		}, "is not as its epoch has it"},
		{"a month closed early", edited, inBook(entry.KindDormant, rulestest.Book), 0, func(e *entry.Entry) { e.Day = "2027-01-20" }, "before it ended"},
		{"a burn in the month after", dropped, inBook(entry.KindDormant, rulestest.Book), 0, nil, "before month 0 of e2027-01 was closed"},
		{"more woken than slept", edited, inBook(entry.KindDormant, rulestest.Book), 1, func(e *entry.Entry) {
			e.Dormant.Reactivated, e.Dormant.Active, e.Dormant.Dormant = 4, e.Dormant.Active+4, e.Dormant.Dormant-4
		}, "more went dormant or woke than there was"},
		{"expired too early", edited, expiry(entry.ExpireDormancy), 0, func(e *entry.Entry) { e.Amount *= 3 }, "that did not sleep for 1 months"},
		{"expired out of turn", edited, expiry(entry.ExpireDormancy), 0, func(e *entry.Entry) { e.Expire.Month++ }, "was not closed just before"},
		{"expired while awake", edited, expiry(entry.ExpireDormancy), 0, func(e *entry.Entry) { e.Expire.Active = 1 }, "expire of dormancy"},
		{"expired for no reason", edited, expiry(entry.ExpireDormancy), 0, func(e *entry.Entry) { e.Expire.Reason = "gift" }, `credits expire for "gift"`},
		{"a standard book ends", edited, expiry(entry.ExpireDormancy), 0, func(e *entry.Entry) { e.Expire.Reason = entry.ExpireBookClosed }, "which is no event's"},
		{"an event leaves credits", edited, expiry(entry.ExpireBookClosed), 0, func(e *entry.Entry) { e.Amount-- }, "of festival expire"},
		{"erased more than is held", edited, expiry(entry.ExpireErased), 0, func(e *entry.Entry) { e.Amount, e.Expire.Active = 5000, 0 }, "5000 are erased"},
		{"erased and more active", edited, expiry(entry.ExpireErased), 0, func(e *entry.Entry) { e.Expire.Active = e.Amount + 1 }, "expire while active"},
		{"another burn rate", edited, inBook(entry.KindEpochClose, rulestest.Book), 1, func(e *entry.Entry) { e.EpochClose.R.Num++ }, "rates are r"},
		{"another churn rate", edited, inBook(entry.KindEpochClose, rulestest.Book), 1, func(e *entry.Entry) { e.EpochClose.Delta.Num++ }, "rates are r"},
		{"rates said to be measured", edited, inBook(entry.KindEpochClose, rulestest.Book), 0, func(e *entry.Entry) { e.EpochClose.Measured = true }, "rates are r"},
		{"another next cap", edited, inBook(entry.KindEpochClose, rulestest.Book), 0, func(e *entry.Entry) { e.EpochClose.Next.Cap++ }, "recomputed e2027-02 with"},
		{"no next cap", edited, inBook(entry.KindEpochClose, rulestest.Book), 0, func(e *entry.Entry) { e.EpochClose.Next = nil }, "the next cap is there false"},
		{"months of another epoch", edited, inBook(entry.KindEpochClose, rulestest.Book), 0, func(e *entry.Entry) { e.EpochClose.Months[1].Burned++ }, "months are not those that were closed"},
		{"an epoch's mints", edited, inBook(entry.KindEpochClose, rulestest.Book), 0, func(e *entry.Entry) { e.EpochClose.Minted++ }, "reserved, outstanding, minted and votes"},
		{"an epoch closed early", edited, inBook(entry.KindEpochClose, rulestest.Book), 0, func(e *entry.Entry) {
			e.At, e.Day = "2027-03-20T08:00:00Z", "2027-03-20"
		}, "is closed before it ended"},
		{"an epoch closed twice", inserted, inBook(entry.KindEpochClose, rulestest.Book), 0, func(*entry.Entry) {}, "is closed twice"},
		{"another digest", edited, is(entry.KindStateDigest), 1, func(e *entry.Entry) { e.StateDigest.Digest[0] ^= 1 }, "digest is"},
		{"another sum of balances", edited, is(entry.KindStateDigest), 2, func(e *entry.Entry) { e.StateDigest.Balances[1].Sum++ }, "sum up to"},
		{"no balances", edited, is(entry.KindStateDigest), 0, func(e *entry.Entry) { e.StateDigest.Balances = nil }, "balances of standard are missing"},
		{"balances twice", edited, is(entry.KindStateDigest), 0, func(e *entry.Entry) {
			e.StateDigest.Balances = append(e.StateDigest.Balances, e.StateDigest.Balances[0])
		}, "are there twice"},
		{"an event's cap", edited, inBook(entry.KindEpochOpen, festival), 0, func(e *entry.Entry) { e.EpochOpen.Cap++ }, "cap is"},
		{"an event in another book", edited, inBook(entry.KindEpochOpen, festival), 0, func(e *entry.Entry) { e.Book = "other" }, "is not planned for other"},
		{"a standard epoch in an event's book", edited, inBook(entry.KindEpochOpen, rulestest.Book), 0, func(e *entry.Entry) { e.Book = festival }, "is not planned for festival"},
		{"a mint after the event", edited, inBook(entry.KindMint, festival), 0, func(e *entry.Entry) { e.Day = "2027-01-21" }, "a mint after the event"},
		{"held by a stranger", edited, paused(entry.PauseTask), 0, byStranger, "did:plc:stranger may not rule on a task"},
		{"held without an objection's end", edited, paused(entry.PauseTask), 0, func(e *entry.Entry) { e.Pause.Until = "2027-01-06T00:00:00Z" }, "until its ruling"},
		{"a pause of no task", edited, paused(entry.PauseTask), 0, func(e *entry.Entry) { e.Pause.Subject = "at://did:plc:parks/x/y" }, "did not publish"},
		{"a mint while it is held", dropped, is(entry.KindResume), 0, nil, "a mint while an objection holds its task"},
		{"resumed by a stranger", edited, is(entry.KindResume), 0, byStranger, "did:plc:stranger may not rule on a task"},
		{"resumed twice", inserted, is(entry.KindResume), 0, func(*entry.Entry) {}, "nothing is resumed"},
		{"an offering stopped by another", edited, paused(entry.PauseOffering), 0, byStranger, "by did:plc:stranger"},
		{"an offering stopped past its epoch", edited, paused(entry.PauseOffering), 0, func(e *entry.Entry) { e.Pause.Until = "2027-05-01T00:00:00Z" }, "past the epoch that counts it"},
		{"a pause without a decision of the city", edited, paused(entry.PauseMints), 0, byStranger, "did:plc:stranger may not stop mints"},
		{"a pause for months", edited, paused(entry.PauseMints), 0, func(e *entry.Entry) { e.Pause.Until = "2027-03-01T00:00:00Z" }, "a pause of mints from"},
		{"a pause without an end", edited, paused(entry.PauseMints), 0, func(e *entry.Entry) { e.Pause.Until = "" }, "a pause of mints from"},
		{"stopped twice by one decision", inserted, paused(entry.PauseMints), 0, func(*entry.Entry) {}, "a second pause of mints by"},
		{"a pause cut short", inserted, paused(entry.PauseMints), 0, func(e *entry.Entry) {
			e.Causes[0].URI += "2"
			e.Pause.Until = "2027-01-05T00:00:00Z"
		}, "cuts another one short"},
		{"a mint while mints are stopped", edited, paused(entry.PauseMints), 0, func(e *entry.Entry) {
			e.Org, e.Pause.Until = "", "2027-01-20T00:00:00Z"
		}, "a mint while mints are paused"},
		{"a burn while redemptions are stopped", edited, paused(entry.PauseMints), 0, func(e *entry.Entry) {
			e.Org, e.Pause.What, e.Pause.Until = "", entry.PauseRedemptions, "2027-01-20T00:00:00Z"
		}, "a burn while redemptions are paused"},
		{"a task while tasks are stopped", edited, paused(entry.PauseMints), 0, func(e *entry.Entry) {
			e.Org, e.Pause.What, e.Pause.Until = rulestest.Library, entry.PauseTasks, "2027-01-20T00:00:00Z"
		}, "a task is accepted while tasks are paused"},
		{"a pause of the weather", edited, paused(entry.PauseMints), 0, func(e *entry.Entry) { e.Pause.What = "weather" }, `a pause of "weather"`},
		{"a mint taken back twice", inserted, correction, 0, func(*entry.Entry) {}, "a second reversal of entry"},
		{"a mint taken back for more", edited, correction, 0, func(e *entry.Entry) { e.Amount, e.Votes = 32, 32 }, "reversal of 32, 16 were minted"},
		{"a mint taken back by one alone", edited, correction, 0, func(e *entry.Entry) { e.Causes = e.Causes[:1] }, "a mint is reversed by 1 records"},
		{"a mint taken back by a stranger", edited, correction, 0, byStranger, "did:plc:stranger may not verify"},
		{"a mint taken back without the city", edited, correction, 0, func(e *entry.Entry) { e.Causes[1].URI = "at://did:plc:bus/x/y" }, "did:plc:bus may not order a correction"},
		{"another's mint taken back", edited, correction, 0, func(e *entry.Entry) { e.Nullifier[0] ^= 1 }, "under the nullifier of another claim"},
		{"votes left after a correction", edited, correction, 0, func(e *entry.Entry) { e.Votes = 1 }, "1 votes for 8 credits"},
		{"paid anew without the city", edited, anew, 0, func(e *entry.Entry) {
			e.Mint.Resolution.URI = "at://did:plc:bus/x/y"
			e.Causes[1].URI = "at://did:plc:bus/x/y"
		}, "did:plc:bus may not rule on a mint"},
		{"paid anew without a ruling", edited, anew, 0, func(e *entry.Entry) { e.Mint.Resolution, e.Causes = nil, e.Causes[:1] }, "did:plc:auditor may not verify for did:plc:parks"},
		{"paid anew what was not rejected", edited, is(entry.KindMint), 0, func(e *entry.Entry) {
			r := entry.Cause{URI: "at://did:plc:city/org.city-sync.gov.resolution/x", CID: "bafyr"}
			e.Mint.Resolution = new(r.Ref())
			e.Causes = append(e.Causes, r)
		}, "a ruling pays a claim that was not rejected"},
		{"later kinds under the first rules", edited, is(entry.KindRulesVersion), 0, func(e *entry.Entry) { e.RulesVersion.Version = 1 }, "under rules version 1, which has none"},
		{"rules set back", inserted, is(entry.KindRulesVersion), 0, func(e *entry.Entry) { e.RulesVersion.Version = 1 }, "rules version 1 after version 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			list := copies(t, w.World)
			i := at(t, list, c.nth, c.want)
			requireFound(t, replay(forge(t, twist(t, list, c.how, i, c.edit)).leaves).Findings(), i, c.says)
		})
	}
}

// What only a validator can see: every leaf for itself is right, and it is somebody else's or said of the wrong person.
func TestEvilYearsAreNamedByAValidator(t *testing.T) {
	t.Parallel()
	y := newYear(t)
	for n := range 4 {
		y.Earn(n, 1)
	}
	y.counters()
	y.on("2027-01-05 09:00")
	y.sweep()
	y.on("2027-02-01 08:00")
	y.sweep()
	y.on("2027-03-02 08:00")
	y.Must(y.Burn(1, 1))
	y.sweep()
	y.on("2027-03-29 09:00")
	y.sweep()
	w := y.World
	require.Empty(t, forge(t, copies(t, w)).sealed().Findings())
	is := kind
	of := func(n int) func(*entry.Entry) {
		return func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(n) }
	}
	for _, c := range []struct {
		name string
		how  int
		want func(*entry.Entry) bool
		nth  int
		edit func(*entry.Entry)
		says string
	}{
		{"an account twice", inserted, is(entry.KindActivate), 0, func(e *entry.Entry) { e.Sealed.Resident = "did:plc:other" }, "an account is activated twice"},
		{"a person's second account", edited, is(entry.KindActivate), 9, func(e *entry.Entry) { e.Sealed.Resident = rulestest.Resident(0) }, "a second account"},
		{"an act of nobody", edited, is(entry.KindBurn), 0, of(77), "its account was not activated"},
		{"burned by one who has nothing", edited, is(entry.KindBurn), 0, of(8), "a burn of 4 from a balance of 0"},
		{"held by one who has nothing", edited, is(entry.KindHold), 0, of(8), "a hold of 4 from a balance of 0"},
		{"minted to another", edited, is(entry.KindMint), 0, of(8), "a mint for another person than the claim's"},
		{"captured by another", edited, is(entry.KindCapture), 0, of(8), "a capture of another person's hold"},
		{"burned at another time", edited, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Sealed.At = "2027-01-20T20:00:00Z" }, "its sealed time"},
		{"minted before the shift", edited, is(entry.KindMint), 0, func(e *entry.Entry) { e.Sealed.At = "2027-01-04T17:00:00Z" }, "a mint before its shift begins"},
		{"a verifier's own claim", edited, is(entry.KindActivate), 0, func(e *entry.Entry) { e.Sealed.Resident = rulestest.Library }, "a person verifies what they claimed"},
		{"one person on one shift twice", edited, is(entry.KindClaim), 1, func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(0) }, "for another person than the claim's"},
		{"quiet credits kept awake", edited, is(entry.KindDormant), 1, func(e *entry.Entry) {
			e.Dormant.Active, e.Dormant.Dormant, e.Amount = e.Dormant.Active+e.Amount, e.Dormant.Dormant-e.Amount, 0
		}, "went dormant, the openings give"},
		{"awake credits put to sleep", edited, is(entry.KindDormant), 0, func(e *entry.Entry) {
			e.Dormant.Active, e.Dormant.Dormant, e.Amount = e.Dormant.Active-4, e.Dormant.Dormant+4, e.Amount+4
		}, "went dormant, the openings give"},
		{"dead credits kept", dropped, expiry(entry.ExpireDormancy), 0, nil, "slept for too long and do not expire"},
		{"less expires than slept", edited, expiry(entry.ExpireDormancy), 0, func(e *entry.Entry) { e.Amount-- }, "expire, the openings give"},
		{"a root over other balances", edited, is(entry.KindStateDigest), 0, func(e *entry.Entry) { e.StateDigest.Balances[0].Root[0] ^= 1 }, "the root over the balances of standard is"},
		{"a tree of another height", edited, is(entry.KindStateDigest), 0, func(e *entry.Entry) { e.StateDigest.Balances[0].Height++ }, "the root over the balances of standard is"},
		{"another seed", edited, is(entry.KindStateDigest), 0, func(e *entry.Entry) { e.Sealed.Seed[0] ^= 1 }, "the root over the balances of standard is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			list := copies(t, w)
			i := at(t, list, c.nth, c.want)
			requireFound(t, forge(t, twist(t, list, c.how, i, c.edit)).sealed().Findings(), i, c.says)
		})
	}
}

func TestAnOpeningThatIsNotTheLeafsIsNamed(t *testing.T) {
	t.Parallel()
	w := newYear(t).World
	first := at(t, w.Entries, 0, kind(entry.KindActivate))
	for name, c := range map[string]struct {
		opening []byte
		erased  bool
		says    string
	}{
		"none":            {nil, false, "its opening is missing"},
		"of another leaf": {w.Openings[int64(first+1)], false, "its opening: "},
		"no opening":      {[]byte("x"), false, "its opening: "},
	} {
		a := audit.New(origin)
		for i, leaf := range w.Leaves[:first] {
			require.NoError(t, a.AddSealed(int64(i), leaf, nil, false))
		}
		require.ErrorContains(t, a.AddSealed(int64(first), w.Leaves[first], c.opening, c.erased), c.says, name)
	}
	a := audit.New(origin)
	require.ErrorContains(t, a.AddSealed(0, w.Leaves[0], []byte("x"), false), "an opening of what is not sealed")
}

func TestMoreThanOnePersonMayHaveIsNamed(t *testing.T) {
	t.Parallel()
	y := live(t)
	limit := int64(9)
	fetch := func(entry.Cause) (audit.Record, error) { return audit.Record{"perPersonLimit": limit}, nil }
	a := y.replaySealed(false)
	require.Empty(t, a.CheckPersons(fetch))
	limit = 1
	found := a.CheckPersons(fetch)
	require.NotEmpty(t, found)
	assert.Contains(t, found[0].What, "one person had 2 units of it, the limit is 1")
	assert.Equal(t, entry.KindHold, y.Entries[found[0].Entry].Kind)
	require.Nil(t, replay(y.Leaves).CheckPersons(fetch), "leaves do not show whose it was")
}
