package pds

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/oauth/apptest"
)

const residentScope = "atproto include:org.city-sync.authResident blob:image/*"

func (b *bed) program(scope string) *apptest.App {
	return apptest.Loopback(b.t, b.url, b.clock.Now, scope)
}

// answerTo fills in the consent page at path.
func (v *visitor) answerTo(path string, u *user, do string, scopes ...string) shown {
	v.t.Helper()
	at, err := url.Parse(path)
	require.NoError(v.t, err)
	fields := []string{"client_id", at.Query().Get("client_id"), "request_uri", at.Query().Get("request_uri"), "as", u.DID.String(), "do", do}
	for _, s := range scopes {
		fields = append(fields, "scope", s)
	}
	return v.fill("/oauth/authorize", fields...)
}

// answerFor allows in the name of an organization.
func (v *visitor) answerFor(path string, u, org *user, scopes ...string) shown {
	v.t.Helper()
	at, err := url.Parse(path)
	require.NoError(v.t, err)
	fields := []string{"client_id", at.Query().Get("client_id"), "request_uri", at.Query().Get("request_uri"), "as", u.DID.String(), "for", org.DID.String(), "do", "allow"}
	for _, s := range scopes {
		fields = append(fields, "scope", s)
	}
	return v.fill("/oauth/authorize", fields...)
}

func TestConsentPageNamesWhoAsksAndForWhat(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	app := apptest.Web(t, b.url, b.clock.Now, residentScope+" repo:app.bsky.feed.post?action=create rpc:*?aud=did:web:other.example%23svc account:email identity:*", false, nil)
	host, err := url.Parse(app.ID)
	require.NoError(t, err)
	path := app.Push()
	p := v.open(path)
	require.Equal(t, http.StatusOK, p.Status, p.HTML)
	for _, want := range []string{
		"<h1>Allow " + host.Host + "?</h1>", "Example “app” &lt;b&gt;", "Nobody has checked that", u.Handle,
		"Take part in City/Sync", "claims</li>", "proof of work</li>", "see your credits", "pictures",
		"Add to your public records: <code>app.bsky.feed.post</code>", "did:web:other.example#svc", "everything it offers", "See your e-mail address",
		"Whoever may do that can take the account", "Look twice",
	} {
		assert.Contains(t, p.HTML, want)
	}
	assert.Less(t, strings.Index(p.HTML, "can take the account"), strings.Index(p.HTML, "Take part in"), "what is grave comes first")
	es := v.open(path + "&lang=es")
	for _, want := range []string{"¿Permitir a", "Participar en City/Sync", "solicitudes</li>", "pruebas del trabajo", "imágenes", "puede quedarse con la cuenta"} {
		assert.Contains(t, es.HTML, want)
	}
	assert.Contains(t, p.Header.Get("Content-Security-Policy"), "form-action 'self' http:;", "the answer may lead back to the app")
}

func TestProgramOnThisComputerIsCalledThat(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	p := u.visitor().open(b.program("atproto").Push())
	assert.Contains(t, p.HTML, "Allow a program on this computer?")
	assert.Contains(t, p.HTML, "It asks for nothing else.")
	assert.NotContains(t, p.HTML, "<h1>Allow localhost")
}

func TestAllowedAppActsWithinWhatWasTicked(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	app := b.program("atproto repo:" + note + " blob:image/*")
	p := v.answerTo(app.Push(), u, "allow", "repo:"+note, "repo:com.example.other")
	require.Equal(t, http.StatusSeeOther, p.Status, p.HTML)
	got := app.Exchange(p.To())
	assert.Equal(t, u.DID.String(), got["sub"])
	assert.Equal(t, "atproto repo:"+note, got["scope"], "nothing that was not ticked, nothing that was not asked")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/xrpc/com.atproto.server.getSession", nil)
	require.NoError(t, err)
	status, out := app.Do(got["access_token"].(string), req)
	require.Equal(t, http.StatusOK, status, out)
	assert.Equal(t, u.Handle, out["handle"])
}

func TestRefusalGoesBackToTheApp(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	app := b.program("atproto")
	path := app.Push()
	p := v.answerTo(path, u, "deny")
	require.Equal(t, http.StatusSeeOther, p.Status)
	to, err := url.Parse(p.To())
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(p.To(), app.Redirect+"?"))
	assert.Equal(t, "access_denied", to.Query().Get("error"))
	again := v.answerTo(path, u, "allow")
	assert.Equal(t, http.StatusBadRequest, again.Status, "an answer is given once")
	assert.Contains(t, again.HTML, "start again")
}

func TestAnswerTakesASignedInAccountOfThisDevice(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	path := b.program("atproto").Push()
	p := u.visitor().answerTo(path, other, "allow")
	assert.True(t, strings.HasPrefix(p.To(), "/oauth/authorize?"), "back to the page, not to the app: %s", p.To())
	p = b.visitor().answerTo(path, u, "allow")
	assert.True(t, strings.HasPrefix(p.To(), "/oauth/authorize?"), p.To())
	assert.Zero(t, b.count(`select count(*) from oauth_request where code is not null`))

	at, err := url.Parse(path)
	require.NoError(t, err)
	forged := u.visitor().fillFrom("cross-site", "/oauth/authorize",
		"client_id", at.Query().Get("client_id"), "request_uri", at.Query().Get("request_uri"), "as", u.DID.String(), "do", "allow")
	assert.Equal(t, http.StatusForbidden, forged.Status, "an app cannot press the button itself")
}

// The reference showed its page without a pushed request, and refused clients of the same site.
func TestRequestThatWasNotPushedIsRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	for _, q := range []string{
		"", "?client_id=http%3A%2F%2Flocalhost&redirect_uri=http%3A%2F%2F127.0.0.1%2F&response_type=code&scope=atproto&state=x&code_challenge=y&code_challenge_method=S256",
		"?client_id=http%3A%2F%2Flocalhost&request_uri=urn%3Aietf%3Aparams%3Aoauth%3Arequest_uri%3Anone",
	} {
		p := v.open("/oauth/authorize" + q)
		assert.Equal(t, http.StatusBadRequest, p.Status, q)
		assert.Contains(t, p.HTML, "cannot be answered", q)
	}
	req := v.request(t, b.program("atproto").Push())
	req.Header.Set("Sec-Fetch-Site", "same-site") // an app on another port or sub-domain
	req.Header.Set("Sec-Fetch-Mode", "navigate")
	assert.Equal(t, http.StatusOK, v.send(req).Status)
}

func TestVisitorSignsInOnTheWayToTheConsentPage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	v := b.visitor()
	app := b.program("atproto")
	p := v.open(app.Push("login_hint", u.Handle))
	require.True(t, strings.HasPrefix(p.To(), "/account/sign-in?"), p.To())
	page := v.open(p.To())
	assert.Contains(t, page.HTML, `value="`+u.Handle+`"`, "the name is filled in")
	to, err := url.Parse(p.To())
	require.NoError(t, err)
	// Somebody else than the app had in mind signs in: the page then asks about that account.
	p = v.fill("/account/sign-in", "identifier", other.Handle, "password", password, "next", to.Query().Get("next"))
	page = v.open(p.To())
	require.Equal(t, http.StatusOK, page.Status)
	assert.Contains(t, page.HTML, `name="as" value="`+other.DID.String()+`"`)
}

func TestSeveralAccountsAreChosenFrom(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	v := u.visitor()
	app := b.program("atproto")
	assert.Contains(t, v.open(app.Push("prompt", "select_account")).HTML, "Which account should")
	v.signIn(other)
	path := app.Push()
	p := v.open(path)
	assert.Contains(t, p.HTML, "Which account should")
	assert.Contains(t, v.open(path+"&as="+url.QueryEscape(other.DID.String())).HTML, `name="as" value="`+other.DID.String()+`"`)
	assert.Contains(t, v.open(app.Push("login_hint", u.DID.String())).HTML, `name="as" value="`+u.DID.String()+`"`)
}

func TestPromptLoginAsksForThePasswordAnew(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	b.clock.Advance(time.Minute)
	path := b.program("atproto").Push("prompt", "login")
	p := v.open(path)
	require.True(t, strings.HasPrefix(p.To(), "/account/sign-in?"), p.To())
	assert.True(t, strings.HasPrefix(v.answerTo(path, u, "allow").To(), "/oauth/authorize?"), "nor is it gone round by sending the form")
	v.signIn(u)
	assert.Equal(t, http.StatusOK, v.open(path).Status)
	assert.True(t, strings.HasPrefix(v.answerTo(path, u, "allow").To(), "http://127.0.0.1:7777/cb?"))
}

func TestPromptNoneIsAnsweredWithoutAPage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	v := u.visitor()
	app := apptest.Web(t, b.url, b.clock.Now, "atproto repo:"+note, true, nil)
	ask := func(v *visitor, more ...string) string {
		t.Helper()
		p := v.open(app.Push(append([]string{"prompt", "none"}, more...)...))
		require.Equal(t, http.StatusSeeOther, p.Status, p.HTML)
		to, err := url.Parse(p.To())
		require.NoError(t, err)
		return to.Query().Get("error")
	}
	assert.Equal(t, "login_required", ask(b.visitor()))
	assert.Equal(t, "consent_required", ask(v))
	app.Exchange(v.answerTo(app.Push(), u, "allow").To()) // not all of what it asks for
	assert.Equal(t, "consent_required", ask(v))
	app.Exchange(v.answerTo(app.Push(), u, "allow", "repo:"+note).To())
	assert.Empty(t, ask(v))
	assert.Equal(t, "login_required", ask(v, "login_hint", other.Handle))
	v.signIn(other)
	assert.Equal(t, "account_selection_required", ask(v))
	assert.Empty(t, ask(v, "login_hint", u.Handle))
	p := v.open(app.Push("prompt", "none", "login_hint", u.Handle))
	app.Exchange(p.To())
}

func TestTrustedClientIsToldApart(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	app := apptest.Web(t, b.url, b.clock.Now, "atproto", false, nil)
	path := app.Push()
	assert.Contains(t, u.visitor().open(path).HTML, "has not checked this application")
	b.cfg.TrustedClients = []string{app.ID}
	b.restart()
	assert.Contains(t, u.visitor().open(path).HTML, "The operator of this server knows this application.")
}

// An organization's app is let in by a person who acts for it, with that person's own sign-in, and gets no more than the person's role.
func TestPersonLetsAnAppInForAnOrganization(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	org, ann, bob := b.account("library"), b.account("ann"), b.account("bob")
	org.ok(org.offer(ann.Handle, "coordinator", ""))
	ann.ok(ann.post(ann.Access, lexicons.PdsAcceptController, m{"account": org.DID}))
	const asked = "atproto include:org.city-sync.authOrganization repo:" + note
	app := b.program(asked)
	v := ann.visitor()
	page := v.open(app.Push("login_hint", org.Handle))
	require.Equal(t, http.StatusOK, page.Status, "she is signed in and acts for the library")
	assert.Contains(t, page.HTML, `value="`+org.DID.String()+`" checked`)
	assert.Contains(t, page.HTML, "coordinator: tasks")
	assert.NotContains(t, bob.visitor().open(app.Push()).HTML, `name="for"`)

	const sets = "include:org.city-sync.authOrganization"
	assert.True(t, strings.HasPrefix(bob.visitor().answerFor(app.Push(), bob, org, sets).To(), "/oauth/authorize?"), "Bob acts for nobody")
	got := app.Exchange(v.answerFor(app.Push(), ann, org, sets, "repo:"+note).To())
	assert.Equal(t, org.DID.String(), got["sub"])
	assert.Contains(t, got["scope"], "org.city-sync.work.task")
	assert.NotContains(t, got["scope"], note)
	assert.NotContains(t, got["scope"], "org.city-sync.offer.offering", "that is another role's")

	listed := org.visitor().open(org.path() + "/apps")
	assert.Contains(t, listed.HTML, "Allowed by <code>ann.test", "the organization sees who let it in")
}
