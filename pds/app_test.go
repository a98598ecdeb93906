package pds

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/oauth/apptest"
)

// allowed lets the app in as the owner of u would, and gives its tokens.
func (u *user) allowed(a *apptest.App) map[string]any {
	u.t.Helper()
	at, err := url.Parse(a.Push())
	require.NoError(u.t, err)
	apps := u.server.Load().apps
	p, err := apps.Pending(u.t.Context(), at.Query().Get("client_id"), at.Query().Get("request_uri"))
	require.NoError(u.t, err)
	to, err := apps.Grant(u.t.Context(), p, oauth.Approval{Account: u.DID, Actor: u.DID})
	require.NoError(u.t, err)
	return a.Exchange(to)
}

func (b *bed) fetch(method, path string, headers ...string) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, nil)
	require.NoError(b.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return b.do(req)
}

func TestAuthorizationServerIsFoundByItsMetadata(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	resource := b.fetch(http.MethodGet, "/.well-known/oauth-protected-resource", "Origin", "https://app.example.com")
	server := b.fetch(http.MethodGet, "/.well-known/oauth-authorization-server", "Origin", "https://app.example.com")
	for _, a := range []answer{resource, server} {
		b.ok(a)
		assert.Equal(t, "application/json", a.Header.Get("Content-Type"))
		assert.Equal(t, "max-age=300", a.Header.Get("Cache-Control"))
		assert.Equal(t, "*", a.Header.Get("Access-Control-Allow-Origin"))
		assert.Empty(t, a.Header.Get("Access-Control-Allow-Credentials"))
	}
	assert.Equal(t, b.url, resource.str("resource"))
	assert.Equal(t, []any{b.url}, resource.JSON["authorization_servers"])
	for name, want := range map[string]any{
		"issuer": b.url, "authorization_endpoint": b.url + "/oauth/authorize", "token_endpoint": b.url + "/oauth/token",
		"revocation_endpoint": b.url + "/oauth/revoke", "pushed_authorization_request_endpoint": b.url + "/oauth/par",
		"require_pushed_authorization_requests": true, "client_id_metadata_document_supported": true,
		"authorization_response_iss_parameter_supported": true, "code_challenge_methods_supported": []any{"S256"},
		"dpop_signing_alg_values_supported": []any{"ES256"}, "token_endpoint_auth_methods_supported": []any{"none", "private_key_jwt"},
		"scopes_supported": []any{"atproto"}, "response_types_supported": []any{"code"},
	} {
		assert.Equal(t, want, server.JSON[name], name)
	}
	keys := b.ok(b.fetch(http.MethodGet, "/oauth/jwks"))
	assert.JSONEq(t, `{"keys":[]}`, string(keys.Raw), "nobody else reads our tokens")
}

func TestBrowserAppsReadTheNonceOfEveryAnswer(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for _, path := range []string{"/oauth/par", "/oauth/token", "/oauth/revoke", "/xrpc/com.atproto.repo.createRecord"} {
		pre := b.fetch(http.MethodOptions, path, "Origin", "https://app.example.com", "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", "authorization,content-type,dpop")
		assert.Equal(t, http.StatusNoContent, pre.Status)
		assert.Equal(t, "authorization,content-type,dpop", pre.Header.Get("Access-Control-Allow-Headers"))
		assert.Contains(t, pre.Header.Get("Access-Control-Allow-Methods"), "POST")
	}
	app := b.program("atproto repo:" + note)
	token := fmt.Sprint(u.allowed(app)["access_token"])
	exposed := func(a answer) bool {
		all := strings.Join(a.Header.Values("Access-Control-Expose-Headers"), ", ")
		return strings.Contains(all, "DPoP-Nonce") && strings.Contains(all, "WWW-Authenticate") && a.Header.Get("DPoP-Nonce") != ""
	}
	bare := b.fetch(http.MethodGet, "/xrpc/com.atproto.server.getSession", "Authorization", "DPoP "+token)
	assert.Equal(t, http.StatusUnauthorized, bare.Status)
	assert.Equal(t, "invalid_dpop_proof", bare.name())
	assert.True(t, strings.HasPrefix(bare.Header.Get("WWW-Authenticate"), "DPoP "))
	assert.True(t, exposed(bare))
	assert.True(t, exposed(b.fetch(http.MethodPost, "/oauth/token")))
	assert.False(t, exposed(b.ok(b.get(u.Access, "com.atproto.server.getSession"))), "what is no app's is told nothing of it")

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/xrpc/com.atproto.server.getSession", nil)
	require.NoError(t, err)
	status, out := app.Do(token, req)
	assert.Equal(t, http.StatusOK, status, "%v", out)
	b.clock.Advance(time.Minute)
	before := app.Nonce()
	status, _ = app.Do(token, req)
	assert.Equal(t, http.StatusOK, status)
	assert.NotEqual(t, before, app.Nonce(), "a success brings the next nonce too")
}

func TestTokenIsGoodAtEveryServerOnTheDatabaseUntilItIsEnded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	app := b.program("atproto")
	token := fmt.Sprint(u.allowed(app)["access_token"])
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/xrpc/com.atproto.server.getSession", nil)
	require.NoError(t, err)
	b.restart()
	status, out := app.Do(token, req)
	assert.Equal(t, http.StatusOK, status, "%v", out)
	assert.Equal(t, u.DID.String(), out["did"])
	_, err = b.pool.Exec(t.Context(), `update account set status = 'takendown' where did = $1`, u.DID)
	require.NoError(t, err)
	ok, err := appAccounts{b.server.Load()}.MayAct(t.Context(), u.DID, u.DID)
	require.NoError(t, err)
	assert.False(t, ok, "an account that was taken down gets no tokens")

	require.NoError(t, b.server.Load().delete(t.Context(), u.DID))
	status, out = app.Do(token, req)
	assert.Equal(t, http.StatusUnauthorized, status)
	assert.Equal(t, "invalid_token", out["error"])
	assert.Zero(t, b.count(`select count(*) from oauth_session`))
	ok, err = appAccounts{b.server.Load()}.MayAct(t.Context(), u.DID, u.DID)
	require.NoError(t, err)
	assert.False(t, ok)
}

func TestAppsAreCountedByAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) {
		c.LimitFactor, c.Limits = 1, Limits{string(limitOAuth): {{Points: 2, Window: time.Minute}}}
	})
	for range 2 {
		assert.Equal(t, http.StatusBadRequest, b.fetch(http.MethodPost, "/oauth/par").Status)
	}
	over := b.fetch(http.MethodPost, "/oauth/token")
	assert.Equal(t, http.StatusTooManyRequests, over.Status)
	assert.Equal(t, "30", over.Header.Get("Retry-After"))
	assert.Equal(t, "0", over.Header.Get("RateLimit-Remaining"))
	assert.Equal(t, map[string]float64{"invalid_request /oauth/par": 2, "temporarily_unavailable /oauth/token": 1}, b.counted("pds_oauth_requests_total"))
}

// counted reads a counter, by its labels' values.
func (b *bed) counted(name string) map[string]float64 {
	b.t.Helper()
	families, err := b.deps.Registry.(*prometheus.Registry).Gather()
	require.NoError(b.t, err)
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, metric := range f.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			out[strings.Join(labels, " ")] = metric.GetCounter().GetValue()
		}
	}
	return out
}

func TestHousekeepingClearsWhatIsOverOfApps(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	app := b.program("atproto")
	u.allowed(app)
	app.Push()
	b.clock.Advance(15 * 24 * time.Hour)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	for _, table := range []string{"oauth_request", "oauth_session", "oauth_proof", "oauth_once"} {
		assert.Zero(t, b.count(`select count(*) from `+table), table)
	}
}
