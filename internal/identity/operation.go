package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// Types of an operation.
const (
	TypeOperation = "plc_operation"
	TypeTombstone = "plc_tombstone"
	TypeLegacy    = "create" // deprecated; only ever a genesis
)

// Errors of an operation taken for itself. All are final.
var (
	ErrMalformed = errors.New("malformed operation")
	ErrSignature = errors.New("operation signature does not fit")
	ErrGenesis   = errors.New("genesis operation does not fit the DID")
)

const (
	multihashSHA256 = 0x12
	maxRotationKeys = 32 // the public directory takes no more than 10
)

// Service is one entry of an operation's services.
type Service struct {
	Type     string `json:"type"`
	Endpoint string `json:"endpoint"`
}

// Operation is one entry in the history of a did:plc: the whole state it sets, or its end. A legacy genesis is
// held in the same fields, as its meaning, and keeps its own bytes for hashing.
type Operation struct {
	Type                string // "" means TypeOperation
	RotationKeys        []string
	VerificationMethods map[string]string
	AlsoKnownAs         []string
	Services            map[string]Service
	Prev                string // CID of the operation before; "" at genesis
	Sig                 string // base64url, low-S, 64 bytes

	legacy *legacyCreate
}

type legacyCreate struct{ signingKey, recoveryKey, handle, service string }

func (o Operation) kind() string {
	if o.Type == "" {
		return TypeOperation
	}
	return o.Type
}

// Tombstone is the unsigned operation that ends a DID after prev.
func Tombstone(prev cid.Cid) Operation {
	return Operation{Type: TypeTombstone, Prev: prev.String()}
}

// IsTombstone reports whether o ends its DID.
func (o Operation) IsTombstone() bool { return o.kind() == TypeTombstone }

// Next is an unsigned copy of the state that o set, to be changed and signed as the operation after o.
func (o Operation) Next() Operation {
	return Operation{
		Type:                TypeOperation,
		RotationKeys:        slices.Clone(o.RotationKeys),
		VerificationMethods: maps.Clone(o.VerificationMethods),
		AlsoKnownAs:         slices.Clone(o.AlsoKnownAs),
		Services:            maps.Clone(o.Services),
		Prev:                o.CID().String(),
	}
}

// Sign signs o. The key must be one of the rotation keys of the operation before, or of o itself at genesis;
// that is checked where o is verified.
func (o *Operation) Sign(key atcrypto.PrivateKey) error {
	sig, err := key.HashAndSign(o.encode(false))
	if err != nil {
		return fmt.Errorf("sign operation: %w", err)
	}
	o.Sig = base64.RawURLEncoding.EncodeToString(sig)
	return nil
}

// VerifySig returns the index of the first of the rotation keys (did:key) that signed o.
func (o Operation) VerifySig(rotationKeys []string) (int, error) {
	// The signature is part of what the CID is over, so it has one spelling: no padding, no spare bits, no line
	// breaks (which the decoder would pass over), low-S.
	sig, err := base64.RawURLEncoding.Strict().DecodeString(o.Sig)
	if err != nil || len(sig) != 64 || strings.ContainsAny(o.Sig, "\r\n") {
		return 0, ErrSignature
	}
	unsigned := o.encode(false)
	for i, k := range rotationKeys {
		pub, err := atcrypto.ParsePublicDIDKey(k)
		if err != nil {
			continue // a key of another kind can sign nothing here
		}
		if pub.HashAndVerify(unsigned, sig) == nil {
			return i, nil
		}
	}
	return 0, ErrSignature
}

// CID is the hash of the signed operation, which the next one names as prev.
func (o Operation) CID() cid.Cid {
	c, err := cid.NewPrefixV1(cid.DagCBOR, multihashSHA256).Sum(o.encode(true))
	if err != nil {
		panic(err) // SHA-256 is always there
	}
	return c
}

// Size is the length of the signed operation's bytes.
func (o Operation) Size() int { return len(o.encode(true)) }

// GenesisDID is the DID that a signed genesis operation makes.
func GenesisDID(op Operation) (syntax.DID, error) {
	switch {
	case op.IsTombstone(), op.Prev != "":
		return "", fmt.Errorf("%w: it is not a first operation", ErrGenesis)
	case op.Sig == "":
		return "", fmt.Errorf("%w: it is not signed", ErrGenesis)
	}
	sum := sha256.Sum256(op.encode(true))
	name := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
	return syntax.DID("did:plc:" + strings.ToLower(name[:24])), nil
}

// encode is the canonical DAG-CBOR of o (I3): map keys by length, then bytewise.
func (o Operation) encode(signed bool) []byte {
	m := map[string]any{"type": o.kind(), "prev": nil}
	if o.Prev != "" {
		m["prev"] = o.Prev
	}
	if signed {
		m["sig"] = o.Sig
	}
	switch {
	case o.legacy != nil:
		m["signingKey"], m["recoveryKey"] = o.legacy.signingKey, o.legacy.recoveryKey
		m["handle"], m["service"] = o.legacy.handle, o.legacy.service
	case !o.IsTombstone():
		services := make(map[string]any, len(o.Services))
		for id, s := range o.Services {
			services[id] = map[string]any{"type": s.Type, "endpoint": s.Endpoint}
		}
		methods := make(map[string]any, len(o.VerificationMethods))
		for id, k := range o.VerificationMethods {
			methods[id] = k
		}
		m["rotationKeys"], m["alsoKnownAs"] = o.RotationKeys, o.AlsoKnownAs
		m["verificationMethods"], m["services"] = methods, services
	}
	return appendCBOR(nil, m)
}

// appendCBOR encodes the few kinds of value an operation is made of.
func appendCBOR(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 0xf6)
	case string:
		return append(appendHead(b, 3, len(v)), v...)
	case []string:
		b = appendHead(b, 4, len(v))
		for _, s := range v {
			b = appendCBOR(b, s)
		}
		return b
	case map[string]any:
		keys := slices.SortedFunc(maps.Keys(v), func(x, y string) int {
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			return strings.Compare(x, y)
		})
		b = appendHead(b, 5, len(keys))
		for _, k := range keys {
			b = appendCBOR(appendCBOR(b, k), v[k])
		}
		return b
	}
	panic(fmt.Sprintf("identity: no encoding for %T", v)) // encode gives no other kind
}

func appendHead(b []byte, major byte, n int) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return append(b, major|25, byte(n>>8), byte(n))
	}
	return append(b, major|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// MarshalJSON writes the form the directory takes.
func (o Operation) MarshalJSON() ([]byte, error) {
	var prev *string
	if o.Prev != "" {
		prev = &o.Prev
	}
	switch {
	case o.legacy != nil:
		return json.Marshal(struct {
			Type        string  `json:"type"`
			SigningKey  string  `json:"signingKey"`
			RecoveryKey string  `json:"recoveryKey"`
			Handle      string  `json:"handle"`
			Service     string  `json:"service"`
			Prev        *string `json:"prev"`
			Sig         string  `json:"sig"`
		}{TypeLegacy, o.legacy.signingKey, o.legacy.recoveryKey, o.legacy.handle, o.legacy.service, prev, o.Sig})
	case o.IsTombstone():
		return json.Marshal(struct {
			Type string  `json:"type"`
			Prev *string `json:"prev"`
			Sig  string  `json:"sig"`
		}{TypeTombstone, prev, o.Sig})
	}
	return json.Marshal(struct {
		Type                string             `json:"type"`
		RotationKeys        []string           `json:"rotationKeys"`
		VerificationMethods map[string]string  `json:"verificationMethods"`
		AlsoKnownAs         []string           `json:"alsoKnownAs"`
		Services            map[string]Service `json:"services"`
		Prev                *string            `json:"prev"`
		Sig                 string             `json:"sig"`
	}{TypeOperation, orEmpty(o.RotationKeys), orEmptyMap(o.VerificationMethods), orEmpty(o.AlsoKnownAs), orEmptyMap(o.Services), prev, o.Sig})
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func orEmptyMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// UnmarshalJSON reads exactly the fields of the operation's type: one missing, one more, one spelled in another
// case or one given twice is refused, since what is not signed must not seem to be said.
func (o *Operation) UnmarshalJSON(raw []byte) error {
	f, err := object(raw)
	if err != nil {
		return err
	}
	var op Operation
	if op.Type, err = f.text("type"); err != nil {
		return err
	}
	if op.Sig, err = f.text("sig"); err != nil {
		return err
	}
	prev, ok := f.take("prev")
	if !ok {
		return fmt.Errorf("%w: prev is missing", ErrMalformed)
	}
	if !bytes.Equal(prev, []byte("null")) {
		if json.Unmarshal(prev, &op.Prev) != nil || op.Prev == "" {
			return fmt.Errorf("%w: prev", ErrMalformed)
		}
	}
	switch op.Type {
	case TypeOperation:
		err = op.readState(f)
	case TypeTombstone:
		if op.Prev == "" {
			err = fmt.Errorf("%w: a tombstone without prev", ErrMalformed)
		}
	case TypeLegacy:
		err = op.readLegacy(f)
	default:
		err = fmt.Errorf("%w: unknown type", ErrMalformed)
	}
	if err != nil {
		return err
	}
	if len(f) != 0 {
		return fmt.Errorf("%w: a field that %s does not have", ErrMalformed, op.Type)
	}
	*o = op
	return nil
}

func (o *Operation) readState(f fields) (err error) {
	if o.RotationKeys, err = f.texts("rotationKeys"); err != nil {
		return err
	}
	if len(o.RotationKeys) > maxRotationKeys { // each may be tried on each signature
		return fmt.Errorf("%w: %d rotation keys", ErrMalformed, len(o.RotationKeys))
	}
	if o.AlsoKnownAs, err = f.texts("alsoKnownAs"); err != nil {
		return err
	}
	methods, err := f.object("verificationMethods")
	if err != nil {
		return err
	}
	o.VerificationMethods = make(map[string]string, len(methods))
	for id := range methods {
		var key string
		if key, err = methods.text(id); err != nil {
			return err
		}
		o.VerificationMethods[id] = key
	}
	services, err := f.object("services")
	if err != nil {
		return err
	}
	o.Services = make(map[string]Service, len(services))
	for id := range services {
		s, err := services.object(id)
		if err != nil {
			return err
		}
		var svc Service
		if svc.Type, err = s.text("type"); err != nil {
			return err
		}
		if svc.Endpoint, err = s.text("endpoint"); err != nil {
			return err
		}
		if len(s) != 0 {
			return fmt.Errorf("%w: a field that a service does not have", ErrMalformed)
		}
		o.Services[id] = svc
	}
	return nil
}

func (o *Operation) readLegacy(f fields) error {
	if o.Prev != "" {
		return fmt.Errorf("%w: a legacy operation with prev", ErrMalformed)
	}
	var l legacyCreate
	for name, dst := range map[string]*string{"signingKey": &l.signingKey, "recoveryKey": &l.recoveryKey, "handle": &l.handle, "service": &l.service} {
		v, err := f.text(name)
		if err != nil {
			return err
		}
		*dst = v
	}
	o.legacy = &l
	o.RotationKeys = []string{l.recoveryKey, l.signingKey}
	o.VerificationMethods = map[string]string{"atproto": l.signingKey}
	o.AlsoKnownAs = []string{l.handle}
	if !strings.HasPrefix(l.handle, "at://") {
		o.AlsoKnownAs[0] = "at://" + strings.NewReplacer("http://", "", "https://", "").Replace(l.handle)
	}
	endpoint := l.service
	if !strings.HasPrefix(endpoint, "http://") && !strings.HasPrefix(endpoint, "https://") {
		endpoint = "https://" + endpoint
	}
	o.Services = map[string]Service{"atproto_pds": {Type: "AtprotoPersonalDataServer", Endpoint: endpoint}}
	return nil
}

// fields are the members of a JSON object that were not read yet.
type fields map[string]json.RawMessage

func object(raw []byte) (fields, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%w: not an object", ErrMalformed)
	}
	f := make(fields)
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("%w: not an object", ErrMalformed)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("%w: field %.32q", ErrMalformed, name)
		}
		if _, twice := f[name]; twice {
			return nil, fmt.Errorf("%w: field %.32q stands twice", ErrMalformed, name)
		}
		f[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("%w: not an object", ErrMalformed)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: data after the object", ErrMalformed)
	}
	return f, nil
}

func (f fields) take(name string) (json.RawMessage, bool) {
	v, ok := f[name]
	delete(f, name)
	return v, ok
}

func (f fields) text(name string) (string, error) {
	v, ok := f.take(name)
	var s *string
	if !ok || json.Unmarshal(v, &s) != nil || s == nil {
		return "", fmt.Errorf("%w: %.32q must be text", ErrMalformed, name)
	}
	return *s, nil
}

func (f fields) texts(name string) ([]string, error) {
	v, ok := f.take(name)
	var ps []*string
	if !ok || json.Unmarshal(v, &ps) != nil || ps == nil {
		return nil, fmt.Errorf("%w: %.32q must be a list of texts", ErrMalformed, name)
	}
	out := make([]string, len(ps))
	for i, p := range ps {
		if p == nil {
			return nil, fmt.Errorf("%w: %.32q must be a list of texts", ErrMalformed, name)
		}
		out[i] = *p
	}
	return out, nil
}

func (f fields) object(name string) (fields, error) {
	v, ok := f.take(name)
	if !ok {
		return nil, fmt.Errorf("%w: %.32q is missing", ErrMalformed, name)
	}
	return object(v)
}
