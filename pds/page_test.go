package pds

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSigningInOpensTheAccountsPagesAndSigningOutClosesThem(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := b.visitor()
	for _, path := range []string{"/account", u.path(), u.path() + "/devices", "/account/did:plc:nobodynobodynobodynobody"} {
		p := v.open(path)
		require.Equal(t, http.StatusSeeOther, p.Status, path)
		assert.True(t, strings.HasPrefix(p.To(), "/account/sign-in"), "%s leads to %s", path, p.To())
	}
	for _, name := range []string{u.Handle, "@User.test", u.DID.String()} {
		v = b.visitor()
		p := v.fill("/account/sign-in", "identifier", name, "password", password)
		require.Equal(t, http.StatusSeeOther, p.Status, "%s: %s", name, p.HTML)
		require.Equal(t, u.path(), p.To())
	}
	assert.Contains(t, v.open(u.path()).HTML, u.Handle)
	assert.Equal(t, u.path(), v.open("/account").To())
	p := v.fill(u.path() + "/sign-out")
	require.Equal(t, "/account/sign-in?done=out", p.To())
	assert.Contains(t, v.open(p.To()).says(), "signed out")
	assert.Equal(t, http.StatusSeeOther, v.open(u.path()).Status)
}

func TestSignInPageAnswersAlikeForAWrongPasswordAndAnUnknownAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	wrong := b.visitor().fill("/account/sign-in", "identifier", u.Handle, "password", "wrong password")
	unknown := b.visitor().fill("/account/sign-in", "identifier", "none.test", "password", "wrong password")
	assert.Equal(t, http.StatusUnprocessableEntity, wrong.Status)
	assert.Equal(t, wrong.Status, unknown.Status)
	assert.Equal(t, strings.ReplaceAll(wrong.HTML, u.Handle, "none.test"), unknown.HTML)
	assert.Empty(t, wrong.Header.Values("Set-Cookie"))
}

func TestSignInPageIsLimited(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { limited(c, "createSession=2/1m") })
	u := b.account("user")
	v := b.visitor()
	for range 2 {
		require.Equal(t, http.StatusUnprocessableEntity, v.fill("/account/sign-in", "identifier", u.Handle, "password", "wrong password").Status)
	}
	p := v.fill("/account/sign-in", "identifier", u.Handle, "password", password)
	assert.Equal(t, http.StatusTooManyRequests, p.Status)
	assert.Equal(t, "30", p.Header.Get("Retry-After"))
	assert.Contains(t, p.says(), "Too many attempts")
}

// A cookie that was planted in a browser, or copied from it before, opens nothing that was signed in to later.
func TestEachSignInMakesANewCookie(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	one, two := b.account("one"), b.account("two")
	v := one.visitor()
	old := v.http.Jar.Cookies(v.request(t, "/").URL)
	v.signIn(two)
	assert.Contains(t, v.open("/account").HTML, one.Handle, "the first account stays signed in")
	assert.Contains(t, v.open("/account").HTML, two.Handle)
	thief := b.visitor()
	req := thief.request(t, one.path())
	for _, c := range old {
		req.AddCookie(c)
	}
	assert.Equal(t, http.StatusSeeOther, thief.send(req).Status)
}

func (v *visitor) request(t *testing.T, path string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.url+path, nil)
	require.NoError(t, err)
	return req
}

func TestDeviceIsSignedOutByTime(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	idle, busy := u.visitor(), u.visitor()
	for range 9 {
		b.clock.Advance(10 * 24 * time.Hour)
		if b.clock.Now().Before(time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC).Add(deviceLife)) {
			require.Equal(t, http.StatusOK, busy.open(u.path()).Status)
		}
	}
	assert.Equal(t, http.StatusSeeOther, idle.open(u.path()).Status, "not seen for a while")
	assert.Equal(t, http.StatusSeeOther, busy.open(u.path()).Status, "at the end of its life")
	require.NoError(t, b.server.Load().sweep(t.Context()))
	assert.Zero(t, b.count(`select count(*) from device`))
}

func TestDevicesAreListedAndSignedOut(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	here, there := u.visitor(), u.visitor()
	page := here.open(u.path() + "/devices")
	require.Equal(t, 2, strings.Count(page.HTML, "Firefox · Linux</h2>"), page.HTML)
	id := regexp.MustCompile(`name="device" value="([a-z0-9]+)"`).FindStringSubmatch(page.HTML)
	require.NotNil(t, id, "the other device has a button and this one has none")

	stranger := b.account("stranger")
	other := stranger.visitor()
	require.Equal(t, http.StatusSeeOther, other.fill(stranger.path()+"/devices", "device", id[1]).Status)
	require.Equal(t, http.StatusOK, there.open(u.path()).Status, "nobody signs out somebody else's device")

	p := here.fill(u.path()+"/devices", "device", id[1])
	require.Contains(t, here.open(p.To()).says(), "signed out")
	assert.Equal(t, http.StatusSeeOther, there.open(u.path()).Status)
	there.signIn(u)
	here.fill(u.path()+"/devices", "all", "1")
	assert.Equal(t, http.StatusSeeOther, there.open(u.path()).Status)
	assert.Equal(t, http.StatusOK, here.open(u.path()).Status)
	assert.Equal(t, "ExpiredToken", b.get(u.Access, "com.atproto.server.getSession").name())
}

func TestNewPasswordEndsEveryOtherSession(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	here, there := u.visitor(), u.visitor()
	const fresh = "another good password"
	for want, fields := range map[string][]string{
		"not right": {"password", "wrong password", "new", fresh, "again", fresh},
		"8 to 256":  {"password", password, "new", "short", "again", "short"},
		"differ":    {"password", password, "new", fresh, "again", "yet another one"},
	} {
		p := here.fill(u.path()+"/password", fields...)
		require.Equal(t, http.StatusUnprocessableEntity, p.Status)
		require.Contains(t, p.says(), want)
	}
	require.Equal(t, http.StatusOK, there.open(u.path()).Status, "a refusal changes nothing")
	p := here.fill(u.path()+"/password", "password", password, "new", fresh, "again", fresh)
	require.Contains(t, here.open(p.To()).says(), "changed")
	assert.Equal(t, http.StatusSeeOther, there.open(u.path()).Status)
	assert.Equal(t, "ExpiredToken", b.get(u.Access, "com.atproto.server.getSession").name())
	assert.Equal(t, http.StatusUnprocessableEntity, b.visitor().fill("/account/sign-in", "identifier", u.Handle, "password", password).Status)
	assert.Equal(t, http.StatusSeeOther, b.visitor().fill("/account/sign-in", "identifier", u.Handle, "password", fresh).Status)
}

// An application on another port or sub-domain of this host is "same-site": it may lead the browser here, and may not fill in a form.
func TestFormOfAnotherSiteIsRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	for _, site := range []string{"cross-site", "same-site"} {
		p := v.fillFrom(site, u.path()+"/sign-out")
		assert.Equal(t, http.StatusForbidden, p.Status, site)
		assert.Contains(t, p.says(), "Nothing was done", site)
		req := v.request(t, u.path())
		req.Header.Set("Sec-Fetch-Site", site)
		assert.Equal(t, http.StatusOK, v.send(req).Status, "a link from a %s page leads here", site)
	}
	req := v.request(t, u.path()+"/sign-out") // a browser without Sec-Fetch-Site
	req.Method = http.MethodPost
	req.Header.Set("Origin", "https://elsewhere.example")
	assert.Equal(t, http.StatusForbidden, v.send(req).Status)
	assert.Equal(t, http.StatusOK, v.open(u.path()).Status)
}

func TestPagesAreGuardedByTheirHeaders(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := b.visitor()
	in := v.fill("/account/sign-in", "identifier", u.Handle, "password", password)
	cookie := in.Header.Get("Set-Cookie")
	for _, want := range []string{"device-", "Path=/", "HttpOnly", "SameSite=Lax"} {
		assert.Contains(t, cookie, want)
	}
	for name, p := range map[string]shown{"redirect": in, "page": v.open(u.path()), "sign-in": b.visitor().open("/account/sign-in"), "nothing": v.open("/account/x/y/z")} {
		h := p.Header
		assert.Equal(t, "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'", h.Get("Content-Security-Policy"), name)
		assert.Equal(t, "no-store", h.Get("Cache-Control"), name)
		assert.Equal(t, "no-referrer", h.Get("Referrer-Policy"), name)
		assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"), name)
		assert.Empty(t, h.Get("Access-Control-Allow-Origin"), "%s is read by its own reader alone", name)
		assert.NotContains(t, p.HTML, "<script", name)
		assert.NotContains(t, p.HTML, "style=", name)
	}
}

func TestCookieOverHTTPSIsBoundToTheHost(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	s := b.server.Load()
	s.cfg.PublicURL = "https://pds.city.example"
	c := s.deviceCookie("x", 1)
	assert.Equal(t, "__Host-device", c.Name)
	assert.True(t, c.Secure && c.HttpOnly && c.Path == "/" && c.Domain == "")
}

func TestSignInLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for next, want := range map[string]string{
		u.path() + "/devices": u.path() + "/devices",
		// The answer to the application is this account's.
		"/oauth/authorize?client_id=a&request_uri=b": "/oauth/authorize?" + url.Values{"as": {u.DID.String()}, "client_id": {"a"}, "request_uri": {"b"}}.Encode(),
		"https://elsewhere.example/account":          u.path(), "//elsewhere.example/account": u.path(), `/\elsewhere.example`: u.path(), "/xrpc/x": u.path(),
		"javascript:alert(1)": u.path(), "/account/\r\nX: y": u.path(), "": u.path(),
	} {
		p := b.visitor().fill("/account/sign-in", "identifier", u.Handle, "password", password, "next", next)
		assert.Equal(t, want, p.To(), "next %q", next)
	}
}

func TestPagesSpeakTheReadersLanguage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.visitor()
	req := v.request(t, "/account/sign-in")
	req.Header.Set("Accept-Language", "fr, es-MX;q=0.9, en;q=0.8")
	p := v.send(req)
	assert.Contains(t, p.HTML, `<html lang="es">`)
	assert.Contains(t, p.HTML, "Iniciar sesión")
	assert.Contains(t, v.open("/account/sign-in").HTML, `<html lang="en">`)
	v.open("/account/sign-in?lang=es")
	p = v.open("/account/sign-in?next=%2Faccount%2Fx")
	assert.Contains(t, p.HTML, `<html lang="es">`, "a choice is remembered")
	assert.Contains(t, p.HTML, `href="/account/sign-in?lang=en&amp;next=%2Faccount%2Fx"`, "and changing it keeps the rest of the address")
}

func TestBrowserIsNamedInWordsOfOurs(t *testing.T) {
	t.Parallel()
	for agent, want := range map[string]string{
		"Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/142.0.0.0 Mobile Safari/537.36":                  "Chrome · Android",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605 Version/18.0 Mobile Safari/604.1":   "Safari · iPhone",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0": "Edge · Windows",
		"<script>": "", "": "", "curl/8": "",
	} {
		assert.Equal(t, want, browserWords(agent), agent)
	}
}
