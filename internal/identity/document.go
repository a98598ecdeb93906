package identity

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

const (
	maxDocBytes   = 128 << 10
	maxDocEntries = 64 // of keys, of services, of names; what stands after them is passed over
	maxEndpoint   = 512
)

// rawDocument takes the parts of a DID document that matter, each as it comes: another service's endpoint may be
// an object, and must not spoil the rest.
type rawDocument struct {
	ID                 string            `json:"id"`
	AlsoKnownAs        []json.RawMessage `json:"alsoKnownAs"`
	VerificationMethod []json.RawMessage `json:"verificationMethod"`
	Service            []json.RawMessage `json:"service"`
}

// parseDocument reads a DID document that must be did's own (I1). Entries that are not understood are left out.
func parseDocument(did syntax.DID, raw []byte) (*identity.Identity, error) {
	if len(raw) > maxDocBytes {
		return nil, fmt.Errorf("%w: document too long", identity.ErrDIDResolutionFailed)
	}
	var doc rawDocument
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("%w: document is not JSON of its form", identity.ErrDIDResolutionFailed)
	}
	if doc.ID != did.String() {
		return nil, fmt.Errorf("%w: the document is of another DID", identity.ErrDIDResolutionFailed)
	}
	id := &identity.Identity{
		DID:      did,
		Handle:   syntax.HandleInvalid, // nobody checked it in both directions
		Keys:     make(map[string]identity.VerificationMethod),
		Services: make(map[string]identity.ServiceEndpoint),
	}
	for _, r := range first(doc.AlsoKnownAs) {
		var s string
		if json.Unmarshal(r, &s) == nil && len(s) <= maxEndpoint {
			id.AlsoKnownAs = append(id.AlsoKnownAs, s)
		}
	}
	for _, r := range first(doc.VerificationMethod) {
		var m identity.DocVerificationMethod
		if json.Unmarshal(r, &m) != nil || m.Controller != did.String() || len(m.PublicKeyMultibase) > maxEndpoint {
			continue
		}
		if name, ok := fragment(did, m.ID); ok {
			if _, taken := id.Keys[name]; !taken { // the first of a name counts
				id.Keys[name] = identity.VerificationMethod{Type: m.Type, PublicKeyMultibase: m.PublicKeyMultibase}
			}
		}
	}
	for _, r := range first(doc.Service) {
		var s identity.DocService
		if json.Unmarshal(r, &s) != nil || !webAddress(s.ServiceEndpoint) {
			continue
		}
		if name, ok := fragment(did, s.ID); ok {
			if _, taken := id.Services[name]; !taken {
				id.Services[name] = identity.ServiceEndpoint{Type: s.Type, URL: s.ServiceEndpoint}
			}
		}
	}
	return id, nil
}

func first(rs []json.RawMessage) []json.RawMessage { return rs[:min(len(rs), maxDocEntries)] }

// fragment is the name of an entry whose id is "#name" or "did#name" with did's own DID.
func fragment(did syntax.DID, id string) (string, bool) {
	base, name, ok := strings.Cut(id, "#")
	if !ok || name == "" || len(name) > 128 || base != "" && base != did.String() {
		return "", false
	}
	return name, true
}

func webAddress(s string) bool {
	if s == "" || len(s) > maxEndpoint {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil
}

// cloneIdentity keeps callers from changing what the cache holds.
func cloneIdentity(id *identity.Identity) *identity.Identity {
	c := *id
	c.AlsoKnownAs = slices.Clone(id.AlsoKnownAs)
	c.Keys = maps.Clone(id.Keys)
	c.Services = maps.Clone(id.Services)
	return &c
}

// Document is a DID document in the form of the did:plc directory.
type Document struct {
	Context            []string                         `json:"@context"`
	ID                 syntax.DID                       `json:"id"`
	AlsoKnownAs        []string                         `json:"alsoKnownAs"`
	VerificationMethod []identity.DocVerificationMethod `json:"verificationMethod"`
	Service            []identity.DocService            `json:"service"`
}

// DocumentOf renders the state that an operation sets. A tombstone has none.
func DocumentOf(did syntax.DID, op Operation) Document {
	d := Document{
		Context:            []string{"https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"},
		ID:                 did,
		AlsoKnownAs:        orEmpty(op.AlsoKnownAs),
		VerificationMethod: []identity.DocVerificationMethod{},
		Service:            []identity.DocService{},
	}
	for _, name := range slices.Sorted(maps.Keys(op.VerificationMethods)) {
		didKey := op.VerificationMethods[name]
		if c := keyContext(didKey); c != "" && !slices.Contains(d.Context, c) {
			d.Context = append(d.Context, c)
		}
		d.VerificationMethod = append(d.VerificationMethod, identity.DocVerificationMethod{
			ID:                 did.String() + "#" + name,
			Type:               "Multikey",
			Controller:         did.String(),
			PublicKeyMultibase: strings.TrimPrefix(didKey, "did:key:"),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(op.Services)) {
		s := op.Services[name]
		d.Service = append(d.Service, identity.DocService{ID: "#" + name, Type: s.Type, ServiceEndpoint: s.Endpoint})
	}
	return d
}

func keyContext(didKey string) string {
	key, err := atcrypto.ParsePublicDIDKey(didKey)
	if err != nil {
		return ""
	}
	switch key.(type) {
	case *atcrypto.PublicKeyP256:
		return "https://w3id.org/security/suites/ecdsa-2019/v1"
	case *atcrypto.PublicKeyK256:
		return "https://w3id.org/security/suites/secp256k1-2019/v1"
	}
	return ""
}
