package ledger

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// fakePDS keeps records of one account and loses an answer when told to.
type fakePDS struct {
	mu        sync.Mutex
	records   map[string]json.RawMessage // by collection/rkey
	cids      map[string]string
	commits   []int
	loseOne   bool
	expireOne bool
	sessions  int
	invalid   error // what a schema said of a write
}

func (f *fakePDS) fail(w http.ResponseWriter, status int, name string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": name})
}

func (f *fakePDS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/xrpc/com.atproto.server.createSession":
		f.sessions++
		_ = json.NewEncoder(w).Encode(map[string]any{"accessJwt": "a", "refreshJwt": "r"})
	case "/xrpc/com.atproto.repo.getRecord":
		key := r.URL.Query().Get("collection") + "/" + r.URL.Query().Get("rkey")
		if f.records[key] == nil {
			f.fail(w, 400, "RecordNotFound")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"uri": "at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/" + key, "cid": f.cids[key], "value": f.records[key]})
	case "/xrpc/com.atproto.repo.applyWrites":
		f.apply(w, r)
	case "/xrpc/com.atproto.repo.listRecords":
		f.list(w, r)
	default:
		f.fail(w, 501, "MethodNotImplemented")
	}
}

// list gives the newest record of a collection.
func (f *fakePDS) list(w http.ResponseWriter, r *http.Request) {
	coll := r.URL.Query().Get("collection") + "/"
	last := ""
	for key := range f.records {
		if strings.HasPrefix(key, coll) {
			last = max(last, key)
		}
	}
	records := []map[string]any{}
	if last != "" {
		records = append(records, map[string]any{"uri": "at://" + r.URL.Query().Get("repo") + "/" + last, "cid": f.cids[last], "value": f.records[last]})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"records": records})
}

func (f *fakePDS) apply(w http.ResponseWriter, r *http.Request) {
	if f.expireOne {
		f.expireOne = false
		f.fail(w, 400, "ExpiredToken")
		return
	}
	var in struct {
		Writes []struct {
			Collection, RKey string
			Value            json.RawMessage
		} `json:"writes"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Writes) > 200 {
		f.fail(w, 400, "InvalidRequest")
		return
	}
	results := []map[string]any{}
	for _, one := range in.Writes {
		key := one.Collection + "/" + one.RKey
		cbor, err := lexicons.EncodeJSONToCBOR(one.Value)
		if err == nil {
			err = lexicons.Validate(one.Collection, one.RKey, cbor)
		}
		if err != nil {
			f.invalid = err
		}
		if err != nil || f.records[key] != nil {
			f.fail(w, 400, "InvalidRequest")
			return
		}
		results = append(results, map[string]any{"uri": "at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/" + key, "cid": repo.CIDForCBOR(cbor).String()})
	}
	for i, one := range in.Writes {
		key := one.Collection + "/" + one.RKey
		f.records[key], f.cids[key] = one.Value, results[i]["cid"].(string)
	}
	f.commits = append(f.commits, len(in.Writes))
	if f.loseOne {
		f.loseOne = false
		f.fail(w, 502, "UpstreamFailure")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"results": results})
}

func (c *founded) publisher(f *fakePDS) *publisher {
	srv := httptest.NewServer(f)
	c.t.Cleanup(srv.Close)
	return &publisher{
		store: c.l.store, seq: c.l.seq, did: c.cfg.DID.String(), clock: c.clock, log: slog.New(slog.DiscardHandler), metrics: c.l.metrics,
		session: &session{base: srv.URL, identifier: "ledger.test", password: "x", http: srv.Client()},
	}
}

func newFake() *fakePDS {
	return &fakePDS{records: map[string]json.RawMessage{}, cids: map[string]string{}}
}

func TestReceiptsAndCheckpointsArePublished(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	fake := newFake()
	p := c.publisher(fake)
	did, err := p.step(c.ctx, true)
	require.NoError(t, err)
	require.True(t, did)
	first := c.l.seq.latest.Load()
	require.Contains(t, fake.records, lexicons.LedgerCheckpoint+"/"+receiptKey(first.Size))

	code := c.code(ana, 1, "k", nil).str("code")
	burn := c.scan(c.till, code, "confirm", 0)
	did, err = p.step(c.ctx, true)
	require.NoError(t, fake.invalid)
	require.NoError(t, err)
	require.True(t, did)
	require.Contains(t, fake.records, lexicons.LedgerReceipt+"/"+burn.str("receipt"))
	var next struct{ Previous strong }
	require.NoError(t, json.Unmarshal(fake.records[lexicons.LedgerCheckpoint+"/"+receiptKey(c.l.seq.latest.Load().Size)], &next))
	require.Equal(t, fake.cids[lexicons.LedgerCheckpoint+"/"+receiptKey(first.Size)], next.Previous.CID)

	n := len(fake.commits)
	did, err = p.step(c.ctx, true)
	require.NoError(t, err)
	require.False(t, did, "the tree did not grow")
	require.Len(t, fake.commits, n)
	require.Equal(t, 1, fake.sessions)
	// What the ledger shows beforehand is what stands in the repository.
	got := c.call(nil, "getReceipt", "?seq="+burn.str("receipt"), nil)
	require.Equal(t, fake.cids[lexicons.LedgerReceipt+"/"+burn.str("receipt")], got.str("cid"))
}

func TestLostAnswerIsFoundAgain(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	fake := newFake()
	fake.loseOne, fake.expireOne = true, true
	p := c.publisher(fake)
	_, err := p.step(c.ctx, true)
	require.Error(t, err, "the answer was lost")
	did, err := p.step(c.ctx, true)
	require.NoError(t, err)
	require.True(t, did)
	require.Equal(t, []int{1, 1}, fake.commits, "one receipt, one checkpoint, nothing twice")
	require.Equal(t, 2, fake.sessions, "a token that is over is replaced")
}

// A ledger that was killed while a checkpoint was under way publishes it when it is back, not an interval later.
func TestWhatAProcessLeftToPublishDoesNotWaitInTheNext(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	fake := newFake()
	p := c.publisher(fake)
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	defer func() { cancel(); require.NoError(t, <-done) }()
	require.Eventually(t, func() bool { // its clock stands still
		var n int
		return c.world.pool.QueryRow(c.ctx, `select count(*) from published_checkpoint`).Scan(&n) == nil && n == 1
	}, 10*time.Second, 20*time.Millisecond)
}

func TestRecordThatDiffersFromTheLogIsAnAlarm(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	fake := newFake()
	var seq int64
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select seq from entry where kind = 'mint'`).Scan(&seq))
	key := lexicons.LedgerReceipt + "/" + receiptKey(seq)
	fake.records[key], fake.cids[key] = json.RawMessage(`{}`), c.params.CID
	_, err := c.publisher(fake).step(c.ctx, true)
	require.NoError(t, err)
	require.Equal(t, json.RawMessage(`{}`), fake.records[key], "never overwritten")
	require.InDelta(t, 1, c.metric("citysync_ledger_alarms_total", "record_differs"), 0)
}
