package pds

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
)

// smallBody is the limit on bodies that hold no records.
const smallBody = 150_000

func (s *Server) serverRoutes(m *xrpc.Mux) {
	small := xrpc.MaxBody(smallBody)
	m.Query("com.atproto.server.describeServer", s.describeServer)
	m.Procedure("com.atproto.server.createAccount", s.createAccount, small)
	m.Procedure("com.atproto.server.createInviteCode", s.createInviteCode, small)
	m.Procedure("com.atproto.server.createInviteCodes", s.createInviteCodes, small)
	m.Query("com.atproto.server.getAccountInviteCodes", s.getAccountInviteCodes)
	m.Procedure("com.atproto.server.createSession", s.createSession, small)
	m.Procedure("com.atproto.server.refreshSession", s.refreshSession, small)
	m.Query("com.atproto.server.getSession", s.getSession)
	m.Procedure("com.atproto.server.deleteSession", s.deleteSession, small)
	m.Procedure("com.atproto.server.requestAccountDelete", s.requestAccountDelete, small)
	m.Procedure("com.atproto.server.deleteAccount", s.deleteAccount, small)
	m.Procedure("com.atproto.server.createAppPassword", s.createAppPassword, small)
	m.Query("com.atproto.server.listAppPasswords", s.listAppPasswords)
	m.Procedure("com.atproto.server.revokeAppPassword", s.revokeAppPassword, small)
	m.Query("com.atproto.server.getServiceAuth", s.getServiceAuth)
}

func (s *Server) describeServer(*xrpc.Call) (any, error) {
	type links struct {
		Privacy string `json:"privacyPolicy,omitempty"`
		Terms   string `json:"termsOfService,omitempty"`
	}
	type contact struct {
		Email string `json:"email,omitempty"`
	}
	return struct {
		DID            syntax.DID `json:"did"`
		Domains        []string   `json:"availableUserDomains"`
		InviteRequired bool       `json:"inviteCodeRequired"`
		PhoneRequired  bool       `json:"phoneVerificationRequired"`
		Links          links      `json:"links"`
		Contact        contact    `json:"contact"`
	}{
		DID: s.cfg.ServiceDID, Domains: s.cfg.HandleDomains, InviteRequired: s.cfg.InviteRequired,
		Links: links{s.cfg.PrivacyURL, s.cfg.TermsURL}, Contact: contact{s.cfg.ContactEmail},
	}, nil
}

func (s *Server) createAccount(c *xrpc.Call) (any, error) {
	var in struct {
		Handle      string `json:"handle"`
		Password    string `json:"password"`
		Email       string `json:"email"`
		InviteCode  string `json:"inviteCode"`
		RecoveryKey string `json:"recoveryKey"`
		DID         string `json:"did"`
		PLCOp       any    `json:"plcOp"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	in.InviteCode = strings.ToLower(strings.TrimSpace(in.InviteCode)) // as it is typed from paper
	if err := s.limitAddress(c.W.Header(), s.ip(c.R), limitCreateAccount, ""); err != nil {
		return nil, err
	}
	if in.PLCOp != nil {
		return nil, refused("IncompatibleDidDoc", "a PLC operation needs the account's key, which is made now: send it to submitPlcOperation after this")
	}
	var did syntax.DID
	if in.DID != "" {
		var err error
		if did, err = syntax.ParseDID(in.DID); err != nil {
			return nil, invalid("did %q is not a DID", in.DID)
		}
	}
	handle, err := s.handleFor(c.Context(), in.Handle, did)
	if err != nil {
		return nil, err
	}
	if err := checkPassword(in.Password); err != nil {
		return nil, err
	}
	if in.Email != "" {
		if _, err := normalEmail(in.Email); err != nil {
			return nil, err
		}
	}
	if in.RecoveryKey != "" {
		if _, err := atcrypto.ParsePublicDIDKey(in.RecoveryKey); err != nil {
			return nil, invalid("recoveryKey is not a did:key of P-256 or K-256")
		}
	}
	if s.cfg.InviteRequired && in.InviteCode == "" {
		return nil, refused("InvalidInviteCode", "an invite code is needed to register here")
	}
	req := signupRequest{
		Handle: handle, Password: in.Password, Email: in.Email, Invite: in.InviteCode, RecoveryKey: in.RecoveryKey, DID: did,
	}
	if did != "" {
		return s.createWithDID(c, req)
	}
	return s.signUp(c.Context(), req)
}

// signUp makes an account whose first step anywhere is here.
func (s *Server) signUp(ctx context.Context, req signupRequest) (any, error) {
	now := s.clock.Now()
	acc, err := s.newAccount(ctx, req, now)
	if err != nil {
		return nil, err
	}
	tokens, err := s.openSession(ctx, acc.DID, nil, now)
	if err != nil {
		return nil, err
	}
	return s.viewSession(ctx, acc, tokens), nil
}

// newAccount goes all three steps of a creation.
func (s *Server) newAccount(ctx context.Context, req signupRequest, now time.Time) (*account, error) {
	su, err := s.reserve(ctx, req, now)
	if err != nil {
		return nil, err
	}
	if err := s.announce(ctx, su); err != nil {
		return nil, err
	}
	if err := s.activate(ctx, su, now); err != nil {
		return nil, err
	}
	s.log.Info("account created", "did", su.DID)
	return &account{DID: su.DID, Handle: su.Handle, Email: su.Email, Status: statusActive}, nil
}

// protected are the methods for which no service token is given: they change the account
// itself, and only this server may be asked for them, with a session.
var protected = []string{
	"com.atproto.admin.deleteAccount",
	"com.atproto.admin.sendEmail",
	"com.atproto.identity.requestPlcOperationSignature",
	"com.atproto.identity.signPlcOperation",
	"com.atproto.identity.updateHandle",
	"com.atproto.server.activateAccount",
	"com.atproto.server.confirmEmail",
	"com.atproto.server.createAppPassword",
	"com.atproto.server.deactivateAccount",
	"com.atproto.server.deleteAccount",
	"com.atproto.server.getAccountInviteCodes",
	"com.atproto.server.getSession",
	"com.atproto.server.listAppPasswords",
	"com.atproto.server.requestAccountDelete",
	"com.atproto.server.requestEmailConfirmation",
	"com.atproto.server.requestEmailUpdate",
	"com.atproto.server.revokeAppPassword",
	"com.atproto.server.updateEmail",
}

// isProtected does not look at case: some services tell methods apart by it and others do not.
func isProtected(lxm string) bool {
	return slices.ContainsFunc(protected, func(p string) bool { return strings.EqualFold(p, lxm) })
}

const (
	serviceTokenLife    = time.Minute
	serviceTokenMaxLife = time.Hour // for long uploads; our own services take two minutes at most
)

func (s *Server) getServiceAuth(c *xrpc.Call) (any, error) {
	a, err := s.callerFor(c, c.Param("repo"))
	if err != nil {
		return nil, err
	}
	acc := a.Account
	aud, lxm := c.Param("aud"), c.Param("lxm")
	if err := acc.mustBeActive(); err != nil && (acc.Status != statusDeactivated || lxm != createAccountNSID) {
		return nil, err // a deactivated account may still be let go to another host
	}
	did, _, _ := strings.Cut(aud, "#")
	if _, err := syntax.ParseDID(did); err != nil {
		return nil, invalid("aud %q is not a DID", aud)
	}
	if lxm != "" {
		if _, err := syntax.ParseNSID(lxm); err != nil {
			return nil, invalid("lxm %q is not an NSID", lxm)
		}
	}
	if isProtected(lxm) {
		return nil, invalid("no service token is given for the protected method %s", lxm)
	}
	if err := a.mayCall(cmp.Or(lxm, "*"), aud); err != nil {
		return nil, err
	}
	now := s.clock.Now()
	life := serviceTokenLife
	if c.Has("exp") {
		exp, err := c.Int("exp", 0, 0, 1<<40)
		if err != nil {
			return nil, err
		}
		limit := serviceTokenMaxLife
		if lxm == "" || a.role != nil {
			limit = serviceTokenLife // good for every method, or in a role that may end: short
		}
		life = time.Unix(exp, 0).Sub(now)
		if life <= 0 || life > limit {
			return nil, refused("BadExpiration", "exp must lie within the next %s", limit)
		}
	}
	key, err := s.signingKey(acc)
	if err != nil {
		return nil, err
	}
	if err := s.logAct(c.Context(), a, "call", lxm+" "+aud, nil); err != nil {
		return nil, err
	}
	tok, err := xrpc.SignServiceToken(key, acc.DID.String(), aud, lxm, now, life)
	if err != nil {
		return nil, err
	}
	return struct {
		Token string `json:"token"`
	}{tok}, nil
}

func (s *Server) plainRoutes(m *xrpc.Mux) {
	m.Handle("GET /xrpc/_health", http.HandlerFunc(s.health))
	m.Handle("GET /.well-known/did.json", http.HandlerFunc(s.didJSON))
	m.Handle("GET /.well-known/atproto-did", http.HandlerFunc(s.wellKnownDID))
	m.Handle("GET /tls-check", http.HandlerFunc(s.tlsCheck))
	m.Handle("GET /robots.txt", text("# Crawling the public API is allowed\nUser-agent: *\nAllow: /\n"))
	m.Handle("GET /{$}", text("This is an AT Protocol personal data server of City/Sync.\n\nMost of what it serves is under /xrpc/\n"))
}

func text(body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(body)) // the reader has gone if this errs
	})
}
