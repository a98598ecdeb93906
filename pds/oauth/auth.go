package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	assertionLife = time.Minute
	assertionSkew = 30 * time.Second
)

func refusedByGuard(err error) bool { return errors.Is(err, xrpc.ErrAddressRefused) }
func tooLarge(err error) bool       { return errors.Is(err, xrpc.ErrAnswerTooLarge) }

// caller is a client that showed who it is.
type caller struct {
	*client
	key string // thumbprint of the key it showed it with; empty for a public client
}

// authenticate tells who sends the form. The proof is the one of the same request: a client must not sign both with one key.
func (s *Server) authenticate(ctx context.Context, f form, p *proof, now time.Time) (*caller, error) {
	id := f["client_id"]
	if id == "" {
		return nil, refuse(codeInvalidClient, "client_id is missing")
	}
	c, err := s.clients.get(ctx, id)
	if err != nil {
		return nil, err
	}
	if !c.Confidential {
		if f["client_assertion"] != "" || f["client_secret"] != "" {
			return nil, refuse(codeInvalidClient, "the client's metadata names no way to authenticate")
		}
		return &caller{client: c}, nil
	}
	if f["client_assertion_type"] != assertionType {
		return nil, refuse(codeInvalidClient, "client_assertion_type must be "+assertionType)
	}
	key, err := s.checkAssertion(ctx, c, f["client_assertion"], now)
	if err != nil {
		return nil, err
	}
	if p != nil && p.JKT == key {
		return nil, refuse(codeInvalidClient, "the assertion and the DPoP proof are signed with one key")
	}
	return &caller{client: c, key: key}, nil
}

// checkAssertion judges a client's assertion (RFC 7523) and answers with the thumbprint of the key that signed it.
func (s *Server) checkAssertion(ctx context.Context, c *client, raw string, now time.Time) (string, error) {
	bad := func(format string, a ...any) error {
		return refuse(codeInvalidClient, "client_assertion: "+format, a...)
	}
	t, err := parseJWS(raw, maxAssertion)
	if err != nil || t.head.Alg != algES256 || t.head.Kid == "" {
		return "", bad("not a JWT signed with %s that names its key", algES256)
	}
	key, ok, err := s.clients.key(ctx, c, t.head.Kid)
	if err != nil {
		return "", err
	}
	if !ok || !t.verified(key.pub) {
		return "", bad("not signed with a key of the client")
	}
	var claims struct {
		Iss string       `json:"iss"`
		Sub string       `json:"sub"`
		Aud audience     `json:"aud"`
		JTI string       `json:"jti"`
		IAT *numericDate `json:"iat"`
		Exp *numericDate `json:"exp"`
		Nbf *numericDate `json:"nbf"`
	}
	if err := json.Unmarshal(t.claims, &claims); err != nil {
		return "", bad("the claims are malformed")
	}
	switch {
	case claims.Iss != c.ID || claims.Sub != c.ID:
		return "", bad("iss and sub must be the client_id")
	case !slices.Contains(claims.Aud, s.cfg.Issuer) && !slices.Contains(claims.Aud, s.cfg.Issuer+pathToken):
		return "", bad("aud must be the issuer")
	case claims.JTI == "" || len(claims.JTI) > maxJTI:
		return "", bad("jti is missing or too long")
	case claims.IAT == nil:
		return "", bad("iat is missing")
	}
	issued, ok := claims.IAT.time()
	if !ok || issued.After(now.Add(assertionSkew)) {
		return "", bad("iat is in the future")
	}
	// Its life is ours to end: a client that writes a later exp gains nothing by it.
	if over := issued.Add(assertionLife); !now.Before(over) {
		return "", bad("older than a minute")
	}
	if claims.Exp != nil {
		if exp, ok := claims.Exp.time(); !ok || !now.Before(exp) {
			return "", bad("over")
		}
	}
	if claims.Nbf != nil {
		if nbf, ok := claims.Nbf.time(); !ok || now.Add(assertionSkew).Before(nbf) {
			return "", bad("not yet good")
		}
	}
	name := sha256.Sum256([]byte("assertion " + c.ID + " " + claims.JTI))
	fresh, err := s.once(ctx, s.pool, name[:], now.Add(assertionLife+2*assertionSkew), now)
	if err != nil {
		return "", err
	}
	if !fresh {
		return "", bad("used before")
	}
	return key.jkt, nil
}
