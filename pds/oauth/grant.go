package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/pds/scope"
)

// codeLife is how long a client has to exchange its code.
const codeLife = time.Minute

// Pending is a pushed request that waits for an owner's answer.
type Pending struct {
	ID     string
	Client ClientInfo
	Scope  *scope.Set // what is asked
	Hint   string     // the account the client has in mind: a handle or a DID, or empty
	Asked  time.Time  // when it was pushed
	Prompt string     // none, login, consent, select_account, create, or empty; a public client's none never gets here

	redirect, mode, state string
}

// RedirectHost is where the answer goes, for the owner to see: a host, or the scheme of an app.
func (p *Pending) RedirectHost() string {
	u, err := url.Parse(p.redirect)
	if err != nil || u.Host == "" {
		return strings.SplitN(p.redirect, ":", 2)[0]
	}
	return u.Host
}

// RedirectScheme is the scheme of the address to which the answer goes, which a page's policy for forms must let through.
func (p *Pending) RedirectScheme() string { return strings.SplitN(p.redirect, ":", 2)[0] }

// Approval is an owner's yes.
type Approval struct {
	Account syntax.DID // in whose name the client will act
	Actor   syntax.DID // who allowed it: the account itself, or one who acts for it
	Scope   string     // what was granted of what was asked; empty for all of it
	Device  string     // the browser it was said in, if it is known
}

func errNoRequest() *Error {
	return refuse(CodeInvalidRequest, "this sign-in was answered already, took too long, or never began here; start again in the app")
}

const maxRequestID = 32

// requestID is the id in the query of the authorization page.
func requestID(clientID, uri string) (string, error) {
	id, ok := strings.CutPrefix(uri, requestURI)
	if !ok {
		return "", refuse(CodeInvalidRequest, "the app must push its request first (PAR)")
	}
	if id == "" || len(id) > maxRequestID || strings.Trim(id, tokenLetters) != "" || clientID == "" || len(clientID) > maxURL {
		return "", errNoRequest()
	}
	return id, nil
}

// Pending finds a client's pushed request and gives its owner five more minutes, up to an hour in all. Its refusals are for
// the page to show: there is nowhere to redirect to.
func (s *Server) Pending(ctx context.Context, clientID, uri string) (*Pending, error) {
	id, err := requestID(clientID, uri)
	if err != nil {
		return nil, err
	}
	now := s.clock.Now()
	var p Pending
	var asked, client string
	const look = `
		update oauth_request set expires = greatest(expires, least(@until, created + @limit::interval))
		where id = @id and client = @client and code is null and expires > @now
		returning id, client, scope, hint, prompt, created, redirect, mode, state`
	err = s.pool.QueryRow(ctx, look, pgx.NamedArgs{
		"id": id, "client": clientID, "now": now, "until": now.Add(requestLife), "limit": requestLimit,
	}).Scan(&p.ID, &client, &asked, &p.Hint, &p.Prompt, &p.Asked, &p.redirect, &p.mode, &p.state)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errNoRequest()
	}
	if err != nil {
		return nil, fmt.Errorf("find pushed request: %w", err)
	}
	if p.Scope, err = s.scopes(asked); err != nil {
		return nil, refuse(codeInvalidScope, "%s", err)
	}
	c, err := s.clients.get(ctx, client)
	if err != nil {
		return nil, err
	}
	p.Client = c.ClientInfo
	return &p, nil
}

// Grant answers a request with a code and says where to send the owner's browser. What is granted is never more than what
// was asked.
func (s *Server) Grant(ctx context.Context, p *Pending, who Approval) (redirect string, err error) {
	granted := p.Scope
	if who.Scope != "" {
		if granted, err = s.scopes(who.Scope); err != nil {
			return "", refuse(codeInvalidScope, "%s", err)
		}
		granted = granted.Within(p.Scope)
	}
	if !granted.Has(scope.Base) {
		return "", refuse(codeInvalidScope, "scope must contain "+scope.Base)
	}
	code, now := randomToken(32), s.clock.Now()
	const answer = `
		update oauth_request set code = @code, did = @did, actor = @actor, device = @device, scope = @scope, expires = @expires
		where id = @id and code is null and expires > @now`
	tag, err := s.pool.Exec(ctx, answer, pgx.NamedArgs{
		"id": p.ID, "code": hashOf(code), "did": who.Account, "actor": who.Actor, "device": who.Device,
		"scope": granted.String(), "expires": now.Add(codeLife), "now": now,
	})
	if err != nil {
		return "", fmt.Errorf("grant request: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return "", errNoRequest()
	}
	return s.answer(p, url.Values{"code": {code}}), nil
}

// refusals are what an owner, or the page in their name, may answer a client (RFC 6749, OpenID Connect).
var refusals = []string{
	CodeAccessDenied, "login_required", "consent_required", "interaction_required", "account_selection_required",
	codeInvalidScope, codeServerError, codeUnavailable,
}

// Refuse ends a request and says where to send the owner's browser with that answer.
func (s *Server) Refuse(ctx context.Context, p *Pending, code string) (redirect string, err error) {
	if !slices.Contains(refusals, code) {
		return "", fmt.Errorf("%q is no refusal of an authorization request", code)
	}
	tag, err := s.pool.Exec(ctx, `delete from oauth_request where id = $1 and code is null`, p.ID)
	if err != nil {
		return "", fmt.Errorf("refuse request: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return "", errNoRequest()
	}
	return s.answer(p, url.Values{"error": {code}}), nil
}

// answer names its issuer, so that a client of many servers is not led to take one's code to another (RFC 9207).
func (s *Server) answer(p *Pending, params url.Values) string {
	params.Set("iss", s.cfg.Issuer)
	if p.state != "" {
		params.Set("state", p.state)
	}
	return redirectTo(p.redirect, p.mode, params)
}

// Status is the HTTP status of an error of this package for a page, 500 for any other.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return http.StatusInternalServerError
}
