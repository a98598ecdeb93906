package ledger

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
)

// kept is what a witness has of what is sealed: the lines of its file, opened.
func kept(t *testing.T, in *institution) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(in.folder, "openings.jsonl"))
	require.NoError(t, err)
	out := slices.Clone(raw)
	for line := range bytes.Lines(raw) {
		var o struct {
			Sealed []byte `json:"sealed"`
		}
		if len(bytes.TrimSpace(line)) > 0 {
			require.NoError(t, json.Unmarshal(line, &o))
		}
		out = append(out, o.Sealed...)
	}
	return out
}

// W5: whom the ledger forgets, its witnesses forget: with the entry that says so, or within a day where the person had nothing that could
// expire. What they know of others stays, and they go on.
func TestWitnessForgetsWhomTheLedgerForgot(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ada, ben, cleo := c.resident("ada"), c.resident("ben"), c.resident("cleo")
	entries := c.catalog(c.library, entryOptions{})
	c.earn(ada, entries)
	c.earn(ben, entries)
	s := newSeven(c, true)
	c.collecting()
	require.Eventually(t, func() bool { return c.l.collector.policy.Load() != nil }, 5*time.Second, 5*time.Millisecond)
	in := s.list[0]
	open := func(cfg *witness.Config) { cfg.Openings = true }
	s.up(in, open)
	cosigns := func() {
		t.Helper()
		honest := c.liar()
		text, err := tlog.NoteText(c.get("/checkpoint").Body.Bytes())
		require.NoError(t, err)
		cp, err := tlog.ParseCheckpoint(text)
		require.NoError(t, err)
		honest.lines = cp.Extensions
		var status int
		require.Eventually(t, func() bool { _, status = honest.bring(in); return status == http.StatusOK }, 10*time.Second, 10*time.Millisecond, "%d", status)
		require.Equal(t, c.l.seq.log.size(), in.w.Size())
	}
	cosigns()

	hers, others := c.traces(ada), c.traces(ben)
	nothing := c.traces(cleo)
	stands := func(traces map[string][]byte) (n int) {
		content := kept(t, in)
		for _, what := range slices.Sorted(maps.Keys(traces)) {
			if bytes.Contains(content, traces[what]) {
				n++
			}
		}
		return n
	}
	all := stands(others)
	require.Positive(t, stands(hers), "or the test sees nothing")
	require.Positive(t, stands(nothing), "or the test sees nothing")

	require.Equal(t, "erased", c.erase(ada).str("status"))
	cosigns()
	assert.Zero(t, stands(hers))
	assert.Equal(t, all, stands(others))

	size := c.l.seq.log.size()
	require.Equal(t, "erased", c.erase(cleo).str("status"))
	require.Equal(t, size, c.l.seq.log.size(), "no entry says so")
	c.clock.Advance(24 * time.Hour)
	c.sweep()
	require.Equal(t, size, c.last(entry.KindStateDigest).Seq)
	silent := c.liar() // a checkpoint that leaves out the balances of the digest
	require.Eventually(t, func() bool { _, status := silent.bring(in); return status == http.StatusUnprocessableEntity }, 10*time.Second, 10*time.Millisecond)
	cosigns()
	assert.Zero(t, stands(nothing))
	assert.Equal(t, all, stands(others))

	require.Empty(t, in.w.Dispute())
	in.stop()
	s.up(in, open)
	c.resident("dora")
	cosigns() // it goes on from a copy that has less
	require.Empty(t, in.w.Dispute())
}
