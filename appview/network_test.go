package appview_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview"
	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/pds"
)

// network is a directory, PDSs and a published log over loopback HTTP. The AppView under test knows their addresses and nothing else.
type network struct {
	t      *testing.T
	clock  *clock.Manual
	plcURL string
	log    *publishedLog
	hosts  []*host
}

// host is one PDS with a database and keys of its own.
type host struct {
	n     *network
	url   string
	deps  pds.Deps
	cfg   pds.Config
	front atomic.Pointer[http.Handler]
	stop  func()
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, clock: clock.New(time.Date(2027, 1, 12, 10, 0, 0, 0, time.UTC)), log: newPublishedLog(t)}
	plc, err := plcdev.New(filepath.Join(t.TempDir(), "plc.jsonl"), n.clock)
	require.NoError(t, err)
	directory := httptest.NewServer(plc.Handler())
	t.Cleanup(directory.Close)
	n.plcURL = directory.URL
	return n
}

// host adds a PDS with accounts under one domain.
func (n *network) host(domain string) *host {
	n.t.Helper()
	h := &host{n: n}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*h.front.Load()).ServeHTTP(w, r) }))
	n.t.Cleanup(server.Close)
	h.url = server.URL
	rotation, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(n.t, err)
	h.cfg = pds.Config{
		PublicURL: h.url, ServiceDID: "did:plc:serviceserviceserviceser", HandleDomains: []string{domain}, AllowLoopback: true,
		Argon2: pds.Argon2{MemoryKiB: 8, Passes: 1, Threads: 1}, EventWindow: time.Hour, LimitFactor: 1000,
	}
	h.deps = pds.Deps{
		Pool: pgtest.AsRole(n.t, pgtest.Schema(n.t, pds.Migrations()), pds.GrantTo), PLC: identity.NewPLC(n.plcURL, http.DefaultClient),
		Directory: n.directory(), HTTP: http.DefaultClient, Clock: n.clock, Log: slog.New(slog.DiscardHandler), AdminPassword: "admin-password",
		MasterKey: bytes.Repeat([]byte{7}, 32), RotationKey: rotation, JWTSecret: bytes.Repeat([]byte{9}, 32), BlobDir: n.t.TempDir(),
	}
	h.start()
	n.hosts = append(n.hosts, h)
	return h
}

func (n *network) directory() *identity.Directory {
	return identity.NewDirectory(identity.Config{PLCURL: n.plcURL, HTTP: http.DefaultClient, Clock: n.clock})
}

// start runs the PDS; it sweeps once at once.
func (h *host) start() {
	h.n.t.Helper()
	h.deps.Registry = prometheus.NewRegistry()
	s, err := pds.New(h.cfg, h.deps)
	require.NoError(h.n.t, err)
	handler := s.Handler()
	h.front.Store(&handler)
	h.stop = inBackground(h.n.t, s.Run)
}

// prune lets the window of every firehose pass over all that was written so far.
func (n *network) prune() {
	n.t.Helper()
	for _, h := range n.hosts {
		h.stop()
	}
	n.clock.Advance(2 * time.Hour)
	for _, h := range n.hosts {
		h.start()
		require.Eventually(n.t, func() bool {
			var left int
			require.NoError(n.t, h.deps.Pool.QueryRow(n.t.Context(), "select count(*) from event").Scan(&left))
			return left == 0
		}, 20*time.Second, 10*time.Millisecond)
	}
}

// inBackground runs fn until the returned func is called, at the test's end at latest.
func inBackground(t *testing.T, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				assert.NoError(t, err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// account is a signed-in account of a PDS.
type account struct {
	n      *network
	host   *host
	did    syntax.DID
	handle string
	access string
}

const password = "a good password"

func (h *host) account(name string) *account {
	h.n.t.Helper()
	a := &account{n: h.n, host: h, handle: name + h.cfg.HandleDomains[0]}
	a.signed(a.post("com.atproto.server.createAccount", map[string]any{"handle": a.handle, "password": password}))
	return a
}

// again signs in anew: the old token's time is over.
func (a *account) again() {
	a.n.t.Helper()
	a.access = ""
	a.signed(a.post("com.atproto.server.createSession", map[string]any{"identifier": a.handle, "password": password}))
}

func (a *account) signed(answer map[string]any) {
	a.n.t.Helper()
	did, _ := answer["did"].(string)
	a.did = syntax.DID(did)
	a.access, _ = answer["accessJwt"].(string)
	require.NotEmpty(a.n.t, a.access)
}

func (a *account) post(method string, body any) map[string]any {
	a.n.t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(a.n.t, err)
	req, err := http.NewRequestWithContext(a.n.t.Context(), http.MethodPost, a.host.url+"/xrpc/"+method, bytes.NewReader(raw))
	require.NoError(a.n.t, err)
	req.Header.Set("Content-Type", "application/json")
	if a.access != "" {
		req.Header.Set("Authorization", "Bearer "+a.access)
	}
	return a.n.answer(req)
}

func (n *network) answer(req *http.Request) map[string]any {
	n.t.Helper()
	res, err := http.DefaultClient.Do(req)
	require.NoError(n.t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(n.t, err)
	require.Equal(n.t, http.StatusOK, res.StatusCode, "%s %s: %s", req.Method, req.URL, raw)
	var out map[string]any
	require.NoError(n.t, json.Unmarshal(raw, &out))
	return out
}

// put publishes a record; change edits the schemas' own example of it.
func (a *account) put(nsid, rkey string, change map[string]any) (uri, cid, rev string) {
	a.n.t.Helper()
	key, record := example(a.n.t, nsid)
	if rkey == "" {
		rkey = key
	}
	for field, v := range change {
		record[field] = v
	}
	out := a.post("com.atproto.repo.putRecord", map[string]any{"repo": a.did, "collection": nsid, "rkey": rkey, "record": record})
	uri, _ = out["uri"].(string)
	cid, _ = out["cid"].(string)
	return uri, cid, a.rev()
}

func (a *account) remove(nsid, rkey string) {
	a.n.t.Helper()
	if rkey == "" {
		rkey, _ = example(a.n.t, nsid)
	}
	a.post("com.atproto.repo.deleteRecord", map[string]any{"repo": a.did, "collection": nsid, "rkey": rkey})
}

func (a *account) rev() string {
	a.n.t.Helper()
	req, err := http.NewRequestWithContext(a.n.t.Context(), http.MethodGet, a.host.url+"/xrpc/com.atproto.sync.getLatestCommit?did="+a.did.String(), nil)
	require.NoError(a.n.t, err)
	rev, _ := a.n.answer(req)["rev"].(string)
	require.NotEmpty(a.n.t, rev)
	return rev
}

func example(t *testing.T, nsid string) (rkey string, record map[string]any) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "lexicons", "testdata", "valid", nsid, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, nsid)
	raw, err := os.ReadFile(files[0])
	require.NoError(t, err)
	var ex struct {
		RKey   string         `json:"rkey"`
		Record map[string]any `json:"record"`
	}
	require.NoError(t, json.Unmarshal(raw, &ex))
	delete(ex.Record, "logo") // nobody uploaded the example's picture
	return ex.RKey, ex.Record
}

// publishedLog is the public side of a ledger.
type publishedLog struct {
	t    *testing.T
	url  string
	skey string
	vkey string

	mu     sync.Mutex // guards the rest
	leaves [][]byte
	tree   tlog.Tree
}

const logOrigin = "did:plc:llllllllllllllllllllllll"

func newPublishedLog(t *testing.T) *publishedLog {
	t.Helper()
	l := &publishedLog{t: t}
	var err error
	l.skey, l.vkey, err = tlog.GenerateKey(rand.Reader, logOrigin)
	require.NoError(t, err)
	srv := httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(srv.Close)
	l.url = srv.URL
	return l
}

func (l *publishedLog) serve(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := int64(len(l.leaves))
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == "checkpoint" {
		root, err := l.tree.Root(size)
		if size == 0 || err != nil {
			http.NotFound(w, r)
			return
		}
		signed, err := tlog.Sign(tlog.Checkpoint{Origin: logOrigin, Size: size, Root: root}, l.skey)
		assert.NoError(l.t, err)
		_, _ = w.Write(signed)
		return
	}
	tile, err := tlog.ParseTilePath(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	from, to := tile.Leaves()
	bundle, err := tlog.EncodeBundle(l.leaves[from:to])
	assert.NoError(l.t, err)
	_, _ = w.Write(bundle)
}

func (l *publishedLog) append(e entry.Entry) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq, e.Day = int64(len(l.leaves)), "2027-01-12"
	leaf, err := e.Encode()
	require.NoError(l.t, err)
	l.leaves = append(l.leaves, leaf)
	require.NoError(l.t, l.tree.Append(leaf))
}

func (l *publishedLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leaves)
}

// view is one AppView on a database of its own.
type view struct {
	n    *network
	pool *pgxpool.Pool // of the schema's owner, for the tests
	x    *index.Index
	url  string
	stop func()
}

// view runs a new AppView on the schema behind dsn, which it migrates.
func (n *network) view(dsn, city string) *view {
	n.t.Helper()
	owner := pgtest.Open(n.t, dsn, schema)
	require.NoError(n.t, pg.Migrate(n.t.Context(), owner, schema, index.Migrations()))
	pool := pgtest.AsRole(n.t, owner, index.GrantTo)
	registry := prometheus.NewRegistry()
	x, err := index.New(pool, n.clock, slog.New(slog.DiscardHandler), registry)
	require.NoError(n.t, err)
	cfg := appview.Config{PublicURL: "http://localhost:1", City: city, LedgerURL: n.log.url}
	for _, h := range n.hosts {
		cfg.Hosts = append(cfg.Hosts, h.url)
	}
	a, err := appview.New(cfg, appview.Deps{
		Index: x, Query: query.New(pool, city), Directory: n.directory(), HTTP: http.DefaultClient, Clock: n.clock,
		Log: slog.New(slog.DiscardHandler), Registry: registry,
	})
	require.NoError(n.t, err)
	srv := httptest.NewServer(a.Handler())
	n.t.Cleanup(srv.Close)
	return &view{n: n, pool: owner, x: x, url: srv.URL, stop: inBackground(n.t, a.Run)}
}

const schema = "appview"

// caughtUp waits until the view holds the newest commit of every account and the whole log, and gives its hash.
func (v *view) caughtUp(accounts ...*account) string {
	v.n.t.Helper()
	for _, a := range accounts {
		want := a.rev()
		require.Eventually(v.n.t, func() bool {
			have, err := v.x.Repo(v.n.t.Context(), a.did)
			require.NoError(v.n.t, err)
			return have.Rev == want
		}, 30*time.Second, 20*time.Millisecond, "%s", a.handle)
	}
	require.Eventually(v.n.t, func() bool {
		var n int
		require.NoError(v.n.t, v.pool.QueryRow(v.n.t.Context(), "select count(*) from log_entry").Scan(&n))
		return n == v.n.log.size()
	}, 30*time.Second, 20*time.Millisecond, "the log")
	hash, err := v.x.StateHash(v.n.t.Context())
	require.NoError(v.n.t, err)
	return hash
}

// get is one page or answer.
func (v *view) get(path string) string {
	v.n.t.Helper()
	req, err := http.NewRequestWithContext(v.n.t.Context(), http.MethodGet, v.url+path, nil)
	require.NoError(v.n.t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(v.n.t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(v.n.t, err)
	require.Equal(v.n.t, http.StatusOK, res.StatusCode, "%s: %s", path, raw)
	return string(raw)
}
