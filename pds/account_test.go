package pds

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

func TestCreatedAccountHasItsDIDDocumentAndCanSignIn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("library")
	assert.Equal(t, "library.test", u.Handle)

	ident, err := b.dir.LookupDID(t.Context(), u.DID)
	require.NoError(t, err)
	assert.Equal(t, b.url, ident.PDSEndpoint())
	assert.Equal(t, []string{"at://library.test"}, ident.AlsoKnownAs)

	assert.Equal(t, u.DID.String(), b.ok(b.get(u.Access, "com.atproto.server.getSession")).str("did"))
	assert.Equal(t, u.DID.String(), b.ok(b.get("", "com.atproto.identity.resolveHandle", "handle", "Library.test")).str("did"))
	for _, id := range []string{"library.test", "LIBRARY.test", u.DID.String()} {
		a := b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": id, "password": password}))
		assert.Equal(t, u.DID.String(), a.str("did"))
		assert.Equal(t, true, a.JSON["active"])
	}
}

func TestRecoveryKeyIsTheHighestRotationKey(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	key, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(t, err)
	pub, err := key.PublicKey()
	require.NoError(t, err)
	a := b.ok(b.post("", "com.atproto.server.createAccount", m{
		"handle": "ledger.test", "password": password, "inviteCode": b.invite(), "recoveryKey": pub.DIDKey(),
	}))
	op, err := b.plc.Last(t.Context(), syntax.DID(a.str("did")))
	require.NoError(t, err)
	assert.Equal(t, []string{pub.DIDKey(), b.server.Load().rotationDID}, op.RotationKeys)
}

func TestCreateAccountRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.account("taken")
	valid := func() m { return m{"handle": "new.test", "password": password, "inviteCode": b.invite()} }
	for _, row := range []struct {
		what, field string
		value       any
		name        string
	}{
		{"no invite", "inviteCode", "", "InvalidInviteCode"},
		{"unknown invite", "inviteCode", "localhost-aaaaa-aaaaa", "InvalidInviteCode"},
		{"foreign domain", "handle", "new.example.com", "UnsupportedDomain"},
		{"two labels", "handle", "a.new.test", "InvalidHandle"},
		{"no handle", "handle", "new", "InvalidHandle"},
		{"reserved", "handle", "admin.test", "HandleNotAvailable"},
		{"taken", "handle", "TAKEN.test", "HandleNotAvailable"},
		{"short password", "password", "1234567", "InvalidPassword"},
		{"long password", "password", strings.Repeat("x", 257), "InvalidPassword"},
		{"bad e-mail", "email", "nobody", "InvalidRequest"},
		{"bad recovery key", "recoveryKey", "did:key:z123", "InvalidRequest"},
		{"PLC operation before there is a key", "plcOp", m{}, "IncompatibleDidDoc"},
		{"DID of another method", "did", "did:key:z6Mk", "UnresolvableDid"},
	} {
		in := valid()
		in[row.field] = row.value
		a := b.post("", "com.atproto.server.createAccount", in)
		assert.Equal(t, http.StatusBadRequest, a.Status, "%s: %s", row.what, a.Raw)
		assert.Equal(t, row.name, a.name(), row.what)
	}
	assert.Equal(t, 1, b.count(`select count(*) from account`))
	assert.Zero(t, b.count(`select count(*) from signup`), "a refusal leaves nothing half made")
}

func TestInviteIsUsedOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	code := b.invite()
	b.ok(b.post("", "com.atproto.server.createAccount", m{"handle": "one.test", "password": password, "inviteCode": code}))
	a := b.post("", "com.atproto.server.createAccount", m{"handle": "two.test", "password": password, "inviteCode": code})
	assert.Equal(t, "InvalidInviteCode", a.name())
}

func TestParallelSignupsOfOneHandleMakeOneAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	var ins []m
	for i := range 6 {
		ins = append(ins, m{"handle": "one.test", "password": fmt.Sprintf("password number %d", i/2), "inviteCode": b.invite()})
	}
	var g errgroup.Group
	var made atomic.Int64
	for _, in := range ins {
		g.Go(func() error {
			a := b.post("", "com.atproto.server.createAccount", in)
			switch {
			case a.Status == http.StatusOK:
				made.Add(1)
			case a.name() != "HandleNotAvailable":
				return fmt.Errorf("%d %s", a.Status, a.Raw)
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	assert.Equal(t, int64(1), made.Load())
	assert.Equal(t, 1, b.count(`select count(*) from account`))
	assert.Equal(t, 1, b.count(`select sum(used) from invite`), "who got nothing keeps the invite")
	assert.Equal(t, 4, b.count(`select seq from event_head`))
}

func TestHalfMadeAccountIsFinishedByTheSameRequest(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	in := m{"handle": "half.test", "password": password, "inviteCode": b.invite()}
	b.plcDown.Store(true)
	a := b.post("", "com.atproto.server.createAccount", in)
	assert.Equal(t, "DirectoryUnavailable", a.name())
	assert.Zero(t, b.count(`select count(*) from account`))
	assert.Zero(t, b.count(`select count(*) from event`))

	b.plcDown.Store(false)
	stranger := m{"handle": "half.test", "password": "another password", "inviteCode": b.invite()}
	assert.Equal(t, "HandleNotAvailable", b.post("", "com.atproto.server.createAccount", stranger).name())

	b.restart()
	a = b.ok(b.post("", "com.atproto.server.createAccount", in))
	assert.Equal(t, "half.test", a.str("handle"))
	assert.Zero(t, b.count(`select count(*) from signup`))
	_, err := b.plc.Last(t.Context(), syntax.DID(a.str("did")))
	require.NoError(t, err)
}

func TestHalfMadeAccountGivesHandleAndInviteBackInTheEnd(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	code := b.invite()
	b.plcDown.Store(true)
	b.post("", "com.atproto.server.createAccount", m{"handle": "half.test", "password": password, "inviteCode": code})
	b.plcDown.Store(false)
	b.clock.Advance(25 * time.Hour)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	b.ok(b.post("", "com.atproto.server.createAccount", m{"handle": "half.test", "password": "another password", "inviteCode": code}))
}

func TestInviteNeedsTheAdministrator(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for _, header := range []string{"", "Bearer " + u.Access, "Basic YWRtaW46d3Jvbmc=", "Basic cm9vdDphZG1pbi1wYXNzd29yZA=="} {
		req, err := http.NewRequest(http.MethodPost, b.url+"/xrpc/com.atproto.server.createInviteCode", strings.NewReader(`{"useCount":1}`))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		assert.Equal(t, http.StatusUnauthorized, b.do(req).Status, header)
	}
}

func TestSignupRateIsLimitedByAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { limited(c, "createAccount=2/1m") })
	in := m{"handle": "x.example.com", "password": password}
	for range 2 {
		assert.Equal(t, http.StatusBadRequest, b.post("", "com.atproto.server.createAccount", in).Status)
	}
	limited := b.post("", "com.atproto.server.createAccount", in)
	assert.Equal(t, http.StatusTooManyRequests, limited.Status)
	assert.Equal(t, "30", limited.Header.Get("Retry-After"))
	b.clock.Advance(30 * time.Second)
	assert.Equal(t, http.StatusBadRequest, b.post("", "com.atproto.server.createAccount", in).Status)
}

func TestSigningKeyIsSealedAtRest(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	var sealed []byte
	require.NoError(t, b.pool.QueryRow(t.Context(), `select signing_key from account where did = $1`, u.DID).Scan(&sealed))
	seal, err := newSealer(b.deps.MasterKey)
	require.NoError(t, err)
	plain, err := seal.open(u.DID.String(), sealed)
	require.NoError(t, err)
	assert.NotContains(t, string(sealed), string(plain))
	_, err = seal.open("did:plc:anotheraccountanotheracc", sealed)
	require.ErrorIs(t, err, errSealed, "a key moved to another account must not open")
	other, err := newSealer(make([]byte, 32))
	require.NoError(t, err)
	_, err = other.open(u.DID.String(), sealed)
	require.ErrorIs(t, err, errSealed)
}

func TestPlainPages(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	page := func(path, host string) answer {
		req, err := http.NewRequest(http.MethodGet, b.url+path, nil)
		require.NoError(t, err)
		req.Host = host
		return b.do(req)
	}
	assert.JSONEq(t, `{"version":"1.2.3"}`, string(b.ok(page("/xrpc/_health", "")).Raw))
	assert.Equal(t, u.DID.String(), string(b.ok(page("/.well-known/atproto-did", "user.test:2581")).Raw))
	assert.Equal(t, http.StatusNotFound, page("/.well-known/atproto-did", "nobody.test").Status)
	assert.Equal(t, http.StatusNotFound, page("/.well-known/atproto-did", "").Status)
	assert.Contains(t, string(b.ok(page("/robots.txt", "")).Raw), "User-agent")
	b.ok(page("/", ""))
	d := b.ok(b.get("", "com.atproto.server.describeServer"))
	assert.Equal(t, string(b.cfg.ServiceDID), d.str("did"))
	assert.Equal(t, true, d.JSON["inviteCodeRequired"])
	assert.Equal(t, []any{".test"}, d.JSON["availableUserDomains"])
}

func TestHealthSaysWhenTheDatabaseIsGone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	gone, err := pgxpool.NewWithConfig(t.Context(), b.pool.Config().Copy())
	require.NoError(t, err)
	gone.Close()
	b.deps.Pool = gone
	b.restart()
	assert.Equal(t, http.StatusServiceUnavailable, b.get("", "_health").Status)
}
