package xrpc_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/xrpc"
)

const (
	alice  = "did:plc:aliceaaaaaaaaaaaaaaaaaaa"
	ledger = "did:plc:ledgeraaaaaaaaaaaaaaaaaa"
	lxm    = "org.city-sync.ledger.getBalance"
)

// book is a directory that remembers how often it was asked and purged.
type book struct {
	mu     sync.Mutex
	known  map[syntax.DID]atcrypto.PublicKey // what a fresh look-up finds
	cached map[syntax.DID]atcrypto.PublicKey
	err    error
	purged int
}

func (b *book) LookupDID(_ context.Context, did syntax.DID) (*identity.Identity, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, b.err
	}
	key, ok := b.cached[did]
	if !ok {
		if key, ok = b.known[did]; !ok {
			return nil, fmt.Errorf("%s: %w", did, identity.ErrDIDNotFound)
		}
	}
	return &identity.Identity{DID: did, Keys: map[string]identity.VerificationMethod{"atproto": {Type: "Multikey", PublicKeyMultibase: key.Multibase()}}}, nil
}

func (b *book) LookupHandle(context.Context, syntax.Handle) (*identity.Identity, error) {
	return nil, errors.New("no handles")
}

func (b *book) Lookup(context.Context, syntax.AtIdentifier) (*identity.Identity, error) {
	return nil, errors.New("by DID only")
}

func (b *book) Purge(_ context.Context, a syntax.AtIdentifier) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.purged++
	did, err := a.AsDID()
	delete(b.cached, did)
	return err
}

type fixture struct {
	key  *atcrypto.PrivateKeyK256
	book *book
	now  *clock.Manual
	auth *xrpc.ServiceAuth
}

// memoryReplay knows the keys that were used, as pg.Replay does over a table.
type memoryReplay struct {
	clock clock.Clock

	mu   sync.Mutex
	used map[string]time.Time // guarded by mu: key → until
}

func (m *memoryReplay) Use(_ context.Context, key string, until time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clock.Now().Before(m.used[key]) {
		return false, nil
	}
	if m.used == nil {
		m.used = map[string]time.Time{}
	}
	m.used[key] = until
	return true, nil
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	key, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	f := &fixture{key: key, now: clock.New(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)),
		book: &book{known: map[syntax.DID]atcrypto.PublicKey{alice: public(t, key)}, cached: map[syntax.DID]atcrypto.PublicKey{}}}
	f.auth = xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{
		Directory: f.book, Audience: []string{ledger, ledger + "#citysync_ledger"},
		Replay: &memoryReplay{clock: f.now}, Clock: f.now,
	})
	return f
}

func public(t *testing.T, k atcrypto.PrivateKey) atcrypto.PublicKey {
	t.Helper()
	p, err := k.PublicKey()
	require.NoError(t, err)
	return p
}

func (f *fixture) sign(t *testing.T) string {
	t.Helper()
	tok, err := xrpc.SignServiceToken(f.key, alice, ledger, lxm, f.now.Now(), time.Minute)
	require.NoError(t, err)
	return tok
}

// forge signs whatever header and claims it is given.
func forge(t *testing.T, key atcrypto.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	require.NoError(t, err)
	c, err := json.Marshal(claims)
	require.NoError(t, err)
	signed := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	sig, err := key.HashAndSign([]byte(signed))
	require.NoError(t, err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func refusedAs(t *testing.T, err error, name string) {
	t.Helper()
	var e *xrpc.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, name, e.Name)
	assert.Equal(t, 401, e.Status)
}

func TestServiceTokenOfEitherCurveIsTaken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	did, err := f.auth.Verify(t.Context(), f.sign(t), lxm)
	require.NoError(t, err)
	assert.Equal(t, syntax.DID(alice), did)

	p256, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(t, err)
	f.book.known["did:web:org.city"] = public(t, p256)
	tok, err := xrpc.SignServiceToken(p256, "did:web:org.city", ledger+"#citysync_ledger", lxm, f.now.Now(), time.Minute)
	require.NoError(t, err)
	did, err = f.auth.Verify(t.Context(), tok, lxm)
	require.NoError(t, err)
	assert.Equal(t, syntax.DID("did:web:org.city"), did)
}

// X3
func TestServiceTokenIsTakenOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tok := f.sign(t)
	_, err := f.auth.Verify(t.Context(), tok, lxm)
	require.NoError(t, err)
	_, err = f.auth.Verify(t.Context(), tok, lxm)
	refusedAs(t, err, "JwtReplayed")
	f.now.Advance(89 * time.Second) // still within the skew after its end
	_, err = f.auth.Verify(t.Context(), tok, lxm)
	refusedAs(t, err, "JwtReplayed")
	f.now.Advance(time.Second)
	_, err = f.auth.Verify(t.Context(), tok, lxm)
	refusedAs(t, err, "JwtExpired")
}

// X3
func TestForgeryDoesNotUseUpATokenID(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tok := f.sign(t)
	stranger, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	cut := strings.LastIndex(tok, ".")
	sig, err := stranger.HashAndSign([]byte(tok[:cut]))
	require.NoError(t, err)
	_, err = f.auth.Verify(t.Context(), tok[:cut+1]+base64.RawURLEncoding.EncodeToString(sig), lxm)
	refusedAs(t, err, "BadJwtSignature")
	_, err = f.auth.Verify(t.Context(), tok, lxm)
	require.NoError(t, err)
}

func TestServiceTokenRefusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := f.now.Now().Unix()
	for name, tc := range map[string]struct {
		change func(h, c map[string]any)
		want   string
	}{
		"as it should be":          {func(_, _ map[string]any) {}, ""},
		"without iat":              {func(_, c map[string]any) { delete(c, "iat") }, ""},
		"longest life":             {func(_, c map[string]any) { c["exp"] = now + 120 }, ""},
		"issuer's clock ahead":     {func(_, c map[string]any) { c["iat"], c["exp"] = now+30, now+150 }, ""},
		"just expired":             {func(_, c map[string]any) { c["iat"], c["exp"] = now-80, now-29 }, ""},
		"expired":                  {func(_, c map[string]any) { c["iat"], c["exp"] = now-80, now-30 }, "JwtExpired"},
		"lives too long":           {func(_, c map[string]any) { c["exp"] = now + 121 }, "BadJwt"},
		"too long, no iat":         {func(_, c map[string]any) { delete(c, "iat"); c["exp"] = now + 151 }, "BadJwt"},
		"issued in the future":     {func(_, c map[string]any) { c["iat"], c["exp"] = now+31, now+140 }, "BadJwt"},
		"ends before it begins":    {func(_, c map[string]any) { c["iat"], c["exp"] = now+10, now+10 }, "BadJwt"},
		"no exp":                   {func(_, c map[string]any) { delete(c, "exp") }, "BadJwt"},
		"exp a fraction":           {func(_, c map[string]any) { c["exp"] = 1.5 }, "BadJwt"},
		"exp negative":             {func(_, c map[string]any) { c["exp"] = -5 }, "BadJwt"},
		"exp beyond time":          {func(_, c map[string]any) { c["exp"] = int64(1) << 62 }, "BadJwt"},
		"no jti":                   {func(_, c map[string]any) { delete(c, "jti") }, "BadJwt"},
		"long jti":                 {func(_, c map[string]any) { c["jti"] = strings.Repeat("x", 129) }, "BadJwt"},
		"other audience":           {func(_, c map[string]any) { c["aud"] = alice }, "BadJwtAudience"},
		"unknown service fragment": {func(_, c map[string]any) { c["aud"] = ledger + "#other" }, "BadJwtAudience"},
		"audience a list":          {func(_, c map[string]any) { c["aud"] = []string{ledger} }, "BadJwt"},
		"no method":                {func(_, c map[string]any) { delete(c, "lxm") }, "BadJwtLexiconMethod"},
		"any method":               {func(_, c map[string]any) { c["lxm"] = "*" }, "BadJwtLexiconMethod"},
		"method in other case":     {func(_, c map[string]any) { c["lxm"] = strings.ToUpper(lxm) }, "BadJwtLexiconMethod"},
		"issuer no DID":            {func(_, c map[string]any) { c["iss"] = "alice.test" }, "BadJwtIss"},
		"issuer with fragment":     {func(_, c map[string]any) { c["iss"] = alice + "#atproto" }, "BadJwtIss"},
		"issuer a key":             {func(_, c map[string]any) { c["iss"] = "did:key:z6Mk" }, "BadJwtIss"},
		"issuer unknown":           {func(_, c map[string]any) { c["iss"] = "did:plc:nobodyaaaaaaaaaaaaaaaaaa" }, "BadJwtIss"},
		"no typ":                   {func(h, _ map[string]any) { delete(h, "typ") }, "BadJwtType"},
		"an access token":          {func(h, _ map[string]any) { h["typ"] = "at+jwt" }, "BadJwtType"},
		"algorithm none":           {func(h, _ map[string]any) { h["alg"] = "none" }, "BadJwt"},
		"algorithm of a secret":    {func(h, _ map[string]any) { h["alg"] = "HS256" }, "BadJwt"},
		"algorithm of other curve": {func(h, _ map[string]any) { h["alg"] = "ES256" }, "BadJwtSignature"},
		"critical extension":       {func(h, _ map[string]any) { h["crit"] = []string{"b64"} }, "BadJwt"},
	} {
		t.Run(name, func(t *testing.T) {
			h := map[string]any{"alg": "ES256K", "typ": "JWT"}
			c := map[string]any{"iss": alice, "aud": ledger, "lxm": lxm, "iat": now, "exp": now + 60, "jti": name}
			tc.change(h, c)
			_, err := f.auth.Verify(t.Context(), forge(t, f.key, h, c), lxm)
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			refusedAs(t, err, tc.want)
		})
	}
	_, err := f.auth.Verify(t.Context(), f.sign(t), "")
	refusedAs(t, err, "BadJwtLexiconMethod")
}

func TestMalformedTokens(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tok := f.sign(t)
	parts := strings.Split(tok, ".")
	for name, bad := range map[string]string{
		"empty":             "",
		"two parts":         parts[0] + "." + parts[1],
		"four parts":        tok + ".x",
		"padded":            tok + "==",
		"line break":        parts[0] + "." + parts[1] + "\n." + parts[2],
		"line break in sig": tok[:len(tok)-4] + "\n" + tok[len(tok)-4:],
		"short signature":   tok[:len(tok)-4],
		"no JSON":           "e30x." + parts[1] + "." + parts[2],
		"very long":         parts[0] + "." + strings.Repeat("a", 9000) + "." + parts[2],
	} {
		_, err := f.auth.Verify(t.Context(), bad, lxm)
		refusedAs(t, err, "BadJwt")
		assert.NotEmpty(t, name)
	}
}

// A signature has a second form with the other S; taking both would give one token two spellings.
func TestHighSSignatureIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tok := f.sign(t)
	cut := strings.LastIndex(tok, ".")
	sig, err := base64.RawURLEncoding.DecodeString(tok[cut+1:])
	require.NoError(t, err)
	n, ok := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	require.True(t, ok)
	s := new(big.Int).SetBytes(sig[32:])
	n.Sub(n, s).FillBytes(sig[32:])
	require.NoError(t, public(t, f.key).HashAndVerifyLenient([]byte(tok[:cut]), sig), "the forgery must be a true twin")
	_, err = f.auth.Verify(t.Context(), tok[:cut+1]+base64.RawURLEncoding.EncodeToString(sig), lxm)
	refusedAs(t, err, "BadJwtSignature")
}

func TestRotatedKeyIsLookedUpOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	old, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	f.book.cached[alice] = public(t, old)
	_, err = f.auth.Verify(t.Context(), f.sign(t), lxm)
	require.NoError(t, err)
	assert.Equal(t, 1, f.book.purged)

	// A flood of forgeries costs the directory one look-up per five seconds.
	for range 20 {
		tok, err := xrpc.SignServiceToken(old, alice, ledger, lxm, f.now.Now(), time.Minute)
		require.NoError(t, err)
		_, err = f.auth.Verify(t.Context(), tok, lxm)
		refusedAs(t, err, "BadJwtSignature")
	}
	assert.Equal(t, 1, f.book.purged)
	f.now.Advance(5 * time.Second)
	tok, err := xrpc.SignServiceToken(old, alice, ledger, lxm, f.now.Now(), time.Minute)
	require.NoError(t, err)
	_, err = f.auth.Verify(t.Context(), tok, lxm)
	refusedAs(t, err, "BadJwtSignature")
	assert.Equal(t, 2, f.book.purged)
}

func TestUnreachableDirectoryIsNoRefusal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.book.err = identity.ErrDIDResolutionFailed
	tok := f.sign(t)
	_, err := f.auth.Verify(t.Context(), tok, lxm)
	var e *xrpc.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, 503, e.Status)
	f.book.err = nil
	_, err = f.auth.Verify(t.Context(), tok, lxm)
	require.NoError(t, err, "the same token may be sent again")
}

func TestCallerTakesTheMethodFromTheCall(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m := xrpc.NewMux(xrpc.Config{})
	m.Query(lxm, func(c *xrpc.Call) (any, error) {
		did, err := f.auth.Caller(c)
		return map[string]any{"did": did}, err
	})
	m.Query(query, func(c *xrpc.Call) (any, error) { return f.auth.Caller(c) })
	srv := serve(t, m)
	ask := func(nsid, tok string) answer {
		req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/xrpc/"+nsid, nil)
		require.NoError(t, err)
		if tok != "" {
			req.Header.Set("Authorization", "Bearer "+tok)
		}
		return do(t, req)
	}
	assert.JSONEq(t, `{"did":"`+alice+`"}`, ask(lxm, f.sign(t)).body)
	assert.Equal(t, "BadJwtLexiconMethod", ask(query, f.sign(t)).name)
	assert.Equal(t, "AuthMissing", ask(lxm, "").name)
}
