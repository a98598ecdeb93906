package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"golang.org/x/mod/sumdb/note"
)

// algEd25519 is the signature type of signed notes.
const algEd25519 = 1

// logKeys are the signing and the verifying key of the ledger's log, made of a seed
// kept as a secret. The key's name is the log's origin, the ledger's DID.
func logKeys(origin syntax.DID, seed []byte) (skey, vkey string, err error) {
	private := ed25519.NewKeyFromSeed(seed)
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return "", "", fmt.Errorf("log key of %s: no Ed25519 public key", origin)
	}
	vkey, err = note.NewEd25519VerifierKey(origin.String(), public)
	if err != nil {
		return "", "", fmt.Errorf("log key of %s: %w", origin, err)
	}
	_, rest, _ := strings.Cut(vkey, "+")
	hash, _, _ := strings.Cut(rest, "+")
	secret := base64.StdEncoding.EncodeToString(append([]byte{algEd25519}, seed...))
	return "PRIVATE+KEY+" + origin.String() + "+" + hash + "+" + secret, vkey, nil
}
