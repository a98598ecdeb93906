package rules_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// months drives a pilot through what people earned and redeemed, entry by entry.
type months struct {
	*pilot
	t       *testing.T
	issuers []string
	rides   []rules.Offering
	till    string
	n       int
}

func newMonths(t *testing.T) *months {
	t.Helper()
	issuers := []string{"LIB", "PRK", "FOO", "PRE", "SEN"}
	m := &months{t: t, issuers: issuers}
	m.pilot = newPilot(t, berkeleyOfferings, "", issuers, func(p *entry.Parameters) {
		p.Tiers[3].BandBps = 10_000 // so that any amount can be paid
	})
	desk := m.Role(did("LIB"), rules.RoleIssuer)
	desk.Categories = []string{rules.CategoryActivation}
	m.Must(desk)
	const redeemer = syntax.DID("did:plc:redeemer")
	m.Must(rules.BindTill{Now: m.Now, Org: redeemer, Key: rulestest.TillKey})
	m.till = entry.TillID(string(redeemer), rulestest.TillKey)
	for i := range 8 {
		o := m.Offer(redeemer, fmt.Sprint(i), 0, 0, 0, 0)
		counted, ok := m.State.Counted(rulestest.Book, rulestest.Epoch, o.Record.URI)
		require.True(t, ok)
		o.Record.CID = counted.CID
		m.rides = append(m.rides, o)
	}
	for n := range 3 {
		m.Must(rules.Activate{Now: m.Now, Issuer: did("LIB"), Resident: rulestest.Resident(n), Account: rulestest.Account(n)})
	}
	m.Now = m.At("2027-01-05 09:00")
	return m
}

// earn pays a person an amount, in tasks of 400 credits at most.
func (m *months) earn(person int, amount int64) {
	m.t.Helper()
	for amount > 0 {
		pay := min(amount, 400)
		amount -= pay
		m.n++
		issuer := m.issuers[m.n%len(m.issuers)]
		task := m.task(m.t, fmt.Sprintf("%s-%d", issuer, m.n), []string{issuer, "4", "10", fmt.Sprint(pay), "1"})
		task.Shifts[0].StartsAt = m.Now
		task.Shifts[0].EndsAt = m.Now.Add(10 * time.Hour)
		m.Must(task)
		h, err := rules.DecideClaim(m.State, rules.ClaimRequest{
			Now: m.Now, Resident: rulestest.Resident(person), Task: task.Task.Ref(), Shift: "a", EntryActive: true, EpochKey: rulestest.EpochKey,
		})
		require.NoError(m.t, err)
		require.NoError(m.t, rules.HoldClaim(m.State, h))
		m.Must(rules.Mint{
			Now: m.Now, Record: m.Ref(did(issuer), "work.verification", "v"), Author: did(issuer), Signed: true, Task: task.Task.Ref(), Shift: "a",
			Token: h.Token, Outcome: entry.OutcomeApproved, Credits: pay, Level: 1, Methods: []string{rules.MethodAttestation},
		})
	}
}

// burn redeems units of the first offering, at 4 credits, and of the last, at 10.
func (m *months) burn(person int, fours, tens int64) {
	m.t.Helper()
	for i, units := range map[int]int64{0: fours, 7: tens} {
		if units > 0 {
			o := m.rides[i]
			o.PublicPriceMinor = 500
			m.Must(rules.Burn{Now: m.Now, Account: rulestest.Account(person), Offering: o, Units: units, Till: m.till})
		}
	}
}

func (m *months) close(day string) entry.Entry {
	m.t.Helper()
	m.Now = m.At(day + " 00:00")
	m.Must(rules.CloseMonths{Now: m.Now})
	e := m.Entries[len(m.Entries)-1]
	require.Equal(m.t, entry.KindDormant, e.Kind)
	m.Now = m.At(day + " 09:00")
	return e
}

// Vector 4, not as arithmetic but as a town lives it: every figure comes out of entries of the log.
func TestGoldenVector4DrivenThroughTheLog(t *testing.T) {
	t.Parallel()
	m := newMonths(t)
	m.earn(0, 137)
	m.earn(1, 5_063)
	m.burn(1, 155, 0)
	first := m.close("2027-02-01")
	assert.Equal(t, [3]int64{0, 4_580, 0}, [3]int64{first.Amount, first.Dormant.Active, first.Dormant.Dormant})
	m.earn(1, 6_591)
	m.earn(2, 309)
	m.burn(1, 255, 1)
	second := m.close("2027-03-01")
	assert.Equal(t, [3]int64{137, 10_313, 137}, [3]int64{second.Amount, second.Dormant.Active, second.Dormant.Dormant})
	m.earn(1, 7_400)
	m.burn(1, 410, 1)
	third := m.close("2027-03-29")
	assert.Equal(t, [3]int64{309, 15_754, 446}, [3]int64{third.Amount, third.Dormant.Active, third.Dormant.Dormant})
	assert.Equal(t, [2]int64{7_400, 1_650}, [2]int64{third.Dormant.Issued, third.Dormant.Burned})

	list := m.State.Months(rulestest.Book)
	require.Len(t, list, 3)
	figures := list[2]
	for name, c := range map[string]struct {
		ratio entry.Ratio
		milli int64
	}{
		"efficiency": {figures.Efficiency, 223}, "utilization": {figures.Utilization, 109}, "backlog": {figures.Backlog, 1_036},
		"issuance": {figures.Issuance, 487}, "engagement": {figures.Engagement, 28},
	} {
		got, ok := rules.Milli(c.ratio)
		require.True(t, ok, name)
		assert.Equal(t, c.milli, got, name)
	}
	assert.True(t, figures.WarmUp)
	assert.Empty(t, figures.Alarms, "efficiency is low because of the warm-up: no alert")

	m.Must(rules.CloseEpoch{Now: m.Now, Book: rulestest.Book, Epoch: rulestest.Epoch})
	closed := m.Entries[len(m.Entries)-1].EpochClose
	assert.Equal(t, entry.MonthFlow{Issued: 7_400, Burned: 1_650, Quiet: 309, Active: 15_754, Dormant: 446}, closed.Months[2])
	assert.Equal(t, [3]int64{19_500, 19_500, 19_500}, [3]int64{closed.Reserved, closed.Minted, closed.Votes})
	assert.False(t, closed.Measured, "one closed epoch measures nothing")
	require.NotNil(t, closed.Next)
	assert.Equal(t, "e2027-02", closed.Next.Epoch)
	assert.EqualValues(t, 22_800, closed.Next.Cap)
	require.Equal(t, m.State.Digest(), m.Replay().Digest(), "R2")
	audited(t, m.World)
}

// Two epochs of a book, closed: the third opens with what they measured, and everybody recomputes it.
func TestTheThirdEpochOpensWithMeasuredRates(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 12)
	w.Earn(0, 5)
	w.Must(w.Burn(0, 5))
	w.Now = w.At("2027-02-01 09:00")
	w.Must(w.Burn(0, 5)) // 20 of 60
	w.Now = w.At("2027-03-01 09:00")
	w.Must(w.Burn(0, 1)) // 4 of 40
	w.Now = w.At("2027-03-29 09:00")
	w.Refused(rules.EpochNotOver, rules.CloseEpoch{Now: w.Now, Book: rulestest.Book, Epoch: rulestest.Epoch})
	w.Must(rules.CloseMonths{Now: w.Now})
	w.Must(rules.CloseEpoch{Now: w.Now, Book: rulestest.Book, Epoch: rulestest.Epoch})
	size := len(w.Entries)
	w.Must(rules.CloseEpoch{Now: w.Now, Book: rulestest.Book, Epoch: rulestest.Epoch})
	require.Len(t, w.Entries, size, "closed already: no entry")
	openNext(t, w, "e2027-02")
	second := w.Entries[len(w.Entries)-1].EpochOpen
	assert.Equal(t, entry.Ratio{Num: 1_500, Den: 10_000}, second.R, "one closed epoch: the start values")
	w.Now = w.At("2027-06-21 09:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	w.Must(rules.CloseEpoch{Now: w.Now, Book: rulestest.Book, Epoch: "e2027-02"})
	closed := w.Entries[len(w.Entries)-1].EpochClose
	// A before: 0, 60, 40, 36, 0, 0; burned 20, 20, 4; quiet 36 in the fourth month.
	assert.True(t, closed.Measured)
	assert.Equal(t, entry.Ratio{Num: 44, Den: 136}, closed.R)
	assert.Equal(t, entry.Ratio{Num: 36, Den: 136}, closed.Delta)
	openNext(t, w, "e2027-03")
	third := w.Entries[len(w.Entries)-1].EpochOpen
	assert.Equal(t, closed.R, third.R)
	assert.Equal(t, closed.Next.Cap, third.Cap, "the same capacity: the cap that was foretold")
	assert.NotEqual(t, second.Cap, third.Cap)
	require.Equal(t, w.State.Digest(), w.Replay().Digest(), "R2")
	audited(t, w.World)
}

func TestForgedClosingsOfAnEpochStopTheReplay(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 12)
	w.Earn(0, 2)
	w.Now = w.At("2027-03-29 09:00")
	w.Must(rules.CloseMonths{Now: w.Now})
	entries, err := rules.Decide(w.State, rules.CloseEpoch{Now: w.Now, Book: rulestest.Book, Epoch: rulestest.Epoch})
	require.NoError(t, err)
	for name, change := range map[string]func(*entry.EpochClose){
		"another flow":     func(c *entry.EpochClose) { c.Months[0].Quiet++ },
		"another rate":     func(c *entry.EpochClose) { c.R.Num++ },
		"measured":         func(c *entry.EpochClose) { c.Measured = true },
		"more votes":       func(c *entry.EpochClose) { c.Votes++ },
		"more outstanding": func(c *entry.EpochClose) { c.Outstanding++ },
		"another next cap": func(c *entry.EpochClose) { c.Next.Cap++ },
		"no next cap":      func(c *entry.EpochClose) { c.Next = nil },
	} {
		e := entries[0]
		c := *e.EpochClose
		c.Months = append([]entry.MonthFlow{}, c.Months...)
		c.Next = new(*c.Next)
		e.EpochClose = &c
		change(&c)
		require.ErrorIs(t, rules.Apply(w.Replay(), e), rules.ErrBroken, name)
	}
	early := yearTown(t, 12)
	e := entries[0]
	e.Seq = early.State.Size()
	require.ErrorIs(t, rules.Apply(early.State, e), rules.ErrBroken, "before its months")
}

// The digest fixes the public facts and every balance; another one stops the replay.
func TestForgedDigestsStopTheReplay(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 12)
	w.Earn(0, 2)
	w.Earn(1, 1)
	seed := []byte("0123456789abcdef0123456789abcdef")
	entries, err := rules.Decide(w.State, rules.Digest{Now: w.Now, Seed: seed})
	require.NoError(t, err)
	_, _, _, ok := w.State.BalanceProof(rulestest.Account(0), rulestest.Book)
	require.False(t, ok, "decided is not applied (R1)")
	for name, change := range map[string]func(*entry.Entry){
		"another digest": func(e *entry.Entry) { e.StateDigest.Digest[0] ^= 1 },
		"another root":   func(e *entry.Entry) { e.StateDigest.Balances[0].Root[0] ^= 1 },
		"another sum":    func(e *entry.Entry) { e.StateDigest.Balances[0].Sum++ },
		"no balances":    func(e *entry.Entry) { e.StateDigest.Balances = nil },
		"another seed":   func(e *entry.Entry) { e.Sealed = &entry.Sealed{Seed: append([]byte{1}, seed[1:]...)} },
		"no seed":        func(e *entry.Entry) { e.Sealed = &entry.Sealed{} },
	} {
		e := entries[0]
		d := *e.StateDigest
		d.Digest = append([]byte{}, d.Digest...)
		d.Balances = append([]entry.BalancesRoot{}, d.Balances...)
		d.Balances[0].Root = append([]byte{}, d.Balances[0].Root...)
		e.StateDigest = &d
		change(&e)
		require.ErrorIs(t, rules.Apply(w.Replay(), e), rules.ErrBroken, name)
	}
	w.Apply(entries)
	shares, root, seq, ok := w.State.BalanceProof(rulestest.Account(0), rulestest.Book)
	require.True(t, ok)
	require.Equal(t, entries[0].Seq, seq)
	balance, err := entry.VerifyBalance(root, rulestest.Account(0), shares)
	require.NoError(t, err)
	assert.EqualValues(t, 32, balance)
	assert.EqualValues(t, 48, root.Sum)
	require.Equal(t, w.State.Digest(), w.Replay().Digest())
	audited(t, w.World)
}
