package ledger

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"city-sync.org/citysync/internal/xrpc"
)

// session is the ledger's account at its PDS, opened with its password when first needed and again when its tokens are over.
type session struct {
	base, identifier, password string
	http                       *http.Client

	mu     sync.Mutex
	access string // guarded by mu
}

func (s *session) client(token string) *xrpc.Client {
	return &xrpc.Client{Base: s.base, HTTP: s.http, Auth: func(context.Context, string) (string, error) {
		if token == "" {
			return "", nil
		}
		return "Bearer " + token, nil
	}}
}

func (s *session) token(ctx context.Context, stale string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access != "" && s.access != stale {
		return s.access, nil
	}
	var out struct {
		AccessJwt string `json:"accessJwt"`
	}
	in := map[string]any{"identifier": s.identifier, "password": s.password}
	if err := s.client("").Procedure(ctx, "com.atproto.server.createSession", in, &out); err != nil {
		return "", fmt.Errorf("open session of %s: %w", s.identifier, err)
	}
	s.access = out.AccessJwt
	return s.access, nil
}

func (s *session) procedure(ctx context.Context, nsid string, in, out any) error {
	return s.with(ctx, func(c *xrpc.Client) error { return c.Procedure(ctx, nsid, in, out) })
}

func (s *session) query(ctx context.Context, nsid string, params url.Values, out any) error {
	return s.with(ctx, func(c *xrpc.Client) error { return c.Query(ctx, nsid, params, out) })
}

// with runs a call, and once more with a new session when the token is over.
func (s *session) with(ctx context.Context, call func(*xrpc.Client) error) error {
	token, err := s.token(ctx, "")
	if err != nil {
		return err
	}
	err = call(s.client(token))
	var answer *xrpc.Error
	if !errors.As(err, &answer) || (answer.Status != http.StatusUnauthorized && answer.Name != "ExpiredToken" && answer.Name != "InvalidToken") {
		return err
	}
	if token, err = s.token(ctx, token); err != nil {
		return err
	}
	return call(s.client(token))
}
