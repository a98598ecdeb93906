package pds

import (
	"encoding/base32"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var shownCode = regexp.MustCompile(`class="secret">([a-z0-9-]+)<`)

// operatorVisitor is an operator in whose browser the operators' pages are open.
func (b *bed) operatorVisitor(name string, role Role) (v *visitor, secret []byte, first string) {
	b.t.Helper()
	first, err := AddOperator(b.t.Context(), b.deps.Pool, name, role, b.clock.Now())
	require.NoError(b.t, err)
	v = b.visitor()
	p := v.fill("/admin/sign-in", "name", name, "password", first)
	require.Equal(b.t, http.StatusOK, p.Status, "%s", p.HTML)
	require.Empty(b.t, p.Header.Values("Set-Cookie"), "half a sign-in opens nothing")
	m := shownSecret.FindStringSubmatch(p.HTML)
	require.NotNil(b.t, m, "an operator without a second step sets it up: %s", p.HTML)
	secret, err = base32.StdEncoding.DecodeString(strings.ReplaceAll(m[1], " ", ""))
	require.NoError(b.t, err)
	ticket := shownTicket.FindStringSubmatch(p.HTML)[1]
	p = v.fill("/admin/sign-in/code", "ticket", ticket, "code", "000000")
	require.Equal(b.t, http.StatusUnprocessableEntity, p.Status)
	p = v.fill("/admin/sign-in/code", "ticket", ticket, "code", v.code(secret))
	require.Equal(b.t, http.StatusOK, p.Status, "%s", p.HTML)
	require.Len(b.t, shownRecovery.FindAllString(p.HTML, -1), recoveryCount)
	return v, secret, first
}

func TestOperatorSignsInWithPasswordAndSecondStepOnly(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	nobody := b.visitor()
	for _, path := range []string{"/admin", "/admin/accounts", "/admin/log", "/admin/reports", "/admin/invites", "/admin/accounts/did:plc:x"} {
		p := nobody.open(path)
		require.Equal(t, http.StatusSeeOther, p.Status, path)
		require.Equal(t, "/admin/sign-in", p.To(), path)
	}
	require.Equal(t, "/admin/sign-in", nobody.fill("/admin/invites", "do", "make", "uses", "1").To())

	v, secret, first := b.operatorVisitor("ada", RoleAdministrator)
	require.Contains(t, v.open("/admin").HTML, "<strong>ada</strong>")
	require.Equal(t, http.StatusForbidden, v.fillFrom("cross-site", "/admin/invites", "do", "make", "uses", "1").Status)
	for _, name := range []string{"nobody", "admin", ""} {
		p := v.fill("/admin/sign-in", "name", name, "password", adminPassword)
		require.Equal(t, http.StatusUnprocessableEntity, p.Status, "%q", name)
	}
	require.Equal(t, "/admin/sign-in?done=out", v.fill("/admin/sign-out").To())
	require.Equal(t, "/admin/sign-in", v.open("/admin").To())

	// The next time there is nothing to set up, and a code serves once.
	b.clock.Advance(time.Minute)
	code := v.code(secret)
	p := v.fill("/admin/sign-in", "name", "ada", "password", first)
	require.NotRegexp(t, shownSecret, p.HTML)
	ticket := shownTicket.FindStringSubmatch(p.HTML)[1]
	require.Equal(t, "/admin", v.fill("/admin/sign-in/code", "ticket", ticket, "code", code).To())
	require.Equal(t, http.StatusUnprocessableEntity, b.visitor().fill("/admin/sign-in/code", "ticket", ticket, "code", code).Status)

	for _, try := range [][3]string{{"wrong", "twelve letters", "twelve letters"}, {first, "eleven char", "eleven char"}, {first, "twelve letters", "twelve lettres"}} {
		require.Equal(t, http.StatusUnprocessableEntity, v.fill("/admin/password", "password", try[0], "new", try[1], "again", try[2]).Status, "%v", try)
	}
	require.Equal(t, "/admin?done=password", v.fill("/admin/password", "password", first, "new", "twelve letters", "again", "twelve letters").To())
	require.Equal(t, http.StatusOK, v.open("/admin").Status)
	require.Equal(t, http.StatusUnprocessableEntity, b.visitor().fill("/admin/sign-in", "name", "ada", "password", first).Status)

	require.NoError(t, DisableOperator(t.Context(), b.deps.Pool, "ada", b.clock.Now()))
	require.Equal(t, "/admin/sign-in", v.open("/admin").To(), "at once")
}

func TestOperatorsDayEnds(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v, _, _ := b.operatorVisitor("rita", RoleReader)
	require.Equal(t, http.StatusOK, v.open("/admin").Status)
	b.clock.Advance(operatorDay)
	require.Equal(t, "/admin/sign-in", v.open("/admin").To())
}

func TestOperatorsPagesDoWhatARoleAllows(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.withAddress("user@example.org")
	path := "/admin/accounts/" + u.DID.String()
	reader, _, _ := b.operatorVisitor("rita", RoleReader)
	for _, page := range []string{"/admin", "/admin?check=1", "/admin/accounts?q=us", "/admin/accounts?q=user@example.org", path, "/admin/reports", "/admin/invites", "/admin/log"} {
		p := reader.open(page)
		require.Equal(t, http.StatusOK, p.Status, page)
		assert.Contains(t, p.Header.Get("Content-Security-Policy"), "default-src 'none'", page)
		assert.NotContains(t, p.HTML, "class=\"danger\"", page)
		assert.NotContains(t, reader.open(page+map[bool]string{true: "&", false: "?"}[strings.Contains(page, "?")]+"lang=es").HTML, ">Operating", page)
	}
	require.Contains(t, reader.open(path).HTML, "user@example.org")
	for _, do := range []string{"takedown", "suspend", "restore", "lock", "factor", "delete"} {
		require.Equal(t, http.StatusForbidden, reader.fill(path, "do", do, "handle", u.Handle).Status, do)
	}
	moderator, _, _ := b.operatorVisitor("mo", RoleModerator)
	require.Equal(t, path+"?done=admin", moderator.fill(path, "do", "suspend", "ref", "case 9").To())
	require.Contains(t, moderator.open(path).HTML, "case 9")
	require.Equal(t, "suspended", b.ok(b.get("", "com.atproto.sync.getRepoStatus", "did", u.DID.String())).str("status"))
	moderator.fill(path, "do", "restore")
	require.Equal(t, true, b.ok(b.get("", "com.atproto.sync.getRepoStatus", "did", u.DID.String())).JSON["active"])
	moderator.fill(path, "do", "lock")
	require.Equal(t, http.StatusBadRequest, u.get(u.Access, "com.atproto.server.getSession").Status)
	require.Equal(t, http.StatusForbidden, moderator.fill(path, "do", "delete", "handle", u.Handle).Status)

	moderator.fill("/admin/invites", "do", "make", "uses", "3")
	code := shownCode.FindStringSubmatch(moderator.open("/admin/invites").HTML)[1]
	moderator.fill("/admin/invites", "do", "shut", "code", code)
	require.Equal(t, "InvalidInviteCode", b.post("", "com.atproto.server.createAccount", m{"handle": "x1.test", "password": password, "inviteCode": code}).name())

	chief, _, _ := b.operatorVisitor("ada", RoleAdministrator)
	require.Equal(t, http.StatusUnprocessableEntity, chief.fill(path, "do", "delete", "handle", "other.test").Status)
	require.Equal(t, "/admin/accounts?done=adminDelete", chief.fill(path, "do", "delete", "handle", u.Handle).To())
	require.Equal(t, http.StatusNotFound, chief.open(path).Status)
	require.Contains(t, chief.open("/admin/log").HTML, "page delete")
	require.NotContains(t, chief.open("/admin/log").HTML, u.DID.String())
}

func TestSelfCheckSaysWhatOthersSee(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	b.account("user")
	see := func() map[string]check {
		out := map[string]check{}
		for _, c := range b.server.Load().selfCheck(t.Context()) {
			out[c.Key] = c
		}
		return out
	}
	have := see()
	for _, key := range []string{"check.database", "check.resource", "check.authorization", "check.socket"} {
		require.True(t, have[key].OK, "%s: %s", key, have[key].Detail)
	}
	require.True(t, have["check.tls"].Skip)
	require.False(t, have["check.mail"].OK, "no mail server is set here")

	// A proxy in front that does not pass it all on.
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>It works!")) }))
	t.Cleanup(other.Close)
	b.cfg.PublicURL = other.URL
	b.restart()
	have = see()
	for _, key := range []string{"check.resource", "check.authorization", "check.socket"} {
		require.False(t, have[key].OK, key)
		require.NotEmpty(t, have[key].Detail, key)
	}
}

// Whatever an operator sees or does on the pages stands in the log, the sign-in first.
func TestNothingIsSeenOnOperatorsPagesWithoutARow(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v, _, _ := b.operatorVisitor("ada", RoleAdministrator)
	rows := func() int { return b.count(`select count(*) from operator_log where operator = 'ada'`) }
	require.Equal(t, 1, b.count(`select count(*) from operator_log where operator = 'ada' and method = 'page signIn' and outcome = 'done'`))
	for _, path := range []string{"/admin/accounts", "/admin/accounts/" + u.DID.String(), "/admin/reports", "/admin/invites"} {
		before := rows()
		require.Equal(t, http.StatusOK, v.open(path).Status)
		require.Equal(t, before+1, rows(), path)
	}
	before := rows()
	require.Equal(t, http.StatusUnprocessableEntity, v.fill("/admin/accounts/"+u.DID.String(), "do", "delete", "handle", "other.test").Status)
	require.Equal(t, before+1, rows(), "the account is shown again")
}

func TestOperatorsPasswordIsTriedAFewTimesOnly(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.cfg.LimitFactor = 1
	b.restart()
	v := b.visitor()
	for range defaultLimits[limitCreateSession][0].Points {
		require.Equal(t, http.StatusUnprocessableEntity, v.fill("/admin/sign-in", "name", "ada", "password", "wrong").Status)
	}
	require.Equal(t, http.StatusTooManyRequests, v.fill("/admin/sign-in", "name", "ada", "password", "wrong").Status)
}
