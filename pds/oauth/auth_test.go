package oauth_test

import (
	"crypto/ecdsa"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAssertionRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.confidential()
	a.push(nil)
	now := b.clock.Now().Unix()
	other := newKey(t)
	good := func(more m) m {
		c := m{"iss": a.id, "sub": a.id, "aud": b.url, "jti": b64(newVerifier()), "iat": now}
		for k, v := range more {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	head := m{"alg": "ES256", "kid": "k1"}
	try := func(assertion string) answer {
		return a.post("/oauth/par", a.asked(url.Values{"client_assertion": {assertion}}))
	}
	for name, tok := range map[string]string{
		"none":            "",
		"no JWT":          "x.y",
		"too long":        sign(t, a.key, head, good(m{"x": strings.Repeat("x", 9000)})),
		"no key id":       sign(t, a.key, m{"alg": "ES256"}, good(nil)),
		"unknown key":     sign(t, a.key, m{"alg": "ES256", "kid": "k2"}, good(nil)),
		"another's key":   sign(t, other, head, good(nil)),
		"no algorithm":    sign(t, a.key, m{"alg": "none", "kid": "k1"}, good(nil)),
		"another issuer":  sign(t, a.key, head, good(m{"iss": "https://other.example.com/c.json"})),
		"another subject": sign(t, a.key, head, good(m{"sub": "https://other.example.com/c.json"})),
		"another server":  sign(t, a.key, head, good(m{"aud": "https://pds.example.com"})),
		"no audience":     sign(t, a.key, head, good(m{"aud": nil})),
		"no jti":          sign(t, a.key, head, good(m{"jti": nil})),
		"long jti":        sign(t, a.key, head, good(m{"jti": strings.Repeat("j", 300)})),
		"no time":         sign(t, a.key, head, good(m{"iat": nil})),
		"a minute old":    sign(t, a.key, head, good(m{"iat": now - 60})),
		"in the future":   sign(t, a.key, head, good(m{"iat": now + 31})),
		"over":            sign(t, a.key, head, good(m{"exp": now})),
		"not yet":         sign(t, a.key, head, good(m{"nbf": now + 31})),
	} {
		refusedAs(t, "invalid_client", try(tok), name)
	}
	refusedAs(t, "invalid_client", a.post("/oauth/par", a.asked(url.Values{"client_assertion_type": {"urn:x"}})))
	for name, more := range map[string]m{
		"59 seconds old": {"iat": now - 59}, "a clock ahead": {"iat": now + 30}, "aud in a list": {"aud": []string{"https://x.example", b.url}},
		"the token endpoint": {"aud": b.url + "/oauth/token"}, "a far exp": {"exp": now + 1e6},
	} {
		assert.Equal(t, http.StatusCreated, try(sign(t, a.key, head, good(more))).Status, name)
	}
}

func TestAssertionIsUsedOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.confidential()
	a.push(nil)
	tok := a.assert(nil)
	try := func() answer { return a.post("/oauth/par", a.asked(url.Values{"client_assertion": {tok}})) }
	require.Equal(t, http.StatusCreated, try().Status)
	refusedAs(t, "invalid_client", try())
	b.clock.Advance(59 * time.Second)
	require.NoError(t, b.server.Collect(t.Context(), b.clock.Now()))
	refusedAs(t, "invalid_client", try(), "it is remembered as long as it is good")
}

func TestAssertionAndProofAreNotSignedWithOneKey(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.confidential()
	a.dpop = a.key
	refusedAs(t, "invalid_client", a.post("/oauth/par", a.asked(nil)))
}

func TestConfidentialClientIsBoundToItsKey(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.confidential()
	first, second := a.key, newKey(t)
	both := func(keys map[string]*ecdsa.PrivateKey) {
		var set []any
		for kid, k := range keys {
			set = append(set, withKid(publicJWK(t, k), kid))
		}
		b.publish("/jwks.json", m{"keys": set})
	}
	both(map[string]*ecdsa.PrivateKey{"k1": first})
	b.publish("/backend.json", b.metadata("/backend.json", m{
		"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256", "jwks_uri": b.host + "/jwks.json",
	}))
	got := a.login()
	a.key, a.kid = second, "k2"
	refusedAs(t, "invalid_client", a.refresh(got.str("refresh_token")))

	// The new key is known within a minute, and opens what was begun with it only.
	both(map[string]*ecdsa.PrivateKey{"k1": first, "k2": second})
	b.clock.Advance(time.Minute)
	code := a.again().allowed(byAlice())
	a.key, a.kid = first, "k1"
	refusedAs(t, "invalid_grant", a.exchange(code, nil), "a code is for the key it was asked with")
	next := a.refresh(got.str("refresh_token"))
	require.Equal(t, http.StatusOK, next.Status, next.Raw)
	a.key, a.kid = second, "k2"
	refusedAs(t, "invalid_grant", a.refresh(next.str("refresh_token")))

	// A key that its owner took back opens nothing more.
	a.key, a.kid = first, "k1"
	last := a.again().login()
	both(map[string]*ecdsa.PrivateKey{"k2": second})
	b.clock.Advance(10 * time.Minute)
	refusedAs(t, "invalid_client", a.refresh(last.str("refresh_token")))
	assert.Equal(t, 1, b.count(`select count(*) from oauth_session`), "a client that does not show who it is ends nothing")
}
