// Package apptest is an app for tests: it pushes a request to an authorization server, waits at its redirect URI, and exchanges its code, as an
// app in order does. It reads no metadata of the server: the paths are those of this house.
package apptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// App is one app with a DPoP key and, where it is confidential, a key of its own.
type App struct {
	T        testing.TB
	Server   string           // the authorization server's URL
	Now      func() time.Time // the server's time
	ID       string
	Redirect string
	Scope    string

	dpop, key *ecdsa.PrivateKey
	nonce     string
	verifier  string
}

type m = map[string]any

// Loopback is a program on this computer.
func Loopback(t testing.TB, server string, now func() time.Time, scope string) *App {
	t.Helper()
	q := url.Values{"redirect_uri": {"http://127.0.0.1/cb"}, "scope": {scope}}
	return &App{T: t, Server: server, Now: now, ID: "http://localhost?" + q.Encode(), Redirect: "http://127.0.0.1:7777/cb", Scope: scope, dpop: newKey(t)}
}

// Web is an app at a host of its own, where its metadata stands. What is asked of the host besides goes to at, which may be nil.
func Web(t testing.TB, server string, now func() time.Time, scope string, confidential bool, at http.Handler) *App {
	t.Helper()
	a := &App{T: t, Server: server, Now: now, Scope: scope, dpop: newKey(t)}
	doc := m{
		"client_name": "Example \u201capp\u201d <b>", "scope": scope, "grant_types": []string{"authorization_code", "refresh_token"},
		"response_types": []string{"code"}, "token_endpoint_auth_method": "none", "dpop_bound_access_tokens": true,
	}
	if confidential {
		a.key = newKey(t)
		jwk := public(t, a.key)
		jwk["kid"] = "k1"
		doc["token_endpoint_auth_method"], doc["token_endpoint_auth_signing_alg"], doc["jwks"] = "private_key_jwt", "ES256", m{"keys": []any{jwk}}
	}
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/app.json":
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(doc)
		case at != nil:
			at.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(host.Close)
	a.ID, a.Redirect = host.URL+"/app.json", host.URL+"/cb"
	doc["client_id"], doc["redirect_uris"] = a.ID, []string{a.Redirect}
	return a
}

// Push begins a request and gives the path of the page on which its owner answers. More are further parameters, by name and value.
func (a *App) Push(more ...string) (path string) {
	a.T.Helper()
	status, out := a.TryPush(more...)
	require.Equal(a.T, http.StatusCreated, status, "%v", out)
	return "/oauth/authorize?" + url.Values{"client_id": {a.ID}, "request_uri": {fmt.Sprint(out["request_uri"])}}.Encode()
}

// TryPush is Push whatever the answer.
func (a *App) TryPush(more ...string) (status int, out map[string]any) {
	a.T.Helper()
	return a.post("/oauth/par", a.Ask(more...))
}

// Ask is the form of a request, with a verifier of its own.
func (a *App) Ask(more ...string) url.Values {
	a.verifier = random()
	sum := sha256.Sum256([]byte(a.verifier))
	f := url.Values{
		"response_type": {"code"}, "redirect_uri": {a.Redirect}, "scope": {a.Scope}, "state": {"st8"},
		"code_challenge": {b64(sum[:])}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(more); i += 2 {
		f.Set(more[i], more[i+1])
	}
	return f
}

// Exchange turns the code that came to the redirect URI into tokens: access_token, refresh_token, scope and sub.
func (a *App) Exchange(redirected string) (out map[string]any) {
	a.T.Helper()
	u, err := url.Parse(redirected)
	require.NoError(a.T, err)
	require.True(a.T, strings.HasPrefix(redirected, a.Redirect+"?"), redirected)
	require.Equal(a.T, "st8", u.Query().Get("state"))
	require.Equal(a.T, a.Server, u.Query().Get("iss"))
	status, out := a.post("/oauth/token", a.Redeem(u.Query().Get("code")))
	require.Equal(a.T, http.StatusOK, status, "%v", out)
	return out
}

// Redeem is the form that asks for the tokens of a code.
func (a *App) Redeem(code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {a.Redirect}, "code_verifier": {a.verifier}}
}

// Do sends a request to a method with the app's token.
func (a *App) Do(token string, req *http.Request) (status int, out map[string]any) {
	a.T.Helper()
	status, out, err := a.TryDo(token, req)
	require.NoError(a.T, err)
	return status, out
}

// TryDo is Do at a server that may be gone before it answered.
func (a *App) TryDo(token string, req *http.Request) (status int, out map[string]any, err error) {
	a.T.Helper()
	for range 2 {
		r := req.Clone(req.Context())
		r.Header.Set("Authorization", "DPoP "+token)
		sum := sha256.Sum256([]byte(token))
		r.Header.Set("DPoP", a.proof(r.Method, a.Server+r.URL.Path, m{"ath": b64(sum[:])}))
		if status, out, err = a.send(r); err != nil || out["error"] != "use_dpop_nonce" {
			break
		}
	}
	return status, out, err
}

// Nonce is the last that the server gave.
func (a *App) Nonce() string { return a.nonce }

func (a *App) post(path string, f url.Values) (status int, out map[string]any) {
	a.T.Helper()
	status, out, err := a.Try(path, f)
	require.NoError(a.T, err)
	return status, out
}

// Try sends a form to a server that may be gone before it answered.
func (a *App) Try(path string, f url.Values) (status int, out map[string]any, err error) {
	a.T.Helper()
	f.Set("client_id", a.ID)
	for range 2 {
		if a.key != nil {
			f.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
			f.Set("client_assertion", sign(a.T, a.key, m{"alg": "ES256", "kid": "k1"}, m{"iss": a.ID, "sub": a.ID, "aud": a.Server, "jti": random(), "iat": a.Now().Unix()}))
		}
		var req *http.Request
		req, err = http.NewRequestWithContext(a.T.Context(), http.MethodPost, a.Server+path, strings.NewReader(f.Encode()))
		require.NoError(a.T, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("DPoP", a.proof(http.MethodPost, a.Server+path, nil))
		if status, out, err = a.send(req); err != nil || out["error"] != "use_dpop_nonce" {
			break
		}
	}
	return status, out, err
}

func (a *App) send(req *http.Request) (status int, out map[string]any, err error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, nil, &url.Error{Op: req.Method, URL: req.URL.String(), Err: err} // as a client says it
	}
	defer func() { _ = res.Body.Close() }()
	if n := res.Header.Get("DPoP-Nonce"); n != "" {
		a.nonce = n
	}
	_ = json.NewDecoder(res.Body).Decode(&out) // an answer may have no body
	return res.StatusCode, out, nil
}

func (a *App) proof(method, target string, more m) string {
	claims := m{"jti": random(), "htm": method, "htu": target, "iat": a.Now().Unix()}
	if a.nonce != "" {
		claims["nonce"] = a.nonce
	}
	for k, v := range more {
		claims[k] = v
	}
	return sign(a.T, a.dpop, m{"typ": "dpop+jwt", "alg": "ES256", "jwk": public(a.T, a.dpop)}, claims)
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never errs
	return b64(b)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return k
}

func public(t testing.TB, k *ecdsa.PrivateKey) m {
	t.Helper()
	raw, err := k.PublicKey.Bytes() // 4, x, y
	require.NoError(t, err)
	return m{"kty": "EC", "crv": "P-256", "x": b64(raw[1:33]), "y": b64(raw[33:])}
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
