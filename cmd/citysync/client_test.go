package main

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

func TestSignUpFindsTheAccountWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	const did = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
	var calls atomic.Int64
	m := xrpc.NewMux(xrpc.Config{})
	m.Procedure("com.atproto.server.createInviteCode", func(*xrpc.Call) (any, error) { return map[string]any{"code": "one"}, nil })
	m.Procedure("com.atproto.server.createAccount", func(*xrpc.Call) (any, error) {
		if calls.Add(1) == 1 {
			panic(http.ErrAbortHandler) // the account is made, and the service dies
		}
		return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidInviteCode", "used up")
	})
	m.Query("com.atproto.identity.resolveHandle", func(c *xrpc.Call) (any, error) {
		if c.Param("handle") != "made.test" {
			return nil, xrpc.Errorf(http.StatusBadRequest, "HandleNotFound", "nobody")
		}
		return map[string]any{"did": did}, nil
	})
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	pds := newPDSClient(endpoint{base: srv.URL, http: httpClient(), patience: time.Minute})

	got, err := pds.signUp(t.Context(), "secret", newAccount{Handle: "made.test", Password: "p"})
	require.NoError(t, err)
	assert.Equal(t, syntax.DID(did), got)
	assert.EqualValues(t, 2, calls.Load())

	_, err = pds.signUp(t.Context(), "secret", newAccount{Handle: "other.test", Password: "p"})
	assert.True(t, named(err, "InvalidInviteCode"), "nobody has that handle: %v", err)
}
