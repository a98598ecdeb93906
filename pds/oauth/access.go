package oauth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const maxAccess = 4 << 10

// accessHead is compared whole: no algorithm is read from a token.
var accessHead = b64.EncodeToString([]byte(`{"typ":"at+jwt","alg":"HS256"}`))

// accessClaims are RFC 9068's, without the scope: that stands in the session.
type accessClaims struct {
	Iss      string       `json:"iss"`
	Aud      string       `json:"aud"`
	Sub      string       `json:"sub"`
	ClientID string       `json:"client_id"`
	JTI      string       `json:"jti"` // the session
	IAT      int64        `json:"iat"`
	Exp      int64        `json:"exp"`
	CNF      confirmation `json:"cnf"`
}

type confirmation struct {
	JKT string `json:"jkt"`
}

func (s *Server) signAccess(g *grantRow, now, expires time.Time) (string, error) {
	body, err := json.Marshal(accessClaims{
		Iss: s.cfg.Issuer, Aud: s.cfg.Issuer, Sub: g.DID.String(), ClientID: g.Client, JTI: g.ID,
		IAT: now.Unix(), Exp: expires.Unix(), CNF: confirmation{JKT: g.JKT},
	})
	if err != nil {
		return "", fmt.Errorf("encode access token: %w", err)
	}
	signed := accessHead + "." + b64.EncodeToString(body)
	return signed + "." + b64.EncodeToString(s.accessMAC(signed)), nil
}

func (s *Server) accessMAC(signed string) []byte {
	m := hmac.New(sha256.New, s.accessKey)
	m.Write([]byte(signed))
	return m.Sum(nil)
}

// readAccess reads a token of ours, over or not.
func (s *Server) readAccess(raw string) (*accessClaims, bool) {
	end := strings.LastIndexByte(raw, '.')
	if len(raw) > maxAccess || end < 0 {
		return nil, false
	}
	sig, err := b64.DecodeString(raw[end+1:])
	if err != nil || !hmac.Equal(sig, s.accessMAC(raw[:end])) {
		return nil, false
	}
	body, ok := strings.CutPrefix(raw[:end], accessHead+".")
	plain, err := b64.DecodeString(body)
	if !ok || err != nil {
		return nil, false
	}
	var c accessClaims
	if err := json.Unmarshal(plain, &c); err != nil || c.Aud != s.cfg.Issuer || c.Iss != s.cfg.Issuer {
		return nil, false
	}
	return &c, true
}

func unauthorized(e *Error) *Error {
	e.Status = http.StatusUnauthorized
	return e
}

func errBadToken(why string) *Error { return unauthorized(refuse(codeInvalidToken, "%s", why)) }

// Authenticate answers with the session in whose name a request comes: Authorization: DPoP with an access token, and a proof
// bound to it. Its refusals are for Answer to put on the response.
func (s *Server) Authenticate(r *http.Request) (*Session, error) {
	ses, err := s.authenticateRequest(r)
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusBadRequest {
		return nil, unauthorized(e) // RFC 9449, 7.1: at a resource these are 401 with a challenge
	}
	return ses, err
}

func (s *Server) authenticateRequest(r *http.Request) (*Session, error) {
	now := s.clock.Now()
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return nil, errBadToken("an access token is needed")
	}
	scheme, raw, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "DPoP") {
		return nil, errBadToken("the access token must come with the scheme DPoP")
	}
	claims, ok := s.readAccess(raw)
	if !ok {
		return nil, errBadToken("the access token is not one of this server")
	}
	if now.Unix() >= claims.Exp {
		return nil, errBadToken("the access token is over")
	}
	p, err := s.checkProof(r, raw, now)
	if err != nil {
		return nil, err
	}
	if p.JKT != claims.CNF.JKT {
		return nil, errBadToken("the access token is bound to another DPoP key")
	}
	// One round trip for both: the proof is used up and the session looked at.
	var batch pgx.Batch
	s.queueProof(&batch, p, now)
	batch.Queue(`select `+sessionColumns+` from oauth_session where id = $1 and did = $2 and expires > $3`, claims.JTI, claims.Sub, now)
	res := s.pool.SendBatch(r.Context(), &batch)
	defer func() { _ = res.Close() }() // what was read of it was judged
	if err := s.judgeProof(p, res.QueryRow()); err != nil {
		return nil, err
	}
	rows, err := res.Query()
	if err != nil {
		return nil, fmt.Errorf("look at session: %w", err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[sessionRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errBadToken("the session is over")
	}
	if err != nil {
		return nil, fmt.Errorf("look at session: %w", err)
	}
	return s.session(row)
}
