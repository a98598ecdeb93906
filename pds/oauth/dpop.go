package oauth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	nonceTurn  = time.Minute
	nonceTurns = 3 // how many turns a nonce is good for, the one it is given in included
	// proofSkew is how far a client's clock may be off. Freshness comes from the nonce; iat only shows a clock that is wrong.
	proofSkew = 3 * time.Minute
	// proofMemory outlasts every nonce under which the same proof could come again.
	proofMemory = (nonceTurns + 2) * nonceTurn
)

// proof is a DPoP proof that was checked. It must still be used up.
type proof struct {
	JKT  string // thumbprint of its key
	key  []byte // names it in the memory of used ones
	salt []byte // under which its nonce is good
}

func errUseNonce() *Error {
	return refuse(codeUseNonce, "the proof needs the nonce of the DPoP-Nonce header")
}

func (s *Server) nonceAt(salt []byte, turn int64) string {
	m := hmac.New(sha256.New, s.nonceKey)
	m.Write(salt)
	_ = binary.Write(m, binary.BigEndian, turn)
	return b64.EncodeToString(m.Sum(nil)[:16])
}

func nonceTurnAt(now time.Time) int64 { return now.Unix() / int64(nonceTurn/time.Second) }

// nonce is the one to hand out now.
func (s *Server) nonce(ctx context.Context) (string, error) {
	salt, err := s.salt(ctx)
	if err != nil {
		return "", err
	}
	return s.nonceAt(salt, nonceTurnAt(s.clock.Now())), nil
}

// goodNonce also takes the next turn's: another process's clock may be a little ahead.
func (s *Server) goodNonce(salt []byte, nonce string, now time.Time) bool {
	good, turn := false, nonceTurnAt(now)
	for n := turn - nonceTurns + 1; n <= turn+1; n++ {
		good = hmac.Equal([]byte(nonce), []byte(s.nonceAt(salt, n))) || good
	}
	return good
}

// saltOf is the salt under which a nonce is good.
func (s *Server) saltOf(ctx context.Context, nonce string, now time.Time) ([]byte, error) {
	salt, err := s.salt(ctx)
	if err != nil || s.goodNonce(salt, nonce, now) {
		return salt, err
	}
	// Another process may have seen first that the database lost its salt, and given this nonce under the new one.
	s.salted.Store(nil)
	salt, err = s.salt(ctx)
	if err != nil || s.goodNonce(salt, nonce, now) {
		return salt, err
	}
	return nil, errUseNonce()
}

// checkProof judges the request's DPoP proof; accessToken is what the proof must be bound to, empty where no token is used.
func (s *Server) checkProof(r *http.Request, accessToken string, now time.Time) (*proof, error) {
	headers := r.Header.Values("DPoP")
	if len(headers) != 1 {
		return nil, refuse(codeInvalidProof, "exactly one DPoP proof is needed")
	}
	t, err := parseJWS(headers[0], maxProof)
	if err != nil || t.head.Typ != "dpop+jwt" || t.head.Alg != algES256 || t.head.JWK == nil {
		return nil, refuse(codeInvalidProof, "the proof is no dpop+jwt signed with "+algES256)
	}
	key, jkt, err := t.head.JWK.key()
	if err != nil {
		return nil, refuse(codeInvalidProof, "the key of the proof is %s", err)
	}
	if !t.verified(key) {
		return nil, refuse(codeInvalidProof, "the signature of the proof is wrong")
	}
	var c struct {
		JTI   string       `json:"jti"`
		HTM   string       `json:"htm"`
		HTU   string       `json:"htu"`
		IAT   *numericDate `json:"iat"`
		Nonce *string      `json:"nonce"`
		ATH   *string      `json:"ath"`
	}
	if err := json.Unmarshal(t.claims, &c); err != nil {
		return nil, refuse(codeInvalidProof, "the claims of the proof are malformed")
	}
	if c.JTI == "" || len(c.JTI) > maxJTI {
		return nil, refuse(codeInvalidProof, "jti of the proof is missing or too long")
	}
	if c.HTM != r.Method {
		return nil, refuse(codeInvalidProof, "htm of the proof is not the method")
	}
	if !sameTarget(c.HTU, s.issuer, r.URL) {
		return nil, refuse(codeInvalidProof, "htu of the proof is not the address")
	}
	if c.IAT == nil {
		return nil, refuse(codeInvalidProof, "iat of the proof is missing")
	}
	issued, ok := c.IAT.time()
	if !ok || issued.Before(now.Add(-proofSkew)) || issued.After(now.Add(proofSkew)) {
		return nil, refuse(codeInvalidProof, "iat of the proof is more than %d minutes away from now", int(proofSkew/time.Minute))
	}
	if accessToken == "" && c.ATH != nil {
		return nil, refuse(codeInvalidProof, "ath of the proof names a token, and none is used")
	}
	if accessToken != "" {
		sum := sha256.Sum256([]byte(accessToken))
		if c.ATH == nil || !hmac.Equal([]byte(*c.ATH), []byte(b64.EncodeToString(sum[:]))) {
			return nil, refuse(codeInvalidProof, "ath of the proof is not the token's")
		}
	}
	if c.Nonce == nil {
		return nil, errUseNonce()
	}
	salt, err := s.saltOf(r.Context(), *c.Nonce, now)
	if err != nil {
		return nil, err
	}
	// A client's own key is part of the name, so that nobody can use up the proofs of another.
	name := sha256.Sum256([]byte(jkt + " " + c.JTI))
	return &proof{JKT: jkt, key: name[:], salt: salt}, nil
}

// sameTarget compares htu with the address by which others reach u here, without query and fragment (RFC 9449, 4.3). The
// Host header is not asked: a proxy may have changed it.
func sameTarget(htu, issuer string, u *url.URL) bool {
	if len(htu) > maxURL {
		return false
	}
	h, err := url.Parse(htu)
	if err != nil || h.User != nil || h.Opaque != "" {
		return false
	}
	return origin(h) == issuer && h.EscapedPath() == u.EscapedPath()
}

// origin is a URL's scheme and host as RFC 6454 spells them.
func origin(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	}
	return scheme + "://" + host
}
