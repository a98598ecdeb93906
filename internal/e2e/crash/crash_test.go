//go:build crash

package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/lexicons"
)

// Points that a process comes to many times a second, and those that it comes to every ten; at the others it dies at one of the first times.
var (
	often  = []string{"pds/write/", "pds/together/", "appview/event/", "ledger/intake/", "ledger/sequencer/"}
	seldom = []string{
		"ledger/checkpoint/kept", "ledger/checkpoint/after-write", "ledger/erase/", "ledger/hold/", "ledger/voucher/", "ledger/card/", "ledger/code/returned",
	}
	// An epoch closes after its months: no city of a test lives so long. The ledger's own tests start again there.
	never = []string{"ledger/report/"}
	// Only the city in one process has witnesses beside it.
	together = []string{"ledger/cosign/before-keep#3", "ledger/cosign/after-keep#2", "ledger/digest/made#2"}
)

const anyMoment = "kill -9"

// rounds are all points, and each process and the database killed at no point between them. At which time of coming to a point a process
// dies follows from the seed; CRASH_SEED sets another one and another order.
func rounds(t *testing.T) []string {
	t.Helper()
	seed, given := uint64(1), os.Getenv("CRASH_SEED")
	if given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err, "CRASH_SEED")
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	var out []string
	for _, label := range crash.Labels() {
		begins := func(step string) bool { return strings.HasPrefix(label, step) }
		if slices.ContainsFunc(never, begins) || aloneOnly(label) || begins("ledger/cosign/") || begins("ledger/digest/") {
			continue
		}
		most := 3
		switch {
		case slices.ContainsFunc(often, begins):
			most = 12
		case slices.ContainsFunc(seldom, begins):
			most = 1
		}
		out = append(out, fmt.Sprintf("%s#%d", label, 1+rng.IntN(most)))
	}
	if given != "" {
		rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	for i, name := range []string{"postgres", "ledger", "pds", "postgres", "appview", "postgres"} {
		out = slices.Insert(out, 4+5*i, name+" "+anyMoment)
	}
	return out
}

func TestNothingIsLostOrDoneTwiceByThreeProcesses(t *testing.T) {
	dir, bin := place(t)
	data, ready := found(t, bin, dir, 0) // its witnesses would be further processes
	survive(t, openApart, bin, dir, data, ready, rounds(t))
}

func TestNothingIsLostOrDoneTwiceByOneProcess(t *testing.T) {
	dir, bin := place(t)
	// The founding itself goes on where it was killed.
	data, ready := found(t, bin, dir, 3,
		"pds/create/after-signup#1", "pds/create/after-plc#3", "pds/create/after-commit#4", "ledger/sequencer/after-commit#1",
		"ledger/checkpoint/before-sign#1", "pds/write/after-commit#2", "ledger/intake/before-cursor#4", "appview/event/before-commit#5",
	)
	var some []string
	for i, round := range rounds(t) {
		if i%3 == 1 {
			some = append(some, round)
		}
	}
	survive(t, openWhole, bin, dir, data, ready, append(append(some, together...), "postgres "+anyMoment, "dev "+anyMoment))
}

// place makes a folder and builds the program in it. After a failure the folder stays, with the services' logs.
func place(t *testing.T) (dir, bin string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "citysync-crash-")
	require.NoError(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	require.NoError(t, os.Chmod(dir, 0o755), "the database's own account must reach its folder")
	return dir, build(t, dir)
}

// survive kills a city in rounds while it is used, and compares it afterwards with what it had said and with the same city left alone.
func survive(t *testing.T, open opener, bin, dir, data, ready string, rounds []string) {
	t.Helper()
	calm := filepath.Join(dir, "calm")
	output(t, dir, "cp", "-a", data, calm)

	var told struct {
		Web, Ledger, PDS, AdminPassword, LedgerDID string

		Accounts []struct {
			Handle, Password string
			Roles            []string
		}
	}
	raw, err := os.ReadFile(ready)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &told))

	c := open(t, bin, dir, data)
	w, read, log := newWriter(t, told.PDS, told.AdminPassword), newConsumer(), newWatcher(t, told.Ledger)
	counter := &desk{pds: told.PDS, ledger: told.Ledger, ledgerDID: told.LedgerDID}
	for _, a := range told.Accounts {
		if slices.Contains(a.Roles, "redeemer") {
			counter.handle, counter.password = a.Handle, a.Password
		}
	}
	acting, stopActing := context.WithCancel(t.Context())
	watching, stopWatching := context.WithCancel(t.Context())
	defer stopWatching()
	defer stopActing()
	watchers, alive := errgroup.WithContext(t.Context())
	actors, alive := errgroup.WithContext(alive) // ends with the first error of any of them
	var disturbed []figures
	actors.Go(func() error { return w.run(acting) })
	actors.Go(func() error { return counter.run(acting) })
	actors.Go(func() error {
		for acting.Err() == nil { // the one under way when the last round ends goes on to its end
			f, err := demo(t.Context(), bin, ready, len(disturbed)+1)
			if err != nil {
				return err
			}
			disturbed = append(disturbed, f)
		}
		return nil
	})
	watchers.Go(func() error { return read.run(watching, told.PDS) })
	watchers.Go(func() error { return log.run(watching) })

	for i, round := range rounds {
		began := time.Now()
		name, _, _ := strings.Cut(round, "/")
		name, moment, _ := strings.Cut(name, " ")
		p := c.process(name)
		switch {
		case name == "postgres":
			c.killPostgres(t)
		case moment == anyMoment:
			p.forget()
			require.NoError(t, p.kill())
			require.Equal(t, killed, p.dies(alive, t, round))
		default:
			p.forget()
			p.load(t, round)
			p.diedAt(alive, t, round)
		}
		died := time.Since(began)
		acked := w.latest.Load()
		for _, p := range c.procs {
			p.serves(alive, t)
		}
		require.NoError(t, eventually(alive, func(context.Context) error {
			if w.latest.Load() == acked {
				return fmt.Errorf("nothing was acknowledged since")
			}
			return nil
		}), "after %s", round)
		t.Logf("round %2d  %-36s died after %5.1fs, all back after %.1fs, %d records acknowledged", i+1, round, died.Seconds(),
			(time.Since(began) - died).Seconds(), w.latest.Load())
	}
	stopActing()
	require.NoError(t, actors.Wait())

	require.NoError(t, eventually(t.Context(), func(context.Context) error {
		if last := w.acked[len(w.acked)-1]; read.rev(w.did) < last.Commit.Rev {
			return fmt.Errorf("the consumer is at %s, the last commit is %s", read.rev(w.did), last.Commit.Rev)
		}
		return nil
	}))
	w.check(t, read)
	assert.Empty(t, read.wrong, "the order of the firehose")

	var mints, burns, receipts int
	var tills map[string][]int64
	require.NoError(t, eventually(t.Context(), func(context.Context) error {
		mints, burns, receipts, tills = log.check(t)
		if n := published(t, told.PDS, told.LedgerDID, lexicons.LedgerReceipt); n != receipts {
			return fmt.Errorf("%d receipts of %d entries that make one", n, receipts)
		}
		return nil
	}))
	counter.check(t, tills)
	t.Logf("%d checkpoints were served, all of one log; %d mints and %d burns, and %d receipts, one each; %d records and %d tills acknowledged",
		len(log.roots), mints, burns, receipts, len(w.acked), len(counter.bound))
	t.Logf("%s", output(t, dir, bin, "verify", told.Web))
	if c.postgres != nil {
		c.rebuildAppView(t, read, log)
	}
	stopWatching()
	require.NoError(t, watchers.Wait())
	c.close(t)
	for _, p := range c.procs {
		raw, err := os.ReadFile(p.log())
		require.NoError(t, err)
		assert.NotContains(t, string(raw), "broken invariant", "log of %s", p.name)
	}

	undisturbed := open(t, bin, dir, calm)
	for i, f := range disturbed {
		want, err := demo(t.Context(), bin, ready, i+1)
		require.NoError(t, err)
		assert.Equal(t, want, f, "the figures after the demonstration of seed %d", i+1)
	}
	undisturbed.close(t)
	t.Logf("%d demonstrations ended as undisturbed ones do: %+v", len(disturbed), disturbed[len(disturbed)-1])
}
