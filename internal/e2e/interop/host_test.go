//go:build interop

package interop

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds"
)

// pdsHost is a PDS of ours with nothing of a city, under the name that a relay accepts of this machine: localhost and a port.
type pdsHost struct {
	url, name, plc string

	pool *pgxpool.Pool
}

// handleDomain is one whose handles tap looks for by https alone, which stops at a proxy of the test's: no question goes to a name server.
const handleDomain = ".bsky.social"

func startPDS(t *testing.T) *pdsHost {
	t.Helper()
	plc, err := plcdev.New(filepath.Join(t.TempDir(), "plc.jsonl"), clock.System())
	require.NoError(t, err)
	directory := httptest.NewServer(plc.Handler())
	t.Cleanup(directory.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	h := &pdsHost{name: "localhost:" + port, url: "http://localhost:" + port, plc: directory.URL, pool: pgtest.Schema(t, pds.Migrations())}
	rotation, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	secret := func() []byte {
		b := make([]byte, 32)
		_, _ = rand.Read(b) // never fails
		return b
	}
	client := &http.Client{Timeout: 10 * time.Second}
	s, err := pds.New(pds.Config{
		PublicURL: h.url, ServiceDID: "did:plc:serviceserviceserviceser", HandleDomains: []string{handleDomain}, AllowLoopback: true,
		Argon2: pds.Argon2{MemoryKiB: 8, Passes: 1, Threads: 1},
	}, pds.Deps{
		Pool: h.pool, PLC: identity.NewPLC(directory.URL, client), HTTP: client, Clock: clock.System(), Registry: prometheus.NewRegistry(),
		Directory: identity.NewDirectory(identity.Config{PLCURL: directory.URL, HTTP: client, Clock: clock.System()}),
		Log:       slog.New(slog.DiscardHandler), AdminPassword: rand.Text(), MasterKey: secret(), RotationKey: rotation, JWTSecret: secret(),
		BlobDir: t.TempDir(),
	})
	require.NoError(t, err)
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }() // ends with Close, and says so
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
		_ = srv.Close()
	})
	return h
}

// seq is the last number the PDS gave out.
func (h *pdsHost) seq(t *testing.T) (n int64) {
	t.Helper()
	require.NoError(t, h.pool.QueryRow(t.Context(), `select seq from event_head`).Scan(&n))
	return n
}

// history does with accounts what people do, and notes what a reader must have seen.
type history struct {
	t    *testing.T
	host *pdsHost
	want map[string][]string // by account: operations in the order of the stream
	now  map[string]string   // account/collection/rkey to CID
}

const noteType = "com.example.note"

func newHistory(t *testing.T, host *pdsHost) *history {
	return &history{t: t, host: host, want: map[string][]string{}, now: map[string]string{}}
}

// owner is an account and its session.
type owner struct {
	h        *history
	did      string
	password string
	client   *xrpc.Client
}

func (h *history) account(name string) *owner {
	h.t.Helper()
	var out struct {
		DID    string `json:"did"`
		Access string `json:"accessJwt"`
	}
	o := &owner{h: h, password: rand.Text(), client: &xrpc.Client{Base: h.host.url}}
	in := map[string]any{"handle": name + handleDomain, "password": o.password}
	require.NoError(h.t, o.client.Procedure(h.t.Context(), "com.atproto.server.createAccount", in, &out))
	o.did = out.DID
	o.client.Auth = func(context.Context, string) (string, error) { return "Bearer " + out.Access, nil }
	h.want[o.did] = nil
	return o
}

func (o *owner) call(nsid string, in, out any) {
	o.h.t.Helper()
	require.NoError(o.h.t, o.client.Procedure(o.h.t.Context(), nsid, in, out))
}

func (o *owner) note(action, rkey, cid string) {
	path := noteType + "/" + rkey
	o.h.want[o.did] = append(o.h.want[o.did], strings.TrimRight(fmt.Sprintf("%s %s %s", action, path, cid), " ")+pad(cid))
	if action == "delete" {
		delete(o.h.now, o.did+"/"+path)
	} else {
		o.h.now[o.did+"/"+path] = cid
	}
}

// pad keeps a delete's line as it is printed of an event without a CID.
func pad(cid string) string {
	if cid == "" {
		return " "
	}
	return ""
}

func (o *owner) put(rkey string, n int) {
	o.h.t.Helper()
	_, there := o.h.now[o.did+"/"+noteType+"/"+rkey]
	var out struct{ CID string }
	o.call("com.atproto.repo.putRecord", map[string]any{"repo": o.did, "collection": noteType, "rkey": rkey, "record": map[string]any{"n": n}}, &out)
	if there {
		o.note("update", rkey, out.CID)
	} else {
		o.note("create", rkey, out.CID)
	}
}

func (o *owner) remove(rkey string) {
	o.h.t.Helper()
	o.call("com.atproto.repo.deleteRecord", map[string]any{"repo": o.did, "collection": noteType, "rkey": rkey}, nil)
	o.note("delete", rkey, "")
}

// apply writes many records as one commit.
func (o *owner) apply(kind string, keys []string, n int) {
	o.h.t.Helper()
	const nsid = "com.atproto.repo.applyWrites"
	var writes []map[string]any
	for i, k := range keys {
		w := map[string]any{"$type": nsid + "#" + kind, "collection": noteType, "rkey": k}
		if kind != "delete" {
			w["value"] = map[string]any{"n": n + i}
		}
		writes = append(writes, w)
	}
	var out struct{ Results []struct{ CID string } }
	o.call(nsid, map[string]any{"repo": o.did, "writes": writes}, &out)
	for i, k := range keys {
		o.note(kind, k, out.Results[i].CID)
	}
}

// live is what happens while others read: every kind of event that this server tells.
func (h *history) live(tp *tap) {
	h.t.Helper()
	ada, ben, eve := h.account("ada"), h.account("ben"), h.account("eve")
	for _, o := range []*owner{ada, ben, eve} {
		tp.awaitActive(h.t, o.did)
	}
	for i := range 12 {
		for _, o := range []*owner{ada, ben, eve} {
			o.put(fmt.Sprint(i%7), i)
		}
	}
	ada.remove("3")
	ada.remove("0")
	var keys []string
	for i := range 200 {
		keys = append(keys, fmt.Sprintf("many-%03d", i))
	}
	for round, kind := range []string{"create", "update", "delete"} {
		ben.apply(kind, keys, 1000*round)
	}
	ben.apply("create", keys, 5)
	ben.apply("delete", keys[50:120], 0) // neighbours of one another, and of what stays
	ben.put("last", 1)
	ada.call("com.atproto.server.deactivateAccount", map[string]any{}, nil)
	ada.call("com.atproto.server.activateAccount", nil, nil)
	ada.put("after", 1)
	eve.end()
}

// end deletes the account with all it held.
func (o *owner) end() {
	o.h.t.Helper()
	o.call("com.atproto.server.deleteAccount", map[string]any{"did": o.did, "password": o.password, "token": "none: the account has no address"}, nil)
	maps.DeleteFunc(o.h.now, func(path, _ string) bool { return strings.HasPrefix(path, o.did+"/") })
}

func (h *history) accounts() []string {
	var out []string
	for did := range h.want {
		out = append(out, did)
	}
	slices.Sort(out)
	return out
}

func (h *history) ops() map[string][]string   { return h.want }
func (h *history) records() map[string]string { return h.now }
