package plcdev_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/xrpc"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.UTC)

func keyOf(t testing.TB, name string) *atcrypto.PrivateKeyK256 {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	k, err := atcrypto.ParsePrivateBytesK256(sum[:])
	require.NoError(t, err)
	return k
}

func didKey(t testing.TB, k atcrypto.PrivateKey) string {
	t.Helper()
	pub, err := k.PublicKey()
	require.NoError(t, err)
	return pub.DIDKey()
}

func signed(t testing.TB, op identity.Operation, k atcrypto.PrivateKey) identity.Operation {
	t.Helper()
	require.NoError(t, op.Sign(k))
	return op
}

func genesis(t testing.TB, handle string) (syntax.DID, identity.Operation) {
	t.Helper()
	op := signed(t, identity.Operation{
		RotationKeys:        []string{didKey(t, keyOf(t, "strong")), didKey(t, keyOf(t, "weak"))},
		VerificationMethods: map[string]string{"atproto": didKey(t, keyOf(t, "signing"))},
		AlsoKnownAs:         []string{"at://" + handle},
		Services:            map[string]identity.Service{"atproto_pds": {Type: "AtprotoPersonalDataServer", Endpoint: "http://localhost:2581"}},
	}, keyOf(t, "weak"))
	did, err := identity.GenesisDID(op)
	require.NoError(t, err)
	return did, op
}

type world struct {
	path string
	now  *clock.Manual
	srv  *plcdev.Server
	url  string
	plc  *identity.PLC
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{path: filepath.Join(t.TempDir(), "plc.jsonl"), now: clock.New(t0)}
	w.open(t)
	t.Cleanup(func() { w.srv.Close() })
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.srv.Handler().ServeHTTP(rw, r) }))
	t.Cleanup(web.Close)
	w.url = web.URL
	w.plc = identity.NewPLC(web.URL, xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: true, MaxBytes: 8 << 20}))
	return w
}

func (w *world) open(t *testing.T) {
	t.Helper()
	srv, err := plcdev.New(w.path, w.now)
	require.NoError(t, err)
	w.srv = srv
}

func (w *world) get(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.url+path, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func TestAccountLivesThroughTheWholeAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	did, g := genesis(t, "alice.test")
	_, err := w.plc.Last(t.Context(), did)
	require.ErrorIs(t, err, identity.ErrNotRegistered)
	require.NoError(t, w.plc.Submit(t.Context(), did, g))
	require.NoError(t, w.plc.Submit(t.Context(), did, g), "asking again after a lost answer")

	w.now.Advance(time.Second)
	next := g.Next()
	next.Services["citysync_ledger"] = identity.Service{Type: "CitySyncLedger", Endpoint: "http://localhost:2582"}
	next = signed(t, next, keyOf(t, "strong"))
	require.NoError(t, w.plc.Submit(t.Context(), did, next))

	dir := identity.NewDirectory(identity.Config{PLCURL: w.url, HTTP: xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: true}), Clock: w.now})
	id, err := dir.LookupDID(t.Context(), did)
	require.NoError(t, err)
	assert.Equal(t, "http://localhost:2582", id.GetServiceEndpoint("citysync_ledger"))
	assert.Equal(t, "http://localhost:2581", id.PDSEndpoint())
	pub, err := id.PublicKey()
	require.NoError(t, err)
	assert.Equal(t, didKey(t, keyOf(t, "signing")), pub.DIDKey())

	audit, err := w.plc.Audit(t.Context(), did)
	require.NoError(t, err)
	require.NoError(t, identity.VerifyAudit(did, audit))
	assert.Len(t, audit, 2)
	assert.Equal(t, t0.Truncate(time.Millisecond), audit[0].CreatedAt)
	data, err := w.plc.Data(t.Context(), did)
	require.NoError(t, err)
	assert.Equal(t, next.Services, data.Services)
	assert.Equal(t, g.RotationKeys, data.RotationKeys)
	last, err := w.plc.Last(t.Context(), did)
	require.NoError(t, err)
	assert.Equal(t, next.CID(), last.CID())

	w.now.Advance(time.Second)
	require.NoError(t, w.plc.Submit(t.Context(), did, signed(t, identity.Tombstone(next.CID()), keyOf(t, "weak"))))
	status, _ := w.get(t, "/"+did.String())
	assert.Equal(t, 404, status)
	_, err = w.plc.Data(t.Context(), did)
	require.ErrorIs(t, err, identity.ErrNotRegistered)

	// The stronger key takes the end back; the log shows it as nullified, the list in force does not.
	w.now.Advance(time.Second)
	back := signed(t, next.Next(), keyOf(t, "strong"))
	require.NoError(t, w.plc.Submit(t.Context(), did, back))
	audit, err = w.plc.Audit(t.Context(), did)
	require.NoError(t, err)
	require.NoError(t, identity.VerifyAudit(did, audit))
	assert.True(t, audit[2].Nullified)
	_, body := w.get(t, "/"+did.String()+"/log")
	var ops []identity.Operation
	require.NoError(t, json.Unmarshal([]byte(body), &ops))
	assert.Len(t, ops, 3)
}

func TestDocumentHasTheFormOfThePublicDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p256, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(t, err)
	op := identity.Operation{
		RotationKeys:        []string{didKey(t, keyOf(t, "weak"))},
		VerificationMethods: map[string]string{"atproto": didKey(t, keyOf(t, "signing")), "till": didKey(t, p256), "ed": "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"},
		AlsoKnownAs:         []string{"at://alice.test"},
		Services:            map[string]identity.Service{"atproto_pds": {Type: "AtprotoPersonalDataServer", Endpoint: "http://localhost:2581"}},
	}
	op = signed(t, op, keyOf(t, "weak"))
	did, err := identity.GenesisDID(op)
	require.NoError(t, err)
	require.NoError(t, w.plc.Submit(t.Context(), did, op))
	_, body := w.get(t, "/"+did.String())
	multibase := func(k string) string { return strings.TrimPrefix(k, "did:key:") }
	assert.JSONEq(t, fmt.Sprintf(`{
		"@context":["https://www.w3.org/ns/did/v1","https://w3id.org/security/multikey/v1","https://w3id.org/security/suites/secp256k1-2019/v1","https://w3id.org/security/suites/ecdsa-2019/v1"],
		"id":%[1]q,"alsoKnownAs":["at://alice.test"],
		"verificationMethod":[
			{"id":"%[1]s#atproto","type":"Multikey","controller":%[1]q,"publicKeyMultibase":%[2]q},
			{"id":"%[1]s#ed","type":"Multikey","controller":%[1]q,"publicKeyMultibase":"z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"},
			{"id":"%[1]s#till","type":"Multikey","controller":%[1]q,"publicKeyMultibase":%[3]q}],
		"service":[{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"http://localhost:2581"}]}`,
		did, multibase(op.VerificationMethods["atproto"]), multibase(op.VerificationMethods["till"])), body)
}

func TestOperationsThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, base := genesis(t, "alice.test")
	weak := keyOf(t, "weak")
	k := func(i int) string { return didKey(t, keyOf(t, fmt.Sprint("k", i))) }
	for name, change := range map[string]func(op *identity.Operation){
		"no rotation key": func(op *identity.Operation) { op.RotationKeys = nil },
		"six rotation keys": func(op *identity.Operation) {
			op.RotationKeys = []string{didKey(t, weak), k(1), k(2), k(3), k(4), k(5)}
		},
		"rotation key twice": func(op *identity.Operation) { op.RotationKeys = []string{didKey(t, weak), didKey(t, weak)} },
		"rotation key of no use": func(op *identity.Operation) {
			op.RotationKeys = []string{didKey(t, weak), "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"}
		},
		"stranger signs":    func(op *identity.Operation) { op.RotationKeys = []string{k(1)} },
		"too large":         func(op *identity.Operation) { op.Services["x"] = identity.Service{Endpoint: strings.Repeat("x", 7500)} },
		"long endpoint":     func(op *identity.Operation) { op.Services["x"] = identity.Service{Endpoint: strings.Repeat("x", 513)} },
		"long service name": func(op *identity.Operation) { op.Services[strings.Repeat("x", 33)] = identity.Service{} },
		"eleven services": func(op *identity.Operation) {
			for i := range 11 {
				op.Services[fmt.Sprint(i)] = identity.Service{}
			}
		},
		"long name":           func(op *identity.Operation) { op.AlsoKnownAs = []string{"at://" + strings.Repeat("x", 254)} },
		"name twice":          func(op *identity.Operation) { op.AlsoKnownAs = []string{"at://a", "at://a"} },
		"eleven names":        func(op *identity.Operation) { op.AlsoKnownAs = strings.Split("a,b,c,d,e,f,g,h,i,j,k", ",") },
		"method no key":       func(op *identity.Operation) { op.VerificationMethods["x"] = "did:web:x" },
		"method a broken key": func(op *identity.Operation) { op.VerificationMethods["x"] = "did:key:z0OIl" },
		"long method name":    func(op *identity.Operation) { op.VerificationMethods[strings.Repeat("x", 33)] = k(1) },
		"update of nothing":   func(op *identity.Operation) { op.Prev = base.CID().String() },
	} {
		op := base.Next()
		op.Prev = ""
		op.Services = map[string]identity.Service{}
		change(&op)
		op = signed(t, op, weak)
		did := syntax.DID("did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")
		if op.Prev == "" {
			var err error
			did, err = identity.GenesisDID(op)
			require.NoError(t, err)
		}
		err := w.plc.Submit(t.Context(), did, op)
		var refused *identity.PLCError
		require.ErrorAs(t, err, &refused, name)
		assert.Equal(t, 400, refused.Status, name)
		assert.NotEmpty(t, refused.Message, name)
	}
	var refused *identity.PLCError
	require.ErrorAs(t, w.plc.Submit(t.Context(), "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", base), &refused)
	assert.Contains(t, refused.Message, "genesis", "the DID must be the hash")

	for _, body := range []string{"", "[]", `{"type":"create","signingKey":"a","recoveryKey":"b","handle":"c","service":"d","prev":null,"sig":"e"}`, strings.Repeat("x", 100<<10)} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.url+"/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", strings.NewReader(body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 400, resp.StatusCode, "%.30s", body)
	}
	raw, err := os.ReadFile(w.path)
	require.NoError(t, err)
	assert.Empty(t, raw, "nothing that was refused is kept")
}

// P1, P2
func TestRestartFindsEverythingThatWasAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var dids []syntax.DID
	for i := range 5 {
		did, g := genesis(t, fmt.Sprintf("r%d.test", i))
		require.NoError(t, w.plc.Submit(t.Context(), did, g))
		dids = append(dids, did)
	}
	raw, err := os.ReadFile(w.path)
	require.NoError(t, err)
	before := make(map[syntax.DID]string)
	for _, d := range dids {
		_, before[d] = w.get(t, "/"+d.String()+"/log/audit")
	}
	require.NoError(t, w.srv.Close())

	// A crash in the middle of the next line, at each of its bytes.
	lines := bytes.SplitAfter(raw, []byte("\n"))
	for _, cut := range []int{1, 10, len(lines[0]) - 1} {
		require.NoError(t, os.WriteFile(w.path, append(bytes.Clone(raw), lines[0][:cut]...), 0o600))
		w.open(t)
		for _, d := range dids {
			_, after := w.get(t, "/"+d.String()+"/log/audit")
			assert.Equal(t, before[d], after)
		}
		got, err := os.ReadFile(w.path)
		require.NoError(t, err)
		assert.Equal(t, raw, got, "the torn line is cut off")
		require.NoError(t, w.srv.Close())
	}
	w.open(t)
	did, g := genesis(t, "after.test")
	require.NoError(t, w.plc.Submit(t.Context(), did, g))
	require.NoError(t, w.srv.Close())
	w.open(t)
	_, err = w.plc.Last(t.Context(), did)
	require.NoError(t, err)
}

// P2
func TestFileThatDoesNotProveItselfIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	did, g := genesis(t, "alice.test")
	require.NoError(t, w.plc.Submit(t.Context(), did, g))
	require.NoError(t, w.plc.Submit(t.Context(), did, signed(t, g.Next(), keyOf(t, "weak"))))
	require.NoError(t, w.srv.Close())
	raw, err := os.ReadFile(w.path)
	require.NoError(t, err)
	lines := bytes.SplitAfter(raw, []byte("\n"))
	for name, bad := range map[string][]byte{
		"other CID":     bytes.Replace(raw, []byte(`"cid":"bafyrei`), []byte(`"cid":"bafyref`), 1),
		"changed byte":  bytes.Replace(raw, []byte("alice.test"), []byte("alicf.test"), 1),
		"line left out": lines[1],
		"line twice":    append(bytes.Clone(raw), lines[0]...),
		"no JSON":       []byte("x\n"),
		"empty line":    append([]byte("\n"), raw...),
		"endless line":  append(bytes.Repeat([]byte("x"), 100<<10), '\n'),
	} {
		require.NoError(t, os.WriteFile(w.path, bad, 0o600))
		_, err := plcdev.New(w.path, w.now)
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), "line", name)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := plcdev.New(w.path, w.now)
	require.ErrorContains(t, err, "another process")
}

func TestClosedServerTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.srv.Close())
	did, g := genesis(t, "alice.test")
	var refused *identity.PLCError
	require.ErrorAs(t, w.plc.Submit(t.Context(), did, g), &refused)
	assert.Equal(t, 500, refused.Status)
}

// P3
func TestTimesRiseThoughTheClockDoesNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	did, op := genesis(t, "alice.test")
	require.NoError(t, w.plc.Submit(t.Context(), did, op))
	for range 3 {
		w.now.Advance(-time.Hour)
		op = signed(t, op.Next(), keyOf(t, "weak"))
		require.NoError(t, w.plc.Submit(t.Context(), did, op))
	}
	audit, err := w.plc.Audit(t.Context(), did)
	require.NoError(t, err)
	require.NoError(t, identity.VerifyAudit(did, audit))
	for i := 1; i < len(audit); i++ {
		assert.True(t, audit[i].CreatedAt.After(audit[i-1].CreatedAt))
	}
	other, g := genesis(t, "bob.test")
	require.NoError(t, w.plc.Submit(t.Context(), other, g))
	otherAudit, err := w.plc.Audit(t.Context(), other)
	require.NoError(t, err)
	assert.False(t, otherAudit[0].CreatedAt.Before(audit[3].CreatedAt), "a reader of the export by time would miss it")
}

// Accounts of the old form exist, but no new one is made.
func TestLegacyOperationIsNotTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	signing := keyOf(t, "signing")
	m := map[string]any{"type": "create", "signingKey": didKey(t, signing), "recoveryKey": didKey(t, keyOf(t, "recovery")),
		"handle": "old.test", "service": "https://pds.example.org", "prev": nil}
	unsigned, err := atdata.MarshalCBOR(m)
	require.NoError(t, err)
	sig, err := signing.HashAndSign(unsigned)
	require.NoError(t, err)
	m["sig"] = base64.RawURLEncoding.EncodeToString(sig)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	var op identity.Operation
	require.NoError(t, json.Unmarshal(raw, &op))
	did, err := identity.GenesisDID(op)
	require.NoError(t, err)
	_, err = identity.CheckNext(did, nil, op, t0)
	require.NoError(t, err, "it is a true genesis")
	require.ErrorContains(t, w.srv.Add(did, op), "legacy")
}

func TestTwoAtOnceOneFollows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	did, g := genesis(t, "alice.test")
	require.NoError(t, w.plc.Submit(t.Context(), did, g))
	var wg sync.WaitGroup
	results := make(chan error, 8)
	for i := range 8 {
		op := g.Next()
		op.AlsoKnownAs = []string{fmt.Sprintf("at://a%d.test", i)}
		op = signed(t, op, keyOf(t, "weak"))
		wg.Go(func() { results <- w.srv.Add(did, op) })
	}
	wg.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
		}
	}
	assert.Equal(t, 1, won)
}

func TestExportPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 5 {
		did, g := genesis(t, fmt.Sprintf("r%d.test", i))
		require.NoError(t, w.plc.Submit(t.Context(), did, g))
		w.now.Advance(time.Second)
	}
	lines := func(query string) []map[string]any {
		status, body := w.get(t, "/export"+query)
		require.Equal(t, 200, status, body)
		var out []map[string]any
		for _, l := range strings.Split(strings.TrimSpace(body), "\n") {
			if l == "" {
				continue
			}
			var m map[string]any
			require.NoError(t, json.Unmarshal([]byte(l), &m))
			out = append(out, m)
		}
		return out
	}
	first := lines("?after=0&count=2")
	require.Len(t, first, 2)
	assert.Equal(t, "sequenced_op", first[0]["type"])
	assert.EqualValues(t, 1, first[0]["seq"])
	rest := lines("?after=2")
	require.Len(t, rest, 3)
	assert.EqualValues(t, 3, rest[0]["seq"])
	assert.Empty(t, lines("?after=5"))
	assert.Empty(t, lines("?after=99"))

	old := lines("?count=1")
	require.Len(t, old, 1)
	assert.Equal(t, false, old[0]["nullified"])
	assert.Len(t, lines("?after="+old[0]["createdAt"].(string)), 4)
	for _, bad := range []string{"?after=x", "?count=0", "?count=x", "?after=-1"} {
		status, _ := w.get(t, "/export"+bad)
		assert.Equal(t, 400, status, bad)
	}
	status, _ := w.get(t, "/_health")
	assert.Equal(t, 200, status)
	for _, none := range []string{"/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "/did:web:x.org", "/nothing", "/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/log/audit"} {
		status, _ := w.get(t, none)
		assert.Equal(t, 404, status, none)
	}
}
