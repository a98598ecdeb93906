package oauth_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/oauth"
)

func TestClientMetadataRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	keys := m{"keys": []any{withKid(publicJWK(t, newKey(t)), "k")}}
	whole := withKid(publicJWK(t, newKey(t)), "k")
	whole["d"] = b64(newVerifier())
	var many []any
	for i := range 17 {
		many = append(many, withKid(publicJWK(t, newKey(t)), fmt.Sprint(i)))
	}
	confidential := func(more m) m {
		doc := m{"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256"}
		for k, v := range more {
			doc[k] = v
		}
		return doc
	}
	var redirects []string
	for i := range 33 {
		redirects = append(redirects, fmt.Sprintf("https://app.example.com/cb%d", i))
	}
	n := 0
	for name, row := range map[string]struct {
		more    m
		refusal string
	}{
		"another id":                {m{"client_id": b.host + "/other.json"}, "invalid_client_metadata"},
		"no id":                     {m{"client_id": nil}, "invalid_client_metadata"},
		"tokens not bound":          {m{"dpop_bound_access_tokens": nil}, "invalid_client_metadata"},
		"no scope":                  {m{"scope": nil}, "invalid_client_metadata"},
		"no atproto":                {m{"scope": "blob:*/*"}, "invalid_client_metadata"},
		"long scope":                {m{"scope": "atproto " + strings.Repeat("x", 9000)}, "invalid_client_metadata"},
		"implicit":                  {m{"grant_types": []string{"authorization_code", "implicit"}}, "invalid_client_metadata"},
		"no code":                   {m{"grant_types": []string{"refresh_token"}}, "invalid_client_metadata"},
		"no code response":          {m{"response_types": []string{"token"}}, "invalid_client_metadata"},
		"another application":       {m{"application_type": "service"}, "invalid_client_metadata"},
		"pairwise":                  {m{"subject_type": "pairwise"}, "invalid_client_metadata"},
		"no redirect":               {m{"redirect_uris": nil}, "invalid_client_metadata"},
		"many redirects":            {m{"redirect_uris": redirects}, "invalid_client_metadata"},
		"secret":                    {m{"token_endpoint_auth_method": "client_secret_basic"}, "invalid_client_metadata"},
		"no method, which is one":   {m{"token_endpoint_auth_method": nil}, "invalid_client_metadata"},
		"alg without method":        {m{"token_endpoint_auth_signing_alg": "ES256"}, "invalid_client_metadata"},
		"no keys":                   {confidential(nil), "invalid_client_metadata"},
		"keys twice":                {confidential(m{"jwks": keys, "jwks_uri": b.host + "/jwks.json"}), "invalid_client_metadata"},
		"no key that fits":          {confidential(m{"jwks": m{"keys": []any{m{"kty": "RSA", "kid": "r"}}}}), "invalid_client_metadata"},
		"a private key":             {confidential(m{"jwks": m{"keys": []any{whole}}}), "invalid_client_metadata"},
		"many keys":                 {confidential(m{"jwks": m{"keys": many}}), "invalid_client_metadata"},
		"keys that are none":        {confidential(m{"jwks": "x"}), "invalid_client_metadata"},
		"another algorithm":         {confidential(m{"jwks": keys, "token_endpoint_auth_signing_alg": "RS256"}), "invalid_client_metadata"},
		"native with a key":         {confidential(m{"jwks": keys, "application_type": "native"}), "invalid_client_metadata"},
		"keys on a private host":    {confidential(m{"jwks_uri": "https://10.0.0.1/jwks.json"}), "invalid_client_metadata"},
		"keys at another port":      {confidential(m{"jwks_uri": "http://127.0.0.1:1/jwks.json"}), "invalid_client_metadata"},
		"home elsewhere":            {m{"client_uri": "https://bank.example.com/"}, "invalid_client_metadata"},
		"redirect by http":          {m{"redirect_uris": []string{"http://app.example.com/cb"}}, "invalid_redirect_uri"},
		"redirect with a fragment":  {m{"redirect_uris": []string{"https://app.example.com/cb#x"}}, "invalid_redirect_uri"},
		"redirect with a user":      {m{"redirect_uris": []string{"https://u:p@app.example.com/cb"}}, "invalid_redirect_uri"},
		"redirect to one's machine": {m{"redirect_uris": []string{"http://127.0.0.1/cb"}}, "invalid_redirect_uri"},
		"redirect to a script":      {m{"redirect_uris": []string{"javascript:alert(1)"}}, "invalid_redirect_uri"},
		"redirect to data":          {m{"redirect_uris": []string{"data:text/html,x"}, "application_type": "native"}, "invalid_redirect_uri"},
		"another's scheme":          {m{"redirect_uris": []string{"com.example.other:/cb"}, "application_type": "native"}, "invalid_redirect_uri"},
	} {
		n++
		path := fmt.Sprintf("/%d.json", n)
		b.publish(path, b.metadata(path, row.more))
		a.id = b.host + path
		refusedAs(t, row.refusal, a.post("/oauth/par", a.asked(nil)), name)
		assert.Equal(t, 1, b.fetched(path))
	}
}

func TestClientMetadataMustBeSmallJSONAtItsAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	var elsewhere int
	for name, serve := range map[string]func(w http.ResponseWriter, r *http.Request){
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"client_id": "%s"}`, strings.Repeat("x", 512<<10))
		},
		"no JSON": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("<html>"))
		},
		"another type": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("{}"))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("again") {
				elsewhere++
			}
			http.Redirect(w, r, r.URL.Path+"?again", http.StatusFound)
		},
		"gone": http.NotFound,
	} {
		path := "/" + strings.ReplaceAll(name, " ", "-")
		b.publish(path, serve)
		a.id = b.host + path
		refusedAs(t, "invalid_client_metadata", a.post("/oauth/par", a.asked(nil)), name)
	}
	assert.Zero(t, elsewhere)
}

// O7. The addresses are refused by their spelling, or at connect time by the guard; no request goes out.
func TestClientAtAPrivateAddressIsNeverAsked(t *testing.T) {
	t.Parallel()
	var asked []string
	b := newBed(t, func(c *oauth.Config) {
		c.AllowLoopback = false
		c.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Host)
			return nil, fmt.Errorf("dial: %w", xrpc.ErrAddressRefused) // as the guard says of a name whose address is private
		})}
	})
	a := b.public()
	for _, id := range []string{
		b.host + "/app.json", "https://127.0.0.1/app.json", "https://10.1.2.3/app.json", "https://169.254.169.254/latest/meta-data", "https://[::1]/app.json",
		"https://[fd00::1]/app.json", "https://localhost/app.json", "https://printer.local/app.json", "https://intranet/app.json", "https://2130706433/app.json",
		"https://0x7f000001/app.json", "https://app.example.com:8443/app.json", "https://user:pass@app.example.com/app.json", "https://app.example.com/app.json#x",
		"https://app.example.com", "https://app.example.com/", "https://app.example.com/a/../app.json", "http://app.example.com/app.json",
		"file:///etc/passwd", "gopher://app.example.com/x", "app", "https://" + strings.Repeat("a", 3000) + ".example.com/app.json",
		"http://localhost/app.json", "http://localhost:8080/app.json", "http://localhost.example.com/app.json",
	} {
		a.id = id
		got := a.post("/oauth/par", a.asked(nil))
		assert.Equal(t, http.StatusBadRequest, got.Status, id)
		refusedAs(t, "invalid_client", got, id)
	}
	assert.Empty(t, asked)
	assert.Zero(t, b.fetched("/app.json"))

	a.id = "https://app.example.com/app.json"
	refusedAs(t, "invalid_client", a.post("/oauth/par", a.asked(nil)))
	assert.Equal(t, []string{"app.example.com"}, asked)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestClientMetadataIsReadEveryTenMinutesAndKeptForADayWhileItsHostIsDown(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	a.push(nil)
	b.clock.Advance(10*time.Minute - time.Second)
	a.push(nil)
	assert.Equal(t, 1, b.fetched("/app.json"))
	b.clock.Advance(time.Second)
	a.push(nil)
	assert.Equal(t, 2, b.fetched("/app.json"))

	b.publish("/app.json", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	b.clock.Advance(24*time.Hour - time.Second)
	a.push(nil)
	b.clock.Advance(time.Second)
	got := a.post("/oauth/par", a.asked(nil))
	assert.Equal(t, http.StatusServiceUnavailable, got.Status, "not final: the client must not throw its session away")
	assert.Equal(t, "temporarily_unavailable", got.str("error"))
	assert.NotEmpty(t, got.Header.Get("Retry-After"))

	b.publish("/app.json", b.metadata("/app.json", nil))
	a.push(nil)
	b.publish("/app.json", http.NotFound)
	b.clock.Advance(10 * time.Minute)
	refusedAs(t, "invalid_client_metadata", a.post("/oauth/par", a.asked(nil)), "a client that is gone is gone at once")
	b.publish("/app.json", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	assert.Equal(t, http.StatusServiceUnavailable, a.post("/oauth/par", a.asked(nil)).Status, "and does not come back when its host is down")
}

func TestClientMetadataThatManyWaitForIsFetchedOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	a.post("/oauth/revoke", url.Values{"client_id": {"http://localhost"}, "token": {"x"}}) // brings a nonce
	const many = 8
	var once sync.Once
	arrived, answer := make(chan struct{}), make(chan struct{})
	doc := b.metadata("/app.json", nil)
	b.publish("/app.json", func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() { close(arrived) })
		<-answer
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(doc)
	})
	go func() {
		<-arrived
		close(answer)
	}()
	statuses := atOnce(many, func() int { c := *a; return c.post("/oauth/par", c.asked(nil)).Status })
	for _, s := range statuses {
		assert.Equal(t, http.StatusCreated, s)
	}
	assert.LessOrEqual(t, b.fetched("/app.json"), 2, "whoever came after the answer found it remembered")
}

func TestLoopbackClients(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *oauth.Config) { c.AllowLoopback = false })
	a := b.public()
	try := func(id, redirect, scope string) answer {
		a.id = id
		return a.post("/oauth/par", a.asked(url.Values{"redirect_uri": {redirect}, "scope": {scope}}))
	}
	q := func(more string) string { return "http://localhost?" + more }
	cb := "redirect_uri=" + url.QueryEscape("http://127.0.0.1/cb?x=y")
	for _, row := range []struct{ id, redirect, scope string }{
		{"http://localhost", "http://127.0.0.1/", "atproto"},
		{"http://localhost/", "http://[::1]:7777/", "atproto"},
		{q(cb), "http://127.0.0.1:4321/cb?x=y", "atproto"},
		{q(cb + "&scope=" + url.QueryEscape(broad)), "http://127.0.0.1/cb?x=y", broad},
		{q("redirect_uri=" + url.QueryEscape("http://127.0.0.1:99/cb")), "http://127.0.0.1:99/cb", "atproto"},
	} {
		got := try(row.id, row.redirect, row.scope)
		assert.Equal(t, http.StatusCreated, got.Status, "%v: %s", row, got.Raw)
	}
	for _, row := range []struct{ id, redirect, scope, refusal string }{
		{"http://localhost", "http://127.0.0.1/other", "atproto", "invalid_request"},
		{"http://localhost", "http://localhost/", "atproto", "invalid_request"},
		{"http://localhost", "http://127.0.0.1/", broad, "invalid_scope"},
		{"http://localhost", "https://127.0.0.1/", "atproto", "invalid_request"},
		{"http://localhost", "http://127.0.0.1:x/", "atproto", "invalid_request"},
		{"http://localhost", "http://127.0.0.1.example.com/", "atproto", "invalid_request"},
		{"http://localhost", "http://u@127.0.0.1/", "atproto", "invalid_request"},
		{q("redirect_uri=" + url.QueryEscape("http://127.0.0.1:99/cb")), "http://127.0.0.1:98/cb", "atproto", "invalid_request"},
		{q("redirect_uri=" + url.QueryEscape("https://app.example.com/cb")), "https://app.example.com/cb", "atproto", "invalid_redirect_uri"},
		{q("redirect_uri=" + url.QueryEscape("http://localhost/cb")), "http://localhost/cb", "atproto", "invalid_redirect_uri"},
		{q("scope=blob:*/*"), "http://127.0.0.1/", "atproto", "invalid_client_metadata"},
		{q("scope=atproto&scope=atproto"), "http://127.0.0.1/", "atproto", "invalid_client"},
		{q("client_name=Bank"), "http://127.0.0.1/", "atproto", "invalid_client"},
		{q("x=%zz"), "http://127.0.0.1/", "atproto", "invalid_client"},
	} {
		refusedAs(t, row.refusal, try(row.id, row.redirect, row.scope), row.id, row.redirect)
	}
}

func TestNativeAppHasASchemeOfItsOwn(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	const redirect = "com.example.app:/cb"
	doc := b.metadata("/app.json", m{"client_id": "https://app.example.com/app.json", "redirect_uris": []string{redirect}, "application_type": "native"})
	b.publish("/app.json", doc)
	served := newBed(t, func(c *oauth.Config) {
		c.Trusted = []string{"https://app.example.com/app.json"}
		c.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			own, err := http.NewRequestWithContext(r.Context(), http.MethodGet, b.host+r.URL.Path, nil)
			require.NoError(t, err)
			return http.DefaultTransport.RoundTrip(own)
		})}
	})
	a.bed, a.id, a.redirect = served, "https://app.example.com/app.json", redirect
	p, err := served.server.Pending(t.Context(), a.id, a.push(nil))
	require.NoError(t, err)
	assert.True(t, p.Client.Trusted)
	assert.Equal(t, "com.example.app", p.RedirectHost())
	to, err := served.server.Grant(t.Context(), p, byAlice())
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(to, redirect+"?code="), to)
}
