package pds

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/oauth/apptest"
	"city-sync.org/citysync/pds/scope"
)

var shownApp = regexp.MustCompile(`name="app" value="([^"]+)"`)

// letIn is an app that the account allowed, and its token.
func (v *visitor) letIn(u *user, scope string) (app *apptest.App, token string) {
	v.t.Helper()
	app = v.program(scope)
	p := v.answerTo(app.Push(), u, "allow", strings.Fields(scope)[1:]...)
	return app, app.Exchange(p.To())["access_token"].(string)
}

// opens tells whether the app's token still opens the account.
func (b *bed) opens(app *apptest.App, token string) bool {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodGet, b.url+"/xrpc/com.atproto.server.getSession", nil)
	require.NoError(b.t, err)
	status, _ := app.Do(token, req)
	return status == http.StatusOK
}

func TestConnectedAppsAreListedAndDisconnectedAtOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	assert.Contains(t, v.open(u.path()+"/apps").HTML, "No application is connected.")
	app, token := v.letIn(u, residentScope)
	require.True(t, b.opens(app, token))
	page := v.open(u.path() + "/apps")
	for _, want := range []string{"A program on a computer", "Take part in City/Sync", "pictures", "allowed on 20 November 2026 (Firefox · Linux)"} {
		assert.Contains(t, page.HTML, want)
	}
	id := shownApp.FindStringSubmatch(page.HTML)
	require.NotNil(t, id)

	stranger := b.account("stranger")
	stranger.visitor().fill(stranger.path()+"/apps", "app", id[1])
	stranger.visitor().fill(stranger.path()+"/apps", "all", "1")
	require.True(t, b.opens(app, token), "nobody disconnects somebody else's app")

	p := v.fill(u.path()+"/apps", "app", id[1])
	assert.Contains(t, v.open(p.To()).says(), "disconnected")
	assert.False(t, b.opens(app, token))
	app, token = v.letIn(u, "atproto")
	v.fill(u.path()+"/apps", "all", "1")
	assert.False(t, b.opens(app, token))
}

func TestNewPasswordDisconnectsAppsWhereItIsAskedTo(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	app, token := v.letIn(u, "atproto")
	made := u.appPassword("phone", false)
	change := func(old, fresh string, more ...string) {
		t.Helper()
		p := v.fill(u.path()+"/password", append([]string{"password", old, "new", fresh, "again", fresh}, more...)...)
		require.Equal(t, http.StatusSeeOther, p.Status, p.HTML)
	}
	change(password, "another good password")
	assert.True(t, b.opens(app, token))
	b.ok(u.signIn(made))
	change("another good password", password, "apps", "1")
	assert.False(t, b.opens(app, token))
	assert.Equal(t, "AuthenticationRequired", u.signIn(made).name())
}

func TestAppPasswordIsShownOnceAndRevoked(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	path := u.path() + "/app-passwords"
	assert.Contains(t, v.fill(path, "name", "phone", "password", "wrong password").says(), "not right")
	p := v.fill(path, "name", "phone", "password", password)
	made := shownRecoveryForm.FindString(p.HTML)
	require.NotEmpty(t, made, p.HTML)
	b.ok(u.signIn(made))
	page := v.open(path)
	assert.Contains(t, page.HTML, "phone</h2>")
	assert.NotContains(t, page.HTML, made)
	assert.Contains(t, v.fill(path, "name", "phone", "password", password).says(), "already")
	assert.Contains(t, v.fill(path, "name", strings.Repeat("x", 200), "password", password).says(), "too long")
	assert.Equal(t, http.StatusUnprocessableEntity, b.visitor().fill("/account/sign-in", "identifier", u.Handle, "password", made).Status,
		"an app's password does not open the account's pages")
	p = v.fill(path, "do", "revoke", "name", "phone")
	assert.Contains(t, v.open(p.To()).says(), "revoked")
	assert.Equal(t, "AuthenticationRequired", u.signIn(made).name())
}

var shownRecoveryForm = regexp.MustCompile(`[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}-[a-z2-7]{4}`)

func TestAddressIsConfirmedAndChangedOnItsPage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress(someAddress)
	v := u.visitor()
	path := u.path() + "/email"
	assert.Contains(t, v.open(path).HTML, "Nobody has confirmed")
	p := v.fill(path, "do", "send-confirm")
	require.Contains(t, v.open(p.To()).says(), "on its way")
	assert.Contains(t, v.fill(path, "do", "confirm", "word", "AAAAA-AAAAA").says(), "not the one")
	p = v.fill(path, "do", "confirm", "word", strings.ToLower(box.word(t)))
	require.Contains(t, v.open(p.To()).says(), "confirmed")

	b.account("other").withAddress("taken@example.org")
	word := func() string {
		t.Helper()
		require.Equal(t, http.StatusSeeOther, v.fill(path, "do", "send-change").Status)
		return box.word(t)
	}
	assert.Contains(t, v.fill(path, "do", "change", "email", otherAddress, "password", password, "word", "AAAAA-AAAAA").says(), "not the one")
	assert.Contains(t, v.fill(path, "do", "change", "email", otherAddress, "password", "wrong password", "word", word()).says(), "not right")
	assert.Contains(t, v.fill(path, "do", "change", "email", "x", "password", password, "word", word()).says(), "not an e-mail")
	assert.Contains(t, v.fill(path, "do", "change", "email", "taken@example.org", "password", password, "word", word()).says(), "Another account")
	p = v.fill(path, "do", "change", "email", otherAddress, "password", password, "word", word())
	assert.Contains(t, v.open(p.To()).says(), "changed")
	assert.Contains(t, v.open(path).HTML, otherAddress)
	assert.Contains(t, v.open(path).HTML, "Nobody has confirmed")
}

func TestForgottenPasswordIsSetAnewAndTellsNobodyWhoHasAnAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	b.run()
	u := b.account("user").withAddress(someAddress)
	there := u.visitor()
	v := b.visitor()
	unknown, known := v.fill("/account/forgotten", "email", otherAddress), v.fill("/account/forgotten", "email", "User@Example.org")
	assert.Equal(t, known.Status, unknown.Status)
	assert.Equal(t, known.To(), unknown.To())
	require.Equal(t, "/account/reset?done=resetSent", known.To())
	<-box.came
	assert.Contains(t, v.open(known.To()).says(), "If an account here has this address")
	const fresh = "another good password"
	assert.Contains(t, v.fill("/account/reset", "word", "AAAAA-AAAAA", "new", fresh, "again", fresh).says(), "not the one")
	assert.Contains(t, v.fill("/account/reset", "word", box.word(t), "new", fresh, "again", "x").says(), "differ")
	p := v.fill("/account/reset", "word", box.word(t), "new", fresh, "again", fresh)
	require.Equal(t, "/account/sign-in?done=reset", p.To(), p.HTML)
	assert.Equal(t, http.StatusSeeOther, there.open(u.path()).Status, "every browser is signed out")
	assert.Equal(t, http.StatusSeeOther, v.fill("/account/sign-in", "identifier", u.Handle, "password", fresh).Status)
	assert.Contains(t, v.fill("/account/forgotten", "email", "x").says(), "not an e-mail")
}

func TestAccountTakesItsDataWithIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	v := u.visitor()
	assert.Contains(t, v.open(u.path()+"/data").HTML, "refer to no files")
	ref := u.ok(u.upload("image/png", png)).JSON["blob"].(m)
	u.ok(u.create(note, "a", m{"text": "words", "blob": ref}))
	page := v.open(u.path() + "/data")
	link := regexp.MustCompile(`href="(/account/[^"]+/data/blob/[^"]+)"`).FindStringSubmatch(page.HTML)
	require.NotNil(t, link, page.HTML)
	file := v.open(link[1])
	assert.Equal(t, string(png), file.HTML)
	assert.Equal(t, "image/png", file.Header.Get("Content-Type"))
	assert.Contains(t, file.Header.Get("Content-Security-Policy"), "sandbox")
	assert.Contains(t, file.Header.Get("Content-Disposition"), "attachment")
	assert.Equal(t, http.StatusSeeOther, other.visitor().open(link[1]).Status)
	b.setStatus(u, "deactivated") // who rests may still take everything along
	car := v.open(u.path() + "/data/repo.car")
	require.Equal(t, http.StatusOK, car.Status)
	assert.Equal(t, carType, car.Header.Get("Content-Type"))
	assert.True(t, bytes.Contains([]byte(car.HTML), []byte("words")))
	assert.Equal(t, http.StatusNotFound, v.open(u.path()+"/data/blob/x").Status)
	assert.Equal(t, http.StatusNotFound, v.open(u.path()+"/data/blob/"+someCID).Status)
	assert.Equal(t, http.StatusNotFound, v.open(u.path()+"/data?after=x").Status)
}

func TestAccountIsDeletedOnItsPageByPasswordNameAndCode(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress(someAddress)
	v := u.visitor()
	path := u.path() + "/close"
	require.Contains(t, v.open(v.fill(path, "do", "send").To()).says(), "on its way")
	word := box.word(t)
	for want, fields := range map[string][]string{
		"not right":   {"password", "wrong password", "handle", u.Handle, "word", word},
		"name":        {"password", password, "handle", "other.test", "word", word},
		"not the one": {"password", password, "handle", u.Handle, "word", "AAAAA-AAAAA"},
	} {
		assert.Contains(t, v.fill(path, append(fields, "do", "delete")...).says(), want)
	}
	require.Equal(t, 1, b.count(`select count(*) from account`))
	p := v.fill(path, "do", "delete", "password", password, "handle", u.Handle, "word", word)
	require.Equal(t, "/account/sign-in?done=deleted", p.To(), p.HTML)
	assert.Zero(t, b.count(`select count(*) from account`))
	assert.Equal(t, http.StatusSeeOther, v.open(u.path()).Status)
}

func TestDeletionWithoutMailAsksForTheSecondStep(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	v := u.visitor()
	secret, _ := v.withFactor(u)
	b.clock.Advance(time.Minute)
	fields := []string{"do", "delete", "password", password, "handle", u.Handle, "word"}
	assert.Contains(t, v.fill(u.path()+"/close", append(fields, "000000")...).says(), "not right")
	assert.Equal(t, http.StatusSeeOther, v.fill(u.path()+"/close", append(fields, b.code(secret))...).Status)
	assert.Zero(t, b.count(`select count(*) from account`))
}

// What a person let in for an organization is the person's to see and to end, too, and no yes for the person alone.
func TestAppsLetInForAnOrganizationAreOnThePersonsPage(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	o := b.organization(scope.RoleEditor, "").accepted()
	o.granted()
	path, stranger := o.person.path()+"/apps", b.account("stranger")
	v := o.person.visitor()
	p := v.open(path)
	assert.Contains(t, p.HTML, "app.example.com")
	assert.Contains(t, p.HTML, "Acts for <code>"+o.Handle)
	assert.Contains(t, o.visitor().open(o.path()+"/apps").HTML, "Allowed by <code>"+o.person.Handle)
	assert.NotContains(t, stranger.visitor().open(stranger.path()+"/apps").HTML, "app.example.com")

	asked, err := scope.Parse("atproto", nil)
	require.NoError(t, err)
	s := b.server.Load()
	covered, err := s.allowedBefore(&visit{s: s, r: httptest.NewRequest(http.MethodGet, "/", nil)},
		&oauth.Pending{Client: oauth.ClientInfo{ID: "https://app.example.com/client.json"}, Scope: asked}, signIn{DID: o.person.DID, Status: statusActive})
	require.NoError(t, err)
	assert.False(t, covered)

	stranger.visitor().fill(stranger.path()+"/apps", "app", "app")
	assert.Equal(t, 1, b.count(`select count(*) from oauth_session`))
	v.fill(path, "app", "app")
	assert.Zero(t, b.count(`select count(*) from oauth_session`))
}
