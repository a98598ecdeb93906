package pds

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/scope"
)

// sessionView is the answer of every method that opens, renews or shows a session.
type sessionView struct {
	AccessJWT      string              `json:"accessJwt,omitempty"`
	RefreshJWT     string              `json:"refreshJwt,omitempty"`
	Handle         string              `json:"handle"`
	DID            syntax.DID          `json:"did"`
	DIDDoc         *indigo.DIDDocument `json:"didDoc,omitempty"`
	Email          *string             `json:"email,omitempty"`
	EmailConfirmed *bool               `json:"emailConfirmed,omitempty"`
	Active         bool                `json:"active"`
	Status         string              `json:"status,omitempty"`
}

func (s *Server) viewSession(ctx context.Context, acc *account, t sessionTokens) sessionView {
	v := sessionView{
		AccessJWT: t.Access, RefreshJWT: t.Refresh, Handle: acc.Handle, DID: acc.DID,
		DIDDoc: s.didDoc(ctx, acc.DID), Email: acc.Email,
		Active: acc.Status == statusActive, Status: acc.inactive(),
	}
	if acc.Email != nil {
		confirmed := acc.EmailConfirmed != nil
		v.EmailConfirmed = &confirmed
	}
	return v
}

// docPatience is how long a sign-in waits for a DID document that is only a courtesy.
const docPatience = 2 * time.Second

// didDoc is left out of an answer when the directory does not give it in time, and where it names another host: a client takes its address from
// there, and would bring to that host what is meant for this one.
func (s *Server) didDoc(ctx context.Context, did syntax.DID) *indigo.DIDDocument {
	ctx, cancel := context.WithTimeout(ctx, docPatience)
	defer cancel()
	ident, err := s.directory.LookupDID(ctx, did)
	if err != nil {
		s.log.Debug("no DID document", "did", did, "error", err)
		return nil
	}
	if strings.TrimSuffix(ident.PDSEndpoint(), "/") != s.cfg.PublicURL {
		return nil
	}
	doc := ident.DIDDocument()
	return &doc
}

func errTakendown() error {
	return xrpc.Errorf(http.StatusUnauthorized, "AccountTakedown", "the account has been taken down")
}

// whileTakendown are the methods that an account which was taken down may still call: to see that it was, and to move away or end.
var whileTakendown = map[string]bool{
	"com.atproto.identity.getRecommendedDidCredentials": true,
	"com.atproto.identity.requestPlcOperationSignature": true,
	"com.atproto.identity.signPlcOperation":             true,
	"com.atproto.server.checkAccountStatus":             true,
	"com.atproto.server.deactivateAccount":              true,
	"com.atproto.server.getSession":                     true,
	"com.atproto.server.requestAccountDelete":           true,
	"com.atproto.sync.getBlob":                          true,
	"com.atproto.sync.getRepo":                          true,
	"com.atproto.sync.listBlobs":                        true,
}

func (s *Server) createSession(c *xrpc.Call) (any, error) {
	var in struct {
		Identifier      string `json:"identifier"`
		Password        string `json:"password"`
		AuthFactorToken string `json:"authFactorToken"`
		AllowTakendown  bool   `json:"allowTakendown"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.Identifier == "" || in.Password == "" || len(in.Identifier) > maxIdentifier {
		return nil, invalid("identifier and password are required")
	}
	ctx := c.Context()
	acc, app, err := s.byAnyPassword(ctx, c.W.Header(), s.ip(c.R), in.Identifier, in.Password)
	if err != nil {
		return nil, err
	}
	if acc.Status == statusTakendown && (!in.AllowTakendown || app != nil) {
		return nil, errTakendown()
	}
	if app == nil { // an app's password is made for what cannot ask for a code
		if err := s.needFactor(ctx, acc.DID, in.AuthFactorToken); err != nil {
			return nil, err
		}
	}
	tokens, err := s.openSession(ctx, acc.DID, app, s.clock.Now())
	if err != nil {
		return nil, err
	}
	s.metrics.sessions.Inc()
	return s.viewSession(ctx, acc, tokens), nil
}

func (s *Server) refreshSession(c *xrpc.Call) (any, error) {
	tok, err := s.bearer(c, typRefresh)
	if err != nil {
		return nil, err
	}
	ctx := c.Context()
	acc, err := s.findAccount(ctx, tok.DID.String())
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errExpiredToken()
	}
	if err != nil {
		return nil, err
	}
	if acc.Status == statusTakendown {
		return nil, errTakendown()
	}
	tokens, err := s.rotateSession(ctx, tok, s.clock.Now())
	if err != nil {
		return nil, err
	}
	return s.viewSession(ctx, acc, tokens), nil
}

func (s *Server) getSession(c *xrpc.Call) (any, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	v := s.viewSession(c.Context(), a.Account, sessionTokens{})
	if a.mayAccount("email", scope.Read) != nil {
		v.Email, v.EmailConfirmed = nil, nil
	}
	return v, nil
}

// deleteSession takes the refresh token, as the lexicon says.
func (s *Server) deleteSession(c *xrpc.Call) (any, error) {
	tok, err := s.bearer(c, typRefresh)
	if err != nil {
		return nil, err
	}
	return nil, s.closeSession(c.Context(), tok)
}
