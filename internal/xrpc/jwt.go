package xrpc

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
)

const (
	algK256 = "ES256K"
	algP256 = "ES256"
	maxJTI  = 128
)

// token is a service token as it was read, before anything in it is believed.
type token struct {
	alg, typ           string
	iss, aud, lxm, jti string
	exp, iat           int64 // seconds; iat is 0 when absent
	signed             []byte
	sig                []byte
}

type jwtHeader struct {
	Alg  string          `json:"alg"`
	Typ  string          `json:"typ"`
	Crit json.RawMessage `json:"crit,omitempty"`
}

type jwtClaims struct {
	Iss string      `json:"iss"`
	Aud string      `json:"aud"`
	Lxm string      `json:"lxm,omitempty"`
	Exp json.Number `json:"exp"`
	Iat json.Number `json:"iat,omitempty"`
	Jti string      `json:"jti"`
}

var strictBase64 = base64.RawURLEncoding.Strict()

var errBadToken = errors.New("poorly formatted token")

// parseToken reads the three parts. It checks form only: no time, no audience, no signature.
func parseToken(s string) (*token, error) {
	if len(s) > maxToken {
		return nil, errBadToken
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return nil, errBadToken
	}
	var h jwtHeader
	var c jwtClaims
	if err := decodePart(parts[0], &h); err != nil {
		return nil, err
	}
	if err := decodePart(parts[1], &c); err != nil {
		return nil, err
	}
	// The base64 decoder passes over line breaks, so they are refused by hand.
	sig, err := strictBase64.DecodeString(parts[2])
	if err != nil || len(sig) != 64 || strings.ContainsAny(parts[2], "\r\n") {
		return nil, errBadToken
	}
	if h.Crit != nil { // an extension that must be understood, and none is
		return nil, errBadToken
	}
	t := &token{alg: h.Alg, typ: h.Typ, iss: c.Iss, aud: c.Aud, lxm: c.Lxm, jti: c.Jti, sig: sig,
		signed: []byte(s[:len(parts[0])+1+len(parts[1])])}
	if t.exp, err = seconds(c.Exp); err != nil {
		return nil, err
	}
	if c.Iat != "" {
		if t.iat, err = seconds(c.Iat); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func decodePart(part string, v any) error {
	if strings.ContainsAny(part, "\r\n") {
		return errBadToken
	}
	raw, err := strictBase64.DecodeString(part)
	if err != nil || !utf8.Valid(raw) || json.Unmarshal(raw, v) != nil {
		return errBadToken
	}
	return nil
}

// seconds reads a whole number of seconds that a time can hold.
func seconds(n json.Number) (int64, error) {
	v, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil || v <= 0 || v > math.MaxInt32*8 {
		return 0, errBadToken
	}
	return v, nil
}

func algOf(key atcrypto.PublicKey) (string, error) {
	switch key.(type) {
	case *atcrypto.PublicKeyK256:
		return algK256, nil
	case *atcrypto.PublicKeyP256:
		return algP256, nil
	}
	return "", fmt.Errorf("no token algorithm for key type %T", key)
}

// SignServiceToken makes the token with which iss calls method lxm of aud. Verifiers of this program take one
// that lives at most 120 seconds.
func SignServiceToken(key atcrypto.PrivateKey, iss, aud, lxm string, now time.Time, ttl time.Duration) (string, error) {
	pub, err := key.PublicKey()
	if err != nil {
		return "", fmt.Errorf("sign service token: %w", err)
	}
	alg, err := algOf(pub)
	if err != nil {
		return "", fmt.Errorf("sign service token: %w", err)
	}
	var jti [16]byte
	_, _ = rand.Read(jti[:]) // never errs
	header, err := json.Marshal(jwtHeader{Alg: alg, Typ: "JWT"})
	if err != nil {
		return "", fmt.Errorf("sign service token: %w", err)
	}
	claims, err := json.Marshal(jwtClaims{
		Iss: iss, Aud: aud, Lxm: lxm, Jti: hex.EncodeToString(jti[:]),
		Iat: json.Number(strconv.FormatInt(now.Unix(), 10)),
		Exp: json.Number(strconv.FormatInt(now.Add(ttl).Unix(), 10)),
	})
	if err != nil {
		return "", fmt.Errorf("sign service token: %w", err)
	}
	signed := strictBase64.EncodeToString(header) + "." + strictBase64.EncodeToString(claims)
	sig, err := key.HashAndSign([]byte(signed))
	if err != nil {
		return "", fmt.Errorf("sign service token: %w", err)
	}
	return signed + "." + strictBase64.EncodeToString(sig), nil
}
