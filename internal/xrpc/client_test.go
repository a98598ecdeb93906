package xrpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

func TestClientSpeaksWhatTheMuxServes(t *testing.T) {
	t.Parallel()
	m := xrpc.NewMux(xrpc.Config{})
	m.Query(query, func(c *xrpc.Call) (any, error) {
		tok, _ := c.Bearer()
		return map[string]string{"did": c.Param("did"), "token": tok}, nil
	})
	m.Procedure(proc, func(c *xrpc.Call) (any, error) {
		var in map[string]any
		if err := c.Body(&in); err != nil {
			return nil, err
		}
		return nil, xrpc.Errorf(409, "AllocationExceeded", "5280 > 4560").With(map[string]any{"room": 4560}).After(3 * time.Second)
	})
	m.Procedure("org.city-sync.test.empty", func(c *xrpc.Call) (any, error) {
		assert.Empty(t, c.R.Header.Get("Content-Type"))
		return nil, nil
	})
	srv := serve(t, m)
	c := &xrpc.Client{Base: srv.URL + "/", Auth: func(_ context.Context, nsid string) (string, error) { return "Bearer for-" + nsid, nil }}

	var out map[string]string
	require.NoError(t, c.Query(t.Context(), query, url.Values{"did": {"did:plc:a b&c"}}, &out))
	assert.Equal(t, map[string]string{"did": "did:plc:a b&c", "token": "for-" + query}, out)

	err := c.Procedure(t.Context(), proc, map[string]int{"a": 1}, nil)
	var refusal *xrpc.Error
	require.ErrorAs(t, err, &refusal)
	assert.Equal(t, xrpc.Error{Status: 409, Name: "AllocationExceeded", Message: "5280 > 4560",
		Figures: map[string]any{"room": 4560.0}, RetryAfter: 3 * time.Second}, *refusal)
	assert.ErrorIs(t, err, &xrpc.Error{Name: "AllocationExceeded"})

	require.NoError(t, c.Procedure(t.Context(), "org.city-sync.test.empty", nil, nil))
	require.ErrorIs(t, c.Query(t.Context(), "a.b.c", nil, nil), &xrpc.Error{Name: "MethodNotImplemented"})

	c.Auth = func(context.Context, string) (string, error) { return "", errors.New("no session") }
	assert.ErrorContains(t, c.Query(t.Context(), query, nil, nil), "no session")
}

// X1
func TestClientBoundsWhatItReads(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "big"):
			_, _ = io.WriteString(w, `"`+strings.Repeat("x", 1000)+`"`)
		case strings.HasSuffix(r.URL.Path, "redirect"):
			http.Redirect(w, r, "/xrpc/a.b.big", http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "html"):
			w.WriteHeader(502)
			_, _ = io.WriteString(w, "<html>")
		case strings.HasSuffix(r.URL.Path, "longerror"):
			w.WriteHeader(400)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": strings.Repeat("é", 999), "message": strings.Repeat("é", 9999)})
		}
	}))
	t.Cleanup(srv.Close)
	c := &xrpc.Client{Base: srv.URL, MaxBody: 100}
	var s string
	require.ErrorIs(t, c.Query(t.Context(), "a.b.big", nil, &s), xrpc.ErrAnswerTooLarge)

	_, err := c.Bytes(t.Context(), "a.b.big", nil, 1001)
	require.ErrorIs(t, err, xrpc.ErrAnswerTooLarge)
	b, err := c.Bytes(t.Context(), "a.b.big", nil, 1002)
	require.NoError(t, err)
	assert.Len(t, b, 1002)

	var e *xrpc.Error
	require.ErrorAs(t, c.Query(t.Context(), "a.b.redirect", nil, &s), &e)
	assert.Equal(t, 502, e.Status, "a redirect is not followed")
	require.ErrorAs(t, c.Query(t.Context(), "a.b.html", nil, &s), &e)
	assert.Equal(t, "UnknownError", e.Name)
	require.ErrorAs(t, c.Query(t.Context(), "a.b.longerror", nil, &s), &e)
	assert.LessOrEqual(t, len(e.Name), 128)
	assert.LessOrEqual(t, len(e.Message), 4096)
	assert.NotContains(t, e.Message, "\uFFFD")
}
