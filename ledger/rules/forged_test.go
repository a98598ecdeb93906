package rules_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// R3: whatever Decide would never write, Apply does not take.
func TestApplyRefusesForgedEntries(t *testing.T) {
	t.Parallel()
	release := func(w *rulestest.Town, task rules.AcceptTask) rules.Command {
		return rules.ReleaseSlots{Now: w.Now, First: task.First, Reason: entry.ReleaseCancelled, Author: rulestest.Library}
	}
	reserve := func(w *rulestest.Town, _ rules.AcceptTask) rules.Command { return w.Task(rulestest.Library, "n", 3) }
	claim := func(w *rulestest.Town, task rules.AcceptTask) rules.Command {
		w.Claim(1, task)
		return rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"}
	}
	unclaim := func(w *rulestest.Town, task rules.AcceptTask) rules.Command {
		token := w.Claim(1, task)
		w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
		return rules.Unclaim{Now: w.Now, Token: token, Reason: entry.UnclaimWithdrawn}
	}
	burn := func(w *rulestest.Town, _ rules.AcceptTask) rules.Command {
		w.Earn(2, 1)
		return w.Burn(2, 3)
	}
	reject := func(w *rulestest.Town, task rules.AcceptTask) rules.Command {
		token := w.Claim(1, task)
		w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
		w.Now = task.Shifts[0].StartsAt
		m := w.Verify(task, token)
		m.Outcome = entry.OutcomeRejected
		return m
	}
	epoch := func(w *rulestest.Town, _ rules.AcceptTask) rules.Command {
		return rules.OpenEpoch{Now: w.Now, Epoch: "e2027-02", Book: rulestest.Book}
	}
	activate := func(w *rulestest.Town, _ rules.AcceptTask) rules.Command {
		return rules.Activate{Now: w.Now, Issuer: rulestest.Library, Resident: rulestest.Resident(50), Account: rulestest.Account(50)}
	}
	till := func(w *rulestest.Town, _ rules.AcceptTask) rules.Command {
		return rules.BindTill{Now: w.Now, Org: rulestest.Bus, Key: "did:key:zNew"}
	}
	for _, c := range []struct {
		name  string
		from  func(*rulestest.Town, rules.AcceptTask) rules.Command
		forge func(*entry.Entry)
	}{
		{"reserve of less", reserve, func(e *entry.Entry) { e.Amount-- }},
		{"reserve of more", reserve, func(e *entry.Entry) { e.Amount += 1000 }},
		{"reserve on another cap", reserve, func(e *entry.Entry) { e.Cap.Cap++ }},
		{"reserve of one without allocation", reserve, func(e *entry.Entry) { e.Org = rulestest.Bus }},
		{"reserve in another epoch", reserve, func(e *entry.Entry) { e.Epoch = "e2027-02" }},
		{"reserve of another's task", reserve, func(e *entry.Entry) {
			e.Reserve.First, e.Org = "at://did:plc:library/org.city-sync.work.task/t", rulestest.Parks
		}},
		{"release of more", release, func(e *entry.Entry) { e.Amount += 1000 }},
		{"release of another's", release, func(e *entry.Entry) { e.Org = rulestest.Parks }},
		{"release of no task", release, func(e *entry.Entry) { e.Release.First = "at://x" }},
		{"release of no shift", release, func(e *entry.Entry) { e.Release.Shifts = []string{"zz"} }},
		{"release for no reason", release, func(e *entry.Entry) { e.Release.Reason = "gift" }},
		{"rejection of more", reject, func(e *entry.Entry) { e.Amount++ }},
		{"rejection of no claim", reject, func(e *entry.Entry) { e.Nullifier = make([]byte, 32) }},
		{"claim of another's held slot", claim, func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(2) }},
		{"claim without an account", claim, func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(99) }},
		{"claim without its opening", claim, func(e *entry.Entry) { e.Sealed = nil }},
		{"claim on no version", claim, func(e *entry.Entry) { e.Nullifier, e.Claim.Task.CID = make([]byte, 32), "bafyother" }},
		{"second claim under another token", claim, func(e *entry.Entry) {
			e.Nullifier, e.Sealed.Account = make([]byte, 32), rulestest.Account(0)
		}},
		{"unclaim of more", unclaim, func(e *entry.Entry) { e.Amount = 17 }},
		{"unclaim of no claim", unclaim, func(e *entry.Entry) { e.Nullifier = make([]byte, 32) }},
		{"burn of another sum", burn, func(e *entry.Entry) { e.Amount-- }},
		{"burn of more than there is", burn, func(e *entry.Entry) { e.Burn.Units, e.Amount = 5, 20 }},
		{"burn from another's balance", burn, func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(3) }},
		{"burn at a lower price", burn, func(e *entry.Entry) { e.Burn.Price, e.Amount = 1, 3 }},
		{"burn beyond the month", burn, func(e *entry.Entry) { e.Burn.UnitsMonth = 2 }},
		{"burn that forgets others", burn, func(e *entry.Entry) { e.Burn.UnitsBefore = 1 }},
		{"burn at no till", burn, func(e *entry.Entry) { e.Burn.Till = "none" }},
		{"burn in no epoch", burn, func(e *entry.Entry) { e.Epoch = "e2027-02" }},
		{"cap invented", epoch, func(e *entry.Entry) { e.EpochOpen.Cap++ }},
		{"capacity invented", epoch, func(e *entry.Entry) { e.EpochOpen.Capacity++ }},
		{"allocations beyond the cap", epoch, func(e *entry.Entry) { e.EpochOpen.Allocations[0].Amount++ }},
		{"other parameters", epoch, func(e *entry.Entry) { e.Params.CID = "bafyother" }},
		{"account twice", activate, func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(0) }},
		{"resident twice", activate, func(e *entry.Entry) { e.Sealed.Resident = rulestest.Resident(0) }},
		{"activation of nobody", activate, func(e *entry.Entry) { e.Sealed = nil }},
		{"till under another id", till, func(e *entry.Entry) { e.Bind.Till = "abc" }},
		{"rules again at the wrong place", till, func(e *entry.Entry) {
			e.Kind, e.Bind, e.RulesVersion = entry.KindRulesVersion, nil, &entry.RulesVersion{Version: 9}
		}},
		{"another kind", till, func(e *entry.Entry) { e.Kind = "gift" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := rulestest.NewTown(t)
			task := w.Accept(w.Task(rulestest.Library, "t", 5))
			w.Claim(0, task)
			w.Must(rules.EnterClaims{Now: w.Now, First: task.First, Shift: "a"})
			entries, err := rules.Decide(w.State, c.from(w, task))
			require.NoError(t, err)
			require.Len(t, entries, 1)
			c.forge(&entries[0])
			require.ErrorIs(t, rules.Apply(w.State, entries[0]), rules.ErrBroken)
		})
	}
}

func TestLogBeginsWithItsRules(t *testing.T) {
	t.Parallel()
	s := rules.NewState(rulestest.Zone(t))
	_, err := rules.Decide(s, rules.BindStaff{Org: rulestest.Library})
	require.ErrorIs(t, err, rules.ErrBroken)
	_, err = rules.Decide(s, rules.RulesVersion{Version: 99})
	require.ErrorIs(t, err, rules.ErrBroken)
	require.ErrorIs(t, rules.Apply(s, entry.Entry{Kind: entry.KindBind}), rules.ErrBroken)
	w := rulestest.New(t)
	again, err := rules.Decide(w.State, rules.RulesVersion{Now: w.Now, Version: rules.Version})
	require.NoError(t, err)
	require.Empty(t, again)
}
