package pds

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

// Argon2 sets the cost of a password hash. A stored hash carries its own cost, so a
// change applies to passwords set from then on.
type Argon2 struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// bounds keep a damaged row from asking for a terabyte.
func (a Argon2) validate() error {
	if a.MemoryKiB < 8 || a.MemoryKiB > 1<<20 || a.Passes < 1 || a.Passes > 64 || a.Threads < 1 || a.Threads > 16 {
		return fmt.Errorf("argon2 cost m=%d,t=%d,p=%d is out of range", a.MemoryKiB, a.Passes, a.Threads)
	}
	return nil
}

const (
	passwordMin = 8
	passwordMax = 256
	saltLen     = 16
	hashLen     = 32
)

var errPHC = errors.New("stored password hash is malformed")

// passwords hashes and compares. Hashing takes memory, so only a few run at once.
type passwords struct {
	cost  Argon2
	slots chan struct{}
	dummy string // compared against when an account is unknown, so that time tells nothing
}

func newPasswords(cost Argon2) *passwords {
	p := &passwords{cost: cost, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	salt := make([]byte, saltLen)
	_, _ = rand.Read(salt)
	p.dummy = phc(cost, salt, p.cost.hash("", salt))
	return p
}

func (a Argon2) hash(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(password), salt, a.Passes, a.MemoryKiB, a.Threads, hashLen)
}

func phc(a Argon2, salt, hash []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, a.MemoryKiB, a.Passes, a.Threads,
		b64.EncodeToString(salt), b64.EncodeToString(hash))
}

func parsePHC(s string) (a Argon2, salt, hash []byte, err error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return a, nil, nil, errPHC
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &a.MemoryKiB, &a.Passes, &a.Threads); err != nil {
		return a, nil, nil, errPHC
	}
	if err := a.validate(); err != nil {
		return a, nil, nil, errPHC
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return a, nil, nil, errPHC
	}
	if hash, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(hash) != hashLen {
		return a, nil, nil, errPHC
	}
	return a, salt, hash, nil
}

func (p *passwords) enter(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hash returns the PHC string to store.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	if err := p.enter(ctx); err != nil {
		return "", err
	}
	defer func() { <-p.slots }()
	salt := make([]byte, saltLen)
	_, _ = rand.Read(salt)
	return phc(p.cost, salt, p.cost.hash(password, salt)), nil
}

// matches compares in constant time. An empty stored string stands for an unknown
// account: the same work is done and the answer is no.
func (p *passwords) matches(ctx context.Context, stored, password string) (bool, error) {
	known := stored != ""
	if !known {
		stored = p.dummy
	}
	if len(password) > passwordMax { // no stored password is longer; the work is done all the same
		password, known = "", false
	}
	cost, salt, want, err := parsePHC(stored)
	if err != nil {
		return false, err
	}
	if err := p.enter(ctx); err != nil {
		return false, err
	}
	defer func() { <-p.slots }()
	same := subtle.ConstantTimeCompare(cost.hash(password, salt), want) == 1
	return same && known, nil
}
