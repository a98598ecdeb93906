package oauth_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds"
	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/scope"
)

const (
	alice     = syntax.DID("did:plc:aliceaaaaaaaaaaaaaaaaaaa")
	bob       = syntax.DID("did:plc:bobbbbbbbbbbbbbbbbbbbbbb")
	broad     = "atproto blob:image/* repo:org.example.note"
	narrow    = "atproto repo:org.example.note?action=create"
	assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

type m = map[string]any

var errBroken = errors.New("the table of accounts is upside down")

// bed is an authorization server over loopback, and a host on which clients keep their metadata.
type bed struct {
	t      *testing.T
	cfg    oauth.Config
	pool   *pgxpool.Pool
	clock  *clock.Manual
	server *oauth.Server
	url    string
	log    *lockedBuffer

	mayNot sync.Map // accounts that cannot be used
	mayErr atomic.Bool
	wait   atomic.Int64

	host  string // of the clients' metadata
	mu    sync.Mutex
	docs  map[string]any // by path; a func answers by itself
	asked map[string]int
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// MayAct serves oauth.Accounts.
func (b *bed) MayAct(_ context.Context, account, actor syntax.DID) (bool, error) {
	if b.mayErr.Load() {
		return false, errBroken
	}
	_, no := b.mayNot.Load(account)
	return !no && (account == actor || actor == bob), nil
}

func newBed(t *testing.T, tune ...func(*oauth.Config)) *bed {
	t.Helper()
	b := &bed{
		t: t, clock: clock.New(time.Date(2026, 11, 20, 9, 0, 30, 0, time.UTC)), log: &lockedBuffer{},
		docs: map[string]any{}, asked: map[string]int{},
	}
	var front atomic.Pointer[http.ServeMux]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { front.Load().ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	clientHost := httptest.NewServer(http.HandlerFunc(b.serveDocument))
	t.Cleanup(clientHost.Close)
	b.url, b.host = srv.URL, clientHost.URL
	b.pool = pgtest.Schema(t, pds.Migrations())
	for i, did := range []syntax.DID{alice, bob} {
		_, err := b.pool.Exec(t.Context(), `insert into account (did, handle, password, status, signing_key, created) values ($1, $2, '', 'active', '', now())`,
			did, "user"+strconv.Itoa(i)+".test")
		require.NoError(t, err)
	}
	b.cfg = oauth.Config{
		Issuer: b.url, Pool: pgtest.AsRole(t, b.pool, pds.GrantTo), HTTP: xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: true, MaxBytes: 64 << 20, MaxRedirects: 2}),
		Clock: b.clock, Log: slog.New(slog.NewTextHandler(b.log, nil)), Secret: bytes.Repeat([]byte{5}, 32), Accounts: b,
		Scopes:        func(raw string) (*scope.Set, error) { return scope.Parse(raw, lexicons.PermissionSetOf) },
		Limit:         func(http.Header, *http.Request) time.Duration { return time.Duration(b.wait.Load()) },
		AllowLoopback: true,
	}
	for _, f := range tune {
		f(&b.cfg)
	}
	b.server = b.another()
	front.Store(mux(b.server))
	return b
}

// another is one more process on the same database.
func (b *bed) another() *oauth.Server {
	b.t.Helper()
	s, err := oauth.New(b.cfg)
	require.NoError(b.t, err)
	return s
}

// mux serves s, and at /resource what a method of the PDS would do with an app's request.
func mux(s *oauth.Server) *http.ServeMux {
	mux := http.NewServeMux()
	s.Register(mux.Handle)
	mux.HandleFunc("/resource/", func(w http.ResponseWriter, r *http.Request) {
		ses, err := s.Authenticate(r)
		if e := s.Answer(r.Context(), w.Header(), err); e != nil {
			w.WriteHeader(e.Status)
			_ = json.NewEncoder(w).Encode(m{"error": e.Code})
			return
		}
		_ = json.NewEncoder(w).Encode(m{"id": ses.ID, "account": ses.Account, "actor": ses.Actor, "client": ses.Client, "scope": ses.Scope.String()})
	})
	return mux
}

func (b *bed) serveDocument(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	doc := b.docs[r.URL.Path]
	b.asked[r.URL.Path]++
	b.mu.Unlock()
	switch doc := doc.(type) {
	case nil:
		http.NotFound(w, r)
	case func(http.ResponseWriter, *http.Request):
		doc(w, r)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(doc)
	}
}

func (b *bed) publish(path string, doc any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.docs[path] = doc
}

func (b *bed) fetched(path string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked[path]
}

func (b *bed) count(sql string, args ...any) int {
	b.t.Helper()
	var n int
	require.NoError(b.t, b.pool.QueryRow(b.t.Context(), sql, args...).Scan(&n))
	return n
}

// answer is what came back over HTTP.
type answer struct {
	Status int
	Header http.Header
	Raw    string
	JSON   m
}

func (a answer) str(name string) string {
	s, _ := a.JSON[name].(string)
	return s
}

func (b *bed) do(req *http.Request) answer {
	b.t.Helper()
	res, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	a := answer{Status: res.StatusCode, Header: res.Header, Raw: string(raw)}
	_ = json.Unmarshal(raw, &a.JSON) // some answers are no JSON
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return k
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func publicJWK(t testing.TB, k *ecdsa.PrivateKey) m {
	t.Helper()
	raw, err := k.PublicKey.Bytes()
	require.NoError(t, err)
	return m{"kty": "EC", "crv": "P-256", "x": b64(raw[1:33]), "y": b64(raw[33:])}
}

func withKid(jwk m, kid string) m {
	jwk["kid"] = kid
	return jwk
}

func sign(t testing.TB, k *ecdsa.PrivateKey, head, claims m) string {
	t.Helper()
	h, err := json.Marshal(head)
	require.NoError(t, err)
	c, err := json.Marshal(claims)
	require.NoError(t, err)
	signed := b64(h) + "." + b64(c)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
	require.NoError(t, err)
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + b64(sig)
}

// app is a client with a DPoP key, as one installation or one backend has it.
type app struct {
	*bed
	id       string
	redirect string
	dpop     *ecdsa.PrivateKey
	key      *ecdsa.PrivateKey // of a confidential client
	kid      string
	nonce    string
	verifier string
	scope    string
}

func (b *bed) metadata(path string, more m) m {
	doc := m{
		"client_id": b.host + path, "client_name": "Example app", "redirect_uris": []string{b.host + "/cb"}, "scope": broad,
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"token_endpoint_auth_method": "none", "dpop_bound_access_tokens": true,
	}
	for k, v := range more {
		if v == nil {
			delete(doc, k)
			continue
		}
		doc[k] = v
	}
	return doc
}

// public is a client that cannot keep a key.
func (b *bed) public() *app {
	b.publish("/app.json", b.metadata("/app.json", nil))
	return &app{bed: b, id: b.host + "/app.json", redirect: b.host + "/cb", dpop: newKey(b.t), verifier: b64(newVerifier()), scope: broad}
}

// confidential is a client that shows who it is with a key.
func (b *bed) confidential() *app {
	k := newKey(b.t)
	b.publish("/backend.json", b.metadata("/backend.json", m{
		"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256",
		"jwks": m{"keys": []any{withKid(publicJWK(b.t, k), "k1")}},
	}))
	a := b.public()
	a.id, a.key, a.kid = b.host+"/backend.json", k, "k1"
	return a
}

func newVerifier() []byte {
	v := make([]byte, 32)
	_, _ = rand.Read(v)
	return v
}

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return b64(sum[:])
}

// proof makes a DPoP proof; more overrides its claims, nil takes one away.
func (a *app) proof(method, target, token string, more m) string {
	a.t.Helper()
	claims := m{"jti": b64(newVerifier()), "htm": method, "htu": target, "iat": a.clock.Now().Unix()}
	if a.nonce != "" {
		claims["nonce"] = a.nonce
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = b64(sum[:])
	}
	for k, v := range more {
		if v == nil {
			delete(claims, k)
			continue
		}
		claims[k] = v
	}
	return sign(a.t, a.dpop, m{"typ": "dpop+jwt", "alg": "ES256", "jwk": publicJWK(a.t, a.dpop)}, claims)
}

// assert makes a client assertion; more overrides its claims.
func (a *app) assert(more m) string {
	a.t.Helper()
	claims := m{"iss": a.id, "sub": a.id, "aud": a.url, "jti": b64(newVerifier()), "iat": a.clock.Now().Unix()}
	for k, v := range more {
		if v == nil {
			delete(claims, k)
			continue
		}
		claims[k] = v
	}
	return sign(a.t, a.key, m{"alg": "ES256", "kid": a.kid}, claims)
}

// request posts a form with the proof given.
func (a *app) request(path string, f url.Values, proof string) answer {
	a.t.Helper()
	req, err := http.NewRequest(http.MethodPost, a.url+path, strings.NewReader(f.Encode()))
	require.NoError(a.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if proof != "" {
		req.Header.Set("DPoP", proof)
	}
	return a.do(req)
}

// post is request as a client in order makes it: who it is, a proof, and again with the nonce where one is asked for.
func (a *app) post(path string, f url.Values) answer {
	a.t.Helper()
	for range 2 {
		form := url.Values{"client_id": {a.id}}
		if a.key != nil {
			form.Set("client_assertion_type", assertion)
			form.Set("client_assertion", a.assert(nil))
		}
		for k, v := range f {
			form[k] = v
			if v == nil {
				form.Del(k)
			}
		}
		got := a.request(path, form, a.proof(http.MethodPost, a.url+path, "", nil))
		a.nonce = got.Header.Get("DPoP-Nonce")
		if got.str("error") != "use_dpop_nonce" {
			return got
		}
	}
	require.FailNow(a.t, "asked for a nonce twice")
	return answer{}
}

// asked are the parameters of an authorization request.
func (a *app) asked(more url.Values) url.Values {
	f := url.Values{
		"response_type": {"code"}, "redirect_uri": {a.redirect}, "scope": {a.scope}, "state": {"st8"},
		"code_challenge": {challenge(a.verifier)}, "code_challenge_method": {"S256"},
	}
	for k, v := range more {
		f[k] = v
	}
	return f
}

func (a *app) push(more url.Values) string {
	a.t.Helper()
	got := a.post("/oauth/par", a.asked(more))
	require.Equal(a.t, http.StatusCreated, got.Status, got.Raw)
	return got.str("request_uri")
}

// allowed is a request that its owner granted: the code, as the redirect brings it.
func (a *app) allowed(who oauth.Approval) string {
	a.t.Helper()
	p, err := a.server.Pending(a.t.Context(), a.id, a.push(nil))
	require.NoError(a.t, err)
	to, err := a.server.Grant(a.t.Context(), p, who)
	require.NoError(a.t, err)
	u, err := url.Parse(to)
	require.NoError(a.t, err)
	return u.Query().Get("code")
}

func byAlice() oauth.Approval { return oauth.Approval{Account: alice, Actor: alice, Device: "d1"} }

func (a *app) exchange(code string, more url.Values) answer {
	a.t.Helper()
	f := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {a.redirect}, "code_verifier": {a.verifier}}
	for k, v := range more {
		f[k] = v
	}
	return a.post("/oauth/token", f)
}

func (a *app) refresh(token string) answer {
	a.t.Helper()
	return a.post("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// login is the whole way to tokens.
func (a *app) login() answer {
	a.t.Helper()
	got := a.exchange(a.allowed(byAlice()), nil)
	require.Equal(a.t, http.StatusOK, got.Status, got.Raw)
	return got
}

// again is a fresh challenge for the next authorization request.
func (a *app) again() *app {
	a.verifier = b64(newVerifier())
	return a
}

// use asks the resource for something with a token.
func (a *app) use(token string, more m) answer {
	a.t.Helper()
	const path = "/resource/thing"
	return a.send(token, path+"?a=b", a.proof(http.MethodGet, a.url+path, token, more))
}

func (a *app) send(token, path, proof string) answer {
	a.t.Helper()
	req, err := http.NewRequest(http.MethodGet, a.url+path, nil)
	require.NoError(a.t, err)
	req.Header.Set("Authorization", "DPoP "+token)
	if proof != "" {
		req.Header.Set("DPoP", proof)
	}
	got := a.do(req)
	if n := got.Header.Get("DPoP-Nonce"); n != "" {
		a.nonce = n
	}
	return got
}
