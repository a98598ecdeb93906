package plcdev

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bluesky-social/indigo/atproto/atcrypto"

	"city-sync.org/citysync/internal/identity"
)

// Limits of an operation that is submitted. Older logs may hold what would be refused today.
const (
	maxOpBytes      = 7500
	maxRotationKeys = 5
	maxEntries      = 10 // of alsoKnownAs, services, verificationMethods
	maxAKA          = 258
	maxID           = 32
	maxServiceType  = 256
	maxEndpoint     = 512
	maxKey          = 256
	base58          = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
)

var errInvalid = errors.New("not a valid operation")

func invalid(format string, a ...any) error {
	return fmt.Errorf("%w: %s", errInvalid, fmt.Sprintf(format, a...))
}

// checkIncoming applies the limits; whether the operation fits its history is identity.CheckNext's to say.
func checkIncoming(op identity.Operation) error {
	if op.Type == identity.TypeLegacy {
		return invalid("legacy operations are not taken any more")
	}
	if n := op.Size(); n > maxOpBytes {
		return invalid("%d bytes, at most %d", n, maxOpBytes)
	}
	if op.IsTombstone() {
		return nil
	}
	if n := len(op.RotationKeys); n < 1 || n > maxRotationKeys {
		return invalid("%d rotationKeys, from 1 to %d", n, maxRotationKeys)
	}
	seen := make(map[string]bool)
	for _, k := range op.RotationKeys {
		if _, err := atcrypto.ParsePublicDIDKey(k); err != nil {
			return invalid("rotationKey %.80q", k)
		}
		if seen[k] {
			return invalid("rotationKey %.80q stands twice", k)
		}
		seen[k] = true
	}
	if n := len(op.AlsoKnownAs); n > maxEntries {
		return invalid("%d alsoKnownAs, at most %d", n, maxEntries)
	}
	for _, a := range op.AlsoKnownAs {
		if len(a) > maxAKA || seen[a] {
			return invalid("alsoKnownAs %.80q is too long or stands twice", a)
		}
		seen[a] = true
	}
	if n := len(op.Services); n > maxEntries {
		return invalid("%d services, at most %d", n, maxEntries)
	}
	for id, s := range op.Services {
		if len(id) > maxID || len(s.Type) > maxServiceType || len(s.Endpoint) > maxEndpoint {
			return invalid("service %.80q is too long", id)
		}
	}
	if n := len(op.VerificationMethods); n > maxEntries {
		return invalid("%d verificationMethods, at most %d", n, maxEntries)
	}
	for id, k := range op.VerificationMethods {
		if len(id) > maxID || len(k) > maxKey {
			return invalid("verificationMethod %.80q is too long", id)
		}
		// Any kind of key may stand here, as long as it is spelled as a did:key.
		mb, ok := strings.CutPrefix(k, "did:key:z")
		if !ok || mb == "" || strings.Trim(mb, base58) != "" {
			return invalid("verificationMethod key %.80q", k)
		}
	}
	return nil
}
