package pds

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (u *user) appPassword(name string, privileged bool) string {
	u.t.Helper()
	a := u.ok(u.post(u.Access, "com.atproto.server.createAppPassword", m{"name": name, "privileged": privileged}))
	return a.str("password")
}

func (u *user) signIn(password string) answer {
	u.t.Helper()
	return u.post("", "com.atproto.server.createSession", m{"identifier": u.Handle, "password": password})
}

func TestAppPasswordWritesAndChangesNothingOfTheAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	password := u.appPassword("phone", false)
	assert.Regexp(t, appPasswordForm, password)
	session := b.ok(u.signIn(password))
	app := &user{bed: b, DID: u.DID, Handle: u.Handle, Access: session.str("accessJwt")}
	b.ok(app.create(note, "a", m{"text": "from the phone"}))
	b.ok(b.get(app.Access, "com.atproto.server.getSession"))
	for nsid, in := range map[string]any{
		"com.atproto.server.createAppPassword":    m{"name": "more"},
		"com.atproto.server.revokeAppPassword":    m{"name": "phone"},
		"com.atproto.server.requestAccountDelete": nil,
	} {
		a := b.post(app.Access, nsid, in)
		assert.Equal(t, http.StatusForbidden, a.Status, nsid)
		assert.Equal(t, "Forbidden", a.name(), nsid)
	}
	assert.Equal(t, "Forbidden", b.get(app.Access, "com.atproto.server.listAppPasswords").name())
	assert.Equal(t, "InsufficientScope", b.post(app.Access, "com.atproto.identity.updateHandle", m{"handle": "other.test"}).name())
	assert.Equal(t, "InsufficientScope", b.post(app.Access, "com.atproto.repo.importRepo", m{}).name())
	again := b.ok(b.post(session.str("refreshJwt"), "com.atproto.server.refreshSession", nil))
	assert.Equal(t, "Forbidden", b.get(again.str("accessJwt"), "com.atproto.server.listAppPasswords").name(), "a refreshed session is no more")
	gone := b.post("", "com.atproto.server.deleteAccount", m{"did": u.DID, "password": password, "token": ""})
	assert.Equal(t, "AuthenticationRequired", gone.name(), "it is not the account's password")
}

func TestOnlyAPrivilegedAppPasswordReachesPrivateMessages(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	const aud = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
	for _, privileged := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "more"}[privileged]
		access := b.ok(u.signIn(u.appPassword(name, privileged))).str("accessJwt")
		for _, lxm := range []string{"chat.bsky.convo.getConvo", "com.atproto.server.createAccount", ""} {
			a := b.get(access, "com.atproto.server.getServiceAuth", "aud", aud, "lxm", lxm)
			if privileged {
				b.ok(a)
			} else {
				assert.Equal(t, "InsufficientScope", a.name(), lxm)
			}
		}
		b.ok(b.get(access, "com.atproto.server.getServiceAuth", "aud", aud, "lxm", "app.bsky.feed.getTimeline"))
	}
}

// The reference answers 500 here.
func TestSecondAppPasswordOfOneNameIsAConflict(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	u.appPassword("phone", false)
	a := b.post(u.Access, "com.atproto.server.createAppPassword", m{"name": "phone"})
	assert.Equal(t, http.StatusConflict, a.Status)
	assert.Equal(t, "AppPasswordExists", a.name())
	other.appPassword("phone", false)
	for _, bad := range []string{"", strings.Repeat("x", 101), "a\x00b", "a\nb"} {
		assert.Equal(t, "InvalidRequest", b.post(u.Access, "com.atproto.server.createAppPassword", m{"name": bad}).name(), "%q", bad)
	}
}

func TestRevokedAppPasswordEndsItsSessionsAndNoOthers(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	phone, laptop := u.appPassword("phone", false), u.appPassword("laptop", true)
	one, two := b.ok(u.signIn(phone)), b.ok(u.signIn(laptop))
	list := b.ok(b.get(u.Access, "com.atproto.server.listAppPasswords"))
	names := []any{}
	for _, p := range list.JSON["passwords"].([]any) {
		assert.NotContains(t, p, "password")
		names = append(names, p.(m)["name"])
	}
	assert.ElementsMatch(t, []any{"phone", "laptop"}, names)
	for range 2 {
		b.ok(b.post(u.Access, "com.atproto.server.revokeAppPassword", m{"name": "phone"}))
	}
	assert.Equal(t, "ExpiredToken", b.get(one.str("accessJwt"), "com.atproto.server.getSession").name())
	assert.Equal(t, "ExpiredToken", b.post(one.str("refreshJwt"), "com.atproto.server.refreshSession", nil).name())
	assert.Equal(t, "AuthenticationRequired", u.signIn(phone).name())
	b.ok(b.get(two.str("accessJwt"), "com.atproto.server.getSession"))
	b.ok(b.get(u.Access, "com.atproto.server.getSession"))
}

func TestAppPasswordIsNotStored(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	password := u.appPassword("phone", false)
	assert.Empty(t, b.traces(password))
	other := b.account("other")
	a := b.post("", "com.atproto.server.createSession", m{"identifier": other.Handle, "password": password})
	assert.Equal(t, "AuthenticationRequired", a.name(), "it opens the account it was made for")
}

func TestAppPasswordsOfAnAccountAreBounded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	_, err := b.pool.Exec(t.Context(), `
		insert into app_password (did, name, hash, privileged, created)
		select $1, n::text, sha256(n::text::bytea), false, $2 from generate_series(1, $3) n`, u.DID, time.Now(), maxAppPasswords)
	require.NoError(t, err)
	assert.Equal(t, "TooManyAppPasswords", b.post(u.Access, "com.atproto.server.createAppPassword", m{"name": "one more"}).name())
}

func (b *bed) setStatus(u *user, status string) {
	b.t.Helper()
	_, err := b.pool.Exec(b.t.Context(), `update account set status = $2 where did = $1`, u.DID, status)
	require.NoError(b.t, err)
}

func TestTakenDownAccountSignsInOnlyToSeeItAndLeave(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	app := u.appPassword("phone", false)
	b.setStatus(u, statusTakendown)
	a := u.signIn(password)
	assert.Equal(t, http.StatusUnauthorized, a.Status)
	assert.Equal(t, "AccountTakedown", a.name())
	assert.Equal(t, "AuthenticationRequired", u.signIn("wrong password").name(), "only who knows the password learns it")
	assert.Equal(t, "AccountTakedown", b.post(u.Refresh, "com.atproto.server.refreshSession", nil).name())
	assert.Equal(t, "AccountTakedown", u.create(note, "a", m{"text": "x"}).name())
	allowed := m{"identifier": u.Handle, "password": password, "allowTakendown": true}
	in := b.ok(b.post("", "com.atproto.server.createSession", allowed))
	assert.Equal(t, false, in.JSON["active"])
	assert.Equal(t, "takendown", in.str("status"))
	access := in.str("accessJwt")
	b.ok(b.get(access, "com.atproto.server.getSession"))
	b.ok(b.get(access, "com.atproto.sync.getRepo", "did", u.DID.String()))
	assert.Equal(t, "AccountTakedown", b.post(access, "com.atproto.server.createAppPassword", m{"name": "x"}).name())
	assert.Equal(t, "AccountTakedown", b.post(access, "com.atproto.repo.createRecord", m{"repo": u.DID, "collection": note, "record": m{}}).name())
	allowed["password"] = app
	assert.Equal(t, "AccountTakedown", b.post("", "com.atproto.server.createSession", allowed).name(), "not by an app password")
}

func TestDeactivatedAccountSignsInAndDoesNotWrite(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	b.setStatus(u, "deactivated")
	in := b.ok(u.signIn(password))
	assert.Equal(t, false, in.JSON["active"])
	assert.Equal(t, "deactivated", in.str("status"))
	b.ok(b.post(in.str("refreshJwt"), "com.atproto.server.refreshSession", nil))
	assert.Equal(t, "RepoDeactivated", u.create(note, "a", m{"text": "x"}).name())
}

// The reference lower-cases a did:web with its port, which then names nobody.
func TestDidWebWithAPortSignsInByDID(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	const did = "did:web:example.org%3A2581"
	ctx := t.Context()
	_, err := b.pool.Exec(ctx, `insert into account (did, handle, password, status, signing_key, created)
		select $2, 'web.test', password, status, signing_key, created from account where did = $1`, u.DID, did)
	require.NoError(t, err)
	for _, typed := range []string{did, strings.ToLower(did), " did:web:Example.org%3a2581 "} {
		a := b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": typed, "password": password}))
		assert.Equal(t, did, a.str("did"), typed)
	}
	for _, typed := range []string{"@User.test", strings.ToUpper(u.DID.String()), " user.test"} {
		a := b.ok(b.post("", "com.atproto.server.createSession", m{"identifier": typed, "password": password}))
		assert.Equal(t, u.DID.String(), a.str("did"), typed)
	}
}
