package oauth_test

import (
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/pds/oauth"
)

func TestProofRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	require.Equal(t, http.StatusOK, a.use(token, nil).Status)
	path, target := "/resource/thing", b.url+"/resource/thing"
	jwk := publicJWK(t, a.dpop)
	now := b.clock.Now().Unix()
	sum := sha256.Sum256([]byte(token))
	claims := func(more m) m {
		c := m{"jti": b64(newVerifier()), "htm": "GET", "htu": target, "iat": now, "nonce": a.nonce, "ath": b64(sum[:])}
		for k, v := range more {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	head := m{"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
	private := publicJWK(t, a.dpop)
	private["d"] = b64(newVerifier())
	other := newKey(t)
	good := sign(t, a.dpop, head, claims(nil))
	for name, proof := range map[string]string{
		"none":                 "",
		"no JWT":               "nonsense",
		"two dots too many":    good + ".x.y",
		"padding":              good + "=",
		"too long":             good + strings.Repeat("A", 5000),
		"another type":         sign(t, a.dpop, m{"typ": "JWT", "alg": "ES256", "jwk": jwk}, claims(nil)),
		"no algorithm":         sign(t, a.dpop, m{"typ": "dpop+jwt", "alg": "none", "jwk": jwk}, claims(nil)),
		"another algorithm":    sign(t, a.dpop, m{"typ": "dpop+jwt", "alg": "HS256", "jwk": jwk}, claims(nil)),
		"no key":               sign(t, a.dpop, m{"typ": "dpop+jwt", "alg": "ES256"}, claims(nil)),
		"a private key":        sign(t, a.dpop, m{"typ": "dpop+jwt", "alg": "ES256", "jwk": private}, claims(nil)),
		"another curve":        sign(t, a.dpop, m{"typ": "dpop+jwt", "alg": "ES256", "jwk": m{"kty": "EC", "crv": "secp256k1", "x": jwk["x"], "y": jwk["y"]}}, claims(nil)),
		"a point off":          sign(t, a.dpop, m{"typ": "dpop+jwt", "alg": "ES256", "jwk": m{"kty": "EC", "crv": "P-256", "x": jwk["y"], "y": jwk["x"]}}, claims(nil)),
		"what must be known":   sign(t, a.dpop, m{"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk, "crit": []string{"b64"}}, claims(nil)),
		"another signature":    sign(t, other, head, claims(nil)),
		"no jti":               sign(t, a.dpop, head, claims(m{"jti": nil})),
		"a long jti":           sign(t, a.dpop, head, claims(m{"jti": strings.Repeat("j", 300)})),
		"another method":       sign(t, a.dpop, head, claims(m{"htm": "POST"})),
		"method in lower case": sign(t, a.dpop, head, claims(m{"htm": "get"})),
		"another path":         sign(t, a.dpop, head, claims(m{"htu": b.url + "/resource/other"})),
		"another host":         sign(t, a.dpop, head, claims(m{"htu": "https://elsewhere.example" + path})),
		"no address":           sign(t, a.dpop, head, claims(m{"htu": nil})),
		"no time":              sign(t, a.dpop, head, claims(m{"iat": nil})),
		"time as text":         sign(t, a.dpop, head, claims(m{"iat": "now"})),
		"a time gone":          sign(t, a.dpop, head, claims(m{"iat": now - 181})),
		"a time to come":       sign(t, a.dpop, head, claims(m{"iat": now + 181})),
		"no time at all":       sign(t, a.dpop, head, claims(m{"iat": 1e300})),
		"no ath":               sign(t, a.dpop, head, claims(m{"ath": nil})),
		"another ath":          sign(t, a.dpop, head, claims(m{"ath": b64(sum[:31])})),
	} {
		got := a.send(token, path, proof)
		assert.Equal(t, http.StatusUnauthorized, got.Status, name)
		refusedAs(t, "invalid_dpop_proof", got, name)
		assert.Contains(t, got.Header.Get("WWW-Authenticate"), `DPoP algs="ES256", error="invalid_dpop_proof"`)
	}
	for name, more := range map[string]m{"no nonce": {"nonce": nil}, "no nonce of ours": {"nonce": "AAAAAAAAAAAAAAAAAAAAAA"}} {
		got := a.send(token, path, sign(t, a.dpop, head, claims(more)))
		assert.Equal(t, http.StatusUnauthorized, got.Status, name)
		refusedAs(t, "use_dpop_nonce", got, name)
		assert.Contains(t, got.Header.Get("WWW-Authenticate"), `error="use_dpop_nonce"`)
		assert.Contains(t, got.Header.Get("Access-Control-Expose-Headers"), "DPoP-Nonce, WWW-Authenticate")
	}
	for name, more := range map[string]m{
		"three minutes slow": {"iat": now - 180}, "three minutes fast": {"iat": now + 180}, "a fraction": {"iat": float64(now) + .5},
		"htu with a query": {"htu": target + "?x=y#z"},
	} {
		assert.Equal(t, http.StatusOK, a.send(token, path, sign(t, a.dpop, head, claims(more))).Status, name)
	}
	req, err := http.NewRequest(http.MethodGet, target, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "DPoP "+token)
	req.Header.Add("DPoP", sign(t, a.dpop, head, claims(nil)))
	req.Header.Add("DPoP", sign(t, a.dpop, head, claims(nil)))
	refusedAs(t, "invalid_dpop_proof", b.do(req), "two proofs")
}

func TestHighSIsTaken(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	for range 8 { // each signature is high or low by chance
		assert.Equal(t, http.StatusOK, a.use(token, nil).Status)
	}
}

func TestAuthorizationServerAsksForAProofEverywhere(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	for _, path := range []string{"/oauth/par", "/oauth/token"} {
		got := a.request(path, url.Values{"client_id": {a.id}}, "")
		refusedAs(t, "invalid_dpop_proof", got)
		assert.Equal(t, http.StatusBadRequest, got.Status)
		a.nonce = ""
		got = a.request(path, url.Values{"client_id": {a.id}}, a.proof(http.MethodPost, b.url+path, "", nil))
		refusedAs(t, "use_dpop_nonce", got)
		assert.Equal(t, http.StatusBadRequest, got.Status)
		a.nonce = got.Header.Get("DPoP-Nonce")
		refusedAs(t, "invalid_dpop_proof", a.request(path, nil, a.proof(http.MethodPost, b.url+path, "", m{"ath": "x"})), "no token is used here")
	}
	assert.Zero(t, b.fetched("/app.json"), "no address of a stranger is fetched before a proof was in order")
}

func TestNonceRotatesEachMinuteAndIsGoodForThree(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	b.clock.Set(time.Date(2026, 11, 20, 9, 1, 0, 0, time.UTC))
	a.use(token, nil)
	first := a.nonce
	with := func(nonce string) answer { return a.use(token, m{"nonce": nonce}) }
	b.clock.Advance(59 * time.Second)
	with(first)
	assert.Equal(t, first, a.nonce)
	b.clock.Advance(time.Second)
	require.Equal(t, http.StatusOK, with(first).Status)
	assert.NotEqual(t, first, a.nonce, "the answer brings the next one")
	b.clock.Advance(119 * time.Second)
	require.Equal(t, http.StatusOK, with(first).Status)
	b.clock.Advance(time.Second)
	refusedAs(t, "use_dpop_nonce", with(first))
}

func TestProcessesOnOneDatabaseAgree(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	second := b.another()
	proof := a.proof(http.MethodGet, b.url+"/resource/thing", token, nil)
	ask := func(s *oauth.Server) (*oauth.Session, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/resource/thing", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "DPoP "+token)
		req.Header.Set("DPoP", proof)
		return s.Authenticate(req)
	}
	ses, err := ask(second)
	require.NoError(t, err, "a nonce of one process is good at the other")
	assert.Equal(t, alice, ses.Account)
	_, err = ask(b.server)
	var e *oauth.Error
	require.ErrorAs(t, err, &e, "and a proof that was used at one is used at the other")
	assert.Equal(t, "invalid_dpop_proof", e.Code)

	require.NoError(t, second.End(t.Context(), alice, ses.ID))
	proof = a.proof(http.MethodGet, b.url+"/resource/thing", token, nil)
	_, err = ask(b.server)
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "invalid_token", e.Code)
}

func TestProofIsUsedOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	const path = "/resource/thing"
	proof := a.proof(http.MethodGet, b.url+path, token, m{"jti": "same"})
	require.Equal(t, http.StatusOK, a.send(token, path, proof).Status)
	refusedAs(t, "invalid_dpop_proof", a.send(token, path, proof))

	other := b.public().again()
	other.nonce = a.nonce
	theirs := other.login().str("access_token")
	assert.Equal(t, http.StatusOK, other.use(theirs, m{"jti": "same"}).Status, "nobody uses up another's proofs")

	b.clock.Advance(6 * time.Minute)
	require.NoError(t, b.server.Collect(t.Context(), b.clock.Now()))
	assert.Zero(t, b.count(`select count(*) from oauth_proof`))
	refusedAs(t, "invalid_dpop_proof", a.send(token, path, proof), "what is forgotten is too old by then")
}

func TestProofUsedAtTheTokenEndpointIsUsedUp(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	a.push(nil)
	proof := a.proof(http.MethodPost, b.url+"/oauth/par", "", nil)
	f := a.asked(url.Values{"client_id": {a.id}})
	require.Equal(t, http.StatusCreated, a.request("/oauth/par", f, proof).Status)
	refusedAs(t, "invalid_dpop_proof", a.request("/oauth/par", f, proof))
}

// A crash empties unlogged tables.
func TestCrashOfTheDatabaseForgetsNoncesWithTheProofs(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	second := httptest.NewServer(mux(b.another()))
	t.Cleanup(second.Close)
	const path = "/resource/thing"
	atSecond := func() answer {
		req, err := http.NewRequest(http.MethodGet, second.URL+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "DPoP "+token)
		req.Header.Set("DPoP", a.proof(http.MethodGet, b.url+path, token, nil))
		return b.do(req)
	}
	require.Equal(t, http.StatusOK, atSecond().Status)
	proof := a.proof(http.MethodGet, b.url+path, token, nil)
	require.Equal(t, http.StatusOK, a.send(token, path, proof).Status)
	_, err := b.pool.Exec(t.Context(), `truncate oauth_proof, oauth_salt`)
	require.NoError(t, err)

	refusedAs(t, "use_dpop_nonce", a.send(token, path, proof), "the proof is forgotten, and so is its nonce")
	assert.Equal(t, http.StatusOK, a.use(token, nil).Status)
	refusedAs(t, "use_dpop_nonce", a.send(token, path, proof))
	assert.Equal(t, http.StatusOK, a.use(token, nil).Status)
	assert.Equal(t, http.StatusOK, atSecond().Status, "a process that still has the old salt takes the new one's nonces")
	assert.Equal(t, 2, b.count(`select count(*) from pg_class where relname in ('oauth_proof', 'oauth_salt') and relpersistence = 'u'`))
}

func TestAccessTokenRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	foreign := newBed(t)
	theirs := foreign.public()
	theirToken := theirs.login().str("access_token")
	head, body, _ := strings.Cut(token, ".")
	for name, tok := range map[string]string{
		"none": "", "no JWT": "x", "cut": token[:len(token)-2], "another's": theirToken, "too long": token + strings.Repeat("A", 5000),
		"unsigned": b64([]byte(`{"typ":"at+jwt","alg":"none"}`)) + "." + body, "head only": head,
		"refresh token": a.again().login().str("refresh_token"),
	} {
		got := a.use(tok, nil)
		assert.Equal(t, http.StatusUnauthorized, got.Status, name)
		refusedAs(t, "invalid_token", got, name)
	}
	stolen := *a
	stolen.dpop = newKey(t)
	refusedAs(t, "invalid_token", stolen.use(token, nil), "a token is good with its own key only")

	req, err := http.NewRequest(http.MethodGet, b.url+"/resource/thing", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("DPoP", a.proof(http.MethodGet, b.url+"/resource/thing", token, nil))
	refusedAs(t, "invalid_token", b.do(req), "a bound token is no bearer token")

	b.clock.Advance(15*time.Minute - time.Second)
	require.Equal(t, http.StatusUnauthorized, a.use(token, nil).Status, "the nonce is over")
	require.Equal(t, http.StatusOK, a.use(token, nil).Status)
	b.clock.Advance(time.Second)
	refusedAs(t, "invalid_token", a.use(token, nil))
}
