package entry

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	commitmentDomain = "org.city-sync.commitment.v1\x00"
	saltSize         = 32
	maxFields        = 32
)

// Field is one committed value: text, bytes or a whole number (int64).
type Field struct {
	Name  string `dag:"name,always"`
	Value any    `dag:"value,always"`
	Salt  []byte `dag:"salt,always"`
}

// Opening is everything needed to show what a commitment hides. Without it the commitment says nothing, and deleting it
// is how a value is forgotten.
type Opening struct {
	Fields  []Field  `dag:"fields"`  // sorted by name
	Padding [][]byte `dag:"padding"` // random leaves
}

// Commit draws a salt per field and padding from random, and commits to the fields.
func Commit(fields []Field, random io.Reader) (*Opening, Commitment, error) {
	if len(fields) > maxFields {
		return nil, Commitment{}, fmt.Errorf("commitment of %d fields, at most %d", len(fields), maxFields)
	}
	padded := paddedTo(len(fields))
	noise := make([]byte, saltSize*padded)
	if _, err := io.ReadFull(random, noise); err != nil {
		return nil, Commitment{}, fmt.Errorf("salts: %w", err)
	}
	o := salted(fields, noise)
	root, err := o.root()
	if err != nil {
		return nil, Commitment{}, err
	}
	return o, commitmentOf(root, padded), nil
}

// salted gives each field its salt, in the order of their names, and makes padding of what is left.
func salted(fields []Field, noise []byte) *Opening {
	padded := paddedTo(len(fields))
	o := &Opening{Fields: slices.Clone(fields), Padding: make([][]byte, 0, padded-len(fields))}
	slices.SortFunc(o.Fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	for i := range padded {
		salt := noise[i*saltSize : (i+1)*saltSize]
		if i < len(o.Fields) {
			o.Fields[i].Salt = salt
		} else {
			o.Padding = append(o.Padding, salt)
		}
	}
	return o
}

func paddedTo(n int) int {
	for _, p := range []int{8, 16} {
		if n <= p {
			return p
		}
	}
	return maxFields
}

func commitmentOf(root [32]byte, padded int) Commitment {
	var data [len(commitmentDomain) + 32]byte
	copy(data[copy(data[:], commitmentDomain):], root[:])
	sum := sha256.Sum256(data[:])
	return Commitment{Value: sum[:], Padded: int64(padded)}
}

func (f *Field) leaf() ([32]byte, error) {
	if len(f.Salt) != saltSize {
		return [32]byte{}, fmt.Errorf("field %q: salt of %d bytes", f.Name, len(f.Salt))
	}
	var room [128]byte // enough for most
	data := append(room[:1], f.Salt...)
	data = appendHead(data, majorArray, 2)
	data = appendText(data, f.Name)
	switch v := f.Value.(type) {
	case string:
		data = appendText(data, v)
	case []byte:
		data = appendBytes(data, v)
	case int64:
		data = appendInt(data, v)
	default:
		return [32]byte{}, fmt.Errorf("field %q: a %T cannot be committed to", f.Name, v)
	}
	return sha256.Sum256(data), nil
}

// leaves puts the leaves into level, which has room for as many as a commitment can have.
func (o *Opening) leaves(level *[maxFields][32]byte) (n int, err error) {
	n = len(o.Fields) + len(o.Padding)
	if len(o.Fields) > maxFields || n != paddedTo(len(o.Fields)) {
		return 0, fmt.Errorf("opening of %d fields and %d padding leaves", len(o.Fields), len(o.Padding))
	}
	for i := range o.Fields {
		f := &o.Fields[i]
		if i > 0 && o.Fields[i-1].Name >= f.Name {
			return 0, fmt.Errorf("field %q is twice or out of order", f.Name)
		}
		if level[i], err = f.leaf(); err != nil {
			return 0, err
		}
	}
	for i, p := range o.Padding {
		if len(p) != saltSize {
			return 0, fmt.Errorf("padding leaf of %d bytes", len(p))
		}
		level[len(o.Fields)+i] = paddingLeaf(p)
	}
	return n, nil
}

func (o *Opening) root() ([32]byte, error) {
	var room [maxFields][32]byte
	n, err := o.leaves(&room)
	if err != nil {
		return [32]byte{}, err
	}
	level := room[:n]
	for len(level) > 1 { // the number of leaves is a power of two
		level = above(level)
	}
	return level[0], nil
}

// above puts the nodes over a level into its first half.
func above(level [][32]byte) [][32]byte {
	for i := 0; i < len(level); i += 2 {
		level[i/2] = nodeHash(level[i], level[i+1])
	}
	return level[:len(level)/2]
}

func nodeHash(left, right [32]byte) [32]byte {
	var data [65]byte
	data[0] = 1
	copy(data[1:], left[:])
	copy(data[33:], right[:])
	return sha256.Sum256(data[:])
}

// Verify checks that the opening is the commitment's. The error wraps ErrOpening.
func (o *Opening) Verify(c Commitment) error {
	root, err := o.root()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOpening, err)
	}
	want := commitmentOf(root, len(o.Fields)+len(o.Padding))
	if c.Padded != want.Padded || !bytes.Equal(c.Value, want.Value) {
		return ErrOpening
	}
	return nil
}

// FieldOpening shows one field of a commitment and nothing of the others.
type FieldOpening struct {
	Field Field    `dag:"field,always"`
	Index int64    `dag:"index,always"`
	Path  [][]byte `dag:"path"`
}

// Open gives the opening of one field, or false if there is no such field.
func (o *Opening) Open(name string) (*FieldOpening, bool) {
	i := slices.IndexFunc(o.Fields, func(f Field) bool { return f.Name == name })
	var room [maxFields][32]byte
	n, err := o.leaves(&room)
	if i < 0 || err != nil {
		return nil, false
	}
	open := &FieldOpening{Field: o.Fields[i], Index: int64(i)}
	for level := room[:n]; len(level) > 1; {
		open.Path = append(open.Path, bytes.Clone(level[i^1][:]))
		level, i = above(level), i/2
	}
	return open, true
}

// Verify checks that the field stands in the commitment. The error wraps ErrOpening.
func (f *FieldOpening) Verify(c Commitment) error {
	if f.Index < 0 || f.Index >= c.Padded || c.Padded != 1<<len(f.Path) || c.Padded > maxFields {
		return ErrOpening
	}
	node, err := f.Field.leaf()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOpening, err)
	}
	i := f.Index
	for _, p := range f.Path {
		if len(p) != len(node) {
			return ErrOpening
		}
		if i&1 == 0 {
			node = nodeHash(node, [32]byte(p))
		} else {
			node = nodeHash([32]byte(p), node)
		}
		i /= 2
	}
	if !bytes.Equal(commitmentOf(node, int(c.Padded)).Value, c.Value) {
		return ErrOpening
	}
	return nil
}

const maxOpening = 16 << 10

// Encode is the opening's one form in bytes.
func (o *Opening) Encode() ([]byte, error) { return marshal(o) }

// Append appends what Encode gives.
func (o *Opening) Append(b []byte) ([]byte, error) { return appendValue(b, o) }

// DecodeOpening reads what Encode gives, and nothing else. The opening keeps parts of data.
func DecodeOpening(data []byte) (*Opening, error) {
	if len(data) > maxOpening {
		return nil, fmt.Errorf("opening of %d bytes, at most %d", len(data), maxOpening)
	}
	o := new(Opening)
	if err := unmarshalShared(data, o); err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	return o, nil
}
