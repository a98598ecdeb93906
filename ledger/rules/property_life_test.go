package rules_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// What became of a burn or a hold.
const (
	captured = "captured" // or burned at once // a hold that was captured too
	standing = "standing"
	givenUp  = "givenUp"
	takenOff = "takenOff"
)

type modelBurn struct {
	person        int
	seq           int64 // of the burn, or of the capture
	hold          int64 // of the hold, if it was one
	amount, units int64
	state         string
	at            time.Time
	epoch         string
	month         int
}

// modelLife is what a person does and does not.
type modelLife struct {
	acted     bool // since the last closing
	asleep    int64
	woken     int64
	expired   int64
	forgotten bool
}

const dormancy = 1 // months

// newMachine is a town whose credits sleep for one month, with two epochs.
func newMachine(t *rapid.T, seen map[string]int) *machine {
	w := rulestest.New(t)
	p := w.Parameters(entry.PhaseLaunch)
	p.DormancyMonths = dormancy
	w.SetParameters(p)
	library := w.Role(rulestest.Library, rules.RoleIssuer)
	library.Categories = []string{rules.CategoryActivation}
	w.Must(library)
	w.Must(w.Role(rulestest.Parks, rules.RoleIssuer))
	w.Must(w.Role(rulestest.Auditor, rules.RoleVerifier))
	w.Must(w.Role(rulestest.Bus, rules.RoleRedeemer))
	m := &machine{
		t: t, Town: &rulestest.Town{World: w}, refused: seen, gone: map[int64]bool{}, forgets: map[int64]entry.Account{},
	}
	m.openEpoch(rulestest.Epoch)
	w.Now = w.At("2027-01-04 09:00")
	w.Must(rules.BindTill{Now: w.Now, Org: rulestest.Bus, Key: rulestest.TillKey})
	m.Till = entry.TillID(string(rulestest.Bus), rulestest.TillKey)
	for n := range people {
		w.Must(rules.Activate{Now: w.Now, Issuer: rulestest.Library, Resident: rulestest.Resident(n), Account: rulestest.Account(n)})
	}
	m.settled = len(m.Entries)
	return m
}

func (m *machine) openEpoch(key string) {
	m.Ride = m.Offer(rulestest.Bus, "ride-"+key, 1000, 500, 200, 4)
	m.Ride.Epoch = key
	m.Must(rules.OpenEpoch{Now: m.Now, Epoch: key, Book: rulestest.Book, Offerings: []rules.Offering{m.Ride}})
	m.epoch = key
	m.epochs = append(m.epochs, key)
}

// live is one step of what the first histories did not know.
func (m *machine) live(step int) {
	switch step {
	case 12:
		m.putAside(m.pick("person", people))
	case 13, 17:
		if n := len(m.burns); n > 0 {
			m.endBurn(m.burns[max(0, n-1-m.pick("back", 4))])
		}
	case 18, 19, 20:
		m.work(m.pick("person", people))
	case 21:
		m.burn(m.pick("person", people))
	case 14:
		m.correct(m.pick("claim", len(m.claims)))
	case 15:
		m.stop()
	case 16:
		switch m.pick("rare", 4) {
		case 0:
			m.forget(m.pick("person", people))
		default:
			seed := [32]byte{1, byte(len(m.Entries))}
			m.Must(rules.Digest{Now: m.Now, Seed: seed[:]})
			m.settled = len(m.Entries)
		}
	}
}

func (m *machine) act(person int) {
	l := &m.life[person]
	if l.asleep > 0 {
		l.woken += m.balance(person) + m.aside(person)
		l.asleep = 0
	}
	l.acted = true
}

func (m *model) aside(person int) (n int64) {
	for _, b := range m.burns {
		if b.person == person && b.state == standing {
			n += b.amount
		}
	}
	return n
}

// units is what the ride gave this month.
func (m *machine) units() (n int64) {
	for _, b := range m.burns {
		if b.state != takenOff && b.state != givenUp && b.epoch == m.Ride.Epoch && b.month == m.month() {
			n += b.units
		}
	}
	return n
}

// month is the month of the ride's epoch that it is; those of the town begin at local midnights.
func (m *machine) month() int {
	_, set, _ := m.State.Parameters(m.Ride.Epoch)
	for _, p := range set.Epochs {
		for i, month := range p.Months {
			if now := entry.FormatTime(m.Now); p.Key == m.Ride.Epoch && month.StartsAt <= now && now < month.EndsAt {
				return i
			}
		}
	}
	return -1
}

func (m *machine) spend(person int, units int64, state string) {
	require.GreaterOrEqual(m.t, m.balance(person), units*4)
	require.False(m.t, m.life[person].forgotten)
	m.act(person)
	b := &modelBurn{
		person: person, seq: m.Last(), amount: units * 4, units: units, state: state, at: m.Now, epoch: m.Ride.Epoch, month: m.month(),
	}
	if state == standing {
		b.hold = b.seq
	} else {
		m.flow.B += b.amount
	}
	m.burns = append(m.burns, b)
}

func (m *machine) putAside(person int) {
	c := m.PutAside(person, int64(1+m.pick("units", 3)))
	c.Until = entry.FormatDay(m.Now.AddDate(0, 0, m.pick("days", 9)), m.State.Location())
	if m.try(c) {
		m.spend(person, c.Units, standing)
		if m.pick("now", 2) == 0 {
			m.endBurn(m.burns[len(m.burns)-1])
		}
	}
}

// endBurn captures a hold, gives it back, or takes a burn back.
func (m *machine) endBurn(b *modelBurn) {
	if b.hold > 0 && m.pick("hold", 3) < 2 {
		if m.pick("end", 2) == 0 {
			if m.try(m.Capture(b.hold)) {
				require.Equal(m.t, standing, b.state)
				m.act(b.person)
				b.state, b.seq, b.at = captured, m.Last(), m.Now
				m.flow.B += b.amount
			}
			return
		}
		if m.try(rules.EndHold{Now: m.Now, Hold: b.hold, Reason: entry.VoidCancelled}) {
			require.Equal(m.t, standing, b.state)
			b.state = givenUp
		}
		return
	}
	if m.try(m.Undo(b.seq)) {
		require.Equal(m.t, captured, b.state)
		require.Less(m.t, m.Now.Sub(b.at), rules.UndoWindow)
		b.state = takenOff
		m.flow.B -= b.amount
		if m.flow.B < 0 {
			m.flow.I, m.flow.B = m.flow.I-m.flow.B, 0
		}
	}
}

func (m *machine) correct(i int) {
	c := m.latest(i)
	v := rules.Correct{
		Now: m.Now, Record: m.Ref(c.task.org, "work.verification", "less"), Author: c.task.org, Signed: true,
		Supersedes: m.Ref(c.task.org, "work.verification", "x").Ref(), Resolution: new(m.Ref(rulestest.City, "gov.resolution", "r")),
		Token: c.token, Outcome: entry.OutcomeRejected,
	}
	if m.pick("partly", 3) == 1 {
		v.Outcome, v.Minutes = entry.OutcomePartial, int64(1+m.pick("minutes", 120))
		v.Credits = min(map[int64]int64{1: 8, 2: 12}[c.terms.Entry.Tier]*v.Minutes/60, c.terms.Credits)
	}
	if !m.try(v) {
		return
	}
	require.Equal(m.t, "minted", c.state)
	less := c.worth - v.Credits
	require.Positive(m.t, less)
	has := m.balance(c.person) // after what expired with the months that it closed
	if m.life[c.person].forgotten {
		has = 0
	}
	taken := min(less, has)
	c.worth -= less
	c.paid -= taken
	defer func() { m.saw(m.Try(v)) }() // again: nothing is left to correct
	if m.life[c.person].asleep > 0 {
		m.life[c.person].woken += taken
	}
	if m.flow.I -= taken; m.flow.I < 0 {
		m.flow.B, m.flow.I = m.flow.B-m.flow.I, 0
	}
}

// work is a task that somebody claims and does at once.
func (m *machine) work(person int) {
	task := m.Task(rulestest.Library, fmt.Sprint(len(m.Entries)), 1)
	task.Epoch = m.epoch
	start := m.Now.Add(time.Hour)
	task.Shifts[0].StartsAt, task.Shifts[0].EndsAt = start, start.Add(2*time.Hour)
	if !m.try(task) {
		return
	}
	t := &modelTask{org: rulestest.Library, epoch: m.epoch, versions: []rules.AcceptTask{task}, over: map[string]bool{}, closed: map[string]int64{}}
	m.tasks = append(m.tasks, t)
	h, err := m.TryClaim(m.ClaimOf(person, task))
	if !m.saw(err) {
		return
	}
	c := &modelClaim{task: t, terms: task, shift: "a", person: person, token: h.Token}
	m.claims = append(m.claims, c)
	m.Now = start
	m.decided(c, m.Verify(task, h.Token), task.Credits)
}

// stop holds a task's mints by an objection, lets it go, or stops all mints for a time.
func (m *machine) stop() {
	city := func(key string) entry.Cause { return m.Ref(rulestest.City, "gov.resolution", key) }
	switch {
	case m.held != nil:
		m.Must(rules.Resume{Now: m.Now, What: entry.PauseTask, Subject: m.held.current().First, Reason: "dismissed", Record: city("no")})
		m.held = nil
	case m.pick("all", 2) == 0 && len(m.claims) > 0:
		m.held = m.claims[max(0, len(m.claims)-1-m.pick("back", 6))].task
		m.Must(rules.Pause{Now: m.Now, What: entry.PauseTask, Subject: m.held.current().First, Reason: "objection", Record: city("heard")})
		m.settled = len(m.Entries)
		for i, c := range m.claims {
			if c.task == m.held && c.state == "" {
				m.verify(i)
				break
			}
		}
	case !m.Now.Before(m.stopped):
		hours := time.Duration(1+m.pick("hours", 100)) * time.Hour
		m.stopped = m.Now.Add(hours).Truncate(time.Second)
		m.Must(rules.Pause{
			Now: m.Now, What: entry.PauseMints, Until: m.stopped, Reason: "flood", Record: m.Ref(rulestest.City, "gov.decision", m.Now.String()),
		})
	}
	m.settled = len(m.Entries)
}

// forget lets a person go who has nothing open.
func (m *machine) forget(person int) {
	l := &m.life[person]
	busy := slices.ContainsFunc(m.claims, func(c *modelClaim) bool { return c.person == person && c.state == "" })
	if l.forgotten || busy || m.aside(person) > 0 {
		return
	}
	m.turnMonths()
	id := rulestest.Account(person)
	for _, e := range m.Entries {
		if e.Sealed != nil && e.Sealed.Account == id {
			m.gone[e.Seq] = true
		}
	}
	gone, err := rules.Forget(m.State, id, m.Now)
	require.NoError(m.t, err)
	m.forgets[m.State.Size()] = id
	for _, x := range gone {
		require.Equal(m.t, m.balance(person), x.Amount)
		m.Must(x)
	}
	amount := m.balance(person)
	if l.asleep == 0 {
		m.flow.Q += amount
	}
	m.flow.X += amount
	m.flow.R += l.woken
	*l = modelLife{forgotten: true, expired: l.expired + amount}
	m.settled = len(m.Entries)
}

// turnMonths is what the clock brings by itself.
func (m *machine) turnMonths() {
	for _, c := range m.State.DueHolds(m.Now) {
		m.Must(c)
		m.settle()
		for _, b := range m.burns {
			if b.hold == c.Hold {
				b.state = givenUp
			}
		}
	}
	m.Must(rules.CloseMonths{Now: m.Now})
	m.settle()
	for _, c := range m.State.EpochsToClose(m.Now) {
		m.Must(c)
	}
	second := "e2027-02"
	if m.epoch != second && !m.Now.Before(m.At("2027-03-29 00:00")) && m.Now.Before(m.At("2027-06-21 00:00")) {
		m.openEpoch(second)
	}
	m.settled = len(m.Entries)
}

// settle takes the months that the last entries closed into the model, and holds what they say against it.
func (m *machine) settle() {
	for ; m.settled < len(m.Entries); m.settled++ {
		switch e := &m.Entries[m.settled]; e.Kind {
		case entry.KindDormant:
			m.closeMonth(e)
		case entry.KindExpire:
			var sum int64
			for person := range people {
				if l := &m.life[person]; l.asleep > dormancy {
					sum += m.balance(person)
					l.expired += m.balance(person)
				}
			}
			require.Equal(m.t, sum, e.Amount)
			m.flow.X += sum
		}
	}
}

func (m *machine) closeMonth(e *entry.Entry) {
	f, s := m.flow, rules.Stock{}
	for person := range people {
		l := &m.life[person]
		total := m.balance(person) + m.aside(person)
		f.R += l.woken
		switch {
		case l.forgotten:
			continue
		case total == 0:
			l.asleep = 0
		case l.asleep > 0:
			l.asleep++
		case !l.acted:
			l.asleep = 1
			f.Q += total
		}
		l.acted, l.woken = false, 0
		if l.asleep > 0 {
			s.D += total
		} else {
			s.A += total
		}
	}
	require.Equal(m.t, f, rules.Flow{
		I: e.Dormant.Issued, B: e.Dormant.Burned, Q: e.Amount, R: e.Dormant.Reactivated, X: e.Dormant.Expired,
	}, "flows of month %d", m.months)
	require.Equal(m.t, s, rules.Stock{A: e.Dormant.Active, D: e.Dormant.Dormant}, "stock after month %d", m.months)
	next, err := m.stock.After(f)
	require.NoError(m.t, err)
	require.Equal(m.t, next, s, "A' = A+I−B−Q+R, D' = D+Q−X−R")
	m.stock, m.flow = s, rules.Flow{}
	m.months++
}

// end replays the log as one who comes later, and audits it as anyone, as a validator who was there and as one who comes later.
func (m *machine) end() {
	seed := [32]byte{2}
	m.turnMonths()
	m.Must(rules.Digest{Now: m.Now, Seed: seed[:]})
	later := rules.NewState(m.State.Location())
	anyone, there, after := audit.New("did:plc:ledger"), audit.New("did:plc:ledger"), audit.New("did:plc:ledger")
	for i, leaf := range m.Leaves {
		seq := int64(i)
		if id, ok := m.forgets[seq]; ok {
			there.Forget(id)
		}
		e, err := entry.Decode(leaf)
		require.NoError(m.t, err)
		opening := m.Openings[seq]
		require.NoError(m.t, anyone.Add(seq, leaf))
		require.NoError(m.t, there.AddSealed(seq, leaf, opening, false))
		switch {
		case m.gone[seq]:
			e.Sealed = &entry.Sealed{Erased: true}
			require.NoError(m.t, after.AddSealed(seq, leaf, nil, true))
		default:
			if opening != nil {
				rulestest.Unseal(m.t, e, opening)
			}
			require.NoError(m.t, after.AddSealed(seq, leaf, opening, false))
		}
		require.NoError(m.t, rules.Apply(later, *e))
	}
	require.Equal(m.t, m.State.Digest(), later.Digest(), "R2")
	for i, key := range m.epochs {
		want, _ := m.State.Totals(rulestest.Book, key)
		require.Equal(m.t, want, convert(anyone.Totals()[i]))
	}
}
