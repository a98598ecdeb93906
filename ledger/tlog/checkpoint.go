package tlog

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrCheckpoint means that a checkpoint or its note is malformed or not signed by the key. Final.
var ErrCheckpoint = errors.New("bad checkpoint")

// MaxNote bounds the bytes of a signed checkpoint, cosignatures included.
const MaxNote = 64 << 10

const maxExtensions = 16

// Checkpoint is a state of the log.
type Checkpoint struct {
	Origin     string // the ledger's DID
	Size       int64
	Root       Hash
	Extensions []string // further lines
}

// Text is the checkpoint's note text.
func (c Checkpoint) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	for _, x := range c.Extensions {
		b.WriteString(x + "\n")
	}
	return b.String()
}

// ParseCheckpoint reads what Text writes, and nothing else. The error wraps ErrCheckpoint.
func ParseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(text) > MaxNote || len(lines) < 4 || len(lines) > 4+maxExtensions {
		return Checkpoint{}, fmt.Errorf("%w: %d lines", ErrCheckpoint, len(lines)-1)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return Checkpoint{}, fmt.Errorf("%w: size %q", ErrCheckpoint, lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: root %q", ErrCheckpoint, lines[2])
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: root}
	for _, x := range lines[3 : len(lines)-1] {
		if x == "" {
			return Checkpoint{}, fmt.Errorf("%w: an empty line", ErrCheckpoint)
		}
		c.Extensions = append(c.Extensions, x)
	}
	if c.Origin == "" || c.Text() != text {
		return Checkpoint{}, fmt.Errorf("%w: not in its one form", ErrCheckpoint)
	}
	return c, nil
}

// GenerateKey makes a log key named origin: the secret and the public one, as signed notes write them. It reads a seed of 32 bytes;
// the same seed makes the same keys.
func GenerateKey(random io.Reader, origin string) (skey, vkey string, err error) {
	skey, vkey, err = note.GenerateKey(random, origin)
	if err != nil {
		return "", "", fmt.Errorf("log key %q: %w", origin, err)
	}
	if _, err := note.NewVerifier(vkey); err != nil { // a name with a space or a plus makes keys that nobody can read
		return "", "", fmt.Errorf("log key %q: %w", origin, err)
	}
	return skey, vkey, nil
}

// VerifierKey gives the public key that belongs to the secret key of the log named origin.
func VerifierKey(origin, skey string) (string, error) {
	if _, err := NewSigner(origin, skey); err != nil {
		return "", err
	}
	encoded := strings.SplitN(skey, "+", 5)[4] // PRIVATE+KEY+name+hash+base64, as the signer has checked
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", fmt.Errorf("log key: %w", err)
	}
	public, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("log key: no Ed25519 key")
	}
	vkey, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		return "", fmt.Errorf("log key %q: %w", origin, err)
	}
	return vkey, nil
}

// NewSigner reads a log's secret key, whose name must be the origin.
func NewSigner(origin, skey string) (note.Signer, error) {
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, fmt.Errorf("log key: %w", err)
	}
	if signer.Name() != origin {
		return nil, fmt.Errorf("log key is named %q, the log %q", signer.Name(), origin)
	}
	return signer, nil
}

// Sign gives the signed note of a checkpoint. The key's name must be the origin.
func Sign(c Checkpoint, skey string) ([]byte, error) { return SignAll(c, skey) }

// Open checks a signed note under the log's key, and that it is of the log that the key names. The error wraps ErrCheckpoint.
func Open(signed []byte, vkey string) (Checkpoint, error) {
	if len(signed) > MaxNote {
		return Checkpoint{}, fmt.Errorf("%w: note of %d bytes", ErrCheckpoint, len(signed))
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: log key %q: %w", ErrCheckpoint, vkey, err)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != verifier.Name() {
		return Checkpoint{}, fmt.Errorf("%w: of %q, signed as %q", ErrCheckpoint, c.Origin, verifier.Name())
	}
	return c, nil
}
