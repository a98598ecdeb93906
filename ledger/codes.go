package ledger

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

const (
	codeAlphabet = "23456789ABCDEFGHJKMNPQRSTUVWXYZ" // no 0 O 1 I L
	codeLength   = 8                                 // 31^8 is 2^39.6: not to be guessed in 90 s through a till's signature
	maxCodeTTL   = 90 * time.Second
	maxOpenCodes = 10                  // of one person at once
	keepCodes    = 30 * 24 * time.Hour // so long "already redeemed at T" is answered
)

// newCode draws a redemption code. Bytes past the last whole multiple of the alphabet are drawn again: no letter is likelier.
func newCode() (string, error) {
	const limit = 256 / len(codeAlphabet) * len(codeAlphabet)
	code := make([]byte, 0, codeLength)
	var one [1]byte
	for len(code) < codeLength {
		if _, err := rand.Read(one[:]); err != nil {
			return "", fmt.Errorf("draw a code: %w", err)
		}
		if int(one[0]) < limit {
			code = append(code, codeAlphabet[int(one[0])%len(codeAlphabet)])
		}
	}
	return string(code), nil
}

// normalCode reads a code as a cashier may type it, with spaces, a hyphen and small letters.
func normalCode(s string) (string, bool) {
	s = strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(strings.TrimSpace(s)))
	if len(s) != codeLength || strings.Trim(s, codeAlphabet) != "" {
		return "", false
	}
	return s, true
}

func codeHash(code string) []byte {
	h := sha256.Sum256([]byte("org.city-sync.code.v1\x00" + code))
	return h[:]
}
