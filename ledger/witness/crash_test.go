package witness

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// history is a log as it was at one time or another, over HTTP.
type history struct {
	leaves [][]byte
	tree   *tlog.Tree
}

// grown is a history of n entries that shares the first same of them with every other.
func grown(t *testing.T, n, same int64, other string) *history {
	t.Helper()
	h := &history{tree: new(tlog.Tree)}
	at := time.Date(2027, 1, 13, 20, 0, 0, 0, time.UTC)
	for seq := range n {
		e := &entry.Entry{Seq: seq, Kind: entry.KindBind, Day: "2027-01-13", At: entry.FormatTime(at)}
		key := "did:key:z" + fmt.Sprint(seq)
		if seq >= same {
			key += other
		}
		e.Bind = &entry.Bind{What: entry.BindPolicy, Hash: hashOf(key)}
		if seq == 0 {
			e.Kind, e.Bind, e.RulesVersion = entry.KindRulesVersion, nil, &entry.RulesVersion{Version: 2}
		}
		leaf, err := e.Encode()
		require.NoError(t, err)
		h.leaves = append(h.leaves, leaf)
		require.NoError(t, h.tree.Append(leaf))
	}
	return h
}

func hashOf(s string) []byte {
	h := tlog.LeafHash([]byte(s))
	return h[:]
}

// ledger serves one history at a time, and signs for any.
type ledger struct {
	t          *testing.T
	url        string
	skey, vkey string
	now        atomic.Pointer[history]
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	l := &ledger{t: t}
	var err error
	l.skey, l.vkey, err = tlog.GenerateKey(strings.NewReader(strings.Repeat("a", 32)), origin)
	require.NoError(t, err)
	srv := httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(srv.Close)
	l.url = srv.URL
	return l
}

func (l *ledger) serve(w http.ResponseWriter, r *http.Request) {
	h := l.now.Load()
	t, err := tlog.ParseTilePath(strings.TrimPrefix(r.URL.Path, "/"))
	size := int64(len(h.leaves))
	if err != nil || !t.In(size) {
		http.NotFound(w, r)
		return
	}
	var data []byte
	if from, to := t.Leaves(); t.Level == tlog.EntriesLevel {
		data, err = tlog.EncodeBundle(h.leaves[from:to])
	} else {
		data, err = tlog.ReadTile(t, size, h.tree)
	}
	if err != nil {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(data)
}

// home is a witness's folder and the key to it. Its witness can be killed.
type home struct {
	*ledger
	folder string
	key    *tlog.Cosigner
}

func (l *ledger) home(folder string) *home {
	l.t.Helper()
	key, err := tlog.NewCosigner(strings.NewReader(strings.Repeat("w", 32)), "witness.test")
	require.NoError(l.t, err)
	return &home{l, folder, key}
}

// open starts the witness anew from its folder.
func (h *home) open() *Witness {
	h.t.Helper()
	w, err := New(h.t.Context(), Config{Folder: h.folder, LogURL: h.url, Origin: origin, LogKeys: []string{h.vkey}}, Deps{
		Key: h.key, HTTP: http.DefaultClient, Clock: clock.New(time.Date(2027, 1, 13, 20, 0, 0, 0, time.UTC)),
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(h.t, err, "it starts again")
	return w
}

// copied is the folder as it is now, in another place.
func (h *home) copied() *home {
	h.t.Helper()
	to := filepath.Join(h.t.TempDir(), "copy")
	require.NoError(h.t, os.CopyFS(to, os.DirFS(h.folder)))
	return &home{h.ledger, to, h.key}
}

// bring asks a witness for its cosignature of the first size entries of a history, which is the ledger's from here on.
func (h *home) bring(w *Witness, past *history, size int64) (status int, body string) {
	h.t.Helper()
	h.now.Store(&history{past.leaves[:size], prefix(h.t, past, size)})
	root, err := past.tree.Root(size)
	require.NoError(h.t, err)
	note, err := tlog.Sign(tlog.Checkpoint{Origin: origin, Size: size, Root: root}, h.skey)
	require.NoError(h.t, err)
	proof, err := tlog.ProveConsistency(size, min(w.Size(), size), h.now.Load().tree)
	require.NoError(h.t, err)
	text := fmt.Sprintf("old %d\n", w.Size())
	for _, p := range proof {
		text += base64.StdEncoding.EncodeToString(p[:]) + "\n"
	}
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(h.t.Context(), http.MethodPost, "/add-checkpoint", strings.NewReader(text+"\n"+string(note))))
	if rec.Code == http.StatusOK {
		signed, err := tlog.NoteText(note)
		require.NoError(h.t, err)
		_, err = tlog.CheckCosignature(rec.Body.String(), signed, w.VerifierKey())
		require.NoError(h.t, err)
	}
	return rec.Code, rec.Body.String()
}

func prefix(t *testing.T, past *history, size int64) *tlog.Tree {
	t.Helper()
	tree := new(tlog.Tree)
	for _, leaf := range past.leaves[:size] {
		require.NoError(t, tree.Append(leaf))
	}
	return tree
}

type killed struct{}

// killAt lets the process die at the n-th rename from now, just before it or just after it. What it had open is left as it is.
func killAt(w *Witness, n int, before bool) {
	w.folder.rename = func(from, to string) error {
		n--
		if n == 0 && before {
			panic(killed{})
		}
		err := os.Rename(from, to)
		if n == 0 {
			panic(killed{})
		}
		return err
	}
}

// dies says whether it was killed.
func dies(run func()) (dead bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, ours := p.(killed); !ours {
				panic(p)
			}
			dead = true
		}
	}()
	run()
	return false
}

// W1, W2: a kill before or after every single rename of three rounds, across the edge of a tile. What came back signed is never lost, what
// is cosigned is never cosigned otherwise, and the same log goes on.
func TestWitnessIsKilledAtEachDurableStep(t *testing.T) {
	t.Parallel()
	sizes := []int64{3, 250, 270}
	l := newLedger(t)
	log := grown(t, 280, 280, "")
	good := l.home(t.TempDir())
	kills := 0
	for round, size := range sizes {
		acked := int64(0)
		if round > 0 {
			acked = sizes[round-1]
		}
		for _, before := range []bool{true, false} {
			for n, whole := 1, false; !whole; n++ {
				h := good.copied()
				w := h.open()
				require.Equal(t, acked, w.Size())
				killAt(w, n, before)
				status := 0
				if whole = !dies(func() { status, _ = h.bring(w, log, size) }); whole {
					require.Equal(t, http.StatusOK, status)
					continue
				}
				kills++
				h.survives(log, acked, size)
			}
		}
		w := good.open()
		status, body := good.bring(w, log, size)
		require.Equal(t, http.StatusOK, status, body)
	}
	require.Greater(t, kills, 2*3*4, "each round writes entries, state, tiles and the checkpoint")
}

// survives looks at a folder whose witness died on the way from one size to another.
func (h *home) survives(log *history, acked, size int64) {
	h.t.Helper()
	w := h.open()
	signed := w.Size()
	require.Contains(h.t, []int64{acked, size}, signed, "what was cosigned is not lost, and nothing is half")
	require.Empty(h.t, w.Dispute())
	require.True(h.t, dirSound(h.folder))

	if signed > 0 { // whoever comes with another history of what is cosigned gets nothing, and a proof stays
		liar := h.copied()
		fork := grown(h.t, size+1, signed-1, "fork")
		w := liar.open()
		status, body := liar.bring(w, fork, size+1)
		require.NotEqual(h.t, http.StatusOK, status, body)
		require.NotEmpty(h.t, w.Dispute())
		require.NotEmpty(h.t, liar.open().Dispute(), "nor after another start")
	}
	if signed < size { // what was never cosigned may still be left behind
		other := h.copied()
		w := other.open()
		fork := grown(h.t, size+1, signed, "left")
		for range 2 { // the first may find out that it has to go back
			if status, _ := other.bring(w, fork, size+1); status == http.StatusOK {
				break
			}
		}
		require.Equal(h.t, size+1, w.Size())
		require.Equal(h.t, size+1, other.open().Size())
	}
	for _, next := range []int64{size, size + 7} {
		status, body := h.bring(w, log, next)
		require.Equal(h.t, http.StatusOK, status, body)
	}
	require.Equal(h.t, size+7, h.open().Size())
}

// dirSound says that no file has a name that a reader could take for a finished one.
func dirSound(folder string) bool {
	sound := true
	_ = filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(filepath.Base(path), "new-") {
			sound = sound && strings.HasPrefix(filepath.Base(path), ".")
		}
		return err
	})
	return sound
}
