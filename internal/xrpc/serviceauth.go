package xrpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
)

// Names of the refusals of a service token, as the network's other services give them.
const (
	NameBadJwt              = "BadJwt"
	NameBadJwtType          = "BadJwtType"
	NameBadJwtIss           = "BadJwtIss"
	NameBadJwtAudience      = "BadJwtAudience"
	NameBadJwtLexiconMethod = "BadJwtLexiconMethod"
	NameBadJwtSignature     = "BadJwtSignature"
	NameJwtExpired          = "JwtExpired"
	NameJwtReplayed         = "JwtReplayed"
)

const (
	tokenLifetime  = 120 * time.Second
	tokenSkew      = 30 * time.Second
	refreshEvery   = 5 * time.Second // at most one fresh look-up per issuer in that time, however many forgeries come
	maxRefreshSeen = 4096
)

// Replay remembers token ids until they have expired. pg.Replay is the durable one.
type Replay interface {
	// Use reports whether key was not used before, and marks it used until the given time, in one step.
	Use(ctx context.Context, key string, until time.Time) (fresh bool, err error)
}

// ServiceAuthConfig configures NewServiceAuth. Every field is required.
type ServiceAuthConfig struct {
	Directory identity.Directory
	Audience  []string // what this service is called: its DID, and DID#fragment
	Replay    Replay
	Clock     clock.Clock
}

// ServiceAuth checks the tokens with which accounts and services call one another (X3).
type ServiceAuth struct {
	cfg ServiceAuthConfig

	mu        sync.Mutex
	refreshed map[syntax.DID]time.Time // guarded by mu: when an identity was last looked up anew after a bad signature
}

// NewServiceAuth makes a ServiceAuth.
func NewServiceAuth(cfg ServiceAuthConfig) *ServiceAuth {
	cfg.Audience = slices.Clone(cfg.Audience)
	return &ServiceAuth{cfg: cfg, refreshed: make(map[syntax.DID]time.Time)}
}

func unauthorized(name, format string, a ...any) *Error {
	return Errorf(http.StatusUnauthorized, name, format, a...)
}

// Caller verifies the bearer token of a call for the method that is called.
func (s *ServiceAuth) Caller(c *Call) (syntax.DID, error) {
	tok, ok := c.Bearer()
	if !ok {
		return "", unauthorized(NameAuthMissing, "this method needs a service token")
	}
	return s.Verify(c.Context(), tok, c.NSID)
}

// Verify checks a token for method lxm and returns who signed it. A refusal is an *Error with status 401; 503
// means that the issuer's identity could not be looked up now, and the same token may be sent again.
func (s *ServiceAuth) Verify(ctx context.Context, tok, lxm string) (syntax.DID, error) {
	t, err := parseToken(tok)
	if err != nil {
		return "", unauthorized(NameBadJwt, "poorly formatted token")
	}
	now := s.cfg.Clock.Now()
	did, err := s.checkClaims(t, lxm, now)
	if err != nil {
		return "", err
	}
	if err := s.checkSignature(ctx, t, did, now); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(t.iss + "|" + t.jti)) // no DID has a bar in it
	fresh, err := s.cfg.Replay.Use(ctx, hex.EncodeToString(sum[:]), time.Unix(t.exp, 0).Add(tokenSkew))
	if err != nil {
		return "", fmt.Errorf("record token id: %w", err)
	}
	if !fresh {
		return "", unauthorized(NameJwtReplayed, "this token was used before")
	}
	return did, nil
}

func (s *ServiceAuth) checkClaims(t *token, lxm string, now time.Time) (syntax.DID, error) {
	if !strings.EqualFold(t.typ, "JWT") { // not an access, refresh or proof token of another purpose
		return "", unauthorized(NameBadJwtType, "not a service token")
	}
	if t.alg != algK256 && t.alg != algP256 {
		return "", unauthorized(NameBadJwt, "the algorithm must be ES256K or ES256")
	}
	did, err := syntax.ParseDID(t.iss)
	if err != nil || did.Method() != "plc" && did.Method() != "web" {
		return "", unauthorized(NameBadJwtIss, "the issuer must be a did:plc or did:web")
	}
	if t.jti == "" || len(t.jti) > maxJTI {
		return "", unauthorized(NameBadJwt, "jti must have 1 to %d characters", maxJTI)
	}
	exp := time.Unix(t.exp, 0)
	switch {
	case !now.Before(exp.Add(tokenSkew)):
		return "", unauthorized(NameJwtExpired, "the token has expired")
	case exp.After(now.Add(tokenLifetime + tokenSkew)):
		return "", unauthorized(NameBadJwt, "a token may live at most %d seconds", int(tokenLifetime.Seconds()))
	}
	if t.iat != 0 {
		iat := time.Unix(t.iat, 0)
		if iat.After(now.Add(tokenSkew)) || !exp.After(iat) || exp.Sub(iat) > tokenLifetime {
			return "", unauthorized(NameBadJwt, "iat and exp do not fit")
		}
	}
	if !slices.Contains(s.cfg.Audience, t.aud) {
		return "", unauthorized(NameBadJwtAudience, "the token is for another service")
	}
	if lxm == "" || t.lxm != lxm {
		return "", unauthorized(NameBadJwtLexiconMethod, "the token is not for method %s", lxm)
	}
	return did, nil
}

// checkSignature tries the key that is known; if it does not fit, the identity is looked up anew once, since the
// key may have been rotated.
func (s *ServiceAuth) checkSignature(ctx context.Context, t *token, did syntax.DID, now time.Time) error {
	key, err := s.key(ctx, did)
	if err != nil {
		return err
	}
	if key != nil && verify(key, t) {
		return nil
	}
	if !s.mayRefresh(did, now) {
		return badSignature()
	}
	if err := s.cfg.Directory.Purge(ctx, did.AtIdentifier()); err != nil {
		return fmt.Errorf("purge identity %s: %w", did, err)
	}
	again, err := s.key(ctx, did)
	if err != nil {
		return err
	}
	if again == nil || key != nil && again.Equal(key) || !verify(again, t) {
		return badSignature()
	}
	return nil
}

func badSignature() *Error {
	return unauthorized(NameBadJwtSignature, "the signature does not fit the issuer's key")
}

func verify(key atcrypto.PublicKey, t *token) bool {
	alg, err := algOf(key)
	return err == nil && alg == t.alg && key.HashAndVerify(t.signed, t.sig) == nil // low-S only
}

// key is the issuer's signing key, nil where its document has none.
func (s *ServiceAuth) key(ctx context.Context, did syntax.DID) (atcrypto.PublicKey, error) {
	id, err := s.cfg.Directory.LookupDID(ctx, did)
	switch {
	case errors.Is(err, identity.ErrDIDNotFound):
		return nil, unauthorized(NameBadJwtIss, "the issuer's identity does not exist")
	case err != nil:
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, Errorf(http.StatusServiceUnavailable, NameUpstreamFailure, "the issuer's identity could not be looked up").After(time.Second)
	}
	key, err := id.PublicKey()
	if err != nil {
		return nil, nil // a document without a usable key is a signature that cannot fit
	}
	return key, nil
}

func (s *ServiceAuth) mayRefresh(did syntax.DID, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.refreshed[did]; ok && now.Sub(last) < refreshEvery && now.Sub(last) >= 0 {
		return false
	}
	if len(s.refreshed) >= maxRefreshSeen {
		clear(s.refreshed)
	}
	s.refreshed[did] = now
	return true
}
