// Package secret keeps what people know by heart: passwords and PINs, as argon2id with a salt and a cost of their own.
package secret

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Cost is that of one hash. A stored hash carries its own cost, so a change applies to secrets set from then on.
type Cost struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// Validate keeps a damaged row from asking for a terabyte.
func (a Cost) Validate() error {
	if a.MemoryKiB < 8 || a.MemoryKiB > 1<<20 || a.Passes < 1 || a.Passes > 64 || a.Threads < 1 || a.Threads > 16 {
		return fmt.Errorf("argon2 cost m=%d,t=%d,p=%d is out of range", a.MemoryKiB, a.Passes, a.Threads)
	}
	return nil
}

// MaxLen bounds the bytes of a secret.
const MaxLen = 256

const (
	saltLen = 16
	hashLen = 32
)

var errForm = errors.New("stored hash is malformed")

// Hasher hashes and compares. Hashing takes memory, so only a few run at once.
type Hasher struct {
	cost  Cost
	slots chan struct{}
	dummy string // compared against when an account is unknown, so that time tells nothing
}

// NewHasher hashes at a cost.
func NewHasher(cost Cost) *Hasher {
	h := &Hasher{cost: cost, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	salt := make([]byte, saltLen)
	_, _ = rand.Read(salt)
	h.dummy = phc(cost, salt, h.cost.hash("", salt))
	return h
}

func (a Cost) hash(secret string, salt []byte) []byte {
	return argon2.IDKey([]byte(secret), salt, a.Passes, a.MemoryKiB, a.Threads, hashLen)
}

func phc(a Cost, salt, hash []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, a.MemoryKiB, a.Passes, a.Threads,
		b64.EncodeToString(salt), b64.EncodeToString(hash))
}

func parsePHC(s string) (a Cost, salt, hash []byte, err error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return a, nil, nil, errForm
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &a.MemoryKiB, &a.Passes, &a.Threads); err != nil {
		return a, nil, nil, errForm
	}
	if err := a.Validate(); err != nil {
		return a, nil, nil, errForm
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return a, nil, nil, errForm
	}
	if hash, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(hash) != hashLen {
		return a, nil, nil, errForm
	}
	return a, salt, hash, nil
}

func (h *Hasher) enter(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hash returns the string to store.
func (h *Hasher) Hash(ctx context.Context, secret string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer func() { <-h.slots }()
	salt := make([]byte, saltLen)
	_, _ = rand.Read(salt)
	return phc(h.cost, salt, h.cost.hash(secret, salt)), nil
}

// Matches compares in constant time. An empty stored string stands for an unknown account: the same work is done and the
// answer is no.
func (h *Hasher) Matches(ctx context.Context, stored, secret string) (bool, error) {
	known := stored != ""
	if !known {
		stored = h.dummy
	}
	if len(secret) > MaxLen { // no stored secret is longer; the work is done all the same
		secret, known = "", false
	}
	cost, salt, want, err := parsePHC(stored)
	if err != nil {
		return false, err
	}
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer func() { <-h.slots }()
	same := subtle.ConstantTimeCompare(cost.hash(secret, salt), want) == 1
	return same && known, nil
}

// Name gives what stands for a secret in an index: the same for the same secret and salt, and as dear to guess as a hash.
func (h *Hasher) Name(ctx context.Context, secret string, salt []byte) ([]byte, error) {
	if err := h.enter(ctx); err != nil {
		return nil, err
	}
	defer func() { <-h.slots }()
	return h.cost.hash(secret, salt), nil
}
