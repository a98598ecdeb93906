package entry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Account is a resident's account: 16 random bytes given at activation, derived from nothing.
type Account [16]byte

// Token is the claim token, which is the mint's nullifier too. It is the same for every version of a task, and two tokens
// of one account cannot be joined without the epoch's key.
func Token(epochKey [32]byte, firstURI, shift string, account Account) []byte {
	msg := appendHead(nil, majorArray, 4)
	msg = appendText(msg, "org.city-sync.nullifier.v1")
	msg = appendText(msg, firstURI)
	msg = appendText(msg, shift)
	msg = appendBytes(msg, account[:])
	h := hmac.New(sha256.New, epochKey[:])
	h.Write(msg)
	return h.Sum(nil)
}

var tillEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// TillID names a till: 16 characters of the hash of its redeemer and its key.
func TillID(redeemer, key string) string {
	sum := sha256.Sum256([]byte("org.city-sync.till.v1\n" + redeemer + "\n" + key))
	return strings.ToLower(tillEncoding.EncodeToString(sum[:10]))
}
