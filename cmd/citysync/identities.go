package main

import (
	"context"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/identity"
)

// Services as DID documents name them.
const (
	fragmentPDS     = "atproto_pds"
	fragmentAppView = "citysync_appview"
	fragmentLedger  = "citysync_ledger"

	typePDS     = "AtprotoPersonalDataServer"
	typeAppView = "CitySyncAppView"
	typeLedger  = "CitySyncLedger"
)

// rotationKey makes the key that signs PLC operations of a secret.
func rotationKey(secret []byte) (atcrypto.PrivateKeyExportable, error) {
	key, err := atcrypto.ParsePrivateBytesK256(secret)
	if err != nil {
		return nil, fmt.Errorf("rotation key: %w", err)
	}
	return key, nil
}

func didKey(key atcrypto.PrivateKey) (string, error) {
	public, err := key.PublicKey()
	if err != nil {
		return "", fmt.Errorf("public key: %w", err)
	}
	return public.DIDKey(), nil
}

// newServiceDID registers a service that has no repository.
func newServiceDID(ctx context.Context, plc *identity.PLC, key atcrypto.PrivateKey, fragment, kind, url string) (syntax.DID, error) {
	rotation, err := didKey(key)
	if err != nil {
		return "", err
	}
	op := identity.Operation{
		RotationKeys:        []string{rotation},
		VerificationMethods: map[string]string{},
		AlsoKnownAs:         []string{},
		Services:            map[string]identity.Service{fragment: {Type: kind, Endpoint: url}},
	}
	if err := op.Sign(key); err != nil {
		return "", fmt.Errorf("DID of %s: %w", kind, err)
	}
	did, err := identity.GenesisDID(op)
	if err != nil {
		return "", fmt.Errorf("DID of %s: %w", kind, err)
	}
	if err := plc.Submit(ctx, did, op); err != nil {
		return "", err
	}
	return did, nil
}

// addService writes a service into an account's DID document, with the account's
// recovery key; a document that names it already stays as it is.
func addService(ctx context.Context, plc *identity.PLC, did syntax.DID, key atcrypto.PrivateKey, fragment, kind, url string) error {
	last, err := plc.Last(ctx, did)
	if err != nil {
		return err
	}
	want := identity.Service{Type: kind, Endpoint: url}
	if last.Services[fragment] == want {
		return nil
	}
	op := last.Next()
	op.Services[fragment] = want
	if err := op.Sign(key); err != nil {
		return fmt.Errorf("service %s of %s: %w", fragment, did, err)
	}
	return plc.Submit(ctx, did, op)
}
