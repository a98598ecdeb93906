package pds

import (
	"encoding/base32"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	shownSecret   = regexp.MustCompile(`class="secret">([A-Z2-7 ]+)<`)
	shownRecovery = regexp.MustCompile(`<li>([a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4})</li>`)
	shownTicket   = regexp.MustCompile(`name="ticket" value="([^"]+)"`)
)

// withFactor sets the second step up by its page.
func (v *visitor) withFactor(u *user) (secret []byte, recovery []string) {
	v.t.Helper()
	p := v.fill(u.path()+"/two-step", "do", "begin", "password", password)
	require.Equal(v.t, http.StatusOK, p.Status, "%s", p.HTML)
	m := shownSecret.FindStringSubmatch(p.HTML)
	require.NotNil(v.t, m, p.HTML)
	secret, err := base32.StdEncoding.DecodeString(strings.ReplaceAll(m[1], " ", ""))
	require.NoError(v.t, err)
	p = v.fill(u.path()+"/two-step", "do", "confirm", "code", v.code(secret))
	require.Equal(v.t, http.StatusOK, p.Status, "%s", p.HTML)
	for _, m := range shownRecovery.FindAllStringSubmatch(p.HTML, -1) {
		recovery = append(recovery, m[1])
	}
	require.Len(v.t, recovery, recoveryCount)
	return secret, recovery
}

// half gives the password of an account with a second step, and the ticket that comes of it.
func (v *visitor) half(u *user) (ticket string) {
	v.t.Helper()
	p := v.fill("/account/sign-in", "identifier", u.Handle, "password", password)
	require.Equal(v.t, http.StatusOK, p.Status, "%s", p.HTML)
	require.Empty(v.t, p.Header.Values("Set-Cookie"), "half a sign-in opens nothing")
	m := shownTicket.FindStringSubmatch(p.HTML)
	require.NotNil(v.t, m, p.HTML)
	return m[1]
}

func TestSignInAsksForTheSecondStepWhereThereIsOne(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	secret, recovery := u.visitor().withFactor(u)
	b.clock.Advance(time.Minute)

	v := b.visitor()
	wrong := v.fill("/account/sign-in", "identifier", u.Handle, "password", "wrong password")
	assert.NotRegexp(t, shownTicket, wrong.HTML, "who does not know the password does not learn of the second step")
	ticket := v.half(u)
	p := v.fill("/account/sign-in/code", "ticket", ticket, "code", "000000")
	require.Equal(t, http.StatusUnprocessableEntity, p.Status)
	p = v.fill("/account/sign-in/code", "ticket", ticket, "code", b.code(secret), "next", u.path()+"/devices")
	require.Equal(t, u.path()+"/devices", p.To(), p.HTML)
	assert.Equal(t, http.StatusOK, v.open(u.path()).Status)
	p = b.visitor().fill("/account/sign-in/code", "ticket", ticket, "code", b.code(secret))
	assert.Equal(t, http.StatusUnprocessableEntity, p.Status, "a code serves once")
	p = b.visitor().fill("/account/sign-in/code", "ticket", ticket, "code", strings.ToUpper(recovery[3]))
	assert.Equal(t, http.StatusSeeOther, p.Status, "a recovery code serves in its place")
}

func TestTicketOfHalfASignInIsGoodForAShortTimeAndOnePassword(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	here := u.visitor()
	_, recovery := here.withFactor(u)
	b.clock.Advance(time.Minute)
	v := b.visitor()
	ticket := v.half(u)
	for _, bad := range []string{"", "x", ticket[:len(ticket)-2], "AAAA" + ticket} {
		assert.Equal(t, http.StatusUnprocessableEntity, v.fill("/account/sign-in/code", "ticket", bad, "code", recovery[0]).Status)
	}
	b.clock.Advance(ticketLife)
	assert.Contains(t, v.fill("/account/sign-in/code", "ticket", ticket, "code", recovery[0]).says(), "took too long")
	ticket = v.half(u)
	here.fill(u.path()+"/password", "password", password, "new", "another good password", "again", "another good password")
	assert.Contains(t, v.fill("/account/sign-in/code", "ticket", ticket, "code", recovery[0]).says(), "took too long")
}

func TestCodesAreTriedAFewTimesOnly(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	_, recovery := u.visitor().withFactor(u)
	v := b.visitor()
	ticket := v.half(u)
	rate := defaultLimits[limitSecondFactor][0]
	for range rate.Points - 1 { // one was used to confirm
		require.Equal(t, http.StatusUnprocessableEntity, v.fill("/account/sign-in/code", "ticket", ticket, "code", "000000").Status)
	}
	assert.Equal(t, http.StatusTooManyRequests, v.fill("/account/sign-in/code", "ticket", ticket, "code", recovery[0]).Status)
	b.clock.Advance(rate.Window)
	assert.Equal(t, http.StatusSeeOther, v.fill("/account/sign-in/code", "ticket", v.half(u), "code", recovery[0]).Status)
}

// A program that knows the password needs the code as well, or the second step would be a door beside an open window.
func TestMethodsAskForTheSecondStepToo(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	secret, recovery := u.visitor().withFactor(u)
	b.clock.Advance(time.Minute)
	login := func(code string) answer {
		return b.post("", "com.atproto.server.createSession", m{"identifier": u.Handle, "password": password, "authFactorToken": code})
	}
	assert.Equal(t, "AuthFactorTokenRequired", login("").name())
	assert.Equal(t, http.StatusUnauthorized, login("").Status)
	assert.Equal(t, "AuthFactorTokenRequired", login("000000").name())
	b.ok(login(b.code(secret)))
	end := func(code string) answer {
		return b.post("", "com.atproto.server.deleteAccount", m{"did": u.DID, "password": password, "token": code})
	}
	assert.Equal(t, "AuthFactorTokenRequired", end("").name())
	b.ok(end(recovery[0]))
	assert.Zero(t, b.count(`select (select count(*) from second_factor) + (select count(*) from recovery_code)`))
}

func TestTurningTheSecondStepOffTakesPasswordAndCode(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	require.Contains(t, v.fill(u.path()+"/two-step", "do", "begin", "password", "wrong password").says(), "not right")
	secret, recovery := v.withFactor(u)
	b.clock.Advance(time.Minute)
	assert.Contains(t, v.fill(u.path()+"/two-step", "do", "off", "password", "wrong password", "code", b.code(secret)).says(), "not right")
	assert.Contains(t, v.fill(u.path()+"/two-step", "do", "off", "password", password, "code", "000000").says(), "not right")
	p := v.fill(u.path()+"/two-step", "do", "renew", "password", password, "code", recovery[0])
	fresh := shownRecovery.FindStringSubmatch(p.HTML)
	require.NotNil(t, fresh, p.HTML)
	assert.Contains(t, v.open(u.path()+"/two-step").HTML, "left: 10")
	assert.NotRegexp(t, shownRecovery, v.open(u.path()+"/two-step").HTML, "the codes are shown once")
	p = v.fill(u.path()+"/two-step", "do", "off", "password", password, "code", fresh[1])
	assert.Contains(t, v.open(p.To()).says(), "off")
	assert.Equal(t, http.StatusSeeOther, b.visitor().fill("/account/sign-in", "identifier", u.Handle, "password", password).Status)
}

func TestTicketOfAnAccountThatIsGoneIsOver(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.visitor().withFactor(u)
	v := b.visitor()
	ticket := v.half(u)
	require.NoError(t, b.server.Load().delete(t.Context(), u.DID))
	p := v.fill("/account/sign-in/code", "ticket", ticket, "code", "123456")
	assert.Equal(t, http.StatusUnprocessableEntity, p.Status)
	assert.Contains(t, p.HTML, `name="password"`)
}
