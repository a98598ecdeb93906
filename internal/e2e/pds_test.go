//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds"
	"city-sync.org/citysync/pds/oauth/apptest"
)

const (
	residentPassword = "correct horse battery staple"
	// everything an app may ask for, so that the page shows it: the city's set, a foreign collection, files, the address and the identity
	manyThings = "atproto include:org.city-sync.authResident?aud=did:web:city.example%23citysync_appview blob:image/* repo:app.bsky.feed.post?action=create account:email identity:*"
)

// home is a PDS with one account.
type home struct {
	url, did, handle string
	org              string // DID of an organization that the account acts for
	pool             *pgxpool.Pool
	clock            *clock.Manual
	words            chan string // texts of mails
}

func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{clock: clock.New(time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)), handle: "maria.test", words: make(chan string, 100)}
	plcServer, err := plcdev.New(filepath.Join(t.TempDir(), "plc.jsonl"), h.clock)
	require.NoError(t, err)
	plc := httptest.NewServer(plcServer.Handler())
	t.Cleanup(plc.Close)
	var server atomic.Pointer[pds.Server]
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { server.Load().Handler().ServeHTTP(w, r) }))
	t.Cleanup(front.Close)
	h.url = front.URL
	rotation, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(t, err)
	h.pool = pgtest.Schema(t, pds.Migrations())
	s, err := pds.New(pds.Config{
		PublicURL: h.url, ServiceDID: "did:plc:serviceserviceserviceser", HandleDomains: []string{".test"}, AllowLoopback: true,
		Argon2: pds.Argon2{MemoryKiB: 8, Passes: 1, Threads: 1}, LimitFactor: 100,
	}, pds.Deps{
		Pool: h.pool, PLC: identity.NewPLC(plc.URL, plc.Client()), Clock: h.clock,
		Directory: identity.NewDirectory(identity.Config{PLCURL: plc.URL, HTTP: plc.Client(), Clock: h.clock}),
		HTTP:      xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: true, MaxBytes: 1 << 20}),
		Log:       slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
		AdminPassword: "admin-password", MasterKey: bytes.Repeat([]byte{7}, 32), RotationKey: rotation, JWTSecret: bytes.Repeat([]byte{9}, 32), BlobDir: t.TempDir(),
		Mail: func(_ context.Context, _, _, text string) error {
			h.words <- text
			return nil
		},
	})
	require.NoError(t, err)
	server.Store(s)
	h.did = h.post(t, "", "com.atproto.server.createAccount", map[string]any{"handle": h.handle, "password": residentPassword, "email": "maria@example.org"})["did"].(string)
	in := h.post(t, "", "com.atproto.server.createSession", map[string]any{"identifier": h.handle, "password": residentPassword})
	h.post(t, in["accessJwt"].(string), "com.atproto.server.createAppPassword", map[string]any{"name": "An old program on the desk"})
	org := h.post(t, "", "com.atproto.server.createAccount", map[string]any{"handle": "library.test", "password": residentPassword})
	h.org = org["did"].(string)
	orgToken := org["accessJwt"].(string)
	h.post(t, orgToken, "org.city-sync.pds.addController", map[string]any{"controller": h.did, "role": "coordinator"})
	h.post(t, in["accessJwt"].(string), "org.city-sync.pds.acceptController", map[string]any{"account": h.org})
	return h
}

func (h *home) post(t *testing.T, token, nsid string, in any) (out map[string]any) {
	t.Helper()
	raw, err := json.Marshal(in)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url+"/xrpc/"+nsid, bytes.NewReader(raw))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.NoError(t, json.NewDecoder(res.Body).Decode(&out))
	require.Equal(t, http.StatusOK, res.StatusCode, "%v", out)
	return out
}

func (h *home) account(page string) string { return h.url + "/account/" + h.did + page }

// site is an app's own host. Its redirect URI leads on to another name of the same machine, as apps with an API of their own do; and it has
// a form that would sign the visitor out of the PDS.
type site struct {
	app     *apptest.App
	arrived chan string // full addresses at the redirect URI
}

func newSite(t *testing.T, h *home, scope string) *site {
	t.Helper()
	s := &site{arrived: make(chan string, 10)}
	s.app = apptest.Web(t, h.url, h.clock.Now, scope, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cb":
			s.arrived <- "http://" + r.Host + r.URL.String()
			http.Redirect(w, r, "http://localhost:"+portOf(r.Host)+"/in", http.StatusSeeOther)
		case "/in":
			_, _ = w.Write([]byte(`<!doctype html><html lang="en"><title>App</title><h1 id="in">You are in the app</h1>`))
		case "/trap":
			_, _ = w.Write([]byte(`<!doctype html><html lang="en"><title>Trap</title><form method="post" action="` + h.account("/sign-out") + `"><button id="trap">A prize</button></form>`))
		}
	}))
	return s
}

func portOf(host string) string {
	_, port, _ := strings.Cut(host, ":")
	return port
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	for _, a := range actions {
		require.NoError(t, chromedp.Do(ctx, a))
	}
}

func typed(id, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SendKeys(chromedp.CSS("#"+id), text)
}

// press clicks what posts or leads on, and waits for what the next page shows.
func press(t *testing.T, ctx context.Context, what, then string) {
	t.Helper()
	do(t, ctx, chromedp.Click(chromedp.CSS(what)), chromedp.WaitVisible(chromedp.CSS(then)))
}

// stands checks a page in every way that a reader may need.
func stands(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	fits(t, ctx, name)
	reads(t, ctx, name)
	assert.Empty(t, see(t, ctx, chromedp.EvaluateAsDevTools[string](unlabelled)), "fields of %s", name)
	assert.Empty(t, see(t, ctx, chromedp.EvaluateAsDevTools[string](cramped)), "targets on %s", name)
}

// unlabelled names fields that nobody who cannot see them could tell apart, and references that lead nowhere.
const unlabelled = `(() => {
	let bad = [];
	for (const f of document.querySelectorAll("input:not([type=hidden]),select,textarea"))
		if (!f.labels.length || !f.labels[0].textContent.trim()) bad.push(f.name);
	for (const f of document.querySelectorAll("[aria-describedby]"))
		for (const id of f.getAttribute("aria-describedby").split(" ")) if (!document.getElementById(id)) bad.push("#" + id);
	const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
	bad.push(...ids.filter((id, i) => ids.indexOf(id) !== i).map(id => "twice #" + id));
	for (const b of document.querySelectorAll("button")) if (!b.textContent.trim()) bad.push("button");
	if (document.querySelectorAll("main").length !== 1 || document.querySelectorAll("h1").length !== 1) bad.push("main or h1");
	return bad.join("; ");
})()`

// cramped names what is smaller to touch than 24 by 24 pixels. Links inside a sentence are spared (WCAG 2.5.8).
const cramped = `(() => {
	let bad = [];
	for (const e of document.querySelectorAll("button,input:not([type=hidden]),summary,nav a,.menu a")) {
		if (!e.getClientRects().length) continue;
		const r = e.getBoundingClientRect();
		if (r.width < 24 || r.height < 24) bad.push((e.textContent.trim() || e.name) + " " + r.width + "x" + r.height);
	}
	return bad.join("; ");
})()`

// TestAppIsAllowedInARealBrowserWithoutScript signs in on the way to the consent page, allows the app, and follows the app's own redirect to
// another host, which browsers hold against the page's policy for forms.
func TestAppIsAllowedInARealBrowserWithoutScript(t *testing.T) {
	h := newHome(t)
	for _, lang := range []struct{ tag, title, ask string }{{"en", "Allow", "Take part in City/Sync"}, {"es", "¿Permitir", "Participar en City/Sync"}} {
		browser := newBrowser(t)
		s := newSite(t, h, manyThings)
		do(t, browser, chromedp.Navigate(h.url+s.app.Push()+"&lang="+lang.tag), chromedp.WaitVisible(chromedp.CSS("#identifier")))
		stands(t, browser, "pds-signin-"+lang.tag)
		do(t, browser, typed("identifier", h.handle), typed("password", "wrong"))
		press(t, browser, "main form button", "#wrong")
		stands(t, browser, "pds-signin-wrong-"+lang.tag)
		do(t, browser, typed("password", residentPassword))
		press(t, browser, "main form button", "#client")
		assert.True(t, strings.HasPrefix(see(t, browser, chromedp.Text(chromedp.CSS("h1"))), lang.title))
		assert.Contains(t, see(t, browser, chromedp.Text(chromedp.CSS(".asks"))), lang.ask)
		stands(t, browser, "pds-consent-"+lang.tag)
		do(t, browser, chromedp.Click(chromedp.CSS("summary")))
		stands(t, browser, "pds-consent-open-"+lang.tag)
		do(t, browser, chromedp.Click(chromedp.CSS(`input[value="identity:*"]`)))
		press(t, browser, `button[value="allow"]`, "#in")
		got := s.app.Exchange(<-s.arrived)
		assert.Equal(t, h.did, got["sub"])
		assert.NotContains(t, got["scope"], "identity:", "what was unticked is not granted")
		assert.NotContains(t, got["scope"], "org.city-sync.work.task", "it is for the person, not for the organization")
		assert.Contains(t, got["scope"], "include:org.city-sync.authResident")

		do(t, browser, chromedp.Navigate(h.account("/apps")), chromedp.Click(chromedp.CSS("summary")))
		stands(t, browser, "pds-apps-connected-"+lang.tag)
		do(t, browser, chromedp.Navigate(h.url+s.app.Push("prompt", "select_account")))
		stands(t, browser, "pds-choose-"+lang.tag)
		do(t, browser, chromedp.Navigate(h.url+s.app.Push()), chromedp.WaitVisible(chromedp.CSS("#client")))
		press(t, browser, `button[value="deny"]`, "#in")
		u, err := url.Parse(<-s.arrived)
		require.NoError(t, err)
		assert.Equal(t, "access_denied", u.Query().Get("error"))
	}
}

// TestFormOfAnotherSiteDoesNothingInARealBrowser presses a button elsewhere that posts to the PDS: from another port, which is the same site,
// and from another name, which is not.
func TestFormOfAnotherSiteDoesNothingInARealBrowser(t *testing.T) {
	h := newHome(t)
	browser := newBrowser(t)
	enterHome(t, browser, h, "en")
	s := newSite(t, h, "atproto")
	at, err := url.Parse(s.app.Redirect)
	require.NoError(t, err)
	for _, host := range []string{at.Host, "localhost:" + at.Port()} {
		do(t, browser, chromedp.Navigate("http://"+host+"/trap"))
		press(t, browser, "#trap", "#wrong")
		assert.Contains(t, see(t, browser, chromedp.Text(chromedp.CSS("#wrong"))), "Nothing was done")
		do(t, browser, chromedp.Navigate(h.account("")), chromedp.WaitVisible(chromedp.CSS(".menu")))
	}
}

func enterHome(t *testing.T, browser context.Context, h *home, lang string) {
	t.Helper()
	do(t, browser, chromedp.Navigate(h.url+"/account/sign-in?lang="+lang), typed("identifier", h.handle), typed("password", residentPassword))
	press(t, browser, "main form button", ".menu")
}

// TestAccountPagesReadOnANarrowPhoneWithoutScript walks through the account's pages in both languages, and uses some.
func TestAccountPagesReadOnANarrowPhoneWithoutScript(t *testing.T) {
	h := newHome(t)
	app := apptest.Loopback(t, h.url, h.clock.Now, "atproto blob:image/*")
	for _, lang := range []string{"en", "es"} {
		browser := newBrowser(t)
		enterHome(t, browser, h, lang)
		stands(t, browser, "pds-account-"+lang)
		do(t, browser, chromedp.Navigate(h.url+app.Push()), chromedp.WaitVisible(chromedp.CSS("#unchecked")))
		stands(t, browser, "pds-consent-program-"+lang)
		for _, page := range []string{"apps", "app-passwords", "people", "devices", "password", "two-step", "handle", "email", "data", "close"} {
			do(t, browser, chromedp.Navigate(h.account("/"+page)))
			stands(t, browser, "pds-"+page+"-"+lang)
		}
		for _, page := range []string{"/account/forgotten", "/account/new", "/account/reset", "/account/nowhere/at/all", "/oauth/authorize", "/account?done=out"} {
			do(t, browser, chromedp.Navigate(h.url+page))
			stands(t, browser, "pds"+strings.NewReplacer("/", "-", "?", "-").Replace(page)+"-"+lang)
		}
		do(t, browser, chromedp.Navigate(h.account("/devices")))
		press(t, browser, `form:has([name="all"]) button`, "#done")
		stands(t, browser, "pds-devices-done-"+lang)
		asked(t, browser, "", "dark")
		for _, page := range []string{"", "/devices", "/close", "/app-passwords"} {
			do(t, browser, chromedp.Navigate(h.account(page)))
			stands(t, browser, "pds-dark"+strings.ReplaceAll(page, "/", "-")+"-"+lang)
		}
		asked(t, browser, "", "light")
		do(t, browser, chromedp.Navigate(h.url+"/account/sign-in?add=1"), typed("identifier", "library.test"), typed("password", residentPassword))
		press(t, browser, "main form button", ".menu")
		do(t, browser, chromedp.Navigate(h.url+"/account/"+h.org+"/people"))
		assert.Contains(t, see(t, browser, chromedp.Text(chromedp.CSS("main"))), h.handle)
		stands(t, browser, "pds-people-org-"+lang)
		do(t, browser, chromedp.Navigate(h.url+"/account"))
		stands(t, browser, "pds-accounts-"+lang)
	}
}

// TestSecondStepIsSetUpAndAskedForInARealBrowser reads the key off the page as a person would, and signs in with its codes.
func TestSecondStepIsSetUpAndAskedForInARealBrowser(t *testing.T) {
	h := newHome(t)
	browser := newBrowser(t)
	enterHome(t, browser, h, "es")
	do(t, browser, chromedp.Navigate(h.account("/two-step")), typed("password", residentPassword))
	press(t, browser, "main form button", ".qr")
	stands(t, browser, "pds-setup-es")
	secret := see(t, browser, chromedp.Text(chromedp.CSS(".secret")))
	do(t, browser, typed("code", "000000"))
	press(t, browser, "main form button", "#wrong")
	do(t, browser, typed("code", phone(t, secret, h.clock.Now())))
	press(t, browser, "main form button", ".codes")
	stands(t, browser, "pds-recovery-es")
	recovery := strings.Fields(see(t, browser, chromedp.Text(chromedp.CSS(".codes"))))
	require.Len(t, recovery, 10)
	h.clock.Advance(time.Minute)

	for _, code := range []string{phone(t, secret, h.clock.Now()), recovery[0]} {
		fresh := newBrowser(t)
		do(t, fresh, chromedp.Navigate(h.url+"/account/sign-in"), typed("identifier", h.did), typed("password", residentPassword))
		press(t, fresh, "main form button", "#code")
		stands(t, fresh, "pds-code-en")
		do(t, fresh, typed("code", code))
		press(t, fresh, "main form button", ".menu")
	}
}

// phone is an authenticator app (RFC 6238) that was told a key.
func phone(t *testing.T, key string, now time.Time) string {
	t.Helper()
	secret, err := base32.StdEncoding.DecodeString(strings.ReplaceAll(key, " ", ""))
	require.NoError(t, err)
	mac := hmac.New(sha1.New, secret)
	require.NoError(t, binary.Write(mac, binary.BigEndian, now.Unix()/30))
	sum := mac.Sum(nil)
	at := sum[19] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[at:])&0x7fffffff%1_000_000)
}
