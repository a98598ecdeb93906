package pds

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAccountRestsAndWakesOnItsPage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	path := u.path() + "/close"
	assert.Contains(t, v.fill(path, "do", "rest", "password", "wrong password").says(), "not right")
	p := v.fill(path, "do", "rest", "password", password)
	require.Contains(t, v.open(p.To()).says(), "deactivated")
	assert.Equal(t, "RepoDeactivated", b.get("", "com.atproto.repo.listRecords", "repo", u.DID.String(), "collection", note).name())
	assert.Contains(t, v.open(u.path()).HTML, "nobody sees its records")
	p = v.fill(path, "do", "activate", "password", password)
	require.Contains(t, v.open(p.To()).says(), "active")
	b.ok(b.get("", "com.atproto.repo.listRecords", "repo", u.DID.String(), "collection", note))
}

func TestHandleIsChangedOnItsPage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	v := u.visitor()
	path := u.path() + "/handle"
	assert.Contains(t, v.fill(path, "handle", other.Handle).says(), "taken")
	assert.Contains(t, v.fill(path, "handle", "admin.test").says(), "taken or reserved")
	for _, bad := range []string{"x", "two.words.test", strings.Repeat("x", 300)} {
		p := v.fill(path, "handle", bad)
		assert.Equal(t, http.StatusUnprocessableEntity, p.Status, bad)
		assert.Contains(t, p.says(), "Nothing was changed", bad)
	}
	p := v.fill(path, "handle", "@Fresh.test")
	require.Contains(t, v.open(p.To()).says(), "changed", p.HTML)
	assert.Contains(t, v.open(path).HTML, "<strong>fresh.test</strong>")
	assert.Equal(t, u.DID.String(), b.ok(b.get("", "com.atproto.identity.resolveHandle", "handle", "fresh.test")).str("did"))
}

// What the database cannot hold was typed into no form of ours.
func TestFormsOfNoTextAreTheBrowsersFault(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	for page, fields := range map[string][]string{
		"apps":          {"app", "a\x00"},
		"devices":       {"device", "\xff"},
		"people":        {"do", "leave", "who", "did:plc:\x00"},
		"app-passwords": {"do", "revoke", "name", "\x00"},
	} {
		assert.Equal(t, http.StatusBadRequest, v.fill(u.path()+"/"+page, fields...).Status, page)
	}
	assert.Equal(t, http.StatusBadRequest, v.open("/account/sign-in?hint=%00").Status)
}

func TestSuspendedAccountTakesNoOtherName(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	b.setStatus(u, statusSuspended)
	assert.Equal(t, "RepoSuspended", b.post(u.Access, "com.atproto.identity.updateHandle", m{"handle": "other.test"}).name())
	for page, fields := range map[string][]string{"handle": {"handle", "other.test"}, "close": {"do", "rest", "password", password}} {
		p := v.fill(u.path()+"/"+page, fields...)
		assert.Equal(t, http.StatusBadRequest, p.Status, page)
		assert.Contains(t, p.HTML, "suspended", page)
	}
	assert.Equal(t, 1, b.count(`select count(*) from account where handle = $1`, u.Handle))
}
