package evidence

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

const (
	ana     = syntax.DID("did:plc:anaanaanaanaanaanaanaana")
	issuer  = syntax.DID("did:plc:issuerissuerissuerissuer")
	other   = syntax.DID("did:plc:otherotherotherotherother")
	helper  = syntax.DID("did:plc:helperhelperhelperhelper")
	task    = "at://did:plc:issuerissuerissuerissuer/org.city-sync.work.task/3n6z5xxfmhk23"
	secret  = "what only the issuer may read"
	baseURL = "/xrpc/" + nsid
)

// words stands in for the index.
type words struct{ retention string }

func (words) Verifiers(_ context.Context, uri string) ([]syntax.DID, bool, error) {
	return []syntax.DID{issuer, helper}, uri == task, nil
}
func (w words) Retention(context.Context) (string, error) { return w.retention, nil }

// header is an Auth that believes what the test says; service tokens have tests of their own.
type header struct{}

func (header) Caller(c *xrpc.Call) (syntax.DID, error) {
	return syntax.DID(c.R.Header.Get("X-Caller")), nil
}

type bed struct {
	t     *testing.T
	pool  *pgxpool.Pool
	clock *clock.Manual
	store *Store
	mux   *xrpc.Mux
}

// newBed keeps evidence in a schema that has the AppView's table for it and no other.
func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, pool: pgtest.Schema(t, schema()), clock: clock.New(time.Date(2027, 1, 13, 20, 0, 0, 0, time.UTC))}
	var err error
	b.store, err = NewStore(b.pool, bytes.Repeat([]byte{3}, keySize), b.clock)
	require.NoError(t, err)
	b.mux = xrpc.NewMux(xrpc.Config{})
	Register(b.mux, b.store, header{}, words{"Private data is kept for 30 days."})
	return b
}

func token(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

func (b *bed) send(caller syntax.DID, verb, path, kind string, body []byte) *httptest.ResponseRecorder {
	b.t.Helper()
	req := httptest.NewRequestWithContext(b.t.Context(), verb, baseURL+path, bytes.NewReader(body))
	req.Header.Set("X-Caller", caller.String())
	req.Header.Set("Content-Type", kind)
	rec := httptest.NewRecorder()
	b.mux.ServeHTTP(rec, req)
	return rec
}

func about(task string, n byte) string {
	return fmt.Sprintf("?task=%s&claimToken=%s", task, base64.RawURLEncoding.EncodeToString(token(n)))
}

func (b *bed) put(caller syntax.DID, n byte, body []byte) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.send(caller, http.MethodPost, "putEvidence"+about(task, n), "text/plain", body)
}

func (b *bed) kept(rec *httptest.ResponseRecorder) map[string]any {
	b.t.Helper()
	require.Equal(b.t, 200, rec.Code, rec.Body.String())
	var v map[string]any
	require.NoError(b.t, json.Unmarshal(rec.Body.Bytes(), &v))
	return v
}

func (b *bed) listed(caller syntax.DID, n byte) int {
	b.t.Helper()
	rec := b.send(caller, http.MethodGet, "listEvidence"+about(task, n), "", nil)
	require.Equal(b.t, 200, rec.Code, rec.Body.String())
	require.NoError(b.t, lexicons.CheckOutput(lexicons.WorkListEvidence, rec.Body.Bytes()))
	var v struct{ Evidence []any }
	require.NoError(b.t, json.Unmarshal(rec.Body.Bytes(), &v))
	return len(v.Evidence)
}

func TestEvidenceIsForItsOwnerAndTheIssuerAlone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	rec := b.put(ana, 1, []byte(secret))
	v := b.kept(rec)
	require.NoError(t, lexicons.CheckOutput(lexicons.WorkPutEvidence, rec.Body.Bytes()))
	require.Equal(t, "2027-02-12T20:00:00Z", v["until"], "as long as the city says")
	id := fmt.Sprint(v["id"])
	for _, who := range []syntax.DID{ana, issuer, helper} {
		got := b.send(who, http.MethodGet, "getEvidence?id="+id, "", nil)
		require.Equal(t, 200, got.Code)
		require.Equal(t, secret, got.Body.String())
		require.Equal(t, "no-store", got.Header().Get("Cache-Control"))
		require.Equal(t, 1, b.listed(who, 1))
	}
	for path, who := range map[string]syntax.DID{id: other, hex.EncodeToString(make([]byte, 16)): ana, "x": ana} {
		assert.Equal(t, 404, b.send(who, http.MethodGet, "getEvidence?id="+path, "", nil).Code)
	}
	require.Zero(t, b.listed(other, 1))
	require.Zero(t, b.listed(issuer, 2))
	require.Equal(t, 404, b.send(ana, http.MethodPost, "putEvidence"+about(task+"x", 1), "text/plain", []byte("x")).Code)
	require.Equal(t, 415, b.send(ana, http.MethodPost, "putEvidence"+about(task, 1), "text/html", []byte("x")).Code)
	require.Equal(t, 413, b.put(ana, 1, make([]byte, MaxBytes+1)).Code)
}

// Neither bytes nor key stand in the database, and what is moved to another row does not open.
func TestEvidenceIsEncryptedAtRest(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	id := fmt.Sprint(b.kept(b.put(ana, 1, []byte(secret)))["id"])
	second := fmt.Sprint(b.kept(b.put(other, 2, []byte("another")))["id"])
	raw, err := hex.DecodeString(id)
	require.NoError(t, err)
	var key, sealed []byte
	require.NoError(t, b.pool.QueryRow(t.Context(), `select key, sealed from evidence where id = $1`, raw).Scan(&key, &sealed))
	require.NotContains(t, string(sealed), "issuer may read")
	require.NotContains(t, string(key), "issuer may read")
	_, err = b.pool.Exec(t.Context(), `update evidence set key = $1, sealed = $2 where id <> $3`, key, sealed, raw)
	require.NoError(t, err)
	require.Equal(t, 500, b.send(other, http.MethodGet, "getEvidence?id="+second, "", nil).Code)

	wrong, err := NewStore(b.pool, bytes.Repeat([]byte{4}, keySize), b.clock)
	require.NoError(t, err)
	o, err := wrong.find(t.Context(), raw)
	require.NoError(t, err)
	_, err = wrong.open(t.Context(), o)
	require.Error(t, err, "without the key file a copy of the database says nothing")
	_, err = NewStore(b.pool, []byte("short"), b.clock)
	require.Error(t, err)
}

func TestEvidenceIsDestroyedByItsOwnerAndByTime(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	id := fmt.Sprint(b.kept(b.put(ana, 1, []byte(secret)))["id"])
	remove := func(who syntax.DID) int {
		return b.send(who, http.MethodPost, "deleteEvidence", "application/json", fmt.Appendf(nil, `{"id":%q}`, id)).Code
	}
	require.Equal(t, 404, remove(issuer), "the issuer may read it, not destroy it")
	require.Equal(t, 200, remove(ana))
	require.Equal(t, 404, remove(ana))
	b.kept(b.put(ana, 1, []byte(secret)))
	b.clock.Advance(30*24*time.Hour - time.Second)
	n, err := b.store.Sweep(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	b.clock.Advance(time.Second)
	require.Zero(t, b.listed(ana, 1), "over before it is swept")
	n, err = b.store.Sweep(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

func TestEvidenceOfOnePersonIsBounded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for range maxPerTask {
		b.kept(b.put(ana, 1, []byte("x")))
	}
	require.Equal(t, 409, b.put(ana, 1, []byte("x")).Code)
	b.kept(b.put(other, 1, []byte("x")))
	for n := range maxObjects - maxPerTask {
		b.kept(b.put(ana, byte(2+n/maxPerTask), []byte("x")))
	}
	rec := b.put(ana, 200, []byte("x"))
	require.Equal(t, 409, rec.Code)
	require.Contains(t, rec.Body.String(), "EvidenceFull")
	_, err := b.pool.Exec(t.Context(), `update evidence set size = $1 where owner = $2`, maxTotal, other)
	require.NoError(t, err)
	require.Equal(t, 409, b.put(other, 2, []byte("x")).Code)
}

func TestRetentionIsReadFromTheCitysWords(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for words, want := range map[string]time.Duration{
		"": defaultKeep, "as long as needed": defaultKeep, "P30D": 30 * day, "P2M": 60 * day, "P1Y": 365 * day, "P9999Y": maxKeep, "P0D": defaultKeep,
		"Evidence is kept for 12 weeks.": 84 * day, "two days or 3 days": 3 * day, "1 month": 30 * day, "99999 days": defaultKeep,
	} {
		assert.Equal(t, want, Keep(words), words)
	}
}
