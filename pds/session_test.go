package pds

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

func TestWrongPasswordAndUnknownAccountGetTheSameAnswer(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.account("user")
	wrong := b.post("", "com.atproto.server.createSession", m{"identifier": "user.test", "password": "wrong password"})
	unknown := b.post("", "com.atproto.server.createSession", m{"identifier": "nobody.test", "password": "wrong password"})
	assert.Equal(t, http.StatusUnauthorized, wrong.Status)
	assert.Equal(t, wrong.Status, unknown.Status)
	assert.Equal(t, string(wrong.Raw), string(unknown.Raw))
}

func TestRefreshRotatesAndARetriedRefreshGetsTheSameGeneration(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	refresh := func(tok string) answer { return b.post(tok, "com.atproto.server.refreshSession", nil) }
	first := b.ok(refresh(u.Refresh))
	b.clock.Advance(time.Minute)
	again := b.ok(refresh(u.Refresh)) // the answer was lost, or a second process asks
	second := b.ok(refresh(first.str("refreshJwt")))
	b.ok(refresh(again.str("refreshJwt"))) // within its own grace
	b.ok(b.get(second.str("accessJwt"), "com.atproto.server.getSession"))
}

func TestReplayedRefreshTokenEndsTheSession(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	fresh := b.ok(b.post(u.Refresh, "com.atproto.server.refreshSession", nil))
	b.clock.Advance(3 * time.Minute)
	assert.Equal(t, "ExpiredToken", b.post(u.Refresh, "com.atproto.server.refreshSession", nil).name())
	assert.Equal(t, "ExpiredToken", b.post(fresh.str("refreshJwt"), "com.atproto.server.refreshSession", nil).name())
	assert.Equal(t, "ExpiredToken", b.get(fresh.str("accessJwt"), "com.atproto.server.getSession").name())
}

func TestDeletedSessionOpensNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	other := b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": "user.test", "password": password}))
	b.ok(b.post(u.Refresh, "com.atproto.server.deleteSession", nil))
	assert.Equal(t, "ExpiredToken", b.get(u.Access, "com.atproto.server.getSession").name())
	assert.Equal(t, "ExpiredToken", b.post(u.Refresh, "com.atproto.server.refreshSession", nil).name())
	b.ok(b.get(other.str("accessJwt"), "com.atproto.server.getSession"))
}

func TestTokensAreRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	parts := strings.Split(u.Access, ".")
	foreign := &tokens{secret: []byte(strings.Repeat("x", 32)), audience: string(b.cfg.ServiceDID)}
	now := b.clock.Now()
	forged, err := foreign.sign(typAccess, token{DID: u.DID, Session: "x", Generation: 1}, now, now.Add(time.Hour))
	require.NoError(t, err)
	elsewhere := &tokens{secret: b.deps.JWTSecret, audience: "did:plc:anotherserveranotherserv"}
	misdirected, err := elsewhere.sign(typAccess, token{DID: u.DID, Session: "x", Generation: 1}, now, now.Add(time.Hour))
	require.NoError(t, err)
	for what, tok := range map[string]string{
		"refresh token": u.Refresh, "no signature": parts[0] + "." + parts[1] + ".", "two parts": parts[0] + "." + parts[1],
		"alg none": b64.EncodeToString([]byte(`{"typ":"at+jwt","alg":"none"}`)) + "." + parts[1] + ".",
		"forged":   forged, "for another server": misdirected, "nonsense": "x",
	} {
		a := b.get(tok, "com.atproto.server.getSession")
		assert.Equal(t, http.StatusUnauthorized, a.Status, "%s: %s", what, a.Raw)
	}
	assert.Equal(t, "AuthMissing", b.get("", "com.atproto.server.getSession").name())
	b.clock.Advance(2 * time.Hour)
	assert.Equal(t, "ExpiredToken", b.get(u.Access, "com.atproto.server.getSession").name())
}

func TestLoginRateIsLimitedByIdentifier(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { limited(c, "createSession=3/1m") })
	b.account("user")
	try := func(id, pw string) int {
		return b.post("", "com.atproto.server.createSession", m{"identifier": id, "password": pw}).Status
	}
	for range 3 {
		assert.Equal(t, http.StatusUnauthorized, try("user.test", "wrong password"))
	}
	assert.Equal(t, http.StatusTooManyRequests, try("USER.test", password))
	assert.Equal(t, http.StatusUnauthorized, try("other.test", "wrong password"))
}

func TestServiceAuthIsTakenByTheOtherSide(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	const aud, lxm = "did:plc:ledgerledgerledgerledgerl", "org.city-sync.ledger.getBalance"
	tok := b.ok(b.get(u.Access, "com.atproto.server.getServiceAuth", "aud", aud[:32], "lxm", lxm)).str("token")
	verifier := xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{
		Directory: b.dir, Audience: []string{aud[:32]}, Replay: pg.NewReplay(b.pool), Clock: b.clock,
	})
	did, err := verifier.Verify(t.Context(), tok, lxm)
	require.NoError(t, err)
	assert.Equal(t, u.DID, did)
}

func TestServiceAuthRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	at := func(d time.Duration) string { return strconv.FormatInt(b.clock.Now().Add(d).Unix(), 10) }
	const aud = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
	for _, row := range []struct {
		name   string
		params []string
	}{
		{"InvalidRequest", []string{"lxm", "a.b.c"}},
		{"InvalidRequest", []string{"aud", "nobody", "lxm", "a.b.c"}},
		{"InvalidRequest", []string{"aud", aud, "lxm", "not an nsid"}},
		{"InvalidRequest", []string{"aud", aud, "lxm", "com.atproto.server.updateEmail"}},
		{"BadExpiration", []string{"aud", aud, "lxm", "a.b.c", "exp", at(-time.Second)}},
		{"BadExpiration", []string{"aud", aud, "lxm", "a.b.c", "exp", at(2 * time.Hour)}},
		{"BadExpiration", []string{"aud", aud, "exp", at(2 * time.Minute)}},
	} {
		assert.Equal(t, row.name, b.get(u.Access, "com.atproto.server.getServiceAuth", row.params...).name(), row.params)
	}
	b.ok(b.get(u.Access, "com.atproto.server.getServiceAuth", "aud", aud, "lxm", "a.b.c", "exp", at(90*time.Second)))
	assert.Equal(t, "AuthMissing", b.get("", "com.atproto.server.getServiceAuth", "aud", aud).name())
}
