package rules_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// model is the ledger as one would naively write it: lists, searched and summed each time.
type model struct {
	claims []*modelClaim
	burns  []*modelBurn // holds too
	tasks  []*modelTask
	life   [people]modelLife
	flow   rules.Flow // of the book since its last closing, without what its people woke
	stock  rules.Stock
	months int // closed
	epochs []string
}

type modelTask struct {
	org      syntax.DID
	epoch    string
	versions []rules.AcceptTask
	over     map[string]bool // shifts whose free slots were released
	closed   map[string]int64
}

type modelClaim struct {
	task    *modelTask
	terms   rules.AcceptTask
	shift   string
	person  int
	token   []byte
	entered bool
	state   string // "", minted, rejected, ended
	paid    int64  // what its person has of it
	worth   int64  // what it was paid, less what corrections took or could not take
}

func (m *model) balance(person int) (n int64) {
	for _, c := range m.claims {
		if c.person == person {
			n += c.paid
		}
	}
	for _, b := range m.burns {
		if b.person == person && b.state != takenOff && b.state != givenUp {
			n -= b.amount
		}
	}
	return n - m.life[person].expired
}

func (m *model) minted(epoch string, org syntax.DID) (n int64) {
	for _, c := range m.claims {
		if c.task.org == org && c.task.epoch == epoch {
			n += c.paid
		}
	}
	return n
}

func (t *modelTask) current() rules.AcceptTask { return t.versions[len(t.versions)-1] }

func (m *model) taken(t *modelTask, shift string) (n int64) {
	for _, c := range m.claims {
		if c.task == t && c.shift == shift && c.state != "ended" {
			n++
		}
	}
	return n
}

// outstanding is R5, from scratch.
func (m *model) outstanding(t *modelTask) (n int64) {
	cur := t.current()
	for _, s := range cur.Shifts {
		if !t.over[s.ID] {
			n += max(0, s.Slots-m.taken(t, s.ID)-t.closed[s.ID]) * cur.Credits
		}
	}
	for _, c := range m.claims {
		if c.task == t && c.state == "" {
			n += c.terms.Credits
		}
	}
	return n
}

// machine runs random commands against the rules and the model at once.
type machine struct {
	t *rapid.T
	*rulestest.Town
	model
	refused map[string]int
	epoch   string    // in which tasks are published
	settled int       // entries that the model knows of
	stopped time.Time // until when mints are
	held    *modelTask
	gone    map[int64]bool // entries whose openings were destroyed
	forgets map[int64]entry.Account
}

const people = 6

func (m *machine) pick(name string, n int) int { return rapid.IntRange(0, n-1).Draw(m.t, name) }

func (m *machine) saw(err error) bool {
	if err == nil {
		return true
	}
	var r *rules.Refusal
	require.ErrorAs(m.t, err, &r)
	require.False(m.t, r.Alarm, "%v", r)
	m.refused[r.Name]++
	return false
}

// try asks, and settles the months that the answer closed before it.
func (m *machine) try(c rules.Command) bool {
	if !m.saw(m.Try(c)) {
		return false
	}
	m.settle()
	return true
}

func (m *machine) newTask() {
	org := []syntax.DID{rulestest.Library, rulestest.Parks, rulestest.Bus}[m.pick("org", 3)]
	task := m.Task(org, fmt.Sprint(len(m.Entries)), int64(1+m.pick("slots", 8)))
	task.Epoch = m.epoch
	start := m.Now.Add(time.Duration(m.pick("ahead", 48)) * time.Hour)
	task.Shifts[0].StartsAt, task.Shifts[0].EndsAt = start, start.Add(2*time.Hour)
	if m.pick("two", 2) == 1 {
		task.Shifts = append(task.Shifts, rules.Shift{ID: "b", StartsAt: start, EndsAt: start.Add(3 * time.Hour), Slots: 2})
	}
	if m.try(task) {
		m.tasks = append(m.tasks, &modelTask{
			org: org, epoch: m.epoch, versions: []rules.AcceptTask{task}, over: map[string]bool{}, closed: map[string]int64{},
		})
	}
}

func (m *machine) edit(i int) {
	t := m.tasks[i]
	task := m.Version(t.current())
	task.Shifts = slices.Clone(task.Shifts)
	task.Shifts[0].Slots = int64(1 + m.pick("slots", 9))
	switch m.pick("change", 3) {
	case 0:
		task.Entry.Tier, task.Credits = 2, 24
	case 1:
		task.Entry.Tier, task.Credits = 1, 16
	}
	if m.try(task) {
		t.versions = append(t.versions, task)
	}
}

func (m *machine) claim(i int) {
	t, person := m.tasks[i], m.pick("person", people)
	v := t.versions[m.pick("version", len(t.versions))]
	c := m.ClaimOf(person, v)
	c.Shift = v.Shifts[m.pick("shift", len(v.Shifts))].ID
	var open, same int
	for _, x := range m.claims {
		if x.person == person && x.state == "" {
			open++
		}
		if x.person == person && x.task == t && x.shift == c.Shift && x.state != "ended" {
			same++
		}
	}
	free := int64(0)
	for _, s := range t.current().Shifts {
		if s.ID == c.Shift && !t.over[s.ID] {
			free = s.Slots - m.taken(t, s.ID) - t.closed[s.ID]
		}
	}
	h, err := m.TryClaim(c)
	if err == nil {
		require.Less(m.t, open, 5)
		require.Zero(m.t, same)
		require.Positive(m.t, free)
		require.Equal(m.t, t.current().Task, v.Task)
		m.claims = append(m.claims, &modelClaim{task: t, terms: v, shift: c.Shift, person: person, token: h.Token})
		return
	}
	m.saw(err)
	if rules.Refused(err) == rules.SlotsFull {
		require.LessOrEqual(m.t, free, int64(0))
	}
}

// latest is the claim drawn, or the one that took its token when the same person claimed again.
func (m *machine) latest(i int) *modelClaim {
	c := m.claims[i]
	for _, x := range m.claims[i:] {
		if string(x.token) == string(c.token) {
			c = x
		}
	}
	return c
}

func (m *machine) endClaim(i int) {
	c := m.latest(i)
	reopens := m.reopens(c)
	if c.state == "" && !c.entered {
		entries, err := rules.DecideDrop(m.State, c.token, m.Now)
		require.NoError(m.t, err)
		m.Apply(entries)
		require.True(m.t, rules.DropClaim(m.State, c.token))
	} else if !m.try(rules.Unclaim{Now: m.Now, Token: c.token, Reason: entry.UnclaimWithdrawn}) {
		return
	}
	require.Empty(m.t, c.state)
	c.state = "ended"
	if !reopens {
		c.task.closed[c.shift]++
	}
}

// reopens says whether the slot of a claim that ends can be claimed again for what was frozen.
func (m *machine) reopens(c *modelClaim) bool {
	for _, s := range c.task.current().Shifts {
		if s.ID == c.shift && !c.task.over[s.ID] && m.Now.Before(s.EndsAt.Truncate(time.Second)) {
			full := s.Slots-m.taken(c.task, s.ID)-c.task.closed[s.ID] < 0
			return full || c.task.current().Credits <= c.terms.Credits
		}
	}
	return false
}

func (m *machine) verify(i int) {
	c := m.latest(i)
	v := m.Verify(c.terms, c.token)
	v.Shift = c.shift
	want := c.terms.Credits
	switch m.pick("outcome", 6) {
	case 0:
		v.Outcome = entry.OutcomeRejected
		want = 0
	case 1:
		v.Outcome, v.Minutes = entry.OutcomePartial, int64(m.pick("minutes", 200))
		rate := map[int64]int64{1: 8, 2: 12}[c.terms.Entry.Tier]
		want = min(rate*v.Minutes/60, want)
		v.Credits = want
	case 2:
		v.Credits++
	}
	if c.state == "rejected" && m.pick("ruled", 2) == 1 {
		v.Author, v.Record = rulestest.Auditor, m.Ref(rulestest.Auditor, "work.verification", "anew")
		v.Upheld = new(m.Ref(rulestest.City, "gov.resolution", "paid"))
	}
	m.decided(c, v, want)
}

// decided asks for what a verification calls for, and notes it.
func (m *machine) decided(c *modelClaim, v rules.Mint, want int64) {
	was := c.state
	if !m.try(v) {
		return
	}
	require.Contains(m.t, []string{"", "rejected"}, was)
	require.NotEqual(m.t, c.task, m.held, "an objection holds its mints")
	require.False(m.t, v.Outcome != entry.OutcomeRejected && m.Now.Before(m.stopped), "mints are stopped")
	require.Equal(m.t, want, map[bool]int64{true: v.Credits, false: 0}[v.Outcome != entry.OutcomeRejected])
	for _, other := range m.claims {
		if other.task == c.task && other.shift == c.shift && other.state != "ended" {
			other.entered = true
		}
	}
	c.state = "rejected"
	if v.Outcome == entry.OutcomeRejected {
		return
	}
	m.act(c.person)
	c.state, c.paid, c.worth = "minted", want, want
	m.flow.I += want
}

func (m *machine) burn(person int) {
	units := int64(1 + m.pick("units", 5))
	if m.try(m.Burn(person, units)) {
		m.spend(person, units, captured)
	}
}

func (m *machine) pass() {
	m.Now = m.Now.Add(time.Duration(1+m.pick("minutes", 600)) * time.Minute)
	if m.pick("long", 2) == 1 {
		m.Now = m.Now.AddDate(0, 0, 10+m.pick("days", 30))
	}
	m.sweep()
}

// sweep does what is due when nobody asks for anything.
func (m *machine) sweep() {
	for _, c := range m.State.HeldShifts(m.Now) {
		m.Must(c)
		for _, x := range m.claims {
			if x.task.current().First == c.First && x.shift == c.Shift && x.state == "" {
				x.entered = true
			}
		}
	}
	for _, c := range m.State.ExpiredSlots(m.Now) {
		before := len(m.Entries)
		m.Must(c)
		for _, t := range m.tasks {
			for _, id := range m.Entries[before].Release.Shifts {
				if t.current().First == c.First {
					t.over[id] = true
				}
			}
		}
	}
	m.settled = len(m.Entries)
	m.turnMonths()
}

func (m *machine) check() {
	outstanding, supply := map[string]int64{}, int64(0)
	for _, t := range m.tasks {
		want := m.outstanding(t)
		got, _ := m.State.TaskByFirst(t.current().First)
		require.Equal(m.t, want, got.Outstanding, "R5: %s", t.current().First)
		outstanding[t.epoch] += want
	}
	for person := range people {
		credits, votes := m.State.Balance(rulestest.Account(person), rulestest.Book)
		if m.life[person].forgotten {
			require.Zero(m.t, credits+votes)
			continue
		}
		require.Equal(m.t, m.balance(person), credits)
		require.GreaterOrEqual(m.t, credits, int64(0))
		require.GreaterOrEqual(m.t, votes, credits)
		supply += credits + m.aside(person)
	}
	var sum int64
	for _, key := range m.epochs {
		totals, _ := m.State.Totals(rulestest.Book, key)
		for _, i := range totals.Issuers {
			require.Equal(m.t, m.minted(key, i.DID), i.Minted)
			require.LessOrEqual(m.t, i.Minted+i.Outstanding, i.Allocation, "R4")
		}
		require.Equal(m.t, outstanding[key], totals.Outstanding)
		require.Equal(m.t, totals.Minted, totals.Votes)
		require.LessOrEqual(m.t, totals.Minted+totals.Outstanding, totals.Cap, "R4")
		sum += totals.Supply()
	}
	require.Equal(m.t, supply, sum, "R7")
	require.Equal(m.t, m.units(), m.State.UnitsBurned(rulestest.Book, m.Ride.Record.URI, m.Now))
}

// R1 to R7 over random histories of every kind of entry; the log replays to the same state (L2), and other code finds nothing wrong
// with it, from the leaves alone and with the openings.
func TestRandomHistoriesAgreeWithANaiveModel(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	kinds := map[entry.Kind]int{}
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, seen)
		for range rapid.IntRange(5, 200).Draw(t, "steps") {
			switch step := m.pick("step", 25); {
			case step < 2 || len(m.tasks) == 0:
				m.newTask()
			case step == 2:
				m.edit(m.pick("task", len(m.tasks)))
			case step < 7 || len(m.claims) == 0:
				m.claim(m.pick("task", len(m.tasks)))
			case step == 7:
				m.endClaim(m.pick("claim", len(m.claims)))
			case step < 11:
				m.verify(max(0, len(m.claims)-1-m.pick("claim", len(m.claims))))
			case step == 11:
				m.burn(m.pick("person", people))
			case step < 22:
				m.live(step)
			default:
				m.pass()
			}
			m.check()
		}
		m.end()
		for _, e := range m.Entries {
			kinds[e.Kind]++
		}
	})
	for _, name := range []string{rules.SlotsFull, rules.AlreadyClaimed, rules.AllocationExceeded, rules.AlreadyMinted, rules.TooEarly,
		rules.TermsFrozen, rules.InsufficientBalance, rules.ClaimWindowClosed, rules.HeldByDispute, rules.Paused, rules.UndoTooLate,
		rules.NothingToCorrect} {
		require.NotZero(t, seen[name], "the histories must meet %s", name)
	}
	for _, k := range []entry.Kind{
		entry.KindHold, entry.KindCapture, entry.KindVoid, entry.KindReverse, entry.KindDormant, entry.KindExpire, entry.KindEpochClose,
		entry.KindPause, entry.KindResume, entry.KindStateDigest, entry.KindUnclaim, entry.KindRelease,
	} {
		require.NotZero(t, kinds[k], "the histories must have a %s", k)
	}
}

func convert(a audit.Totals) rules.Totals {
	t := rules.Totals{
		Book: a.Book, Epoch: a.Epoch, StartsAt: a.StartsAt, EndsAt: a.EndsAt, Params: a.Params, CapacityMonth: a.CapacityMonth, Cap: a.Cap,
		Unallocated: a.Unallocated, BoundBy: a.BoundBy, Reserved: a.Reserved, Outstanding: a.Outstanding, Minted: a.Minted, Votes: a.Votes,
		Burned: a.Burned, Expired: a.Expired, Tasks: a.Tasks, Claims: a.Claims, Mints: a.Mints,
	}
	for _, i := range a.Issuers {
		t.Issuers = append(t.Issuers, rules.IssuerTotals(i))
	}
	return t
}

// A restart replays the log and takes up what was held beside it.
func TestReplayTakesUpHeldClaims(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 5))
	var held []*rules.HeldClaim
	for n := range 3 {
		h, err := w.TryClaim(w.ClaimOf(n, task))
		require.NoError(t, err)
		held = append(held, h)
	}
	again := w.Replay()
	require.NotEqual(t, w.State.HeldDigest(), again.HeldDigest())
	for _, i := range rand.Perm(len(held)) {
		require.NoError(t, rules.HoldClaim(again, held[i]))
	}
	require.Equal(t, w.State.HeldDigest(), again.HeldDigest())
	require.Equal(t, w.State.Digest(), again.Digest())
	require.ErrorIs(t, rules.HoldClaim(again, held[0]), rules.ErrBroken)
}
