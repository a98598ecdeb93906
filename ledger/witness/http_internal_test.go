package witness

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

const origin = "did:plc:log"

// town is a log of one entry that serves itself, and a witness of it.
type town struct {
	t     *testing.T
	skey  string
	vkey  string
	leaf  []byte
	tree  *tlog.Tree
	away  bool
	clock *clock.Manual
	cfg   Config
	key   *tlog.Cosigner
	w     *Witness
}

func newTown(t *testing.T) *town {
	t.Helper()
	o := &town{t: t, tree: new(tlog.Tree), clock: clock.New(time.Date(2027, 1, 13, 20, 0, 0, 0, time.UTC))}
	var err error
	o.skey, o.vkey, err = tlog.GenerateKey(strings.NewReader(strings.Repeat("a", 32)), origin)
	require.NoError(t, err)
	e := &entry.Entry{
		Kind: entry.KindRulesVersion, Day: "2027-01-13", At: entry.FormatTime(o.clock.Now()), RulesVersion: &entry.RulesVersion{Version: 1},
	}
	o.leaf, err = e.Encode()
	require.NoError(t, err)
	require.NoError(t, o.tree.Append(o.leaf))
	srv := httptest.NewServer(http.HandlerFunc(o.serve))
	t.Cleanup(srv.Close)
	o.key, err = tlog.NewCosigner(strings.NewReader(strings.Repeat("w", 32)), "witness.test")
	require.NoError(t, err)
	o.cfg = Config{Folder: t.TempDir(), LogURL: srv.URL, Origin: origin, LogKeys: []string{o.vkey}}
	o.open()
	return o
}

func (o *town) open() {
	o.t.Helper()
	w, err := New(o.t.Context(), o.cfg, Deps{
		Key: o.key, HTTP: http.DefaultClient, Clock: o.clock, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(o.t, err)
	o.w = w
}

func (o *town) serve(w http.ResponseWriter, r *http.Request) {
	t, err := tlog.ParseTilePath(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil || o.away {
		http.NotFound(w, r)
		return
	}
	var data []byte
	if t.Level == tlog.EntriesLevel {
		data, _ = tlog.EncodeBundle([][]byte{o.leaf})
	} else {
		data, _ = tlog.ReadTile(t, 1, o.tree)
	}
	_, _ = w.Write(data)
}

func (o *town) note(skey, name string, size int64, root tlog.Hash) string {
	o.t.Helper()
	signed, err := tlog.Sign(tlog.Checkpoint{Origin: name, Size: size, Root: root}, skey)
	require.NoError(o.t, err)
	return string(signed)
}

func (o *town) post(body string) *httptest.ResponseRecorder {
	o.t.Helper()
	rec := httptest.NewRecorder()
	o.w.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(o.t.Context(), http.MethodPost, "/add-checkpoint", strings.NewReader(body)))
	return rec
}

// Each answer that C2SP tlog-witness names, in its order.
func TestAddCheckpointAnswersAsTheSpecificationSays(t *testing.T) {
	t.Parallel()
	o := newTown(t)
	root, err := o.tree.Root(1)
	require.NoError(t, err)
	good := o.note(o.skey, origin, 1, root)
	otherS, _, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("b", 32)), "did:plc:other")
	require.NoError(t, err)
	stolen, _, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("c", 32)), origin)
	require.NoError(t, err)
	hash := base64.StdEncoding.EncodeToString(root[:])
	for name, tt := range map[string]struct {
		body   string
		status int
	}{
		"no old line":             {good, 400},
		"a size with a zero":      {"old 00\n\n" + good, 400},
		"a line that is no hash":  {"old 0\nAAAA\n\n" + good, 400},
		"64 lines of proof":       {"old 0\n" + strings.Repeat(hash+"\n", 64) + "\n" + good, 400},
		"no checkpoint":           {"old 0\n\nhello\n", 400},
		"too long":                {"old 0\n\n" + strings.Repeat("x", maxRequest), 400},
		"another log":             {"old 0\n\n" + o.note(otherS, "did:plc:other", 1, root), 404},
		"another key":             {"old 0\n\n" + o.note(stolen, origin, 1, root), 403},
		"a changed signature":     {"old 0\n\n" + strings.Replace(good, "\n1\n", "\n2\n", 1), 403},
		"old above the size":      {"old 2\n\n" + good, 400},
		"old is not ours":         {"old 1\n\n" + good, 409},
		"a proof from nothing":    {"old 0\n" + hash + "\n\n" + good, 422},
		"an empty log with roots": {"old 0\n\n" + o.note(o.skey, origin, 0, root), 422},
	} {
		rec := o.post(tt.body)
		require.Equal(t, tt.status, rec.Code, "%s: %s", name, rec.Body)
		if tt.status == 409 {
			require.Equal(t, sizeMedia, rec.Header().Get("Content-Type"))
			require.Equal(t, "0\n", rec.Body.String())
		}
		require.Empty(t, o.w.Dispute(), name)
	}
	o.away = true
	rec := o.post("old 0\n\n" + o.note(o.skey, origin, 1, root))
	o.away = false
	require.Contains(t, []int{200, 503}, rec.Code) // 200 where an earlier refused request had already brought the copy up
	if rec.Code == 503 {
		require.NotEmpty(t, rec.Header().Get("Retry-After"))
		rec = o.post("old 0\n\n" + good)
	}
	require.Equal(t, 200, rec.Code, rec.Body)
	text, err := tlog.NoteText([]byte(good))
	require.NoError(t, err)
	_, err = tlog.CheckCosignature(rec.Body.String(), text, o.w.VerifierKey())
	require.NoError(t, err)
	require.Equal(t, "1\n", o.post("old 0\n\n"+good).Body.String(), "409 says where we are")
	require.Equal(t, 200, o.post("old 1\n\n"+good).Code, "the same again")

	for _, path := range []string{"/copy/checkpoint", "/" + o.w.originHash() + "/checkpoint"} {
		rec := httptest.NewRecorder()
		o.w.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
		got, err := tlog.Cosignatures(rec.Body.Bytes(), o.w.VerifierKey())
		require.NoError(t, err)
		require.Len(t, got, 1)
	}
	other := root
	other[0] ^= 1
	require.Equal(t, 422, o.post("old 1\n\n"+o.note(o.skey, origin, 1, other)).Code)
	require.NotEmpty(t, o.w.Dispute(), "two roots of one size are a proof")
}

// W2, W3
func TestWitnessRemembersThroughARestart(t *testing.T) {
	t.Parallel()
	o := newTown(t)
	root, err := o.tree.Root(1)
	require.NoError(t, err)
	good := o.note(o.skey, origin, 1, root)
	require.Equal(t, 200, o.post("old 0\n\n"+good).Code)
	o.open()
	require.EqualValues(t, 1, o.w.Size())
	require.Equal(t, 409, o.post("old 0\n\n"+good).Code)
	other := root
	other[0] ^= 1
	require.Equal(t, 200, o.post("old 1\n\n"+good).Code)
	require.Equal(t, 422, o.post("old 1\n\n"+o.note(o.skey, origin, 1, other)).Code)
	o.open()
	require.NotEmpty(t, o.w.Dispute())
	require.Equal(t, 422, o.post("old 1\n\n"+good).Code, "never again")
}

func FuzzParseBrought(f *testing.F) {
	f.Add([]byte("old 0\n\ndid:plc:log\n1\nAAAA\n\n— did:plc:log AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := parseBrought(body)
		if err != nil {
			return
		}
		again := fmt.Sprintf("old %d\n", b.old)
		for _, h := range b.proof {
			again += base64.StdEncoding.EncodeToString(h[:]) + "\n"
		}
		require.Equal(t, string(body), again+"\n"+string(b.note))
	})
}

func FuzzReadProof(f *testing.F) {
	f.Add([]byte(`{"kind":"fork","size":1,"a":{"checkpoint":"","root":"","hashes":[]},"b":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadProof(data)
		if err != nil {
			require.ErrorIs(t, err, ErrProof)
			return
		}
		_, err = p.Check(nil, nil)
		require.ErrorIs(t, err, ErrProof)
	})
}
