package pds

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
)

// Token types and scopes are what the official clients look for.
const (
	typAccess    = "at+jwt"
	typRefresh   = "refresh+jwt"
	scopeAccess  = "com.atproto.access"
	scopeRefresh = "com.atproto.refresh"
	scopeApp     = "com.atproto.appPass"
	scopeAppMore = "com.atproto.appPassPrivileged"
)

var (
	errTokenInvalid = errors.New("token is malformed or not signed by this server")
	errTokenExpired = errors.New("token has expired")
)

// tokens signs and reads session tokens. They never leave this server's trust, so one
// shared secret and HS256 are enough; the header is compared whole, no algorithm is read.
type tokens struct {
	secret   []byte
	audience string
}

type claims struct {
	Scope    string `json:"scope"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	ID       string `json:"jti"` // session id and generation, "id.n"
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

// token is a checked token.
type token struct {
	DID        syntax.DID
	Session    string
	Generation int64

	App *appPassword // what opened the session, nil: the account's own password. It stands in the session's row; the token repeats it for apps to read.
}

var b64 = base64.RawURLEncoding

func header(typ string) string {
	return b64.EncodeToString([]byte(`{"typ":"` + typ + `","alg":"HS256"}`))
}

func (t *tokens) mac(signed string) []byte {
	m := hmac.New(sha256.New, t.secret)
	m.Write([]byte(signed))
	return m.Sum(nil)
}

func (t *tokens) sign(typ string, tok token, now, exp time.Time) (string, error) {
	scope := scopeAccess
	switch {
	case typ == typRefresh:
		scope = scopeRefresh
	case tok.App != nil && tok.App.Privileged:
		scope = scopeAppMore
	case tok.App != nil:
		scope = scopeApp
	}
	body, err := json.Marshal(claims{
		Scope: scope, Subject: tok.DID.String(), Audience: t.audience,
		ID:     tok.Session + "." + strconv.FormatInt(tok.Generation, 10),
		Issued: now.Unix(), Expires: exp.Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	signed := header(typ) + "." + b64.EncodeToString(body)
	return signed + "." + b64.EncodeToString(t.mac(signed)), nil
}

// read checks a token of the given type. Its session must still be looked up.
func (t *tokens) read(typ, raw string, now time.Time) (token, error) {
	head, rest, ok := strings.Cut(raw, ".")
	body, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(raw) > 4096 || head != header(typ) {
		return token{}, errTokenInvalid
	}
	got, err := b64.DecodeString(sig)
	if err != nil || !hmac.Equal(got, t.mac(head+"."+body)) {
		return token{}, errTokenInvalid
	}
	plain, err := b64.DecodeString(body)
	if err != nil {
		return token{}, errTokenInvalid
	}
	var c claims
	if err := json.Unmarshal(plain, &c); err != nil || c.Audience != t.audience {
		return token{}, errTokenInvalid
	}
	session, gen, ok := strings.Cut(c.ID, ".")
	n, err := strconv.ParseInt(gen, 10, 64)
	if !ok || err != nil {
		return token{}, errTokenInvalid
	}
	did, err := syntax.ParseDID(c.Subject)
	if err != nil {
		return token{}, errTokenInvalid
	}
	if now.Unix() >= c.Expires {
		return token{}, errTokenExpired
	}
	return token{DID: did, Session: session, Generation: n}, nil
}
