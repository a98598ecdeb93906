package index_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// reads starts a reader of l; what it complains of is in the alarms.
func (w *world) reads(l *logtest.Log) *alarms {
	w.t.Helper()
	_, cbor := example(w.t, lexicons.ActorCity)
	cbor = edited(w.t, cbor, "log", map[string]any{"origin": logtest.Origin, "vkey": l.VKey, "url": l.URL})
	w.author(city).put(repo.Create, lexicons.ActorCity, "self", cbor)
	said := &alarms{}
	reader := index.NewLogReader(w.x, city, http.DefaultClient, slog.New(slog.NewTextHandler(said, nil)))
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- reader.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			assert.NoError(w.t, err)
		}
	})
	return said
}

func (w *world) says(a *alarms, words string) {
	w.t.Helper()
	assert.Eventually(w.t, func() bool { return a.say(words) }, 20*time.Second, 20*time.Millisecond, "%s", words)
}

func TestLogWithEveryKindOfEntryIsCopied(t *testing.T) {
	t.Parallel()
	w, l := newWorld(t), logtest.New(t)
	l.Extend("balances 3 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	town := logtest.Tell(l)
	l.BindWitnesses(1, logtest.Library)
	town.Close()
	l.Rotate()
	w.reads(l)
	w.eventually(l.Size())
	assert.Equal(t, 21, w.count("select count(distinct kind) from log_entry"), "all kinds")
	assert.Equal(t, int(town.Seq["hold"]), w.count("select refers from log_entry where kind = 'capture'"))
	assert.Equal(t, int(town.Seq["corrected"]), w.count("select refers from log_entry where kind = 'reverse' and what = 'mint'"))
	assert.Equal(t, 1, w.count("select count(*) from log_entry where kind = 'pause' and what = 'task' and subject = $1", logtest.Task))
}

func TestLogKeyThatTheLogBindsIsAcceptedAndTheOldOneForTheOverlap(t *testing.T) {
	t.Parallel()
	w, l := newWorld(t), logtest.New(t)
	rules := entry.Entry{Kind: entry.KindRulesVersion, At: "2027-01-12T10:00:00Z", RulesVersion: &entry.RulesVersion{Version: 2}}
	l.Add(rules)
	said := w.reads(l)
	l.Rotate()
	w.eventually(2)
	old := l.Retire()
	l.Add(rules)
	w.eventually(3)
	l.Sign(old)
	l.Add(rules)
	w.eventually(4) // the overlap lasts: a checkpoint of the old key alone still counts
	w.clock.Advance(tlog.KeyOverlap)
	l.Add(rules)
	w.says(said, "ledger log not read")
	assert.Equal(t, 4, w.count("select count(*) from log_entry"), "a retired key")
}

func TestLogKeyThatNobodyBoundIsNotAccepted(t *testing.T) {
	t.Parallel()
	w, l := newWorld(t), logtest.New(t)
	rules := entry.Entry{Kind: entry.KindRulesVersion, At: "2027-01-12T10:00:00Z", RulesVersion: &entry.RulesVersion{Version: 2}}
	l.Add(rules)
	said := w.reads(l)
	w.eventually(1)
	l.Steal()
	l.Add(rules)
	w.says(said, "ledger log not read")
	assert.Equal(t, 1, w.count("select count(*) from log_entry"))
}

func TestCheckpointIsCosignedOnlyByAQuorumOfTheBoundPolicy(t *testing.T) {
	t.Parallel()
	w, l := newWorld(t), logtest.New(t)
	l.BindWitnesses(2, logtest.Library, logtest.Museum, "did:plc:wwwwwwwwwwwwwwwwwwwwwwww")
	l.Cosign(1)
	said := w.reads(l)
	w.says(said, "no quorum")
	assert.Zero(t, w.count("select count(*) from log_cosigned"))
	l.Cosign(2)
	require.Eventually(t, func() bool { return w.count("select coalesce(sum(cardinality(witnesses)), 0) from log_cosigned") == 2 }, 20*time.Second, 20*time.Millisecond)
	assert.Equal(t, 3, w.count("select members from log_cosigned"))
	l.Cosign(3)
	require.Eventually(t, func() bool { return w.count("select cardinality(witnesses) from log_cosigned") == 3 }, 20*time.Second, 20*time.Millisecond, "later lines are added")
}

func TestPolicyThatTheLogDoesNotBindIsNotUsed(t *testing.T) {
	t.Parallel()
	w, l := newWorld(t), logtest.New(t)
	l.BindWitnesses(2, logtest.Library, logtest.Museum)
	l.Cosign(2)
	l.SwapPolicy("quorum none\n")
	w.says(w.reads(l), "the policy served is not the one")
	assert.Zero(t, w.count("select count(*) from log_cosigned"))
}

func TestCosignedCheckpointOfAnotherHistoryIsAnAlarm(t *testing.T) {
	t.Parallel()
	w, l := newWorld(t), logtest.New(t)
	l.BindWitnesses(1, logtest.Library)
	l.Cosign(1)
	l.Fork()
	w.says(w.reads(l), "witnesses cosigned another root")
	assert.Zero(t, w.count("select count(*) from log_cosigned"))
}
