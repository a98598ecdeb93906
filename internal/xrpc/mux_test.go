package xrpc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	query = "org.city-sync.test.getThing"
	proc  = "org.city-sync.test.putThing"
)

// lockedBuffer is a log that several requests write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, m *xrpc.Mux) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(m)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

type answer struct {
	status int
	header http.Header
	body   string
	name   string // of the error, if it is one
}

func send(t *testing.T, method, url, contentType, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return do(t, req)
}

func do(t *testing.T, req *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var e struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(raw, &e)
	return answer{resp.StatusCode, resp.Header, string(raw), e.Error}
}

func TestRouting(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	m.Query(query, func(*xrpc.Call) (any, error) { return map[string]string{"is": "<here>"}, nil })
	m.Procedure(proc, func(*xrpc.Call) (any, error) { return nil, nil })
	m.Handle("/xrpc/_health", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }))
	srv := serve(t, m)
	for name, tc := range map[string]struct {
		method, path string
		status       int
		error, body  string
	}{
		"query by GET":           {"GET", "/xrpc/" + query, 200, "", "{\"is\":\"<here>\"}\n"},
		"query by HEAD":          {"HEAD", "/xrpc/" + query, 200, "", ""},
		"query by POST":          {"POST", "/xrpc/" + query, 405, "InvalidRequest", ""},
		"procedure by POST":      {"POST", "/xrpc/" + proc, 200, "", ""},
		"procedure by GET":       {"GET", "/xrpc/" + proc, 405, "InvalidRequest", ""},
		"procedure by DELETE":    {"DELETE", "/xrpc/" + proc, 405, "InvalidRequest", ""},
		"unknown method":         {"GET", "/xrpc/org.city-sync.test.other", 501, "MethodNotImplemented", ""},
		"no NSID":                {"GET", "/xrpc/x", 501, "MethodNotImplemented", ""},
		"handler beside methods": {"GET", "/xrpc/_health", 200, "", "well"},
		"elsewhere":              {"GET", "/nowhere", 404, "NotFound", ""},
		"malformed query":        {"GET", "/xrpc/" + query + "?a=%zz", 400, "InvalidRequest", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := send(t, tc.method, srv.URL+tc.path, "", "")
			assert.Equal(t, tc.status, got.status)
			assert.Equal(t, tc.error, got.name)
			if tc.error == "" {
				assert.Equal(t, tc.body, got.body)
			}
			assert.NotEmpty(t, got.header.Get("X-Request-Id"))
			assert.Equal(t, "*", got.header.Get("Access-Control-Allow-Origin"))
			assert.Empty(t, got.header.Get("Access-Control-Allow-Credentials"))
			if tc.status == 405 {
				assert.NotEmpty(t, got.header.Get("Allow"))
			}
		})
	}
}

func TestWhatIsNotServedGoesToTheOtherwiseMethod(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	m.Query(query, func(*xrpc.Call) (any, error) { return "own", nil })
	m.Otherwise(func(c *xrpc.Call) (any, error) {
		body, err := io.ReadAll(c.R.Body)
		return c.R.Method + " " + c.NSID + " " + c.Param("a") + " " + string(body), err
	}, xrpc.MaxBody(10))
	srv := serve(t, m)
	const other = "app.other.thing"
	assert.JSONEq(t, `"POST app.other.thing  payload"`, send(t, "POST", srv.URL+"/xrpc/"+other, "text/plain", "payload").body)
	assert.JSONEq(t, `"GET app.other.thing b "`, send(t, "GET", srv.URL+"/xrpc/"+other+"?a=b", "", "").body)
	assert.JSONEq(t, `"own"`, send(t, "GET", srv.URL+"/xrpc/"+query, "", "").body)
	assert.Equal(t, 405, send(t, "DELETE", srv.URL+"/xrpc/"+other, "", "").status)
	assert.Equal(t, 405, send(t, "POST", srv.URL+"/xrpc/"+query, "", "").status, "a method served here is not passed over for its verb")
	assert.Equal(t, 413, send(t, "POST", srv.URL+"/xrpc/"+other, "text/plain", "more than ten").status)
	assert.Equal(t, 400, send(t, "GET", srv.URL+"/xrpc/no..nsid", "", "").status)
}

func TestPreflightIsAnsweredWithoutTheMethod(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	m.Procedure(proc, func(*xrpc.Call) (any, error) { t.Error("method ran"); return nil, nil })
	srv := serve(t, m)
	req, err := http.NewRequestWithContext(t.Context(), "OPTIONS", srv.URL+"/xrpc/"+proc, nil)
	require.NoError(t, err)
	req.Header.Set("Access-Control-Request-Headers", "authorization, content-type, atproto-proxy")
	got := do(t, req)
	assert.Equal(t, 204, got.status)
	assert.Equal(t, "authorization, content-type, atproto-proxy", got.header.Get("Access-Control-Allow-Headers"))
	assert.Equal(t, "86400", got.header.Get("Access-Control-Max-Age"))

	req.Header.Set("Access-Control-Request-Headers", `x"; y`)
	assert.Empty(t, do(t, req).header.Get("Access-Control-Allow-Headers"))
}

func TestParametersAreStrict(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	m.Query(query, func(c *xrpc.Call) (any, error) {
		limit, err := c.Int("limit", 50, 1, 100)
		if err != nil {
			return nil, err
		}
		deep, err := c.Bool("deep", false)
		if err != nil {
			return nil, err
		}
		tags, err := c.Strings("tag", 2)
		if err != nil {
			return nil, err
		}
		return map[string]any{"did": c.Param("did"), "limit": limit, "deep": deep, "tags": tags}, nil
	})
	m.Query("org.city-sync.test.needThing", func(c *xrpc.Call) (any, error) {
		_, err := c.Required("uri")
		return nil, err
	})
	srv := serve(t, m)
	for q, want := range map[string]string{
		"":                                  `{"deep":false,"did":"","limit":50,"tags":null}`,
		"?did=a&limit=7":                    `{"deep":false,"did":"a","limit":7,"tags":null}`,
		"?tag=a&tag=b&deep=true":            `{"deep":true,"did":"","limit":50,"tags":["a","b"]}`,
		"?other=1&other=2":                  `{"deep":false,"did":"","limit":50,"tags":null}`,
		"?did=a&did=b":                      "refused",
		"?did=%ff":                          "refused",
		"?did=%00":                          "refused",
		"?limit=0":                          "refused",
		"?limit=101":                        "refused",
		"?limit=":                           "refused",
		"?limit=%2B5":                       "refused",
		"?limit=5.0":                        "refused",
		"?limit=5&limit=5":                  "refused",
		"?deep=1":                           "refused",
		"?deep=TRUE":                        "refused",
		"?tag=a&tag=b&tag=c":                "refused",
		"?tag=%fe":                          "refused",
		"?did=" + strings.Repeat("x", 9000): "refused",
	} {
		got := send(t, "GET", srv.URL+"/xrpc/"+query+q, "", "")
		if want == "refused" {
			assert.Equal(t, 400, got.status, "%.40s", q)
			assert.Equal(t, "InvalidRequest", got.name, "%.40s", q)
		} else {
			assert.JSONEq(t, want, got.body, q)
		}
	}
	assert.Equal(t, 400, send(t, "GET", srv.URL+"/xrpc/org.city-sync.test.needThing", "", "").status)
	assert.Equal(t, 200, send(t, "GET", srv.URL+"/xrpc/org.city-sync.test.needThing?uri=x", "", "").status)
}

func TestBodiesAreStrictAndBounded(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{MaxBody: 64})
	m.Procedure(proc, func(c *xrpc.Call) (any, error) {
		var in struct {
			A int `json:"a"`
		}
		if err := c.Body(&in); err != nil {
			return nil, err
		}
		return in, nil
	})
	m.Procedure("org.city-sync.test.upload", func(c *xrpc.Call) (any, error) {
		n, err := io.Copy(io.Discard, c.R.Body)
		return map[string]int64{"n": n}, err
	}, xrpc.MaxBody(200))
	srv := serve(t, m)
	long := `{"a":1,"b":"` + strings.Repeat("x", 100) + `"}`
	for name, tc := range map[string]struct {
		contentType, body string
		status            int
		error             string
	}{
		"good":               {"application/json", `{"a":1,"other":[]}`, 200, ""},
		"charset":            {"application/json; charset=UTF-8", `{"a":1}`, 200, ""},
		"space after":        {"application/json", "{\"a\":1}\n ", 200, ""},
		"other charset":      {"application/json; charset=latin1", `{"a":1}`, 415, "UnsupportedMediaType"},
		"no content type":    {"", `{"a":1}`, 415, "UnsupportedMediaType"},
		"other content type": {"text/plain", `{"a":1}`, 415, "UnsupportedMediaType"},
		"trailing data":      {"application/json", `{"a":1}{"a":2}`, 400, "InvalidRequest"},
		"wrong type":         {"application/json", `{"a":"1"}`, 400, "InvalidRequest"},
		"empty":              {"application/json", ``, 400, "InvalidRequest"},
		"cut off":            {"application/json", `{"a":`, 400, "InvalidRequest"},
		"not UTF-8":          {"application/json", "{\"a\":1,\"b\":\"\xff\"}", 400, "InvalidRequest"},
		"too long":           {"application/json", long, 413, "PayloadTooLarge"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := send(t, "POST", srv.URL+"/xrpc/"+proc, tc.contentType, tc.body)
			assert.Equal(t, tc.status, got.status, got.body)
			assert.Equal(t, tc.error, got.name)
		})
	}
	t.Run("too long without a length", func(t *testing.T) {
		t.Parallel()
		req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL+"/xrpc/"+proc, io.MultiReader(strings.NewReader(long)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		assert.Equal(t, "PayloadTooLarge", do(t, req).name)
	})
	t.Run("own limit of a method", func(t *testing.T) {
		t.Parallel()
		assert.Equal(t, 200, send(t, "POST", srv.URL+"/xrpc/org.city-sync.test.upload", "x/y", strings.Repeat("x", 200)).status)
		assert.Equal(t, 413, send(t, "POST", srv.URL+"/xrpc/org.city-sync.test.upload", "x/y", strings.Repeat("x", 201)).status)
	})
	t.Run("compressed", func(t *testing.T) {
		t.Parallel()
		req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL+"/xrpc/"+proc, strings.NewReader("{}"))
		require.NoError(t, err)
		req.Header.Set("Content-Encoding", "gzip")
		assert.Equal(t, 415, do(t, req).status)
	})
}

// X2
func TestOnlyNamedErrorsAreShown(t *testing.T) {
	t.Parallel()
	log := new(lockedBuffer)
	m := xrpc.NewMux(xrpc.Config{Log: slog.New(slog.NewTextHandler(log, nil))})
	m.Query(query, func(c *xrpc.Call) (any, error) {
		switch c.Param("how") {
		case "secret":
			return nil, errors.New("secret: dsn=postgres://")
		case "panic":
			panic("secret panic")
		case "half":
			_, _ = io.WriteString(c.W, "half")
			panic("secret panic")
		case "unencodable":
			return map[string]any{"f": func() {}}, nil
		case "wrapped":
			return nil, errors.Join(errors.New("secret"), xrpc.Errorf(409, "SlotsFull", "no slot left").With(map[string]any{"slots": 3}))
		case "retry":
			return nil, xrpc.Errorf(503, "NotYetSeen", "wait").After(1500 * 1e6)
		}
		return nil, xrpc.Errorf(401, "AuthMissing", "who?")
	})
	srv := serve(t, m)
	ask := func(how string) answer { return send(t, "GET", srv.URL+"/xrpc/"+query+"?how="+how, "", "") }

	for _, how := range []string{"secret", "panic", "unencodable"} {
		got := ask(how)
		assert.Equal(t, 500, got.status)
		assert.JSONEq(t, `{"error":"InternalServerError","message":"internal server error"}`, got.body)
		assert.Contains(t, log.String(), got.header.Get("X-Request-Id"))
	}
	assert.Contains(t, log.String(), "secret: dsn")

	got := ask("wrapped")
	assert.Equal(t, 409, got.status)
	assert.JSONEq(t, `{"error":"SlotsFull","message":"no slot left","figures":{"slots":3}}`, got.body)

	assert.Equal(t, "2", ask("retry").header.Get("Retry-After"))
	assert.Equal(t, "Bearer", ask("").header.Get("WWW-Authenticate"))

	_, err := http.Get(srv.URL + "/xrpc/" + query + "?how=half")
	if err == nil {
		t.Error("an answer that broke off must not look whole")
	}
}

func TestWhatIsAwayIsNoFinalError(t *testing.T) {
	t.Parallel()
	gone := errors.New("secret: no server at this socket")
	m := xrpc.NewMux(xrpc.Config{Away: func(err error) bool { return errors.Is(err, gone) }})
	m.Query(query, func(c *xrpc.Call) (any, error) {
		switch c.Param("how") {
		case "gone":
			return nil, fmt.Errorf("find account: %w", gone)
		case "named":
			return nil, errors.Join(gone, xrpc.Errorf(409, "SlotsFull", "no slot left"))
		}
		return nil, errors.New("something else")
	})
	srv := serve(t, m)
	ask := func(how string) answer { return send(t, "GET", srv.URL+"/xrpc/"+query+"?how="+how, "", "") }

	got := ask("gone")
	assert.Equal(t, 503, got.status)
	assert.JSONEq(t, `{"error":"NotEnoughResources","message":"the service cannot work just now; ask again"}`, got.body)
	assert.Equal(t, "1", got.header.Get("Retry-After"))
	assert.Equal(t, 409, ask("named").status)
	assert.Equal(t, 500, ask("").status)
}

func TestMethodsAreBoundedInNumber(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{MaxConcurrent: 1})
	entered, leave := make(chan struct{}), make(chan struct{})
	m.Query(query, func(c *xrpc.Call) (any, error) {
		if c.Has("wait") {
			close(entered)
			<-leave
		}
		return nil, nil
	})
	srv := serve(t, m)
	done := make(chan int, 1)
	go func() {
		resp, err := http.Get(srv.URL + "/xrpc/" + query + "?wait")
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	<-entered
	got := send(t, "GET", srv.URL+"/xrpc/"+query, "", "")
	assert.Equal(t, 503, got.status)
	assert.Equal(t, "1", got.header.Get("Retry-After"))
	close(leave)
	assert.Equal(t, 200, <-done)
	assert.Equal(t, 200, send(t, "GET", srv.URL+"/xrpc/"+query, "", "").status)
}

func TestWebSocketPassesThrough(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	m.Handle("/xrpc/com.atproto.sync.subscribeRepos", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if !assert.NoError(t, err) {
			return
		}
		assert.NoError(t, c.Write(r.Context(), websocket.MessageText, []byte("hello")))
		_ = c.Close(websocket.StatusNormalClosure, "")
	}))
	srv := serve(t, m)
	c, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http")+"/xrpc/com.atproto.sync.subscribeRepos", nil)
	require.NoError(t, err)
	defer c.CloseNow()
	_, msg, err := c.Read(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "hello", string(msg))
}

func TestStreamsAreFlushed(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	leave := make(chan struct{})
	m.Query(query, func(c *xrpc.Call) (any, error) {
		_, _ = io.WriteString(c.W, "first")
		if err := http.NewResponseController(c.W).Flush(); err != nil {
			return nil, err
		}
		<-leave
		return xrpc.Written, nil
	})
	srv := serve(t, m)
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/xrpc/"+query, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b := make([]byte, 5)
	_, err = io.ReadFull(resp.Body, b)
	require.NoError(t, err)
	close(leave)
	assert.Equal(t, "first", string(b))
}

func TestStrangersAddNoSeries(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := xrpc.NewMux(xrpc.Config{Metrics: reg})
	xrpc.NewMux(xrpc.Config{Metrics: reg}) // a second service of the process
	m.Query(query, func(*xrpc.Call) (any, error) { return nil, nil })
	srv := serve(t, m)
	send(t, "GET", srv.URL+"/xrpc/"+query, "", "")
	send(t, "GET", srv.URL+"/xrpc/a.b.c", "", "")
	send(t, "GET", srv.URL+"/xrpc/a.b.d", "", "")
	families, err := reg.Gather()
	require.NoError(t, err)
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "xrpc_requests_total" {
			continue
		}
		for _, c := range f.GetMetric() {
			labels := c.GetLabel()
			require.Len(t, labels, 2)
			counts[labels[0].GetValue()+" "+labels[1].GetValue()] = c.GetCounter().GetValue()
		}
	}
	assert.Equal(t, map[string]float64{query + " 200": 1, "other 501": 2}, counts)
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"Bearer abc":     "abc",
		"bearer abc":     "abc",
		"Bearer":         "",
		"Bearer ":        "",
		"Bearer a b":     "",
		"DPoP abc":       "",
		"Basic YTpi":     "",
		"Bearer a,b":     "",
		"Bearer  double": "",
	} {
		c := &xrpc.Call{R: httptest.NewRequest("GET", "/", nil)}
		c.R.Header.Set("Authorization", header)
		got, ok := c.Bearer()
		assert.Equal(t, want, got, header)
		assert.Equal(t, want != "", ok, header)
	}
	c := &xrpc.Call{R: httptest.NewRequest("GET", "/", nil)}
	c.R.SetBasicAuth("admin", "p:w")
	u, p, ok := c.Basic()
	assert.True(t, ok)
	assert.Equal(t, "admin p:w", u+" "+p)
	c.R.Header.Add("Authorization", "Bearer x")
	_, _, ok = c.Basic()
	assert.False(t, ok, "two credentials are none")
	_, ok = c.Bearer()
	assert.False(t, ok, "two credentials are none")
}
