package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/xrpc"
)

// credentials are what an account's DID document must say for this server to serve the account.
type credentials struct {
	DID          syntax.DID
	Handle       string
	Key          string // did:key
	Endpoint     string
	RotationKeys []string // of a did:plc; ours is the last
}

func (s *Server) credentialsOf(acc *account) (credentials, error) {
	key, err := s.signingKey(acc)
	if err != nil {
		return credentials{}, err
	}
	pub, err := key.PublicKey()
	if err != nil {
		return credentials{}, fmt.Errorf("signing key of %s: %w", acc.DID, err)
	}
	return credentials{
		DID: acc.DID, Handle: acc.Handle, Key: pub.DIDKey(), Endpoint: s.cfg.PublicURL, RotationKeys: s.rotationKeys(""),
	}, nil
}

// operation is the state that a did:plc has under these credentials.
func (c credentials) operation(rotationKeys []string) identity.Operation {
	return identity.Operation{
		Type: identity.TypeOperation, RotationKeys: rotationKeys,
		VerificationMethods: map[string]string{keyName: c.Key},
		AlsoKnownAs:         []string{"at://" + c.Handle},
		Services:            map[string]identity.Service{serviceName: {Type: serviceType, Endpoint: c.Endpoint}},
	}
}

// missing says, in sentences for the document's owner, what the document lacks. An empty answer means that all is there.
func (c credentials) missing(id *indigo.Identity) []string {
	var out []string
	if !c.endpointIn(id) {
		out = append(out, fmt.Sprintf("it needs the service #%s of type %s at %s", serviceName, serviceType, c.Endpoint))
	}
	if !c.keyIn(id) {
		out = append(out, fmt.Sprintf("it needs the verification method #%s of type Multikey with the publicKeyMultibase %s",
			keyName, strings.TrimPrefix(c.Key, "did:key:")))
	}
	if declared, err := id.DeclaredHandle(); err != nil || declared.String() != c.Handle {
		out = append(out, fmt.Sprintf("the first handle of its alsoKnownAs must be at://%s", c.Handle))
	}
	return out
}

func (c credentials) endpointIn(id *indigo.Identity) bool {
	svc, ok := id.Services[serviceName]
	return ok && svc.Type == serviceType && strings.TrimSuffix(svc.URL, "/") == c.Endpoint
}

func (c credentials) keyIn(id *indigo.Identity) bool {
	key, err := id.PublicKey()
	return err == nil && key.DIDKey() == c.Key
}

// freshIdentity reads a DID document anew. UnresolvableDid means that there is none; a 503 may pass.
func (s *Server) freshIdentity(ctx context.Context, did syntax.DID) (*indigo.Identity, error) {
	if err := s.directory.Purge(ctx, did.AtIdentifier()); err != nil {
		return nil, fmt.Errorf("purge %s: %w", did, err)
	}
	id, err := s.directory.LookupDID(ctx, did)
	switch {
	case err == nil:
		return id, nil
	case errors.Is(err, indigo.ErrDIDNotFound):
		return nil, refused("UnresolvableDid", "there is no document of %s%s", did, whereWeb(did))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	s.log.Warn("DID document not read", "did", did, "error", err)
	return nil, xrpc.Errorf(http.StatusServiceUnavailable, "DirectoryUnavailable", "the document of %s cannot be read now%s", did, whereWeb(did))
}

// whereWeb says to the owner of a did:web where the document is looked for.
func whereWeb(did syntax.DID) string {
	if did.Method() != "web" {
		return ""
	}
	return " at https://" + did.Identifier() + "/.well-known/did.json"
}

// checkDocument refuses what stands between an account and being served here, all of it at once.
func (s *Server) checkDocument(ctx context.Context, c credentials) error {
	id, err := s.freshIdentity(ctx, c.DID)
	if err != nil {
		return err
	}
	missing := c.missing(id)
	if c.DID.Method() == "plc" {
		held, err := s.heldRotation(ctx, c.DID)
		if err != nil {
			return err
		}
		if !held {
			missing = append(missing, fmt.Sprintf("its rotation keys must have this server's, %s", s.rotationDID))
		}
	}
	if len(missing) > 0 {
		return refused("IncompatibleDidDoc", "the document of %s does not name this server yet: %s", c.DID, strings.Join(missing, "; "))
	}
	return nil
}

// heldRotation says whether our key is among the rotation keys of a did:plc.
func (s *Server) heldRotation(ctx context.Context, did syntax.DID) (bool, error) {
	op, err := s.lastOperation(ctx, did)
	if err != nil {
		return false, err
	}
	return slices.Contains(op.RotationKeys, s.rotationDID), nil
}

func (s *Server) lastOperation(ctx context.Context, did syntax.DID) (identity.Operation, error) {
	op, err := s.plc.Last(ctx, did)
	switch {
	case err == nil && op.IsTombstone(), errors.Is(err, identity.ErrNotRegistered):
		return op, refused("UnresolvableDid", "%s is not registered, or was ended", did)
	case err != nil && ctx.Err() != nil:
		return op, ctx.Err()
	case err != nil:
		s.log.Warn("directory did not answer", "did", did, "error", err)
		return op, errDirectory("the PLC directory does not answer now")
	}
	return op, nil
}

func errDirectory(what string) error {
	return xrpc.Errorf(http.StatusServiceUnavailable, "DirectoryUnavailable", "%s", what)
}

// importKeys are those that may have signed a repository that is brought here: the key of the account's document. Where the document names ours
// already, it is ours, or for a did:plc the last one before: its history proves what a did:web cannot.
func (s *Server) importKeys(ctx context.Context, c credentials) ([]atcrypto.PublicKey, error) {
	id, err := s.freshIdentity(ctx, c.DID)
	if err != nil {
		return nil, err
	}
	key, err := id.PublicKey()
	if err != nil {
		return nil, refused("IncompatibleDidDoc", "the document of %s has no key that could have signed a repository", c.DID)
	}
	keys := []atcrypto.PublicKey{key}
	if key.DIDKey() != c.Key || c.DID.Method() != "plc" {
		return keys, nil
	}
	entries, err := s.plc.Audit(ctx, c.DID)
	if err != nil {
		s.log.Warn("directory did not answer", "did", c.DID, "error", err)
		return nil, errDirectory("the PLC directory does not answer now")
	}
	if err := identity.VerifyAudit(c.DID, entries); err != nil {
		return nil, refused("UnresolvableDid", "the history of %s does not prove itself", c.DID)
	}
	for _, e := range slices.Backward(entries) {
		before, ok := e.Operation.VerificationMethods[keyName]
		if e.Nullified || !ok || before == c.Key {
			continue
		}
		key, err := atcrypto.ParsePublicDIDKey(before)
		if err != nil {
			return nil, refused("IncompatibleDidDoc", "the former key of %s is of a kind that signs no repository", c.DID)
		}
		return append(keys, key), nil
	}
	return keys, nil
}
