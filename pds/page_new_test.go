package pds

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAccountIsMadeOnItsPageByInvite(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.account("taken")
	v := b.visitor()
	code := b.invite()
	assert.Contains(t, v.open("/account/new?invite="+code).HTML, `value="`+code+`"`)
	register := func(more ...string) shown {
		fields := map[string]string{"name": "user", "domain": ".test", "new": password, "again": password, "invite": strings.ToUpper(code)}
		for i := 0; i < len(more); i += 2 {
			fields[more[i]] = more[i+1]
		}
		var list []string
		for k, val := range fields {
			list = append(list, k, val)
		}
		return v.fill("/account/new", list...)
	}
	for want, p := range map[string]shown{
		"taken or reserved": register("name", "taken"), "cannot be used": register("domain", ".elsewhere.example"), "8 to 256": register("new", "x"),
		"differ": register("again", "x"), "unknown or used up": register("invite", "x"), "not an e-mail": register("email", "x"),
	} {
		assert.Equal(t, http.StatusUnprocessableEntity, p.Status)
		assert.Contains(t, p.says(), want)
	}
	assert.Contains(t, register("name", "admin").says(), "taken or reserved")
	b.plcDown.Store(true)
	assert.Contains(t, register("email", "user@example.org").says(), "directory of identities did not answer")
	b.plcDown.Store(false)
	p := register("email", "user@example.org")
	require.Equal(t, http.StatusSeeOther, p.Status, p.HTML)
	assert.Contains(t, v.open(p.To()).HTML, "user.test")
	assert.Contains(t, register("name", "second").says(), "unknown or used up", "an invite serves once")
}

func TestAppMaySendSomebodyToMakeAnAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.InviteRequired = false })
	v := b.visitor()
	p := v.open(b.program("atproto").Push("prompt", "create"))
	require.True(t, strings.HasPrefix(p.To(), "/account/new?next="), p.To())
	page := v.open(p.To())
	assert.NotContains(t, page.HTML, "Invite code")
	next := v.request(t, p.To()).URL.Query().Get("next")
	p = v.fill("/account/new", "name", "user", "domain", ".test", "new", password, "again", password, "next", next)
	require.True(t, strings.HasPrefix(p.To(), "/oauth/authorize?as=did"), p.To())
	assert.Contains(t, v.open(p.To()).HTML, "Allow a program")
}
