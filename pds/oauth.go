package pds

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/scope"
)

// newApps makes the authorization server by which apps are let in.
func (s *Server) newApps(secret []byte) (*oauth.Server, error) {
	return oauth.New(oauth.Config{
		Issuer: s.cfg.PublicURL, Pool: s.pool, HTTP: s.http, Clock: s.clock, Log: s.log, Secret: secret, Accounts: appAccounts{s},
		Scopes: func(raw string) (*scope.Set, error) { return scope.Parse(raw, lexicons.PermissionSetOf) },
		Limit: func(answer http.Header, r *http.Request) time.Duration {
			var e *xrpc.Error
			if err := s.limitAddress(answer, s.ip(r), limitOAuth, ""); errors.As(err, &e) {
				return max(e.RetryAfter, time.Second)
			}
			return 0
		},
		Count:         func(path, outcome string) { s.metrics.apps.WithLabelValues(path, outcome).Inc() },
		AllowLoopback: s.cfg.AllowLoopback, Transition: s.cfg.TransitionScopes, Trusted: s.cfg.TrustedClients,
	})
}

// appAccounts tells the authorization server who may be acted for.
type appAccounts struct{ s *Server }

// MayAct is true for an account in order, for itself and for those who accepted a role for it.
func (a appAccounts) MayAct(ctx context.Context, account, actor syntax.DID) (bool, error) {
	acc, err := a.s.findAccount(ctx, account.String())
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if acc.Status != statusActive && acc.Status != "deactivated" {
		return false, nil
	}
	if actor == account {
		return true, nil
	}
	_, err = a.s.actsFor(ctx, account, actor)
	if refusalName(err) == "NotController" {
		return false, nil
	}
	return err == nil, err
}

// admitApp lets a request of an app in, and puts on its answer what OAuth wants there, whether it was let in or not.
func (s *Server) admitApp(h http.Header, r *http.Request) (*oauth.Session, error) {
	ses, err := s.apps.Authenticate(r)
	if e := s.apps.Answer(r.Context(), h, err); e != nil {
		return nil, xrpc.Errorf(e.Status, e.Code, "%s", e.Description).After(e.Wait)
	}
	return ses, nil
}
