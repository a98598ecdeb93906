package oauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
	"time"
)

// algES256 is the one algorithm of proofs and assertions: every atproto client must offer it, and one curve is little to
// get wrong.
const algES256 = "ES256"

const (
	maxProof     = 4 << 10 // bytes of a compact JWS
	maxAssertion = 8 << 10
	maxJTI       = 256
	coordinate   = 32 // bytes of a P-256 coordinate, and of each half of a signature
)

// b64 is strict: one value has one spelling.
var b64 = base64.RawURLEncoding.Strict()

var errMalformed = errors.New("not a compact JWS")

// jws is a signed JWT as it was read. Nothing in it is believed before verified says so.
type jws struct {
	head   jwsHeader
	claims []byte
	signed string
	sig    []byte
}

type jwsHeader struct {
	Typ  string          `json:"typ"`
	Alg  string          `json:"alg"`
	Kid  string          `json:"kid"`
	JWK  *jwk            `json:"jwk"`
	Crit json.RawMessage `json:"crit"`
}

func parseJWS(raw string, limit int) (*jws, error) {
	if len(raw) > limit || strings.Count(raw, ".") != 2 {
		return nil, errMalformed
	}
	end := strings.LastIndexByte(raw, '.')
	head, body, _ := strings.Cut(raw[:end], ".")
	plainHead, err := b64.DecodeString(head)
	if err != nil {
		return nil, errMalformed
	}
	t := &jws{signed: raw[:end]}
	if t.claims, err = b64.DecodeString(body); err != nil {
		return nil, errMalformed
	}
	if t.sig, err = b64.DecodeString(raw[end+1:]); err != nil {
		return nil, errMalformed
	}
	if err := json.Unmarshal(plainHead, &t.head); err != nil {
		return nil, errMalformed
	}
	if t.head.Crit != nil { // an extension that must be understood, and none is
		return nil, errMalformed
	}
	return t, nil
}

// verified tells whether key signed t. A high s is taken, unlike in repositories: RFC 7518 allows it, and browsers make one
// half of the time.
func (t *jws) verified(key *ecdsa.PublicKey) bool {
	if t.head.Alg != algES256 || len(t.sig) != 2*coordinate {
		return false
	}
	digest := sha256.Sum256([]byte(t.signed))
	r, s := new(big.Int).SetBytes(t.sig[:coordinate]), new(big.Int).SetBytes(t.sig[coordinate:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// jwk is a public P-256 key. Private is looked for so that a key published whole is refused.
type jwk struct {
	Kty     string          `json:"kty"`
	Crv     string          `json:"crv"`
	X       string          `json:"x"`
	Y       string          `json:"y"`
	Kid     string          `json:"kid"`
	Use     string          `json:"use"`
	Alg     string          `json:"alg"`
	Private json.RawMessage `json:"d"`
}

// key is the key and its RFC 7638 thumbprint.
func (k *jwk) key() (*ecdsa.PublicKey, string, error) {
	if k.Kty != "EC" || k.Crv != "P-256" || k.Private != nil || (k.Alg != "" && k.Alg != algES256) || (k.Use != "" && k.Use != "sig") {
		return nil, "", errors.New("not a public signing key on P-256")
	}
	x, errX := b64.DecodeString(k.X)
	y, errY := b64.DecodeString(k.Y)
	if errX != nil || errY != nil || len(x) != coordinate || len(y) != coordinate {
		return nil, "", errors.New("coordinates are not 32 bytes of base64url")
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, "", errors.New("the point is not on P-256")
	}
	// The coordinates were decoded strictly, so these bytes are the canonical ones.
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + k.X + `","y":"` + k.Y + `"}`))
	return pub, b64.EncodeToString(sum[:]), nil
}

// numericDate is seconds since 1970, which RFC 7519 lets have a fraction.
type numericDate float64

func (n numericDate) time() (time.Time, bool) {
	f := float64(n)
	if f < 0 || f > 1<<40 || math.IsNaN(f) {
		return time.Time{}, false
	}
	return time.Unix(int64(f), 0).UTC(), true
}

// audience is a string, or some of them.
type audience []string

func (a *audience) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(a))
}
