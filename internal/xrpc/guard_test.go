package xrpc

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOnlyPublicUnicastAddressesAreDialed(t *testing.T) { // X4
	t.Parallel()
	for _, a := range []string{"1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"} {
		assert.True(t, isPublic(netip.MustParseAddr(a)), a)
	}
	for _, a := range []string{
		"0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.1.1",
		"240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:1.1.1.1", "::ffff:127.0.0.1", "::1.1.1.1", "64:ff9b::1.1.1.1", "64:ff9b:1::1", "100::1", "fc00::1", "fd12::1",
		"fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1", "5f00::1",
	} {
		assert.False(t, isPublic(netip.MustParseAddr(a)), a)
	}
	require.NoError(t, checkDial("tcp4", "1.1.1.1:443", false))
	require.NoError(t, checkDial("tcp6", "[2606:4700:4700::1111]:443", false))
	for _, addr := range []string{"1.1.1.1:80", "1.1.1.1:8443", "127.0.0.1:443", "[::1]:443", "[::ffff:1.1.1.1]:443", "nonsense"} {
		require.ErrorIs(t, checkDial("tcp4", addr, false), ErrAddressRefused, addr)
	}
	require.ErrorIs(t, checkDial("udp4", "1.1.1.1:443", false), ErrAddressRefused)

	require.NoError(t, checkDial("tcp4", "127.0.0.1:2581", true))
	require.NoError(t, checkDial("tcp6", "[::1]:2581", true))
	for _, addr := range []string{"10.0.0.1:443", "192.168.0.1:443", "169.254.169.254:80", "[::ffff:127.0.0.1]:80", "1.1.1.1:2581"} {
		require.ErrorIs(t, checkDial("tcp4", addr, true), ErrAddressRefused, "loopback opens loopback only: %s", addr)
	}
}

func TestURLsAreJudgedBeforeTheNameIsResolved(t *testing.T) {
	t.Parallel()
	try := func(url string, loopback bool) error {
		req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		require.NoError(t, err)
		return checkURL(req, loopback)
	}
	require.NoError(t, try("https://example.org/x", false))
	require.NoError(t, try("https://example.org:443/x", false))
	for _, u := range []string{"http://example.org/", "https://example.org:8443/", "https://1.1.1.1/", "https://[::1]/", "https://u:p@example.org/",
		"ftp://example.org/", "http://localhost:2581/", "https:///x"} {
		require.ErrorIs(t, try(u, false), ErrAddressRefused, u)
	}
	for _, u := range []string{"http://localhost:2581/", "http://127.0.0.1:1/", "http://[::1]:1/"} {
		require.NoError(t, try(u, true), u)
	}
	for _, u := range []string{"http://example.org/", "http://localhost.example.org:2581/", "http://10.0.0.1/", "http://u@localhost/"} {
		require.ErrorIs(t, try(u, true), ErrAddressRefused, u)
	}
}

func TestGuardedClientOnLoopback(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "other") }))
	t.Cleanup(other.Close)
	stall := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/here":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/away":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.Copy(z, io.LimitReader(zeros{}, 10<<20))
			_ = z.Close()
		case "/long":
			w.Header().Set("Content-Length", "1001")
			_, _ = io.WriteString(w, strings.Repeat("x", 1001))
		case "/stall":
			w.(http.Flusher).Flush()
			<-stall
		default:
			_, _ = io.WriteString(w, "ok")
		}
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(stall) })
	get := func(c *http.Client, path string) (int, string, error) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+path, nil)
		require.NoError(t, err)
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}

	_, _, err := get(GuardedClient(GuardConfig{}), "/ok")
	require.ErrorIs(t, err, ErrAddressRefused)

	c := GuardedClient(GuardConfig{AllowLoopback: true, MaxBytes: 1000})
	status, body, err := get(c, "/ok")
	require.NoError(t, err)
	assert.Equal(t, 200, status)
	assert.Equal(t, "ok", body)
	for _, path := range []string{"/here", "/away"} {
		status, _, err = get(c, path)
		require.NoError(t, err)
		assert.Equal(t, 302, status, "%s is not followed", path)
	}
	for _, path := range []string{"/bomb", "/long"} {
		_, _, err = get(c, path)
		require.ErrorIs(t, err, ErrAnswerTooLarge, path)
	}

	follow := GuardedClient(GuardConfig{AllowLoopback: true, MaxRedirects: 2})
	_, body, err = get(follow, "/here")
	require.NoError(t, err)
	assert.Equal(t, "ok", body)
	for _, path := range []string{"/away", "/loop"} {
		status, _, err = get(follow, path)
		require.NoError(t, err)
		assert.Equal(t, 302, status, path)
	}

	_, _, err = get(GuardedClient(GuardConfig{AllowLoopback: true, Timeout: 50 * time.Millisecond}), "/stall")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestGuardedClientOpensAWebSocket(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if !assert.NoError(t, err) {
			return
		}
		assert.NoError(t, conn.Write(r.Context(), websocket.MessageBinary, []byte("frame")))
		assert.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
	}))
	t.Cleanup(srv.Close)
	conn, _, err := websocket.Dial(t.Context(), srv.URL, &websocket.DialOptions{HTTPClient: GuardedClient(GuardConfig{AllowLoopback: true, MaxBytes: 3})})
	require.NoError(t, err)
	_, got, err := conn.Read(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "frame", string(got))
}
