package pds

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/scope"
)

// authKind is how a request shows on whose authority it comes.
type authKind int

const (
	bySession     authKind = iota + 1 // the account's password
	byAppPassword                     // a password made for one app
	byOAuth                           // an app that the person let in
	byService                         // a service token of somebody whose account another server holds
)

// authority is on whose behalf a request comes, who sends it, and what it may do.
type authority struct {
	Account *account
	Actor   syntax.DID // the account's own DID, or one who acts for it
	Kind    authKind
	Session string     // id of the session, name of the app password, id of the grant
	Client  string     // OAuth client id
	Scope   *scope.Set // nil: everything the account itself may do

	Method string      // the NSID that was called
	role   *controller // of an actor who is not the account itself

	Privileged bool // of an app password: see needsPrivilege

	// confirm asks whether the session is open still. It is there while that is only taken for granted, which a write alone may do.
	confirm func() (*authority, error)
}

// sure answers with an authority that was asked for.
func (a *authority) sure() (*authority, error) {
	if a.confirm == nil {
		return a, nil
	}
	return a.confirm()
}

// caller answers for whom the request speaks: an open session or an app's grant.
func (s *Server) caller(c *xrpc.Call) (*authority, error) {
	if scheme(c.R) == "dpop" {
		return s.byOAuth(c)
	}
	return s.bySession(c)
}

// callerFor is caller for methods that a person whose account another server holds may call,
// too: with a service token, in the name of the account that the request names.
func (s *Server) callerFor(c *xrpc.Call, account string) (*authority, error) {
	if isServiceToken(c) {
		return s.byService(c, account)
	}
	return s.caller(c)
}

// owner is caller for what only the account itself may do, with its password.
func (s *Server) owner(c *xrpc.Call) (*authority, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	if a.Kind != bySession || a.Actor != a.Account.DID {
		return nil, xrpc.Errorf(http.StatusForbidden, "Forbidden", "only the account itself, signed in with its password, may do this")
	}
	return a, nil
}

// scheme is the word before the credentials, in lower case.
func scheme(r *http.Request) string {
	word, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.ToLower(word)
}

func (s *Server) bySession(c *xrpc.Call) (*authority, error) {
	acc, tok, err := s.session(c)
	if err != nil {
		return nil, err
	}
	a := &authority{Account: acc, Actor: acc.DID, Kind: bySession, Session: tok.Session, Method: c.NSID}
	if tok.App != nil {
		a.Kind, a.Session, a.Privileged = byAppPassword, tok.App.Name, tok.App.Privileged
	}
	return a, nil
}

func (s *Server) byOAuth(c *xrpc.Call) (*authority, error) {
	sess, err := s.oauth(c.W.Header(), c.R)
	if err != nil {
		return nil, err
	}
	acc, err := s.findAccount(c.Context(), sess.Account.String())
	if err != nil {
		return nil, fmt.Errorf("account of an app's grant: %w", err)
	}
	a := &authority{
		Account: acc, Actor: sess.Actor, Kind: byOAuth,
		Session: sess.ID, Client: sess.Client, Scope: sess.Scope, Method: c.NSID,
	}
	if a.Scope == nil { // an app never has everything
		a.Scope = &scope.Set{}
	}
	return a, s.inRole(c.Context(), a)
}

// inRole narrows what an actor who is not the account itself may do to the role, as it is now.
func (s *Server) inRole(ctx context.Context, a *authority) error {
	if a.Actor == a.Account.DID {
		return nil
	}
	role, err := s.actsFor(ctx, a.Account.DID, a.Actor)
	if err != nil {
		return err
	}
	a.role = role
	if a.Scope == nil {
		a.Scope = role.may()
	} else {
		a.Scope = a.Scope.Within(role.may())
	}
	return nil
}

// isServiceToken tells a service token, which an account's own key signs, from our own tokens.
func isServiceToken(c *xrpc.Call) bool {
	raw, _ := c.Bearer()
	head, _, _ := strings.Cut(raw, ".")
	plain, err := b64.DecodeString(head)
	if err != nil {
		return false
	}
	var h struct {
		Alg string `json:"alg"`
	}
	return json.Unmarshal(plain, &h) == nil && (h.Alg == "ES256" || h.Alg == "ES256K")
}

// byService takes the token of a controller for the account it is to act for, named by the
// request; for its own account a token is good for an upload and no more.
func (s *Server) byService(c *xrpc.Call, account string) (*authority, error) {
	actor, err := s.arrivals.Caller(c)
	if err != nil {
		return nil, err
	}
	acc, err := s.hosted(c.Context(), cmp.Or(account, actor.String()))
	if err != nil {
		return nil, err
	}
	a := &authority{Account: acc, Actor: actor, Kind: byService, Method: c.NSID}
	if acc.DID == actor {
		a.Scope = &scope.Set{}
		if c.NSID == "com.atproto.repo.uploadBlob" {
			a.Scope, err = scope.Parse("blob:*/*", nil)
		}
		return a, err
	}
	return a, s.inRole(c.Context(), a)
}

// writer is callerFor for methods that change a repository: the one named must be the one the
// request speaks for, and its account active. It may answer before it is sure: see seen.
func (s *Server) writer(c *xrpc.Call, repo string) (*authority, error) {
	if a := s.seen(c, repo); a != nil {
		return a, nil
	}
	a, err := s.callerFor(c, repo)
	if err != nil {
		return nil, err
	}
	if repo != a.Account.DID.String() && !strings.EqualFold(repo, a.Account.Handle) {
		return nil, errNotForAccount(repo)
	}
	if err := a.Account.mustBeActive(); err != nil {
		return nil, err
	}
	if a.Kind == bySession {
		s.sessions.put(a.Session, *a.Account)
	}
	return a, nil
}

// seen answers with the authority of a session that wrote before, without asking whether it is open still: the transaction that stores the
// write asks, or whoever goes the long way. Such a caller may hear what is wrong with a write, and changes nothing.
func (s *Server) seen(c *xrpc.Call, repo string) *authority {
	tok, err := s.bearer(c, typAccess)
	if err != nil {
		return nil
	}
	acc, ok := s.sessions.get(tok.Session)
	if !ok || acc.DID != tok.DID || repo != acc.DID.String() {
		return nil
	}
	a := &authority{Account: &acc, Actor: acc.DID, Kind: bySession, Session: tok.Session, Method: c.NSID}
	a.confirm = func() (*authority, error) {
		s.sessions.drop(tok.Session)
		return s.writer(c, repo)
	}
	return a
}

func errNotForAccount(repo string) error {
	return xrpc.Errorf(http.StatusForbidden, "Forbidden", "repository %s is not the signed-in account's", repo)
}

// errScope names what was missing, in words that a client can ask for.
func errScope(p scope.Permission) error {
	return xrpc.Errorf(http.StatusForbidden, "InsufficientScope", "this needs the permission %s", p)
}

// may is the one place where a permission is asked for.
func (a *authority) may(allowed func(*scope.Set) bool, needed scope.Permission) error {
	if a.Scope == nil || allowed(a.Scope) {
		return nil
	}
	return errScope(needed)
}

func (a *authority) mayWrite(collection string, action scope.Action) error {
	return a.may(func(s *scope.Set) bool { return s.Repo(collection, action) }, scope.RepoOf(collection, action))
}

// mayPut wants both, since a put creates or updates, whichever it finds.
func (a *authority) mayPut(collection string) error {
	if err := a.mayWrite(collection, scope.Create); err != nil {
		return err
	}
	return a.mayWrite(collection, scope.Update)
}

func (a *authority) mayUpload(mime string) error {
	return a.may(func(s *scope.Set) bool { return s.Blob(mime) }, scope.BlobOf(mime))
}

// mayCall takes "*" for a token that is good for every method.
func (a *authority) mayCall(lxm, aud string) error {
	if a.Kind == byAppPassword && !a.Privileged && needsPrivilege(lxm) {
		return xrpc.Errorf(http.StatusForbidden, "InsufficientScope", "this app password does not reach %s", lxm)
	}
	return a.may(func(s *scope.Set) bool { return s.RPC(lxm, aud) }, scope.RPCOf(lxm, aud))
}

// mayAccount and mayIdentity keep the account itself from app passwords: those may write, and
// change nothing that their owner would miss.
func (a *authority) mayAccount(attr string, action scope.Action) error {
	if a.Kind == byAppPassword && action == scope.Manage {
		return errScope(scope.AccountOf(attr, action))
	}
	return a.may(func(s *scope.Set) bool { return s.Account(attr, action) }, scope.AccountOf(attr, action))
}

func (a *authority) mayIdentity(attr string) error {
	if a.Kind == byAppPassword {
		return errScope(scope.IdentityOf(attr))
	}
	return a.may(func(s *scope.Set) bool { return s.Identity(attr) }, scope.IdentityOf(attr))
}

// mayChange asks for what one change of a record needs.
func (a *authority) mayChange(ch change) error {
	switch ch.Intent {
	case toCreate:
		return a.mayWrite(ch.Collection, scope.Create)
	case toUpdate:
		return a.mayWrite(ch.Collection, scope.Update)
	case toDelete, toDrop:
		return a.mayWrite(ch.Collection, scope.Delete)
	default:
		return a.mayPut(ch.Collection)
	}
}
