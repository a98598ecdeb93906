package pds

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/xrpc"
)

const carried = "com.example.getThing"

// registered is a DID whose document has one service.
func (b *bed) registered(fragment, endpoint string) syntax.DID {
	b.t.Helper()
	did, _ := b.registeredWith(fragment, endpoint)
	return did
}

func (b *bed) registeredWith(fragment, endpoint string) (syntax.DID, atcrypto.PrivateKey) {
	b.t.Helper()
	key, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(b.t, err)
	pub, err := key.PublicKey()
	require.NoError(b.t, err)
	op := identity.Operation{
		RotationKeys: []string{pub.DIDKey()}, VerificationMethods: map[string]string{}, AlsoKnownAs: []string{},
		Services: map[string]identity.Service{fragment: {Type: "TestService", Endpoint: endpoint}},
	}
	require.NoError(b.t, op.Sign(key))
	did, err := identity.GenesisDID(op)
	require.NoError(b.t, err)
	require.NoError(b.t, b.plc.Submit(b.t.Context(), did, op))
	return did, key
}

type usedOnce struct{ sync.Map }

func (u *usedOnce) Use(_ context.Context, key string, _ time.Time) (bool, error) {
	_, used := u.LoadOrStore(key, true)
	return !used, nil
}

// otherService is a service of the network: it verifies who calls.
type otherService struct {
	*httptest.Server
	DID  syntax.DID
	name string // for the header

	rotation atcrypto.PrivateKey

	headers chan http.Header
}

func (b *bed) service(handle func(w http.ResponseWriter, r *http.Request, caller syntax.DID)) *otherService {
	b.t.Helper()
	o := &otherService{headers: make(chan http.Header, 100)}
	var auth *xrpc.ServiceAuth
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.headers <- r.Header.Clone()
		caller := syntax.DID("")
		if tok, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			did, err := auth.Verify(r.Context(), tok, strings.TrimPrefix(r.URL.Path, "/xrpc/"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusUnauthorized)
				return
			}
			caller = did
		}
		handle(w, r, caller)
	}))
	b.t.Cleanup(o.Close)
	o.DID, o.rotation = b.registeredWith("thing", o.URL)
	o.name = o.DID.String() + "#thing"
	auth = xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{Directory: b.dir, Audience: []string{o.DID.String()}, Replay: &usedOnce{}, Clock: b.clock})
	return o
}

// through calls a method that is not served here.
func (u *user) through(service, verb, path string, body io.Reader, headers ...string) answer {
	u.t.Helper()
	return u.do(u.carriedRequest(service, verb, path, body, headers...))
}

func (u *user) carriedRequest(service, verb, path string, body io.Reader, headers ...string) *http.Request {
	u.t.Helper()
	req, err := http.NewRequest(verb, u.url+"/xrpc/"+path, body)
	require.NoError(u.t, err)
	if u.Access != "" {
		req.Header.Set("Authorization", "Bearer "+u.Access)
	}
	if service != "" {
		req.Header.Set("Atproto-Proxy", service)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return req
}

func TestCallReachesTheNamedServiceInTheAccountsName(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	o := b.service(func(w http.ResponseWriter, r *http.Request, caller syntax.DID) {
		body, _ := io.ReadAll(r.Body)
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Atproto-Repo-Rev", "3kabc")
		h.Set("Set-Cookie", "a=b")
		h.Set("X-Powered-By", "something")
		h.Set("Access-Control-Allow-Credentials", "true")
		_ = json.NewEncoder(w).Encode(m{"caller": caller, "verb": r.Method, "query": r.URL.RawQuery, "body": string(body)})
	})
	got := u.ok(u.through(o.name, http.MethodGet, carried+"?a=1&a=2&b=%2F", nil,
		"Cookie", "session=1", "X-Forwarded-For", "192.0.2.1", "Accept-Language", "es-MX", "Atproto-Accept-Labelers", "did:web:a.example",
		"X-Atproto-Thing", "1", "X-Other", "2", "Referer", "https://client.example/page"))
	assert.Equal(t, m{"caller": u.DID.String(), "verb": "GET", "query": "a=1&a=2&b=%2F", "body": ""}, got.JSON)
	assert.Equal(t, "3kabc", got.Header.Get("Atproto-Repo-Rev"))
	for _, name := range []string{"Set-Cookie", "X-Powered-By", "Access-Control-Allow-Credentials"} {
		assert.Empty(t, got.Header.Get(name), name)
	}
	assert.Equal(t, "default-src 'none'; sandbox", got.Header.Get("Content-Security-Policy"), "no page of this host")
	asked := <-o.headers
	assert.Equal(t, "es-MX", asked.Get("Accept-Language"))
	assert.Equal(t, "did:web:a.example", asked.Get("Atproto-Accept-Labelers"))
	assert.Equal(t, "1", asked.Get("X-Atproto-Thing"))
	for _, name := range []string{"Cookie", "X-Forwarded-For", "X-Other", "Referer", "Atproto-Proxy"} {
		assert.Empty(t, asked.Get(name), name)
	}
	assert.NotContains(t, asked.Get("Authorization"), u.Access, "the session stays here")

	got = u.ok(u.through(o.name, http.MethodPost, carried, strings.NewReader("a body"), "Content-Type", "text/plain"))
	assert.Equal(t, m{"caller": u.DID.String(), "verb": "POST", "query": "", "body": "a body"}, got.JSON)
	assert.Equal(t, "text/plain", (<-o.headers).Get("Content-Type"))
	u.ok(u.through(o.name, http.MethodGet, carried, nil))
	assert.NotEqual(t, asked.Get("Authorization"), (<-o.headers).Get("Authorization"), "each call has a token of its own")
}

// A document is kept for minutes, and a service may be added to it in that time.
func TestServiceThatWasAddedSinceIsFound(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	o := b.service(func(w http.ResponseWriter, _ *http.Request, _ syntax.DID) { _, _ = io.WriteString(w, "{}") })
	added := o.DID.String() + "#added"
	last, err := b.plc.Last(t.Context(), o.DID)
	require.NoError(t, err)
	assert.Equal(t, "InvalidRequest", u.through(added, "GET", carried, nil).name())
	op := last.Next()
	op.Services = map[string]identity.Service{"added": {Type: "TestService", Endpoint: o.URL}}
	require.NoError(t, op.Sign(o.rotation))
	require.NoError(t, b.plc.Submit(t.Context(), o.DID, op))
	assert.Equal(t, "InvalidRequest", u.through(added, "GET", carried, nil).name(), "not at every call")
	b.clock.Advance(askAnewEvery)
	u.ok(u.through(added, "GET", carried, nil))
}

func TestMethodsServedHereAreNotCarried(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	o := b.service(func(http.ResponseWriter, *http.Request, syntax.DID) { t.Error("carried") })
	assert.Equal(t, u.DID.String(), u.ok(u.through(o.name, http.MethodGet, "com.atproto.server.getSession", nil)).str("did"))
}

func TestCallsThatAreNotCarried(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, away := b.account("user"), b.account("away")
	o := b.service(func(http.ResponseWriter, *http.Request, syntax.DID) { t.Error("carried") })
	hosted := u.DID.String() + "#atproto_pds"
	withPath := b.registered("thing", o.URL+"/path").String() + "#thing"
	_, err := b.pool.Exec(t.Context(), `update account set status = 'deactivated' where did = $1`, away.DID)
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		who           *user
		service, verb string
		nsid          string
		status        int
		want          string
	}{
		"no service":          {u, "", "GET", carried, 501, "MethodNotImplemented"},
		"no DID":              {u, "thing#thing", "GET", carried, 400, "InvalidRequest"},
		"no fragment":         {u, o.DID.String(), "GET", carried, 400, "InvalidRequest"},
		"empty fragment":      {u, o.DID.String() + "#", "GET", carried, 400, "InvalidRequest"},
		"two fragments":       {u, o.name + "#b", "GET", carried, 400, "InvalidRequest"},
		"space":               {u, o.DID.String() + "#a b", "GET", carried, 400, "InvalidRequest"},
		"unknown DID":         {u, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa#thing", "GET", carried, 400, "InvalidRequest"},
		"unknown service":     {u, o.DID.String() + "#other", "GET", carried, 400, "InvalidRequest"},
		"endpoint with path":  {u, withPath, "GET", carried, 400, "InvalidRequest"},
		"ourselves by DID":    {u, b.cfg.ServiceDID.String() + "#atproto_pds", "GET", carried, 400, "InvalidRequest"},
		"ourselves by URL":    {u, hosted, "GET", carried, 400, "InvalidRequest"},
		"protected":           {u, o.name, "POST", "com.atproto.server.GETACCOUNTINVITECODES", 400, "InvalidToken"},
		"protected, in caps":  {u, o.name, "POST", "com.atproto.identity.SIGNPLCOPERATION", 400, "InvalidToken"},
		"another verb":        {u, o.name, "DELETE", carried, 405, "InvalidRequest"},
		"nobody":              {&user{bed: b}, o.name, "GET", carried, 401, "AuthMissing"},
		"an inactive account": {away, o.name, "GET", carried, 400, "RepoDeactivated"},
		"no method":           {u, o.name, "GET", "a..b", 400, "InvalidRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.who.through(tc.service, tc.verb, tc.nsid, nil)
			assert.Equal(t, tc.status, got.Status, "%s", got.Raw)
			assert.Equal(t, tc.want, got.name())
		})
	}
	assert.Equal(t, "InvalidRequest", u.through(o.name, "GET", carried, nil, "Atproto-Proxy", o.name).name(), "two services")
}

func TestServicesErrorComesBackInBounds(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	o := b.service(func(w http.ResponseWriter, r *http.Request, _ syntax.DID) {
		w.Header().Set("Set-Cookie", "a=b")
		switch r.URL.RawQuery {
		case "named":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"error":"CapExceeded","message":"no more","figures":{"left":3}}`)
		case "broken":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"error":"InternalServerError","message":"`+strings.Repeat("x", 1<<20))
		case "elsewhere":
			http.Redirect(w, r, "/xrpc/com.example.landed", http.StatusTemporaryRedirect)
		default:
			t.Errorf("reached %s", r.URL)
		}
	})
	named := u.through(o.name, "GET", carried+"?named", nil)
	assert.Equal(t, 429, named.Status)
	assert.Equal(t, m{"error": "CapExceeded", "message": "no more", "figures": m{"left": 3.0}}, named.JSON)
	assert.Equal(t, "7", named.Header.Get("Retry-After"))
	assert.Empty(t, named.Header.Get("Set-Cookie"))
	broken := u.through(o.name, "GET", carried+"?broken", nil)
	assert.Equal(t, http.StatusBadGateway, broken.Status, "its fault is not ours")
	assert.Less(t, len(broken.Raw), 8<<10)
	moved := u.through(o.name, "GET", carried+"?elsewhere", nil)
	assert.Equal(t, http.StatusBadGateway, moved.Status, "the token is for the service that was named")
	assert.Equal(t, xrpc.NameUpstreamFailure, moved.name())
}

func TestHostileServicesAreCutOff(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.server.Load().proxy.stall = 200 * time.Millisecond
	u := b.account("user")
	held := make(chan struct{})
	t.Cleanup(func() { close(held) })
	hold := func(r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-held:
		}
	}
	o := b.service(func(w http.ResponseWriter, r *http.Request, _ syntax.DID) {
		chunk := make([]byte, 1<<20)
		switch r.URL.RawQuery {
		case "mute":
			hold(r)
		case "slow":
			_, _ = w.Write([]byte("begun"))
			w.(http.Flusher).Flush()
			hold(r)
		case "declared":
			w.Header().Set("Content-Length", "100000000")
			_, _ = w.Write(chunk)
		case "endless":
			for range 20 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		case "bomb":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 20 {
				_, _ = z.Write(chunk)
			}
			_ = z.Close()
		case "coded":
			w.Header().Set("Content-Encoding", "br")
			_, _ = w.Write(chunk[:10])
		}
	})
	for query, want := range map[string]int{"mute": 504, "slow": 504, "declared": 502, "coded": 502} {
		got := u.through(o.name, "GET", carried+"?"+query, nil)
		assert.Equal(t, want, got.Status, query)
		assert.Equal(t, map[int]string{502: "UpstreamFailure", 504: "UpstreamTimeout"}[want], got.name(), query)
	}
	for _, query := range []string{"endless", "bomb"} {
		res, err := http.DefaultClient.Do(u.carriedRequest(o.name, "GET", carried+"?"+query, nil))
		require.NoError(t, err, query)
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		assert.Error(t, err, "%s: the connection is cut, so that the answer does not pass for whole", query)
		assert.LessOrEqual(t, n, int64(proxyMaxAnswer+1), query)
	}
	inside := b.registered("thing", "https://10.0.0.1").String() + "#thing"
	assert.Equal(t, "UpstreamFailure", u.through(inside, "GET", carried, nil).name(), "an inside address")
	o.Close()
	assert.Equal(t, "UpstreamFailure", u.through(o.name, "GET", carried, nil).name(), "nobody there")
}

func TestBodyOfACarriedCallIsBounded(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.MaxBlob = 1000 })
	u := b.account("user")
	o := b.service(func(w http.ResponseWriter, r *http.Request, _ syntax.DID) {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			_ = json.NewEncoder(w).Encode(n)
		}
	})
	whole := strings.Repeat("x", proxyMaxBody)
	assert.Equal(t, "1000000\n", string(u.ok(u.through(o.name, "POST", carried, strings.NewReader(whole))).Raw))
	assert.Equal(t, http.StatusRequestEntityTooLarge, u.through(o.name, "POST", carried, strings.NewReader(whole+"x")).Status)
	chunked := io.MultiReader(strings.NewReader(whole), strings.NewReader("x")) // of no known length
	assert.Equal(t, http.StatusRequestEntityTooLarge, u.through(o.name, "POST", carried, chunked).Status)
}

func TestOneAccountHoldsNoOthersSlots(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	free := make(chan struct{})
	o := b.service(func(_ http.ResponseWriter, r *http.Request, caller syntax.DID) {
		if caller == u.DID {
			<-free
		}
	})
	var calls sync.WaitGroup
	for range proxyAccount {
		calls.Go(func() { assert.Equal(t, 200, u.through(o.name, "GET", carried, nil).Status) })
	}
	for range proxyAccount {
		<-o.headers // it has arrived
	}
	refused := u.through(o.name, "GET", carried, nil)
	assert.Equal(t, 503, refused.Status)
	assert.NotEmpty(t, refused.Header.Get("Retry-After"))
	other.ok(other.through(o.name, "GET", carried, nil))
	close(free)
	calls.Wait()
	u.ok(u.through(o.name, "GET", carried, nil))
}

func TestAppViewGetsWhatTheClientNamesNobodyFor(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	o := b.service(func(w http.ResponseWriter, r *http.Request, caller syntax.DID) {
		if strings.HasSuffix(r.URL.Path, "repo.getRecord") && r.URL.Query().Get("rkey") != "there" {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		_ = json.NewEncoder(w).Encode(m{"caller": caller, "path": r.URL.Path})
	})
	b.cfg.AppView, b.cfg.AppViewURL = "did:web:appview.example#thing", o.URL
	b.restart()
	assert.Equal(t, 401, u.through("", "GET", carried, nil).Status, "the token names the DID that is set, which is not this service's")
	b.cfg.AppView = o.name
	b.restart()
	assert.Equal(t, u.DID.String(), u.ok(u.through("", "GET", carried, nil)).str("caller"))

	record := func(rkey string) answer {
		return u.get(u.Access, "com.atproto.repo.getRecord", "repo", "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "collection", note, "rkey", rkey)
	}
	assert.Equal(t, m{"caller": "", "path": "/xrpc/com.atproto.repo.getRecord"}, record("there").JSON, "a foreign record is read in nobody's name")
	assert.Equal(t, "RepoNotFound", record("missing").name())
}

func TestAudienceMayNameTheService(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.ServiceAudience = true })
	u := b.account("user")
	var caller syntax.DID
	o := b.service(nil)
	auth := xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{Directory: b.dir, Audience: []string{o.name}, Replay: &usedOnce{}, Clock: b.clock})
	assert.Equal(t, 401, u.through(o.name, "GET", carried, nil).Status)
	caller, err := auth.Verify(t.Context(), strings.TrimPrefix((<-o.headers).Get("Authorization"), "Bearer "), carried)
	require.NoError(t, err)
	assert.Equal(t, u.DID, caller)
}

func TestPlainAppPasswordReachesNoPrivateMessages(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	o := b.service(func(w http.ResponseWriter, _ *http.Request, _ syntax.DID) { _, _ = io.WriteString(w, "{}") })
	for _, privileged := range []bool{false, true} {
		phone := &user{bed: b, DID: u.DID, Access: b.ok(u.signIn(u.appPassword(strconv.FormatBool(privileged), privileged))).str("accessJwt")}
		b.ok(phone.through(o.name, "GET", carried, nil))
		for _, lxm := range []string{"chat.bsky.convo.getConvo", "chat.bsky.CONVO.getConvo"} {
			assert.Equal(t, privileged, phone.through(o.name, "GET", lxm, nil).Status == http.StatusOK, lxm)
		}
	}
}

func TestAppCallsTheServicesItWasGrantedOnly(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	o := b.service(func(w http.ResponseWriter, _ *http.Request, caller syntax.DID) {
		_ = json.NewEncoder(w).Encode(m{"caller": caller})
	})
	a := &app{user: u, actor: u.DID}
	b.letIn(map[string]*app{"tok": a})
	call := func(granted string) answer {
		a.scope = "atproto " + granted
		req := u.carriedRequest(o.name, http.MethodGet, carried, nil)
		req.Header.Set("Authorization", "DPoP tok")
		return b.do(req)
	}
	for _, less := range []string{"", "rpc:com.example.other?aud=*", "rpc:" + carried + "?aud=did:web:other.example%23thing"} {
		no := call(less)
		assert.Equal(t, http.StatusForbidden, no.Status, less)
		assert.Equal(t, "InsufficientScope", no.name(), less)
	}
	assert.Equal(t, u.DID.String(), b.ok(call("rpc:"+carried+"?aud="+o.DID.String()+"%23thing")).str("caller"))
}
