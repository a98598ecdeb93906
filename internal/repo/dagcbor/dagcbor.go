// Package dagcbor reads and writes the one byte form that atproto allows for a
// value: DAG-CBOR without floats.
//
// Invariants:
//
//   - A [Reader] accepts only canonical bytes: shortest heads, definite lengths,
//     map keys sorted (shorter first, then bytewise) and unique, text in UTF-8,
//     tag 42 alone, no floats, no undefined. A value that reads to its end is
//     therefore equal to its own re-encoding.
//   - Work is bounded by the input: a length is checked against the bytes that
//     remain before anything is allocated, and nesting is capped.
//   - Nothing panics on any input.
package dagcbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
)

// MaxDepth caps the nesting of maps and arrays in one value, as atproto's data
// model suggests.
const MaxDepth = 32

const (
	majorUint  = 0
	majorNeg   = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
	majorOther = 7

	tagCID = 42
)

// Simple values of major type 7, as their whole byte.
const (
	byteFalse = 0xf4
	byteTrue  = 0xf5
	byteNull  = 0xf6
)

// ErrSyntax is wrapped by every error of this package: the bytes are not
// canonical DAG-CBOR, or not of the shape the caller asked for.
var ErrSyntax = errors.New("not canonical dag-cbor")

func syntaxErr(at int, what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, what, at)
}

// Reader consumes one canonical value after another from a byte slice. Slices
// and strings it hands out are copies only where the method says so.
type Reader struct {
	b   []byte
	off int
}

// NewReader reads from b, which must not change meanwhile.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// End is an error unless every byte was consumed.
func (r *Reader) End() error {
	if r.off != len(r.b) {
		return syntaxErr(r.off, "trailing bytes")
	}
	return nil
}

func (r *Reader) head() (major byte, arg uint64, err error) {
	at := r.off
	if at >= len(r.b) {
		return 0, 0, syntaxErr(at, "unexpected end")
	}
	b := r.b[at]
	major, info := b>>5, b&0x1f
	if info < 24 {
		r.off++
		return major, uint64(info), nil
	}
	if info > 27 {
		return 0, 0, syntaxErr(at, "indefinite or reserved length")
	}
	if major == majorOther {
		return 0, 0, syntaxErr(at, "float or unknown simple value")
	}
	n := 1 << (info - 24)
	if len(r.b)-at-1 < n {
		return 0, 0, syntaxErr(at, "unexpected end")
	}
	raw := r.b[at+1 : at+1+n]
	var least uint64
	switch n {
	case 1:
		arg, least = uint64(raw[0]), 24
	case 2:
		arg, least = uint64(binary.BigEndian.Uint16(raw)), 1<<8
	case 4:
		arg, least = uint64(binary.BigEndian.Uint32(raw)), 1<<16
	default:
		arg, least = binary.BigEndian.Uint64(raw), 1<<32
	}
	if arg < least {
		return 0, 0, syntaxErr(at, "length not in its shortest form")
	}
	r.off += 1 + n
	return major, arg, nil
}

func (r *Reader) want(major byte, name string) (uint64, error) {
	at := r.off
	got, arg, err := r.head()
	if err != nil {
		return 0, err
	}
	if got != major {
		return 0, syntaxErr(at, "expected "+name)
	}
	return arg, nil
}

func (r *Reader) take(n uint64, name string) ([]byte, error) {
	if n > uint64(len(r.b)-r.off) {
		return nil, syntaxErr(r.off, name+" longer than the input")
	}
	b := r.b[r.off : r.off+int(n) : r.off+int(n)]
	r.off += int(n)
	return b, nil
}

// Int reads an integer, negative or not, within int64.
func (r *Reader) Int() (int64, error) {
	at := r.off
	major, arg, err := r.head()
	if err != nil {
		return 0, err
	}
	if arg > math.MaxInt64 {
		return 0, syntaxErr(at, "integer outside 64 bits")
	}
	switch major {
	case majorUint:
		return int64(arg), nil
	case majorNeg:
		return -1 - int64(arg), nil
	}
	return 0, syntaxErr(at, "expected an integer")
}

// Bytes reads a byte string. The slice shares the input's memory.
func (r *Reader) Bytes() ([]byte, error) {
	n, err := r.want(majorBytes, "bytes")
	if err != nil {
		return nil, err
	}
	return r.take(n, "byte string")
}

// Text reads a text string, which must be UTF-8.
func (r *Reader) Text() (string, error) {
	b, err := r.text()
	return string(b), err
}

func (r *Reader) text() ([]byte, error) {
	at := r.off
	n, err := r.want(majorText, "text")
	if err != nil {
		return nil, err
	}
	b, err := r.take(n, "text")
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(b) {
		return nil, syntaxErr(at, "text is not UTF-8")
	}
	return b, nil
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	if r.off < len(r.b) {
		switch r.b[r.off] {
		case byteTrue:
			r.off++
			return true, nil
		case byteFalse:
			r.off++
			return false, nil
		}
	}
	return false, syntaxErr(r.off, "expected a boolean")
}

// Null consumes a null if one comes next, and says whether it did.
func (r *Reader) Null() bool {
	if r.off < len(r.b) && r.b[r.off] == byteNull {
		r.off++
		return true
	}
	return false
}

// Array reads the head of an array and returns its length. Every element takes
// at least one byte, so the length never exceeds the input.
func (r *Reader) Array() (int, error) { return r.container(majorArray, "an array", 1) }

// Map reads the head of a map and returns its number of entries. The caller
// reads the keys, with [Reader.Key] or [Keys].
func (r *Reader) Map() (int, error) { return r.container(majorMap, "a map", 2) }

func (r *Reader) container(major byte, name string, least int) (int, error) {
	n, err := r.want(major, name)
	if err != nil {
		return 0, err
	}
	if n > uint64((len(r.b)-r.off)/least) {
		return 0, syntaxErr(r.off, name+" longer than the input")
	}
	return int(n), nil
}

// Key reads a map key and requires it to be name.
func (r *Reader) Key(name string) error {
	at := r.off
	b, err := r.text()
	if err != nil {
		return err
	}
	if string(b) != name {
		return syntaxErr(at, "expected key "+name)
	}
	return nil
}

// CID reads a link. Any CID the library can parse whole is accepted; a caller
// that needs one form checks its prefix.
func (r *Reader) CID() (cid.Cid, error) {
	at := r.off
	n, err := r.want(majorTag, "a link")
	if err != nil {
		return cid.Undef, err
	}
	if n != tagCID {
		return cid.Undef, syntaxErr(at, "tag other than 42")
	}
	b, err := r.Bytes()
	if err != nil {
		return cid.Undef, err
	}
	if len(b) < 2 || len(b) > 101 || b[0] != 0 {
		return cid.Undef, syntaxErr(at, "link without a CID")
	}
	c, err := cid.Cast(b[1:])
	if err != nil {
		return cid.Undef, syntaxErr(at, "link with a bad CID")
	}
	return c, nil
}

// Skip consumes one value of any kind, checking all of it.
func (r *Reader) Skip() error { return r.skip(0) }

func (r *Reader) skip(depth int) error {
	if depth > MaxDepth {
		return syntaxErr(r.off, "nesting too deep")
	}
	if r.off >= len(r.b) {
		return syntaxErr(r.off, "unexpected end")
	}
	switch r.b[r.off] >> 5 {
	case majorUint, majorNeg:
		_, err := r.Int()
		return err
	case majorBytes:
		_, err := r.Bytes()
		return err
	case majorText:
		_, err := r.text()
		return err
	case majorArray:
		n, err := r.Array()
		if err != nil {
			return err
		}
		for range n {
			if err := r.skip(depth + 1); err != nil {
				return err
			}
		}
		return nil
	case majorMap:
		n, err := r.Map()
		if err != nil {
			return err
		}
		keys := Keys{r: r}
		for range n {
			if _, err := keys.Next(); err != nil {
				return err
			}
			if err := r.skip(depth + 1); err != nil {
				return err
			}
		}
		return nil
	case majorTag:
		_, err := r.CID()
		return err
	}
	switch r.b[r.off] {
	case byteFalse, byteTrue, byteNull:
		r.off++
		return nil
	}
	return syntaxErr(r.off, "float or unknown simple value")
}

// Keys reads the keys of one map and holds them to their order.
type Keys struct {
	r    *Reader
	prev []byte
	any  bool
}

// Keys starts on the map whose head was just read.
func (r *Reader) Keys() *Keys { return &Keys{r: r} }

// Next reads the next key. The caller reads its value before calling again.
func (k *Keys) Next() (string, error) {
	at := k.r.off
	b, err := k.r.text()
	if err != nil {
		return "", err
	}
	if k.any && !keyLess(k.prev, b) {
		return "", syntaxErr(at, "map keys unsorted or doubled")
	}
	k.prev, k.any = b, true
	return string(b), nil
}

func keyLess(a, b []byte) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return string(a) < string(b)
}

// Validate is nil if b is exactly one canonical value.
func Validate(b []byte) error {
	r := NewReader(b)
	if err := r.Skip(); err != nil {
		return err
	}
	return r.End()
}

// ValidateMap is nil if b is exactly one canonical map: the form of a record.
func ValidateMap(b []byte) error {
	if len(b) == 0 || b[0]>>5 != majorMap {
		return syntaxErr(0, "expected a map")
	}
	return Validate(b)
}
