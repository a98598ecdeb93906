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
