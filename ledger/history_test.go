package ledger

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// An op is what somebody did to one account, between two moments of a clock that all share.
type op struct {
	asked, answered int64
	seq             int64              // of the entry that it made; -1 where it only saw
	delta           int64              // of the balance
	saw             func(b int64) bool // what it learned of the balance; nil where it wrote
	what            string
}

// linearizable says whether the ops of one account can be ordered so that each happened at one moment between its asking and its answer.
// The log orders what was written; what was seen must fit between.
func linearizable(ops []op) error {
	var writes, sights []op
	for _, o := range ops {
		if o.saw == nil {
			writes = append(writes, o)
		} else {
			sights = append(sights, o)
		}
	}
	slices.SortFunc(writes, func(a, b op) int { return int(a.seq - b.seq) })
	balances := []int64{0} // after so many writes
	for i, w := range writes {
		if i > 0 && writes[i-1].seq == w.seq {
			return fmt.Errorf("%s and %s are both entry %d", writes[i-1].what, w.what, w.seq)
		}
		balances = append(balances, balances[i]+w.delta)
		if balances[i+1] < 0 {
			return fmt.Errorf("%s leaves %d", w.what, balances[i+1])
		}
		for _, later := range writes[i+1:] {
			if later.answered < w.asked {
				return fmt.Errorf("%s (entry %d) was answered before %s (entry %d) was asked", later.what, later.seq, w.what, w.seq)
			}
		}
	}
	// What was seen is put after as few writes as it can be, and never before what somebody had seen when it was asked.
	slices.SortFunc(sights, func(a, b op) int { return int(a.asked - b.asked) })
	after := make([]int, len(sights))
	for i, s := range sights {
		least, most := 0, len(writes)
		for k, w := range writes {
			if w.answered < s.asked {
				least = max(least, k+1)
			}
			if w.asked > s.answered {
				most = min(most, k)
			}
		}
		for j := range i {
			if sights[j].answered < s.asked {
				least = max(least, after[j])
			}
		}
		for least <= most && !s.saw(balances[least]) {
			least++
		}
		if least > most {
			return fmt.Errorf("%s fits at no moment between %d and %d: balances were %v", s.what, s.asked, s.answered, balances)
		}
		after[i] = least
	}
	return nil
}

func saw(n int64) func(int64) bool { return func(b int64) bool { return b == n } }

func TestHistoriesThatAreNotLinearizableAreFound(t *testing.T) {
	t.Parallel()
	mint := op{asked: 1, answered: 4, seq: 7, delta: 24, what: "mint"}
	good := []op{mint, {asked: 2, answered: 3, seq: -1, saw: saw(24), what: "read"}, {asked: 5, answered: 6, seq: 8, delta: -8, what: "burn"}}
	require.NoError(t, linearizable(good))
	for name, bad := range map[string][]op{
		"a read from before an answered write": {mint, {asked: 5, answered: 6, seq: -1, saw: saw(0), what: "read"}},
		"a read of what was not yet asked":     {{asked: 5, answered: 6, seq: 7, delta: 24}, {asked: 1, answered: 2, saw: saw(24)}},
		"a read of what never was":             {mint, {asked: 2, answered: 9, saw: saw(8)}},
		"two reads that go back": {
			mint, {asked: 2, answered: 3, saw: saw(24)}, {asked: 4, answered: 5, saw: saw(0)},
		},
		"the log against the clock": {mint, {asked: 5, answered: 6, seq: 6, delta: 24}},
		"one entry twice":           {mint, {asked: 2, answered: 6, seq: 7, delta: 24}},
		"below zero":                {{asked: 1, answered: 2, seq: 1, delta: -8}, mint},
	} {
		assert.Error(t, linearizable(bad), name)
	}
}

// Many goroutines earn, spend and look at once; the answers are those of one account after another's act.
func TestConcurrentHistoriesAreLinearizable(t *testing.T) { // L2, L3
	t.Parallel()
	const (
		people, tasks     = 5, 3
		tills, burns      = 2, 4
		readers, sightsOf = 2, 8
	)
	c := newCity(t)
	approved := c.catalog(c.library, entryOptions{})
	h := &history{c: c, ops: map[*actor][]op{}}
	var residents []*actor
	var holds, mints []func()
	for p := range people {
		r := c.resident(fmt.Sprint("person", p))
		residents = append(residents, r)
		for range tasks {
			task := c.task(c.library, approved, 1)
			token := c.claimToken(c.library, r.claim(task))
			holds = append(holds, func() {
				ev, ref := c.library.hold(lexicons.WorkVerification, c.tid(), verification(task, token, 24))
				mints = append(mints, func() { h.mint(r, ev, ref) })
			})
		}
	}
	for _, hold := range holds { // one repository is read in its order
		hold()
	}
	var all sync.WaitGroup
	all.Go(func() { // one host's commits come one after the other
		for _, mint := range mints {
			mint()
		}
	})
	for p, r := range residents {
		for i := range tills {
			all.Go(func() {
				for j := range burns {
					h.burn(r, 1+(i+j)%3, fmt.Sprint(p, i, j))
					h.read(r) // at once: what it just did must be seen
				}
			})
		}
		for range readers {
			all.Go(func() {
				for range sightsOf {
					h.read(r)
				}
			})
		}
	}
	all.Wait()
	var burned int
	for _, r := range residents {
		require.NoError(t, linearizable(h.ops[r]), "%v", r.did)
		sum := int64(0)
		for _, o := range h.ops[r] {
			sum += o.delta
			if o.delta < 0 {
				burned++
			}
		}
		require.Equal(t, sum, c.balance(r))
	}
	require.NotZero(t, burned, "a history without a burn proves less")
	c.equalsItsReplay()
}

// A history is what all did, by account.
type history struct {
	c    *founded
	time atomic.Int64
	mu   sync.Mutex
	ops  map[*actor][]op // guarded by mu
}

// did notes what an act gave, if it gave anything.
func (h *history) did(r *actor, act func() (op, bool)) {
	asked := h.time.Add(1)
	o, ok := act()
	o.asked, o.answered = asked, h.time.Add(1)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[r] = append(h.ops[r], o)
}

func (h *history) mint(r *actor, ev *firehose.Commit, ref strong) {
	h.did(r, func() (op, bool) {
		h.c.library.deliver(ev)
		e := h.c.status(ref, "minted")
		return op{seq: e.num("seq"), delta: 24, what: "mint"}, true
	})
}

func (h *history) burn(r *actor, units int, key string) {
	price := int64(8 * units)
	var code string
	poor := op{seq: -1, saw: func(b int64) bool { return b < price }, what: fmt.Sprint("refusal of ", price)}
	h.did(r, func() (op, bool) {
		res := h.c.code(r, units, key, nil)
		code = res.str("code")
		return poor, assert.True(h.c.t, code != "" || res.name() == "InsufficientBalance", "%v", res.Body) && code == ""
	})
	if code == "" {
		return
	}
	h.did(r, func() (op, bool) {
		res := h.c.scan(h.c.till, code, "confirm", 0)
		if res.str("status") != "redeemed" {
			return poor, assert.Equal(h.c.t, "InsufficientBalance", res.name(), "%v", res.Body)
		}
		return op{seq: res.num("seq"), delta: -price, what: fmt.Sprint("burn of ", price)}, true
	})
}

func (h *history) read(r *actor) {
	h.did(r, func() (op, bool) {
		n := h.c.balance(r)
		return op{seq: -1, saw: saw(n), what: fmt.Sprint("sight of ", n)}, true
	})
}

// equalsItsReplay asserts that the log alone gives the root, the state and the balances that the process answers with.
func (c *founded) equalsItsReplay() {
	c.t.Helper()
	digest, held, root := c.l.seq.state.Digest(), c.l.seq.state.HeldDigest(), c.l.seq.latest.Load().Root
	c.restart()
	assert.Equal(c.t, digest, c.l.seq.state.Digest())
	assert.Equal(c.t, held, c.l.seq.state.HeldDigest())
	assert.Equal(c.t, root, c.l.seq.latest.Load().Root)
	again, err := tlog.Root(c.l.seq.log.size(), c.l.seq.log)
	require.NoError(c.t, err)
	assert.Equal(c.t, root, again)
}

func TestClockBackTenMinutesAndForwardADay(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	approved := c.catalog(c.library, entryOptions{})
	midnight := time.Date(2027, 1, 14, 8, 0, 0, 0, time.UTC) // in the city
	c.clock.Set(midnight.Add(5 * time.Minute))
	c.sweep()
	code := c.code(ana, 1, "before", nil).str("code")
	require.NotEmpty(t, code)

	c.clock.Advance(-10 * time.Minute) // yesterday
	require.Equal(t, "redeemed", c.scan(c.till, code, "confirm", 0).str("status"), "a code of later is good")
	require.Equal(t, "AlreadyRedeemed", c.scan(c.till, code, "confirm", 1).name())
	ben := c.resident("ben")
	require.Equal(t, int64(16), c.balance(ana))
	c.sweep()
	days := c.days()
	require.True(t, slices.IsSorted(days), "%v", days)
	require.Equal(t, "2027-01-14", days[len(days)-1], "the log's day does not go back")
	c.restart() // with the clock still behind the log
	cleo := c.resident("cleo")
	require.True(t, slices.IsSorted(c.days()), "%v", c.days())
	c.equalsItsReplay()

	late := c.code(ana, 1, "late", nil).str("code")
	c.clock.Advance(24 * time.Hour)
	c.sweep()
	c.refusedCode(late)
	task := c.library.put(lexicons.WorkTask, c.tid(), c.taskOf(approved, c.clock.Now()))
	for _, r := range []*actor{ben, cleo} {
		claim := r.claim(task)
		ver := c.verify(c.library, task, c.claimToken(c.library, claim))
		c.status(ver, "minted")
		require.Equal(t, int64(24), c.balance(r))
	}
	require.Equal(t, int64(16), c.balance(ana), "the code that ended took nothing")
	c.sweep()
	require.True(t, slices.IsSorted(c.days()), "%v", c.days())
	c.equalsItsReplay()
}

func (c *founded) refusedCode(code string) {
	c.t.Helper()
	require.NotEmpty(c.t, code)
	res := c.scan(c.till, code, "confirm", 0)
	require.NotEqual(c.t, 200, res.Status, "%v", res.Body)
}

// taskOf is a task of a shift around a moment, with two slots.
func (c *founded) taskOf(approved strong, around time.Time) map[string]any {
	r := maps.Clone(c.taskRecord(approved, 2))
	r["shifts"] = []any{map[string]any{
		"id": "s1", "startsAt": at(around.Add(-time.Hour)), "endsAt": at(around.Add(time.Hour)), "slots": 2,
	}}
	return r
}

// days are those of the log, in its order.
func (c *founded) days() []string {
	c.t.Helper()
	var days []string
	require.NoError(c.t, c.l.store.replay(c.ctx, c.world.pool, func(e *entry.Entry, _ tlog.Hash) error {
		days = append(days, e.Day)
		return nil
	}))
	return days
}
