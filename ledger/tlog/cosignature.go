package tlog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/mod/sumdb/note"
)

// ErrCosignature means that a cosignature, or the key it is said to be of, is malformed or does not hold. Final.
var ErrCosignature = errors.New("bad cosignature")

const (
	algEd25519     = 1
	algCosignature = 4 // timestamped Ed25519, C2SP tlog-cosignature

	cosignatureSize = 8 + ed25519.SignatureSize
	maxVKey         = 512
)

// PublicKey is a signed-note verifier key taken apart.
type PublicKey struct {
	Name string
	ID   uint32
	Alg  byte
	Key  ed25519.PublicKey
}

// ParseKey reads a verifier key of a log (Ed25519) or of a witness (cosignature/v1). The error wraps ErrCosignature.
func ParseKey(vkey string) (PublicKey, error) {
	bad := fmt.Errorf("%w: %.*q is no verifier key", ErrCosignature, maxVKey, vkey)
	name, rest, ok := strings.Cut(vkey, "+")
	id, encoded, ok2 := strings.Cut(rest, "+")
	if !ok || !ok2 || len(vkey) > maxVKey || !keyName(name) || len(id) != 8 {
		return PublicKey{}, bad
	}
	n, err := strconv.ParseUint(id, 16, 32)
	raw, err2 := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || err2 != nil || len(raw) != 1+ed25519.PublicKeySize {
		return PublicKey{}, bad
	}
	k := PublicKey{Name: name, ID: uint32(n), Alg: raw[0], Key: ed25519.PublicKey(raw[1:])}
	if (k.Alg != algEd25519 && k.Alg != algCosignature) || k.ID != keyID(name, raw) || k.String() != vkey {
		return PublicKey{}, bad
	}
	return k, nil
}

// String is the verifier key as signed notes write it.
func (k PublicKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.Name, k.ID, base64.StdEncoding.EncodeToString(append([]byte{k.Alg}, k.Key...)))
}

// Cosigns says whether the key is a witness's.
func (k PublicKey) Cosigns() bool { return k.Alg == algCosignature }

func keyName(name string) bool {
	return name != "" && len(name) <= 255 && strings.IndexFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == '+' || r == unicode.ReplacementChar
	}) < 0
}

func keyID(name string, algAndKey []byte) uint32 {
	h := sha256.Sum256(append([]byte(name+"\n"), algAndKey...))
	return binary.BigEndian.Uint32(h[:4])
}

// Cosigner signs checkpoints as a witness.
type Cosigner struct {
	public PublicKey
	key    ed25519.PrivateKey
}

// NewCosigner makes the cosigner of a name and a seed of 32 bytes, which must serve nothing else.
func NewCosigner(random io.Reader, name string) (*Cosigner, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("witness key %q: %w", name, err)
	}
	if !keyName(name) {
		return nil, fmt.Errorf("witness key: %q is no name of a key", name)
	}
	key := ed25519.NewKeyFromSeed(seed)
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("witness key: no Ed25519 key")
	}
	return &Cosigner{
		public: PublicKey{Name: name, ID: keyID(name, append([]byte{algCosignature}, public...)), Alg: algCosignature, Key: public}, key: key,
	}, nil
}

// VerifierKey is the cosigner's public key as signed notes write it.
func (c *Cosigner) VerifierKey() string { return c.public.String() }

// Cosign gives the signature line, newline included, of a checkpoint's text at a time.
func (c *Cosigner) Cosign(text string, at time.Time) (string, error) {
	if _, err := ParseCheckpoint(text); err != nil {
		return "", err
	}
	when := at.Unix()
	if when <= 0 {
		return "", fmt.Errorf("cosign: time %d", when)
	}
	raw := binary.BigEndian.AppendUint32(nil, c.public.ID)
	raw = binary.BigEndian.AppendUint64(raw, uint64(when))
	raw = append(raw, ed25519.Sign(c.key, cosigned(text, uint64(when)))...)
	return signatureLine(c.public.Name, raw), nil
}

// SignData signs bytes that can never be taken for a checkpoint or a cosignature: they do not begin as those do.
func (c *Cosigner) SignData(data []byte) ([]byte, error) {
	if strings.HasPrefix(string(data), cosignedHeader) || len(data) == 0 {
		return nil, errors.New("sign: the data is a cosignature's")
	}
	return ed25519.Sign(c.key, data), nil
}

// CheckData checks what SignData of the key's holder gave. The error wraps ErrCosignature.
func (k PublicKey) CheckData(data, sig []byte) error {
	if strings.HasPrefix(string(data), cosignedHeader) || !ed25519.Verify(k.Key, data, sig) {
		return fmt.Errorf("%w: not signed by %s", ErrCosignature, k.Name)
	}
	return nil
}

const cosignedHeader = "cosignature/v1\n"

func cosigned(text string, at uint64) []byte {
	return []byte(cosignedHeader + "time " + strconv.FormatUint(at, 10) + "\n" + text)
}

func signatureLine(name string, raw []byte) string {
	return "— " + name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

// Cosignature is one that holds.
type Cosignature struct {
	Key  string // verifier key of the witness
	At   time.Time
	Line string // newline included
}

// Cosignatures gives those of a note's signature lines that are of one of the keys, in the order of the keys, the newest of each.
// One that is said to be of such a key and does not hold is an error that wraps ErrCosignature; lines of other keys are passed over.
func Cosignatures(signed []byte, vkeys ...string) ([]Cosignature, error) {
	text, lines, err := splitNote(signed)
	if err != nil {
		return nil, err
	}
	var out []Cosignature
	for _, vkey := range vkeys {
		key, err := ParseKey(vkey)
		if err != nil {
			return nil, err
		}
		if !key.Cosigns() {
			return nil, fmt.Errorf("%w: %s is no witness's key", ErrCosignature, vkey)
		}
		var newest *Cosignature
		for _, l := range lines {
			if l.name != key.Name || l.id != key.ID {
				continue
			}
			c, err := l.check(key, text)
			if err != nil {
				return nil, err
			}
			if newest == nil || c.At.After(newest.At) {
				newest = &c
			}
		}
		if newest != nil {
			out = append(out, *newest)
		}
	}
	return out, nil
}

// CheckCosignature checks one signature line of a witness over a checkpoint's text. The error wraps ErrCosignature.
func CheckCosignature(line, text, vkey string) (Cosignature, error) {
	key, err := ParseKey(vkey)
	if err != nil {
		return Cosignature{}, err
	}
	l, err := parseLine(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return Cosignature{}, err
	}
	if l.name != key.Name || l.id != key.ID || !key.Cosigns() {
		return Cosignature{}, fmt.Errorf("%w: the line is of another key than %s", ErrCosignature, key.Name)
	}
	return l.check(key, text)
}

type noteLine struct {
	name string
	id   uint32
	sig  []byte
	line string
}

func (l noteLine) check(key PublicKey, text string) (Cosignature, error) {
	if len(l.sig) != cosignatureSize {
		return Cosignature{}, fmt.Errorf("%w: of %s, with %d bytes", ErrCosignature, key.Name, len(l.sig))
	}
	at := binary.BigEndian.Uint64(l.sig)
	if at == 0 || at > math.MaxInt64 || !ed25519.Verify(key.Key, cosigned(text, at), l.sig[8:]) {
		return Cosignature{}, fmt.Errorf("%w: of %s does not hold", ErrCosignature, key.Name)
	}
	return Cosignature{Key: key.String(), At: time.Unix(int64(at), 0).UTC(), Line: l.line + "\n"}, nil
}

func parseLine(line string) (noteLine, error) {
	bad := fmt.Errorf("%w: %.80q is no signature line", ErrCosignature, line)
	rest, ok := strings.CutPrefix(line, "— ")
	name, encoded, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !keyName(name) {
		return noteLine{}, bad
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) < 5 {
		return noteLine{}, bad
	}
	return noteLine{name: name, id: binary.BigEndian.Uint32(raw), sig: raw[4:], line: line}, nil
}

const maxSignatures = 64

// splitNote takes a signed note apart: its text and its signature lines.
func splitNote(signed []byte) (string, []noteLine, error) {
	if len(signed) > MaxNote {
		return "", nil, fmt.Errorf("%w: note of %d bytes", ErrCosignature, len(signed))
	}
	whole := string(signed)
	at := strings.LastIndex(whole, "\n\n")
	if at < 0 || !strings.HasSuffix(whole, "\n") {
		return "", nil, fmt.Errorf("%w: not a signed note", ErrCosignature)
	}
	text, block := whole[:at+1], strings.TrimSuffix(whole[at+2:], "\n")
	var lines []noteLine
	for line := range strings.SplitSeq(block, "\n") {
		l, err := parseLine(line)
		if err != nil {
			return "", nil, err
		}
		if len(lines) == maxSignatures {
			return "", nil, fmt.Errorf("%w: more than %d signatures", ErrCosignature, maxSignatures)
		}
		lines = append(lines, l)
	}
	return text, lines, nil
}

// NoteText is the text of a signed note, whoever signed it.
func NoteText(signed []byte) (string, error) {
	text, _, err := splitNote(signed)
	return text, err
}

// AddLines puts signature lines under a signed note, those that stand there already not again.
func AddLines(signed []byte, lines ...string) ([]byte, error) {
	out := string(signed)
	for _, l := range lines {
		if _, err := parseLine(strings.TrimSuffix(l, "\n")); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(l, "\n") {
			l += "\n"
		}
		if !strings.Contains(out, "\n"+l) {
			out += l
		}
	}
	if _, _, err := splitNote([]byte(out)); err != nil {
		return nil, err
	}
	return []byte(out), nil
}

// SignAll is Sign by several keys, the first of which stands first: while a log changes its key.
func SignAll(c Checkpoint, skeys ...string) ([]byte, error) {
	var signers []note.Signer
	for _, skey := range skeys {
		s, err := NewSigner(c.Origin, skey)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
	}
	return SignWith(c, signers...)
}

// SignWith is SignAll by keys that were read before, each of which is the origin's.
func SignWith(c Checkpoint, signers ...note.Signer) ([]byte, error) {
	for _, s := range signers {
		if s.Name() != c.Origin {
			return nil, fmt.Errorf("log key is named %q, the log %q", s.Name(), c.Origin)
		}
	}
	text := c.Text()
	if _, err := ParseCheckpoint(text); err != nil || len(signers) == 0 {
		return nil, errors.Join(err, fmt.Errorf("checkpoint %d by %d keys", c.Size, len(signers)))
	}
	signed, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint %d: %w", c.Size, err)
	}
	return signed, nil
}

// OpenAny is Open under any of several keys of one log: while it changes its key. It also gives the keys that signed.
func OpenAny(signed []byte, vkeys ...string) (Checkpoint, []string, error) {
	var (
		c    Checkpoint
		by   []string
		errs error
	)
	for _, vkey := range vkeys {
		got, err := Open(signed, vkey)
		var unverified *note.UnverifiedNoteError
		switch {
		case err == nil:
			c, by = got, append(by, vkey)
		case errors.As(err, &unverified): // signed by others only
			errs = err
		default: // a known key's signature that does not hold spoils the note
			return Checkpoint{}, nil, err
		}
	}
	if len(by) == 0 {
		if errs == nil {
			errs = fmt.Errorf("%w: no key of the log is known", ErrCheckpoint)
		}
		return Checkpoint{}, nil, errs
	}
	return c, by, nil
}

// KeyOverlap is how long a log's old key signs beside the new one, from the time of the entry that names it.
const KeyOverlap = 14 * 24 * time.Hour

// SuccessionText is what witnesses sign, with SignData, to let a new key continue a log whose operator is gone: from this tree on.
func SuccessionText(origin string, size int64, root Hash, vkey string) []byte {
	return fmt.Appendf(nil, "city-sync.org/succession/v1\n%s\n%d\n%s\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]), vkey)
}

// Only gives a signed note with no other signature lines than those of the keys.
func Only(signed []byte, vkeys ...string) ([]byte, error) {
	text, lines, err := splitNote(signed)
	if err != nil {
		return nil, err
	}
	out := text + "\n"
	for _, l := range lines {
		for _, vkey := range vkeys {
			if k, err := ParseKey(vkey); err == nil && k.Name == l.name && k.ID == l.id {
				out += l.line + "\n"
				break
			}
		}
	}
	if out == text+"\n" {
		return nil, fmt.Errorf("%w: none of the keys signed", ErrCosignature)
	}
	return []byte(out), nil
}
