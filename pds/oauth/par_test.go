package oauth_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/pds/oauth"
)

// refusedAs tells whether got is the refusal named, with a status of the client's fault and a nonce to go on with.
func refusedAs(t *testing.T, name string, got answer, more ...any) {
	t.Helper()
	what := fmt.Sprint(more...) + ": " + got.Raw
	assert.Equal(t, name, got.str("error"), what)
	assert.GreaterOrEqual(t, got.Status, 400, what)
	assert.Less(t, got.Status, 500, what)
	assert.NotEmpty(t, got.Header.Get("DPoP-Nonce"), what)
}

func TestPushedRequestRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	long := strings.Repeat("x", 3000)
	for _, row := range []struct {
		name, field, value, refusal string
	}{
		{"no client", "client_id", "", "invalid_client"},
		{"no response type", "response_type", "", "invalid_request"},
		{"implicit", "response_type", "token", "unsupported_response_type"},
		{"another redirect", "redirect_uri", b.host + "/other", "invalid_request"},
		{"a redirect that only begins alike", "redirect_uri", b.host + "/cb/../x", "invalid_request"},
		{"form_post", "response_mode", "form_post", "invalid_request"},
		{"no challenge", "code_challenge", "", "invalid_request"},
		{"a challenge that is no hash", "code_challenge", strings.Repeat("A", 42), "invalid_request"},
		{"a challenge in two spellings", "code_challenge", strings.Repeat("A", 42) + "B", "invalid_request"},
		{"plain", "code_challenge_method", "plain", "invalid_request"},
		{"no method, which means plain", "code_challenge_method", "", "invalid_request"},
		{"no scope", "scope", "", "invalid_scope"},
		{"no atproto", "scope", "blob:image/*", "invalid_scope"},
		{"undeclared", "scope", "atproto blob:video/*", "invalid_scope"},
		{"long state", "state", long, "invalid_request"},
		{"no hint", "login_hint", "not a handle", "invalid_request"},
		{"no prompt", "prompt", "maybe", "invalid_request"},
		{"silent and public", "prompt", "none", "invalid_request"},
		{"signed request", "request", "a.b.c", "request_not_supported"},
		{"request by address", "request_uri", "urn:x", "invalid_request"},
		{"OpenID claims", "claims", "{}", "invalid_request"},
		{"OpenID nonce", "nonce", "n", "invalid_request"},
		{"another key", "dpop_jkt", strings.Repeat("A", 43), "invalid_dpop_proof"},
		{"a secret", "client_secret", "s", "invalid_client"},
	} {
		f := a.asked(url.Values{row.field: {row.value}})
		refusedAs(t, row.refusal, a.post("/oauth/par", f), row.name)
	}
	assert.Zero(t, b.count(`select count(*) from oauth_request`))
}

func TestScopesMustBeKnown(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	const all = "atproto include:org.example.noSuchSet nonsense:x transition:generic include:org.city-sync.authResident"
	b.publish("/app.json", b.metadata("/app.json", m{"scope": all}))
	for _, word := range []string{"include:org.example.noSuchSet", "nonsense:x", "transition:generic"} {
		got := a.post("/oauth/par", a.asked(url.Values{"scope": {"atproto " + word}}))
		refusedAs(t, "invalid_scope", got)
		assert.Contains(t, got.str("error_description"), word)
	}
	a.push(url.Values{"scope": {"atproto include:org.city-sync.authResident"}})

	b = newBed(t, func(c *oauth.Config) { c.Transition = true })
	a = b.public()
	b.publish("/app.json", b.metadata("/app.json", m{"scope": all}))
	a.push(url.Values{"scope": {"atproto transition:generic"}})
}

func TestBodiesAreStrictAndBounded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	send := func(method, mime, body string) answer {
		req, err := http.NewRequest(method, b.url+"/oauth/par", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", mime)
		req.Header.Set("DPoP", a.proof(method, b.url+"/oauth/par", "", nil))
		return b.do(req)
	}
	const form = "application/x-www-form-urlencoded"
	refusedAs(t, "invalid_request", send(http.MethodPost, "application/json", `{}`))
	refusedAs(t, "invalid_request", send(http.MethodPost, form, "state="+strings.Repeat("x", 70<<10)))
	refusedAs(t, "invalid_request", send(http.MethodPost, form, "state=a&state=b"))
	refusedAs(t, "invalid_request", send(http.MethodPost, form, strings.Repeat("a=&", 50)))
	refusedAs(t, "invalid_request", send(http.MethodPost, form, "state=%ff"))
	refusedAs(t, "invalid_request", send(http.MethodPost, form, "state=%zz"))
	refusedAs(t, "invalid_request", send(http.MethodPost, form, "state=%00"))
	got := send(http.MethodGet, form, "")
	assert.Equal(t, http.StatusMethodNotAllowed, got.Status)
	assert.Equal(t, http.MethodPost, got.Header.Get("Allow"))

	b.wait.Store(int64(90 * time.Second))
	for _, path := range []string{"/oauth/par", "/oauth/token", "/oauth/revoke"} {
		got = a.request(path, url.Values{}, "")
		assert.Equal(t, http.StatusTooManyRequests, got.Status)
		assert.Equal(t, "90", got.Header.Get("Retry-After"))
	}
}

func TestPageIsShownForAPushedRequestOnly(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	uri := a.push(nil)
	for _, row := range []struct{ client, uri, what string }{
		{a.id, "", "no PAR"},
		{a.id, "urn:ietf:params:oauth:request_uri:", "no id"},
		{a.id, "urn:ietf:params:oauth:request_uri:" + strings.Repeat("a", 26), "an unknown id"},
		{a.id, b.host + "/request.jwt", "an address"},
		{"http://localhost", uri, "another client's"},
		{"", uri, "no client"},
	} {
		_, err := b.server.Pending(t.Context(), row.client, row.uri)
		var e *oauth.Error
		require.ErrorAs(t, err, &e, row.what)
		assert.Equal(t, "invalid_request", e.Code, row.what)
		assert.Equal(t, http.StatusBadRequest, oauth.Status(err))
	}
	_, err := b.server.Pending(t.Context(), a.id, uri)
	require.NoError(t, err)
}

func TestPushedRequestLastsFiveMinutesFromTheLastLookUpToAnHour(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	unseen := a.push(nil)
	b.clock.Advance(5 * time.Minute)
	_, err := b.server.Pending(t.Context(), a.id, unseen)
	require.Error(t, err)

	seen := a.push(nil)
	for range 14 {
		b.clock.Advance(4 * time.Minute)
		_, err = b.server.Pending(t.Context(), a.id, seen)
		require.NoError(t, err)
	}
	p, err := b.server.Pending(t.Context(), a.id, seen)
	require.NoError(t, err)
	b.clock.Advance(4 * time.Minute) // an hour in all
	_, err = b.server.Pending(t.Context(), a.id, seen)
	require.Error(t, err)
	_, err = b.server.Grant(t.Context(), p, byAlice())
	require.Error(t, err)

	require.NoError(t, b.server.Collect(t.Context(), b.clock.Now()))
	assert.Zero(t, b.count(`select count(*) from oauth_request`))
}

func TestRequestIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	p, err := b.server.Pending(t.Context(), a.id, a.push(nil))
	require.NoError(t, err)
	_, err = b.server.Grant(t.Context(), p, byAlice())
	require.NoError(t, err)
	_, err = b.server.Grant(t.Context(), p, byAlice())
	require.Error(t, err)
	_, err = b.server.Refuse(t.Context(), p, oauth.CodeAccessDenied)
	require.Error(t, err, "what was granted is not refused behind its back")

	p, err = b.server.Pending(t.Context(), a.id, a.push(url.Values{"response_mode": {"fragment"}}))
	require.NoError(t, err)
	_, err = b.server.Refuse(t.Context(), p, "because")
	require.Error(t, err)
	to, err := b.server.Refuse(t.Context(), p, oauth.CodeAccessDenied)
	require.NoError(t, err)
	assert.Equal(t, a.redirect+"#"+url.Values{"error": {"access_denied"}, "iss": {b.url}, "state": {"st8"}}.Encode(), to)
	_, err = b.server.Grant(t.Context(), p, byAlice())
	require.Error(t, err)
}

func TestGrantIsNeverMoreThanWasAsked(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	grant := func(granted string) (answer, error) {
		p, err := b.server.Pending(t.Context(), a.id, a.again().push(url.Values{"scope": {narrowest}}))
		require.NoError(t, err)
		who := byAlice()
		who.Scope = granted
		to, err := b.server.Grant(t.Context(), p, who)
		if err != nil {
			return answer{}, err
		}
		u, err := url.Parse(to)
		require.NoError(t, err)
		return a.exchange(u.Query().Get("code"), nil), nil
	}
	b.publish("/app.json", b.metadata("/app.json", m{"scope": narrowest}))
	got, err := grant("atproto repo:* blob:*/* identity:*")
	require.NoError(t, err)
	assert.Equal(t, "atproto repo:org.example.note?action=create", got.str("scope"))
	got, err = grant("atproto")
	require.NoError(t, err)
	assert.Equal(t, "atproto", got.str("scope"))
	_, err = grant("repo:org.example.note?action=create")
	require.Error(t, err)
	_, err = grant("atproto nonsense:x")
	require.Error(t, err)
}

const narrowest = "atproto repo:org.example.note?action=create"
