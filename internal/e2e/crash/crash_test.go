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

// often are the points that a process comes to many times a second; at the others it dies at one of the first times.
var often = []string{
	"pds/write/", "appview/event/", "ledger/intake/", "ledger/sequencer/",
}

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
		most := 3
		if slices.ContainsFunc(often, func(step string) bool { return strings.HasPrefix(label, step) }) {
			most = 12
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

func TestNothingAcknowledgedIsLostOrDoneTwiceWhateverIsKilled(t *testing.T) {
	dir, err := os.MkdirTemp("", "citysync-crash-")
	require.NoError(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	require.NoError(t, os.Chmod(dir, 0o755), "the database's own account must reach its folder")
	bin, data, ready := found(t, dir)
	calm := filepath.Join(dir, "calm")
	output(t, dir, "cp", "-a", data, calm)

	var told struct{ Web, Ledger, PDS, AdminPassword, LedgerDID string }
	raw, err := os.ReadFile(ready)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &told))

	c := open(t, bin, dir, data)
	w, read, log := newWriter(t, told.PDS, told.AdminPassword), newConsumer(), newWatcher(t, told.Ledger)
	acting, stopActing := context.WithCancel(t.Context())
	watching, stopWatching := context.WithCancel(t.Context())
	defer stopWatching()
	defer stopActing()
	watchers, alive := errgroup.WithContext(t.Context())
	actors, alive := errgroup.WithContext(alive) // ends with the first error of any of them
	var disturbed []figures
	actors.Go(func() error { return w.run(acting) })
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

	for i, round := range rounds(t) {
		began := time.Now()
		name, _, _ := strings.Cut(round, "/")
		name, moment, _ := strings.Cut(name, " ")
		switch {
		case name == "postgres":
			c.killPostgres(t)
		case moment == anyMoment:
			c.procs[name].forget()
			require.NoError(t, c.procs[name].kill())
			require.Equal(t, killed, c.procs[name].dies(alive, t, round))
		default:
			c.procs[name].diesAt(alive, t, round)
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

	var mints, burns int
	require.NoError(t, eventually(t.Context(), func(context.Context) error {
		if n, all := published(t, told.PDS, told.LedgerDID, lexicons.LedgerReceipt), 0; true {
			mints, burns = log.check(t)
			if all = mints + burns; n != all {
				return fmt.Errorf("%d receipts of %d mints and %d burns", n, mints, burns)
			}
		}
		return nil
	}))
	stopWatching()
	require.NoError(t, watchers.Wait())
	t.Logf("%d checkpoints were served, all of one log; %d mints and %d burns, each with its one receipt", len(log.roots), mints, burns)
	t.Logf("%s", output(t, dir, bin, "verify", told.Web))
	c.close(t)
	for _, name := range services {
		raw, err := os.ReadFile(c.procs[name].log)
		require.NoError(t, err)
		assert.NotContains(t, string(raw), "broken invariant", "log of %s", name)
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
