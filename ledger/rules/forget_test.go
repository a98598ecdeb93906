package rules_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// years runs people through months against a naive model: lists of balances, searched and summed each time.
type years struct {
	t *rapid.T
	*rulestest.Town
	forgotten map[entry.Account]bool

	people map[int]*modelPerson
	stock  rules.Stock // as the model has it
	flow   rules.Flow
	tasks  int
}

type modelPerson struct {
	credits, woken int64
	asleep         int64
	acted          bool
}

func (p *modelPerson) act() {
	if p.asleep > 0 {
		p.woken, p.asleep = p.woken+p.credits, 0
	}
	p.acted = true
}

const modelDormancy = 2

func newYears(t *rapid.T) *years {
	town := yearTown(t, modelDormancy)
	y := &years{t: t, Town: town, forgotten: map[entry.Account]bool{}, people: map[int]*modelPerson{}}
	for n := range 5 {
		y.people[n] = &modelPerson{}
	}
	return y
}

// closeMonth is what the end of a month means, in plain words.
func (y *years) closeMonth() {
	f := y.flow
	for _, p := range y.people {
		f.R += p.woken
		switch {
		case p.credits == 0:
			p.asleep = 0
		case p.asleep > 0:
			p.asleep++
		case !p.acted:
			p.asleep = 1
			f.Q += p.credits
		}
		p.woken, p.acted = 0, false
	}
	y.stock = rules.Stock{A: y.stock.A + f.I - f.B - f.Q + f.R, D: y.stock.D + f.Q - f.X - f.R}
	y.flow = rules.Flow{}
	for _, p := range y.people {
		if p.asleep > modelDormancy {
			y.flow.X += p.credits
			p.credits = 0
		}
	}
}

func (y *years) pick(name string, n int) int { return rapid.IntRange(0, n-1).Draw(y.t, name) }

func (y *years) person() (int, *modelPerson) {
	var alive []int
	for n := range y.people {
		alive = append(alive, n)
	}
	slices.Sort(alive)
	if len(alive) == 0 {
		return -1, nil
	}
	n := alive[y.pick("person", len(alive))]
	return n, y.people[n]
}

// see takes closings that stand in the log into the model.
func (y *years) see(from int) {
	for _, e := range y.Entries[from:] {
		if e.Kind == entry.KindDormant {
			y.closeMonth()
			require.Equal(y.t, y.stock, rules.Stock{A: e.Dormant.Active, D: e.Dormant.Dormant}, "month %d of %s", e.Dormant.Month, e.Epoch)
		}
	}
}

func (y *years) earn() {
	n, p := y.person()
	if p == nil {
		return
	}
	totals, ok := y.State.Totals(rulestest.Book, y.Ride.Epoch)
	if !ok || totals.Outstanding+totals.Minted+16 > 600 {
		return
	}
	task := y.Task(rulestest.Library, string(rune('a'+y.tasks%26))+string(rune('a'+y.tasks/26)), 1)
	task.Epoch = y.Ride.Epoch
	y.tasks++
	from := len(y.Entries)
	if y.Try(task) != nil { // the shift crosses the end of the epoch
		return
	}
	token := y.Claim(n, task)
	y.Now = task.Shifts[0].StartsAt
	y.Must(y.Verify(task, token))
	y.see(from)
	p.act()
	p.credits += 16
	y.flow.I += 16
}

func (y *years) burn() {
	n, p := y.person()
	if p == nil {
		return
	}
	from := len(y.Entries)
	err := y.Try(y.Burn(n, 1))
	y.see(from)
	if err != nil {
		require.Contains(y.t, []string{rules.InsufficientBalance, rules.EpochClosed}, rules.Refused(err))
		return
	}
	p.act()
	p.credits -= 4
	y.flow.B += 4
}

func (y *years) pass() {
	y.Now = y.Now.Add(time.Duration(1+y.pick("days", 40)) * 24 * time.Hour)
	day := y.Now.In(y.State.Location())
	y.Now = time.Date(day.Year(), day.Month(), day.Day(), 9, 0, 0, 0, y.State.Location())
	from := len(y.Entries)
	y.Must(rules.CloseMonths{Now: y.Now})
	y.see(from)
	for _, c := range y.State.EpochsToClose(y.Now) {
		y.Must(c)
	}
	for key := range 6 {
		name := "e2027-0" + string(rune('1'+key))
		if _, _, _, open := y.State.Opening(rulestest.Book, name); open {
			continue
		}
		err := y.Try(rules.OpenEpoch{Now: y.Now, Epoch: name, Book: rulestest.Book, Offerings: y.offer(name)})
		if err == nil {
			y.Ride = y.offer(name)[0]
			break
		}
		require.Equal(y.t, rules.EpochOver, rules.Refused(err))
	}
	if key, ok := y.State.EpochAt(rulestest.Book, y.Now); ok {
		y.Ride.Epoch = key
		if c, counted := y.State.Counted(rulestest.Book, key, y.Ride.Record.URI); counted {
			y.Ride.Record.CID = c.CID
		}
	}
}

func (y *years) offer(epoch string) []rules.Offering {
	o := y.Ride
	o.Epoch = epoch
	return []rules.Offering{o}
}

func (y *years) digest() {
	y.Must(rules.Digest{Now: y.Now, Seed: []byte("0123456789abcdef0123456789abcdef")})
	for n, p := range y.people {
		shares, root, _, ok := y.State.BalanceProof(rulestest.Account(n), rulestest.Book)
		require.Equal(y.t, p.credits > 0, ok)
		if ok {
			got, err := entry.VerifyBalance(root, rulestest.Account(n), shares)
			require.NoError(y.t, err)
			require.Equal(y.t, p.credits, got)
		}
	}
}

func (y *years) forget() {
	n, p := y.person()
	if p == nil {
		return
	}
	from := len(y.Entries)
	y.Must(rules.CloseMonths{Now: y.Now})
	y.see(from)
	left, err := rules.Forget(y.State, rulestest.Account(n), y.Now)
	require.NoError(y.t, err)
	for _, x := range left {
		y.Must(x)
		if p.asleep == 0 {
			y.flow.Q += p.credits
		}
		y.flow.X += p.credits
		y.flow.R += p.woken
	}
	delete(y.people, n)
	y.forgotten[rulestest.Account(n)] = true
}

// replay is what the log gives when the openings of those who were forgotten are destroyed.
func (y *years) replay() *rules.State {
	s := rules.NewState(y.State.Location())
	for seq, leaf := range y.Leaves {
		e, err := entry.Decode(leaf)
		require.NoError(y.t, err)
		if raw := y.Openings[int64(seq)]; raw != nil {
			rulestest.Unseal(y.t, e, raw)
			if y.forgotten[e.Sealed.Account] {
				e.Sealed = &entry.Sealed{Erased: true}
			}
		}
		require.NoError(y.t, rules.Apply(s, *e), "entry %d", seq)
	}
	return s
}

// Months agree with a naive model; after any of them, whoever asks to be forgotten leaves a state that a replay without their
// openings gives too (R2), and what they had expires whether it slept or not.
func TestMonthsAgreeWithANaiveModelAlsoAfterForgetting(t *testing.T) {
	t.Parallel()
	var expired, forgot, woke int
	rapid.Check(t, func(t *rapid.T) {
		y := newYears(t)
		for range rapid.IntRange(5, 50).Draw(t, "steps") {
			switch step := y.pick("step", 14); {
			case step < 5:
				y.earn()
			case step < 8:
				y.burn()
			case step < 12:
				y.pass()
			case step == 12:
				y.digest()
			default:
				y.forget()
			}
			for n, p := range y.people {
				credits, _ := y.State.Balance(rulestest.Account(n), rulestest.Book)
				require.Equal(t, p.credits, credits, "person %d", n)
			}
		}
		require.Equal(t, y.State.Digest(), y.replay().Digest(), "R2")
		forgot += len(y.forgotten)
		for _, e := range y.Entries {
			if e.Kind == entry.KindExpire && e.Expire.Reason == entry.ExpireDormancy {
				expired++
			}
			if e.Kind == entry.KindDormant && e.Dormant.Reactivated > 0 {
				woke++
			}
		}
	})
	assert.NotZero(t, expired, "the histories must meet an expiry")
	assert.NotZero(t, forgot)
	assert.NotZero(t, woke)
}

// Whoever still holds a slot, or credits at a counter, is not forgotten before that ended, nor while a month is open that is over.
func TestForgetWaitsForWhatStands(t *testing.T) {
	t.Parallel()
	w := yearTown(t, 12)
	w.Earn(0, 1)
	task := w.Accept(w.Task(rulestest.Library, "open", 1))
	token := w.Claim(0, task)
	_, err := rules.Forget(w.State, rulestest.Account(0), w.Now)
	require.ErrorIs(t, err, rules.ErrBroken)
	require.True(t, rules.DropClaim(w.State, token))
	_, err = rules.Forget(w.State, rulestest.Account(0), w.At("2027-02-01 00:00"))
	require.ErrorIs(t, err, rules.ErrBroken)
	_, err = rules.Forget(w.State, entry.Account{}, w.Now)
	require.Equal(t, rules.NotActivated, rules.Refused(err))
	left, err := rules.Forget(w.State, rulestest.Account(0), w.Now)
	require.NoError(t, err)
	require.Equal(t, []rules.ExpireErased{{Now: w.Now, Book: rulestest.Book, Amount: 16, Active: 16}}, left)
	w.Must(left[0])
	_, ok := w.State.AccountOf(rulestest.Resident(0))
	assert.False(t, ok)
	w.Refused(rules.NotActivated, rules.Burn{Now: w.Now, Account: rulestest.Account(0), Offering: w.Ride, Units: 1, Till: w.Till})
}

// More than the forgotten had cannot expire of theirs, nor can more of it have slept or woken.
func TestForgedExpiriesOfTheForgottenStopTheReplay(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*entry.Entry){
		"more than they had":      func(e *entry.Entry) { e.Amount++; e.Expire.Active++ },
		"more active than all":    func(e *entry.Entry) { e.Expire.Active++ },
		"asleep, and never slept": func(e *entry.Entry) { e.Expire.Active-- },
		"woken, and never slept":  func(e *entry.Entry) { e.Expire.Woken++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := yearTown(t, 12)
			w.Earn(0, 1)
			left, err := rules.Forget(w.State, rulestest.Account(0), w.Now)
			require.NoError(t, err)
			entries, err := rules.Decide(w.State, left[0])
			require.NoError(t, err)
			change(&entries[0])
			require.ErrorIs(t, rules.Apply(w.State, entries[0]), rules.ErrBroken)
		})
	}
}
