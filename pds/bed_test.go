package pds

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

const (
	adminPassword = "admin-password"
	password      = "a good password"
	note          = "com.example.note" // a collection whose schema nobody knows
)

// bed is a server over loopback with everything it needs around it.
type bed struct {
	t     testing.TB
	cfg   Config
	deps  Deps
	pool  *pgxpool.Pool
	clock *clock.Manual
	url   string
	plc   *identity.PLC
	dir   *identity.Directory
	plcAt string

	server  atomic.Pointer[Server] // what answers at url
	plcDown atomic.Bool
}

func newBed(t testing.TB, tune ...func(*Config)) *bed {
	t.Helper()
	b := &bed{t: t, clock: clock.New(time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC))}
	plcServer, err := plcdev.New(filepath.Join(t.TempDir(), "plc.jsonl"), b.clock)
	require.NoError(t, err)
	plcHandler := plcServer.Handler()
	plcHTTP := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.plcDown.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		plcHandler.ServeHTTP(w, r)
	}))
	t.Cleanup(plcHTTP.Close)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.server.Load().Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	b.url = front.URL
	b.pool = pgtest.Schema(t, Migrations())
	b.plcAt = plcHTTP.URL
	b.plc = identity.NewPLC(plcHTTP.URL, plcHTTP.Client())
	b.dir = identity.NewDirectory(identity.Config{PLCURL: plcHTTP.URL, HTTP: plcHTTP.Client(), Clock: b.clock})
	rotation, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	b.cfg = Config{
		PublicURL: b.url, ServiceDID: "did:plc:serviceserviceserviceser", HandleDomains: []string{".test"},
		InviteRequired: true, AllowLoopback: true, Argon2: Argon2{MemoryKiB: 8, Passes: 1, Threads: 1}, Version: "1.2.3",
		ReservedNames: []string{"admin"}, LimitFactor: 1000,
	}
	for _, f := range tune {
		f(&b.cfg)
	}
	b.deps = Deps{
		Pool: pgtest.AsRole(t, b.pool, GrantTo), PLC: b.plc, Directory: b.dir, HTTP: xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: true, MaxBytes: 64 << 20}), Clock: b.clock,
		Log:           slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		AdminPassword: adminPassword, MasterKey: bytes.Repeat([]byte{7}, 32), RotationKey: rotation,
		JWTSecret: bytes.Repeat([]byte{9}, 32), BlobDir: t.TempDir(),
	}
	b.restart()
	return b
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// restart puts a new server on the same database and address.
func (b *bed) restart() {
	b.t.Helper()
	b.deps.Registry = prometheus.NewRegistry()
	s, err := New(b.cfg, b.deps)
	require.NoError(b.t, err)
	b.server.Store(s)
}

// run runs the server until the returned func is called, at the test's end at latest.
func (b *bed) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := b.server.Load()
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(b.t, <-done)
	}
	b.t.Cleanup(stop)
	return stop
}

// answer is what came back over HTTP.
type answer struct {
	Status int
	Header http.Header
	Raw    []byte
	JSON   map[string]any
}

// name is the error's name, empty for a success.
func (a answer) name() string {
	if a.Status < 400 {
		return ""
	}
	n, _ := a.JSON["error"].(string)
	return n
}

func (a answer) str(path ...string) string {
	var v any = a.JSON
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

func (b *bed) do(req *http.Request) answer {
	b.t.Helper()
	res, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	a := answer{Status: res.StatusCode, Header: res.Header, Raw: raw}
	_ = json.Unmarshal(raw, &a.JSON) // some answers are no JSON
	return a
}

// get asks a query; params are name, value pairs.
func (b *bed) get(token, nsid string, params ...string) answer {
	b.t.Helper()
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Add(params[i], params[i+1])
	}
	req, err := http.NewRequest(http.MethodGet, b.url+"/xrpc/"+nsid+"?"+q.Encode(), nil)
	require.NoError(b.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return b.do(req)
}

func (b *bed) post(token, nsid string, body any) answer {
	b.t.Helper()
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		require.NoError(b.t, err)
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(http.MethodPost, b.url+"/xrpc/"+nsid, r)
	require.NoError(b.t, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return b.do(req)
}

type m = map[string]any

func (b *bed) ok(a answer) answer {
	b.t.Helper()
	require.Equal(b.t, http.StatusOK, a.Status, "%s", a.Raw)
	return a
}

func (b *bed) invite() string {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPost, b.url+"/xrpc/com.atproto.server.createInviteCode", strings.NewReader(`{"useCount":1}`))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("admin", adminPassword)
	code := b.ok(b.do(req)).str("code")
	require.NotEmpty(b.t, code)
	return code
}

// user is a signed-in account.
type user struct {
	*bed
	DID     syntax.DID
	Handle  string
	Access  string
	Refresh string
}

func (b *bed) account(name string) *user {
	b.t.Helper()
	a := b.ok(b.post("", "com.atproto.server.createAccount", m{
		"handle": name + ".test", "password": password, "inviteCode": b.invite(),
	}))
	return &user{bed: b, DID: syntax.DID(a.str("did")), Handle: a.str("handle"), Access: a.str("accessJwt"), Refresh: a.str("refreshJwt")}
}

func (u *user) key() atcrypto.PublicKey {
	u.t.Helper()
	ident, err := u.dir.LookupDID(u.t.Context(), u.DID)
	require.NoError(u.t, err)
	key, err := ident.PublicKey()
	require.NoError(u.t, err)
	return key
}

func (u *user) create(collection, rkey string, record any, more ...string) answer {
	u.t.Helper()
	in := m{"repo": u.DID, "collection": collection, "record": record}
	if rkey != "" {
		in["rkey"] = rkey
	}
	for i := 0; i < len(more); i += 2 {
		in[more[i]] = more[i+1]
	}
	return u.post(u.Access, "com.atproto.repo.createRecord", in)
}

func (u *user) put(collection, rkey string, record any, more m) answer {
	u.t.Helper()
	in := m{"repo": u.DID, "collection": collection, "rkey": rkey, "record": record}
	for k, v := range more {
		in[k] = v
	}
	return u.post(u.Access, "com.atproto.repo.putRecord", in)
}

func (u *user) remove(collection, rkey string, more m) answer {
	u.t.Helper()
	in := m{"repo": u.DID, "collection": collection, "rkey": rkey}
	for k, v := range more {
		in[k] = v
	}
	return u.post(u.Access, "com.atproto.repo.deleteRecord", in)
}

func (u *user) apply(writes ...m) answer {
	u.t.Helper()
	return u.post(u.Access, "com.atproto.repo.applyWrites", m{"repo": u.DID, "writes": writes})
}

func (u *user) head() (commit, rev string) {
	u.t.Helper()
	a := u.ok(u.get("", "com.atproto.sync.getLatestCommit", "did", u.DID.String()))
	return a.str("cid"), a.str("rev")
}

func (u *user) upload(mime string, data []byte) answer {
	u.t.Helper()
	return u.do(u.uploadRequest(mime, data))
}

// uploadAsIs asks that nothing be taken out.
func (u *user) uploadAsIs(mime string, data []byte) answer {
	u.t.Helper()
	req := u.uploadRequest(mime, data)
	req.Header.Set(keepMetadata, "true")
	return u.do(req)
}

func (u *user) uploadRequest(mime string, data []byte) *http.Request {
	u.t.Helper()
	req, err := http.NewRequest(http.MethodPost, u.url+"/xrpc/com.atproto.repo.uploadBlob", bytes.NewReader(data))
	require.NoError(u.t, err)
	req.Header.Set("Content-Type", mime)
	if u.Access != "" {
		req.Header.Set("Authorization", "Bearer "+u.Access)
	}
	return req
}

const someCID = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"

// claim is a record of ours that is valid, and its key.
func claim(task string) (rkey string, record m) {
	uri := "at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/org.city-sync.work.task/" + task
	return lexicons.ClaimKey(uri, "s1"), m{
		"task": m{"uri": uri, "cid": someCID}, "shiftId": "s1", "createdAt": "2026-11-20T09:00:00Z",
	}
}

func (b *bed) count(sql string, args ...any) int {
	b.t.Helper()
	var n int
	require.NoError(b.t, b.pool.QueryRow(context.Background(), sql, args...).Scan(&n), fmt.Sprint(sql))
	return n
}
