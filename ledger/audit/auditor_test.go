package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
	"city-sync.org/citysync/ledger/tlog"
)

const origin = "did:plc:ledger"

// history is a log in which everything happens once: three tasks, an edit, claims, a withdrawal, mints, a rejection, a burn.
func history(t *testing.T) *rulestest.Town {
	t.Helper()
	w := rulestest.NewTown(t)
	first := w.Accept(w.Task(rulestest.Library, "first", 4))
	second := w.Task(rulestest.Parks, "second", 3)
	second.Entry.Level = 4
	w.Must(second)
	full := w.Accept(w.Task(rulestest.Library, "full", 20))
	a, b := w.Claim(0, first), w.Claim(1, first)
	c := w.Claim(2, second)
	gone := w.Claim(3, full)
	w.Must(rules.EnterClaims{Now: w.Now, First: full.First, Shift: "a"})
	w.Must(rules.Unclaim{Now: w.Now, Token: gone, Reason: entry.UnclaimWithdrawn})
	fewer := w.Version(full)
	fewer.Shifts = slices.Clone(full.Shifts)
	fewer.Shifts[0].Slots = 10
	w.Must(fewer)
	w.Now = first.Shifts[0].StartsAt
	w.Must(w.Verify(first, a))
	reject := w.Verify(first, b)
	reject.Outcome = entry.OutcomeRejected
	w.Must(reject)
	m := w.Verify(second, c)
	m.CoSigners = []rules.CoSigner{{
		Org: rulestest.Library, Record: w.Ref(rulestest.Library, "work.verification", "co"), Signed: true, Supported: true,
		Task: second.Task.Ref(), Shift: "a", Token: c, Outcome: entry.OutcomeApproved,
	}}
	w.Must(m)
	w.Must(w.Burn(0, 2))
	w.Must(w.Burn(2, 1))
	w.Now = first.Shifts[0].EndsAt
	for _, r := range w.State.ExpiredSlots(w.Now) {
		w.Must(r)
	}
	return w
}

func replay(leaves [][]byte) *audit.Auditor {
	a := audit.New(origin)
	for seq, leaf := range leaves {
		_ = a.Add(int64(seq), leaf) // the findings are kept
	}
	return a
}

func TestGoodLogHasNoFindings(t *testing.T) {
	t.Parallel()
	w := history(t)
	a := replay(w.Leaves)
	require.Empty(t, a.Findings())
	totals := a.Totals()
	require.Len(t, totals, 1)
	assert.EqualValues(t, 32, totals[0].Minted)
	assert.EqualValues(t, 32, totals[0].Votes)
	assert.EqualValues(t, 12, totals[0].Burned)
	assert.EqualValues(t, 20, totals[0].Supply())
	assert.EqualValues(t, 20, a.Supply(rulestest.Book))
	assert.EqualValues(t, 2, a.Count(entry.KindMint))
	assert.EqualValues(t, 3, totals[0].Claims)

	root, err := a.Tree().Root(a.Size())
	require.NoError(t, err)
	known, err := a.CheckCheckpoint(tlog.Checkpoint{Origin: origin, Size: a.Size(), Root: root})
	require.NoError(t, err)
	assert.True(t, known)
	known, err = a.CheckCheckpoint(tlog.Checkpoint{Origin: origin, Size: a.Size() + 1})
	require.NoError(t, err)
	assert.False(t, known)
	root[0]++
	_, err = a.CheckCheckpoint(tlog.Checkpoint{Origin: origin, Size: a.Size(), Root: root})
	require.ErrorContains(t, err, fmt.Sprintf("checkpoint %d", a.Size()))
}

// find gives the index of the n-th entry that the test wants.
func find(t *testing.T, w *rulestest.Town, n int, want func(*entry.Entry) bool) int {
	t.Helper()
	for i := range w.Entries {
		if want(&w.Entries[i]) {
			if n == 0 {
				return i
			}
			n--
		}
	}
	require.Fail(t, "no such entry")
	return -1
}

func kind(k entry.Kind) func(*entry.Entry) bool {
	return func(e *entry.Entry) bool { return e.Kind == k }
}

func role(org syntax.DID) func(*entry.Entry) bool {
	return func(e *entry.Entry) bool {
		return e.Kind == entry.KindBind && e.Org == org && e.Bind.What == entry.BindRole
	}
}

// Every evil log is the good one with one entry changed, dropped or put in; the finding names the entry and the fault.
func TestEvilLogsAreNamed(t *testing.T) {
	t.Parallel()
	const (
		change = iota
		insert // a changed copy after the entry
		drop
		suspend // the organization that edit sets, just before the entry
	)
	is := kind
	till := func(e *entry.Entry) bool { return e.Kind == entry.KindBind && e.Bind.What == entry.BindTill }
	org := func(did syntax.DID) func(*entry.Entry) { return func(e *entry.Entry) { e.Org = did } }
	for _, c := range []struct {
		name string
		how  int
		at   func(*entry.Entry) bool
		nth  int
		edit func(*entry.Entry)
		says string
	}{
		{"capacity invented", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) { e.EpochOpen.Capacity++ }, "capacity is 801"},
		{"offering inflated", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) { e.EpochOpen.Offerings[0].Units = 999 }, "capacity is 800"},
		{"cap raised", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) { e.EpochOpen.Cap++ }, "cap is 1201"},
		{"allocation moved", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) {
			e.EpochOpen.Allocations[0].Amount += 5
			e.EpochOpen.Allocations[1].Amount -= 5
		}, "allocations are not those recomputed"},
		{"allocation for a stranger", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) {
			e.EpochOpen.Allocations[0].DID = "did:plc:stranger"
		}, "allocations are not those recomputed"},
		{"rates invented", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) { e.EpochOpen.R.Num = 1 }, "rates r"},
		{"months moved", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) {
			e.EpochOpen.Months[0].EndsAt = "2027-02-02T08:00:00Z"
		}, "not as the parameters plan"},
		{"offering of no redeemer", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) {
			e.EpochOpen.Offerings[0].DID = rulestest.Library
		}, "is no redeemer"},
		{"reservation over the allocation", change, is(entry.KindReserve), 2, func(e *entry.Entry) {
			e.Reserve.Shifts[0].Slots, e.Amount = 38, 608
		}, "allocation exceeded: 672 > 600"},
		{"reservation smaller than its slots", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Amount -= 16 }, "reserves 48"},
		{"pay outside the band", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Reserve.Credits, e.Amount = 20, 80 }, "outside the band"},
		{"rate invented", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Reserve.TierRate = 9 }, "tier 1 has another rate"},
		{"task of another", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Org = rulestest.Parks }, "is not of did:plc:parks"},
		{"task of a redeemer", drop, role(rulestest.Parks), 0, nil, "did:plc:parks is not accredited as issuer"},
		{"cap state of a reservation", change, is(entry.KindReserve), 1, func(e *entry.Entry) { e.Cap.Before++ }, "cap state is"},
		{"more released than reserved", change, is(entry.KindRelease), 0, func(e *entry.Entry) { e.Amount += 2000 }, "the task's reservation is -"},
		{"rejection releases more", change, is(entry.KindRelease), 1, func(e *entry.Entry) { e.Amount++ }, "rejection releases 17"},
		{"rejection by a stranger", change, is(entry.KindRelease), 1, func(e *entry.Entry) {
			e.Causes[0].URI = "at://did:plc:stranger/org.city-sync.work.verification/v"
		}, "rejection by one who may not verify"},
		{"claim without a task", drop, is(entry.KindReserve), 0, nil, "which was not accepted"},
		{"one nullifier twice", insert, is(entry.KindClaim), 0, func(*entry.Entry) {}, "a second claim with one nullifier"},
		{"more claims than slots", change, is(entry.KindReserve), 0, func(e *entry.Entry) {
			e.Reserve.Shifts[0].Slots, e.Amount = 1, 16
		}, "2 claims on 1 slots"},
		{"unclaim of nothing", change, is(entry.KindUnclaim), 0, func(e *entry.Entry) { e.Nullifier = make([]byte, 32) }, "unclaim without a claim"},
		{"lapse before its time", change, is(entry.KindUnclaim), 0, func(e *entry.Entry) {
			e.Unclaim.Reason = entry.UnclaimLapsed
		}, "lapses before its time"},
		{"mint without claim", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Nullifier = make([]byte, 32) }, "mint without a claim"},
		{"mint after a dropped claim", drop, is(entry.KindClaim), 1, nil, "without a claim that stands"},
		{"double mint", insert, is(entry.KindMint), 0, func(e *entry.Entry) { e.Cap.Before = 16 }, "a second mint of one claim"},
		{"mint of more than the terms", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Amount, e.Votes = 17, 17 }, "mint of 17, its terms give 16"},
		{"mint of less", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Amount, e.Votes = 8, 8 }, "mint of 8, its terms give 16"},
		{"partial of too much", change, is(entry.KindMint), 0, func(e *entry.Entry) {
			e.Mint.Outcome, e.Mint.Minutes = entry.OutcomePartial, 59
		}, "mint of 16, its terms give 7"},
		{"mint for a rejection", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Mint.Outcome = entry.OutcomeRejected }, "mint for outcome"},
		{"votes invented", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Votes = 99 }, "99 votes for 16 credits"},
		{"cap state of a mint", change, is(entry.KindMint), 1, func(e *entry.Entry) { e.Cap.Before = 0 }, "cap state is 0 of 1200, recomputed 16"},
		{"other terms", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Mint.Task.CID = "bafyother" }, "other terms than its claim"},
		{"verification by a stranger", change, is(entry.KindMint), 0, func(e *entry.Entry) {
			e.Causes[0].URI = "at://did:plc:stranger/org.city-sync.work.verification/v"
			e.Mint.Verifier = "did:plc:stranger"
		}, "may not verify for did:plc:library"},
		{"another's verification", change, is(entry.KindMint), 0, func(e *entry.Entry) {
			e.Causes[0].URI = "at://did:plc:parks/org.city-sync.work.verification/v"
		}, "is not of did:plc:library"},
		{"mint before the shift's day", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Day = "2027-01-03" }, "the shift begins on 2027-01-04"},
		{"co-signer missing", change, is(entry.KindMint), 1, func(e *entry.Entry) {
			e.Mint.CoSigners, e.Causes = nil, e.Causes[:1]
		}, "level 4 by 1 methods and 0 co-signers"},
		{"co-signer without a verification", change, is(entry.KindMint), 1, func(e *entry.Entry) {
			e.Causes[1].URI = e.Causes[0].URI
		}, "has no verification of its own"},
		{"lower level", change, is(entry.KindMint), 1, func(e *entry.Entry) { e.Mint.Level = 1 }, "the task asks for level 4"},
		{"till not bound", change, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Burn.Till = "nosuch" }, "till nosuch is not bound"},
		{"burn at another price", change, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Burn.Price, e.Amount = 1, 2 }, "other terms than those counted"},
		{"burn of another sum", change, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Amount++ }, "burn of 9 for 2 units at 4"},
		{"units forgotten", change, is(entry.KindBurn), 1, func(e *entry.Entry) { e.Burn.UnitsBefore = 0 }, "units burned before are 0, recomputed 2"},
		{"more burned than minted", change, is(entry.KindBurn), 1, func(e *entry.Entry) { e.Burn.Units, e.Amount = 20, 80 }, "more burned than minted"},
		{"burn in another month", change, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Burn.Month = 2 }, "is not in month 2"},
		{"other parameters", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Params.URI = "at://x/y/z" }, "parameter set"},
		{"no rules", drop, is(entry.KindRulesVersion), 0, nil, "not with the version of its rules"},
		{"activation at no issuer's desk", change, is(entry.KindActivate), 0, func(e *entry.Entry) { e.Org = rulestest.Bus }, "may not activate"},
		{"time and day apart", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Day = "2027-01-05" }, "its day is 2027-01-05"},
		{"mint of another issuer", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Org = rulestest.Parks }, "mint of another issuer"},
		{"co-signer twice", change, is(entry.KindMint), 1, func(e *entry.Entry) {
			e.Mint.CoSigners = append(e.Mint.CoSigners, e.Mint.CoSigners[0])
			e.Causes = append(e.Causes, e.Causes[1])
		}, "signs twice"},
		{"a cause too many", change, is(entry.KindMint), 0, func(e *entry.Entry) { e.Causes = append(e.Causes, e.Causes[0]) }, "2 causes for 0 co-signers"},
		{"verifier named, not accredited", change, is(entry.KindMint), 0, func(e *entry.Entry) {
			e.Mint.Verifier, e.Causes[0].URI = "did:plc:named", "at://did:plc:named/org.city-sync.work.verification/v"
		}, "did:plc:named was not accredited on 2027-01-04"},
		{"suspended issuer mints", suspend, is(entry.KindMint), 0, org(rulestest.Library), "did:plc:library is suspended or revoked"},
		{"suspended co-signer", suspend, is(entry.KindMint), 1, org(rulestest.Library), "co-signer did:plc:library is not accredited"},
		{"suspended redeemer burns", suspend, is(entry.KindBurn), 0, org(rulestest.Bus), "did:plc:bus is not accredited as redeemer"},
		{"issuer outside its term", change, role(rulestest.Library), 0, func(e *entry.Entry) {
			e.Bind.ValidUntil = "2027-01-04T08:00:00Z"
		}, "did:plc:library was not accredited on 2027-01-04"},
		{"task outside its issuer's term", change, role(rulestest.Library), 0, func(e *entry.Entry) {
			e.Bind.ValidUntil = "2027-01-04T08:00:00Z"
		}, "is not accredited on the day of shift"},
		{"offering of another", change, is(entry.KindBurn), 0, func(e *entry.Entry) {
			e.Burn.Offering.URI = "at://did:plc:museum/org.city-sync.offer.offering/x"
		}, "is not of did:plc:bus"},
		{"another offering as cause", change, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Causes[0].CID = "bafyother" }, "another record than its offering"},
		{"burn in no month", change, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Burn.Month = 9 }, "month 9 of 3"},
		{"more units than committed", change, is(entry.KindBurn), 0, func(e *entry.Entry) { e.Burn.UnitsMonth = 1 }, "2 units of 1 committed"},
		{"epoch not open", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Epoch = "e2027-02" }, "epoch e2027-02 of standard is not open"},
		{"another task as cause", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Causes[0].CID = "bafyother" }, "another record than its task"},
		{"reservation after the epoch", change, is(entry.KindReserve), 0, func(e *entry.Entry) {
			e.At, e.Day = "2027-03-29T07:00:00Z", "2027-03-29"
		}, "epoch e2027-01 is over"},
		{"version twice", insert, is(entry.KindReserve), 0, func(*entry.Entry) {}, "is accepted twice"},
		{"first version missing", change, is(entry.KindReserve), 0, func(e *entry.Entry) {
			e.Reserve.First = "at://did:plc:library/org.city-sync.work.task/none"
		}, "none is not known"},
		{"version of another's task", change, is(entry.KindReserve), 3, func(e *entry.Entry) {
			e.Reserve.First = "at://did:plc:parks/org.city-sync.work.task/second"
		}, "changes its issuer or epoch"},
		{"version that reserves too much", change, is(entry.KindReserve), 3, func(e *entry.Entry) { e.Amount = 200 }, "reserves 200, its slots are 160"},
		{"shift twice", change, is(entry.KindReserve), 0, func(e *entry.Entry) {
			e.Reserve.Shifts = append(e.Reserve.Shifts, e.Reserve.Shifts[0])
		}, "is there twice"},
		{"shift outside the epoch", change, is(entry.KindReserve), 0, func(e *entry.Entry) {
			e.Reserve.Shifts[0].StartsAt, e.Reserve.Shifts[0].EndsAt = "2027-04-01T17:00:00Z", "2027-04-01T19:00:00Z"
		}, "begins outside the epoch"},
		{"no such level", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Reserve.Level = 9 }, "there is no level 9"},
		{"no such sensitivity", change, is(entry.KindReserve), 0, func(e *entry.Entry) { e.Reserve.Sensitivity = "secret" }, `sensitivity "secret"`},
		{"release of an unknown shift", change, is(entry.KindRelease), 0, func(e *entry.Entry) { e.Release.Shifts = []string{"zz"} }, `shift "zz" is unknown`},
		{"release with a nullifier", change, is(entry.KindRelease), 0, func(e *entry.Entry) { e.Nullifier = make([]byte, 32) }, "with a nullifier"},
		{"release by another", change, is(entry.KindRelease), 0, func(e *entry.Entry) {
			e.Causes = []entry.Cause{{URI: "at://did:plc:parks/org.city-sync.work.taskStatus/x", CID: "bafyx"}}
		}, "which is not of did:plc:library"},
		{"release for no reason", change, is(entry.KindRelease), 0, func(e *entry.Entry) { e.Release.Reason = "gift" }, `release for "gift"`},
		{"claim on an unknown shift", change, is(entry.KindClaim), 0, func(e *entry.Entry) { e.Claim.Shift = "zz" }, `shift "zz" is unknown`},
		{"unclaim releases more", change, is(entry.KindUnclaim), 0, func(e *entry.Entry) { e.Amount = 99 }, "unclaim releases 99, reserved are 16"},
		{"unclaim for no reason", change, is(entry.KindUnclaim), 0, func(e *entry.Entry) { e.Unclaim.Reason = "gift" }, `unclaim for "gift"`},
		{"another parameter set as cause", change, is(entry.KindParameters), 0, func(e *entry.Entry) { e.Causes[0].CID = "bafyother" }, "another record than its parameter set"},
		{"parameters for no epoch", change, is(entry.KindParameters), 0, func(e *entry.Entry) { e.Parameters.EffectiveEpoch = "never" }, "is not among its epochs"},
		{"epoch opened twice", insert, is(entry.KindEpochOpen), 0, func(*entry.Entry) {}, "is opened twice"},
		{"epoch opened after its end", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) {
			e.At, e.Day = "2027-03-29T07:00:00Z", "2027-03-29"
		}, "epoch e2027-01 is over"},
		{"offering counted twice", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) {
			e.EpochOpen.Offerings = append(e.EpochOpen.Offerings, e.EpochOpen.Offerings[0])
		}, "is counted twice"},
		{"offering under another's name", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) {
			e.EpochOpen.Offerings[0].DID = rulestest.Library
		}, "is not of did:plc:library"},
		{"credits unallocated and hidden", change, is(entry.KindEpochOpen), 0, func(e *entry.Entry) { e.EpochOpen.Unallocated = 7 }, "unallocated is 7"},
		{"accreditation set back", insert, role(rulestest.Parks), 0, func(e *entry.Entry) {
			e.At, e.Day = "2027-01-01T12:00:00Z", "2027-01-01"
		}, "before the last one"},
		{"till under another id", change, till, 0, func(e *entry.Entry) { e.Bind.Till = "abc" }, "has another id"},
		{"till twice", insert, till, 0, func(*entry.Entry) {}, "is bound twice"},
		{"till of an issuer", change, till, 0, func(e *entry.Entry) {
			e.Org, e.Bind.Till = rulestest.Library, entry.TillID(string(rulestest.Library), e.Bind.Key)
		}, "a till of did:plc:library, which is no redeemer"},
		{"rules of tomorrow", change, is(entry.KindRulesVersion), 0, func(e *entry.Entry) { e.RulesVersion.Version = 3 }, "rules version 3 is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := history(t)
			at := find(t, w, c.nth, c.at)
			entries := slices.Clone(w.Entries)
			switch c.how {
			case drop:
				entries = slices.Delete(entries, at, at+1)
			case insert:
				again, err := entry.Decode(w.Leaves[at])
				require.NoError(t, err)
				c.edit(again)
				entries = slices.Insert(entries, at+1, *again)
				at++
			case suspend:
				stop := entry.Entry{
					Kind: entry.KindBind, At: "2027-01-04T17:30:00Z", Day: "2027-01-04",
					Causes: []entry.Cause{{URI: "at://did:plc:city/org.city-sync.registry.accreditation/x", CID: "bafystop"}},
					Bind: &entry.Bind{
						What: entry.BindRole, Roles: []string{"issuer", "redeemer"}, Status: "suspended", ValidFrom: "2027-01-01T08:00:00Z",
					},
				}
				c.edit(&stop)
				entries = slices.Insert(entries, at, stop)
			default:
				c.edit(&entries[at])
			}
			var leaves [][]byte
			for i := range entries {
				entries[i].Seq = int64(i)
				leaf, err := entries[i].Encode()
				require.NoError(t, err)
				leaves = append(leaves, leaf)
			}
			found := replay(leaves).Findings()
			i := slices.IndexFunc(found, func(f audit.Finding) bool { return strings.Contains(f.What, c.says) })
			require.GreaterOrEqual(t, i, 0, "found %v", found)
			assert.GreaterOrEqual(t, found[i].Entry, int64(at), "nothing before the evil is wrong")
			assert.Contains(t, found[i].String(), fmt.Sprintf("entry %d: ", found[i].Entry))
		})
	}
}

func TestWrongIndexAndFlippedByteAreNamed(t *testing.T) {
	t.Parallel()
	w := history(t)
	a := audit.New(origin)
	for i, leaf := range w.Leaves[:5] {
		require.NoError(t, a.Add(int64(i), leaf))
	}
	err := a.Add(5, w.Leaves[6])
	require.ErrorContains(t, err, "entry 5: its seq is 6")
	require.Error(t, a.Add(9, w.Leaves[5]))

	good, err := replay(w.Leaves).Tree().Root(int64(len(w.Leaves)))
	require.NoError(t, err)
	for i, leaf := range w.Leaves {
		for _, at := range []int{0, len(leaf) / 3, len(leaf) / 2, len(leaf) - 1} {
			leaves := slices.Clone(w.Leaves)
			leaves[i] = slices.Clone(leaf)
			leaves[i][at] ^= 1
			b := replay(leaves)
			_, err := b.CheckCheckpoint(tlog.Checkpoint{Origin: origin, Size: b.Size(), Root: good})
			require.Error(t, err, "byte %d of entry %d", at, i)
		}
	}
}

func TestTruncatedLogDoesNotMatchItsCheckpoint(t *testing.T) {
	t.Parallel()
	w := history(t)
	good, err := replay(w.Leaves).Tree().Root(int64(len(w.Leaves)))
	require.NoError(t, err)
	short := replay(slices.Delete(slices.Clone(w.Leaves), 7, 8))
	known, err := short.CheckCheckpoint(tlog.Checkpoint{Origin: origin, Size: int64(len(w.Leaves)), Root: good})
	require.NoError(t, err)
	require.False(t, known, "the leaves end before the checkpoint")
	require.NotEmpty(t, short.Findings())
	_, err = short.CheckCheckpoint(tlog.Checkpoint{Origin: "did:plc:other", Size: 0})
	require.Error(t, err)
}
