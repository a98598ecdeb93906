package oauth

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

func fuzzServer() *Server {
	return &Server{
		cfg: Config{
			Issuer: "https://pds.example.com",
			Scopes: func(raw string) (*scope.Set, error) { return scope.Parse(raw, lexicons.PermissionSetOf) },
		},
		sets: map[string]*scope.Set{}, accessKey: []byte("access"), refreshKey: []byte("refresh"),
	}
}

// What a client pushes is either refused by a name of the protocol, or can be answered without sending anybody elsewhere.
func FuzzPushedRequest(f *testing.F) {
	f.Add("response_type=code&redirect_uri=https://app.example.com/cb&scope=atproto&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&state=a&login_hint=user.test")
	f.Add("response_type=code&redirect_uri=http://127.0.0.1:80/cb&scope=atproto%20blob:*/*&response_mode=fragment")
	f.Add("a=b&a=c&=&%zz")
	s := fuzzServer()
	c := &client{redirects: []string{"https://app.example.com/cb", "http://127.0.0.1/cb", "com.example.app:/cb"}, scope: []string{"atproto", "blob:*/*"}}
	f.Fuzz(func(t *testing.T, body string) {
		form, err := parseForm(body)
		if err != nil {
			requireRefusal(t, err)
			return
		}
		require.LessOrEqual(t, len(form), maxFields)
		req, err := s.readRequest(c, form)
		if err != nil {
			requireRefusal(t, err)
			return
		}
		to, err := url.Parse(s.answer(&Pending{redirect: req.redirect, mode: req.mode, state: req.state}, url.Values{"code": {"c"}}))
		require.NoError(t, err)
		require.Contains(t, []string{"app.example.com", "127.0.0.1", ""}, to.Hostname())
		require.Equal(t, "S256", form["code_challenge_method"])
	})
}

func requireRefusal(t *testing.T, err error) {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.GreaterOrEqual(t, e.Status, 400)
	require.Less(t, e.Status, 500)
	require.Less(t, len(e.Description), 2000)
	// It may stand in a header between quotes.
	require.Equal(t, -1, strings.IndexFunc(e.Code, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }))
}

func FuzzTokenForm(f *testing.F) {
	f.Add("grant_type=refresh_token&refresh_token=ref-abc.1.AAAA")
	f.Add("grant_type=authorization_code&code=x&code_verifier=y&redirect_uri=z")
	s := fuzzServer()
	f.Fuzz(func(t *testing.T, body string) {
		form, err := parseForm(body)
		if err != nil {
			requireRefusal(t, err)
			return
		}
		id, generation, ok := parseRefresh(form["refresh_token"])
		if !ok {
			return
		}
		require.Positive(t, generation)
		require.NotContains(t, id, ".")
		// Nobody writes a token without the secret, not even for a row that is known.
		require.False(t, s.isRefreshToken(&grantRow{ID: id, Generation: generation}, generation, form["refresh_token"]))
		_, ok = s.readAccess(form["refresh_token"])
		require.False(t, ok)
	})
}

func FuzzProof(f *testing.F) {
	f.Add("eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2In0.e30.AAAA")
	f.Add("..")
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := parseJWS(raw, maxProof)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(raw), maxProof)
		require.Equal(t, raw, p.signed+"."+b64.EncodeToString(p.sig), "one token has one spelling")
		if p.head.JWK == nil {
			return
		}
		key, jkt, err := p.head.JWK.key()
		if err != nil {
			return
		}
		require.Len(t, jkt, 43)
		_ = p.verified(key)
	})
}

func FuzzClientMetadata(f *testing.F) {
	f.Add("https://app.example.com/client.json", []byte(`{"client_id":"https://app.example.com/client.json","redirect_uris":["https://app.example.com/cb"],"scope":"atproto","dpop_bound_access_tokens":true,"token_endpoint_auth_method":"none"}`))
	f.Add("https://app.example.com/client.json", []byte(`{"client_id":"https://app.example.com/client.json","redirect_uris":["com.example.app:/cb"],"application_type":"native","scope":"atproto","dpop_bound_access_tokens":true,"token_endpoint_auth_method":"none","client_name":"x\u202e"}`))
	f.Add("http://localhost?redirect_uri=http://127.0.0.1/&scope=atproto", []byte(`{"jwks":{"keys":[{"kty":"EC"}]}}`))
	f.Fuzz(func(t *testing.T, id string, raw []byte) {
		loopback, at, err := parseClientID(id, false)
		if err != nil {
			requireRefusal(t, err)
			return
		}
		var c *client
		if loopback {
			c, err = loopbackClient(id)
		} else {
			require.Equal(t, "https", at.Scheme)
			require.False(t, localName(at.Hostname()))
			var doc document
			if json.Unmarshal(raw, &doc) != nil {
				return
			}
			c, err = doc.client(id, at, false)
		}
		if err != nil {
			requireRefusal(t, err)
			return
		}
		require.Equal(t, id, c.ID)
		require.Contains(t, c.scope, "atproto")
		require.LessOrEqual(t, len([]rune(c.Name)), maxName)
		require.NotContains(t, c.Name, "\n")
		for _, r := range c.redirects {
			u, err := url.Parse(r)
			require.NoError(t, err)
			require.NotContains(t, []string{"javascript", "data", "file", "blob", "vbscript", ""}, u.Scheme)
			require.True(t, c.mayRedirect(r))
		}
	})
}

// The query of the authorization page names nothing but a request that was pushed.
func FuzzAuthorizeQuery(f *testing.F) {
	f.Add("client_id=http://localhost&request_uri=urn:ietf:params:oauth:request_uri:abc")
	f.Add("request_uri=urn:ietf:params:oauth:request_uri:")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		id, err := requestID(q.Get("client_id"), q.Get("request_uri"))
		if err != nil {
			requireRefusal(t, err)
			return
		}
		require.NotEmpty(t, id)
		require.LessOrEqual(t, len(id), maxRequestID)
		require.Equal(t, requestURI+id, q.Get("request_uri"))
		require.Equal(t, -1, strings.IndexFunc(id, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '2' || r > '7') }))
	})
}
