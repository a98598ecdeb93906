package xrpc_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/xrpc"
)

// FuzzParams: whatever the query says, a method sees values within its limits or is not believed, and nothing becomes a 500.
func FuzzParams(f *testing.F) {
	for _, q := range []string{"", "s=a&n=3&b=true&many=x&many=y", "n=-1", "n=99999999999999999999", "s=a&s=b", "s=%00", "s=%ff", "%zz", "n=+3", "b=TRUE", "many=" + strings.Repeat("x&many=", 30)} {
		f.Add(q)
	}
	type seen struct {
		s    string
		n    int64
		many []string
	}
	var got seen
	m := xrpc.NewMux(xrpc.Config{})
	m.Query(query, func(c *xrpc.Call) (any, error) {
		got.s = c.Param("s")
		got.n, _ = c.Int("n", 5, 1, 10)
		_, _ = c.Bool("b", false)
		got.many, _ = c.Strings("many", 3)
		_, _ = c.Required("s")
		return nil, nil
	})
	f.Fuzz(func(t *testing.T, q string) {
		got = seen{}
		rec := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/xrpc/"+query, http.NoBody)
		r.URL.RawQuery = q
		m.ServeHTTP(rec, r)
		require.Contains(t, []int{200, 400}, rec.Code)
		if rec.Code != 200 {
			return
		}
		want, err := url.ParseQuery(q)
		require.NoError(t, err)
		require.Equal(t, want.Get("s"), got.s)
		require.True(t, got.n >= 1 && got.n <= 10)
		require.LessOrEqual(t, len(got.many), 3)
		for _, v := range append(got.many, got.s) {
			require.True(t, utf8.ValidString(v) && !strings.Contains(v, "\x00"))
		}
	})
}

// FuzzBody: a body is read whole and as one value, or refused.
func FuzzBody(f *testing.F) {
	for _, b := range []string{"", "{}", `{"a":1}x`, `{"a":1} {"a":2}`, "null", `{"a":"` + "\xff" + `"}`, strings.Repeat(`{"a":`, 500), `{"a":1e999}`, `[` + strings.Repeat("1,", 3000)} {
		f.Add("application/json", b)
	}
	f.Add("application/json; charset=latin1", "{}")
	f.Add("text/plain", "{}")
	f.Add(";;", "{}")
	const most = 4096
	m := xrpc.NewMux(xrpc.Config{MaxBody: most})
	m.Procedure(proc, func(c *xrpc.Call) (any, error) {
		var v struct {
			A   int64
			Any any
		}
		return nil, c.Body(&v)
	})
	f.Fuzz(func(t *testing.T, contentType, body string) {
		rec := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/xrpc/"+proc, io.NopCloser(strings.NewReader(body)))
		r.Header["Content-Type"] = []string{contentType}
		m.ServeHTTP(rec, r)
		require.Contains(t, []int{200, 400, 413, 415}, rec.Code)
		if rec.Code == 200 {
			require.LessOrEqual(t, len(body), most)
			require.True(t, json.Valid([]byte(body)) && utf8.ValidString(body))
		}
	})
}

// FuzzServiceToken: of all tokens only the one that the issuer signed, for this method and now, says who calls. A second use says nothing.
func FuzzServiceToken(f *testing.F) {
	key, err := atcrypto.ParsePrivateBytesK256([]byte(strings.Repeat("k", 32)))
	require.NoError(f, err)
	pub, err := key.PublicKey()
	require.NoError(f, err)
	now := clock.New(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	// The id is fixed, so that all processes that fuzz agree on what the issuer said.
	said := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"ES256K"}`)) + "." + base64.RawURLEncoding.EncodeToString(
		fmt.Appendf(nil, `{"iss":%q,"aud":%q,"lxm":%q,"exp":%d,"jti":"1"}`, alice, ledger, lxm, now.Now().Add(time.Minute).Unix()))
	sig, err := key.HashAndSign([]byte(said))
	require.NoError(f, err)
	good := said + "." + base64.RawURLEncoding.EncodeToString(sig)
	f.Add(good)
	f.Add(good + "A")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(good[:len(good)-4])
	for _, claims := range []string{`{"iss":"did:web:localhost"}`, `{"iss":1}`, `{"exp":"1772366460"}`, `{"exp":1772366460.5}`, `{"exp":-1}`} {
		f.Add("eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NksifQ." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + strings.Repeat("A", 86))
	}
	f.Fuzz(func(t *testing.T, tok string) {
		auth := xrpc.NewServiceAuth(xrpc.ServiceAuthConfig{
			Directory: &book{known: map[syntax.DID]atcrypto.PublicKey{alice: pub}, cached: map[syntax.DID]atcrypto.PublicKey{}},
			Audience:  []string{ledger}, Replay: &memoryReplay{clock: now}, Clock: now,
		})
		did, err := auth.Verify(context.Background(), tok, lxm)
		if err != nil {
			var refusal *xrpc.Error
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, 401, refusal.Status)
			require.Empty(t, did)
			return
		}
		require.Equal(t, syntax.DID(alice), did)
		require.Equal(t, said, tok[:strings.LastIndexByte(tok, '.')], "a token that nobody signed")
		_, err = auth.Verify(context.Background(), tok, lxm)
		refusedAs(t, err, xrpc.NameJwtReplayed)
	})
}

// A method without a name of its own has no callers: a token that names no method must not fit it.
func TestATokenForNoMethodFitsNone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tok := forge(t, f.key, map[string]any{"typ": "JWT", "alg": "ES256K"},
		map[string]any{"iss": alice, "aud": ledger, "exp": f.now.Now().Add(time.Minute).Unix(), "jti": "1"})
	_, err := f.auth.Verify(t.Context(), tok, "")
	refusedAs(t, err, xrpc.NameBadJwtLexiconMethod)
}

// A packed body would be measured before it is unpacked: it is not taken at all.
func TestPackedBodiesAreNotTaken(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	m.Procedure(proc, func(c *xrpc.Call) (any, error) { return nil, c.Body(&struct{}{}) })
	for encoding, want := range map[string]int{"": 200, "identity": 200, "gzip": 415, "gzip, identity": 415} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/xrpc/"+proc, strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Content-Encoding", encoding)
		m.ServeHTTP(rec, r)
		require.Equal(t, want, rec.Code, encoding)
	}
}

func TestHandlersBesideTheMethodsAreBoundedInNumber(t *testing.T) {
	t.Parallel()
	inside, leave := make(chan struct{}), make(chan struct{})
	h := xrpc.Limit(2, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-leave
	}))
	ask := func() *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
		return rec
	}
	answers := make(chan int, 3)
	for range 2 {
		go func() { answers <- ask().Code }()
		<-inside
	}
	over := ask()
	require.Equal(t, http.StatusServiceUnavailable, over.Code)
	require.NotEmpty(t, over.Header().Get("Retry-After"))
	close(leave)
	require.Equal(t, []int{200, 200}, []int{<-answers, <-answers})
	go func() { <-inside }()
	require.Equal(t, 200, ask().Code, "who has left gives room")
}
