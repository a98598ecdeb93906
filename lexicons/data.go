package lexicons

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/ipfs/go-cid"
)

// Limits on one record. Depth counts containers around a value.
const (
	MaxRecordBytes = 1 << 20
	MaxJSONBytes   = 2 << 20
	MaxDepth       = 32
	maxKeyBytes    = 1024
	maxCIDBytes    = 100
	maxContainer   = 65536
	maxSafeInteger = 1<<53 - 1
	maxHint        = 1024 // elements made room for before they are read
)

// DecodeCBOR reads one object in canonical DAG-CBOR. Values are nil, bool,
// int64, string, []any, map[string]any, atdata.Bytes, atdata.CIDLink and
// atdata.Blob. Anything but the one canonical form is refused.
func DecodeCBOR(b []byte) (map[string]any, error) {
	if len(b) > MaxRecordBytes {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxRecordBytes)
	}
	d := decoder{rest: b}
	v, err := d.value(0)
	if err != nil {
		return nil, err
	}
	if len(d.rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the object", len(d.rest))
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return m, nil
}

// EncodeCBOR writes an object as DecodeCBOR or DecodeJSON returns it.
func EncodeCBOR(v map[string]any) (b []byte, err error) {
	defer recovered(&err)
	b, err = atdata.MarshalCBOR(v)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxRecordBytes {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxRecordBytes)
	}
	return b, nil
}

// EncodeJSONToCBOR turns the JSON form of a record into its canonical bytes.
func EncodeJSONToCBOR(b []byte) ([]byte, error) {
	v, err := DecodeJSON(b)
	if err != nil {
		return nil, err
	}
	return EncodeCBOR(v)
}

// CBORToJSON turns the canonical bytes of a record into its JSON form, with
// sorted names.
func CBORToJSON(b []byte) (out json.RawMessage, err error) {
	defer recovered(&err)
	v, err := DecodeCBOR(b)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// recovered turns a panic of the library into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic in the encoder: %v", p)
	}
}

// CBOR major types.
const (
	majorUint = iota
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

type decoder struct{ rest []byte }

func (d *decoder) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	if len(d.rest) == 0 {
		return nil, errTruncated
	}
	if d.rest[0]>>5 == majorSimple {
		return d.simple()
	}
	major, n, err := d.head()
	if err != nil {
		return nil, err
	}
	switch major {
	case majorUint, majorNegative:
		if n > math.MaxInt64 {
			return nil, errors.New("integer beyond 64 bits")
		}
		if major == majorNegative {
			return -1 - int64(n), nil
		}
		return int64(n), nil
	case majorBytes:
		b, err := d.take(n)
		return atdata.Bytes(bytes.Clone(b)), err
	case majorText:
		return d.text(n)
	case majorArray:
		return d.array(n, depth)
	case majorMap:
		return d.object(n, depth)
	default:
		return d.link(n)
	}
}

// simple reads false, true and null: the data model has no floats.
func (d *decoder) simple() (any, error) {
	c := d.rest[0]
	d.rest = d.rest[1:]
	switch c {
	case 0xf4:
		return false, nil
	case 0xf5:
		return true, nil
	case 0xf6:
		return nil, nil
	case 0xf9, 0xfa, 0xfb:
		return nil, errors.New("floats are not in the data model")
	}
	return nil, fmt.Errorf("simple value %#x is not in the data model", c)
}

var errTruncated = errors.New("truncated")

// head reads major type and argument and insists on the shortest form.
func (d *decoder) head() (major byte, n uint64, err error) {
	if len(d.rest) == 0 {
		return 0, 0, errTruncated
	}
	major, info := d.rest[0]>>5, d.rest[0]&0x1f
	d.rest = d.rest[1:]
	if info < 24 {
		return major, uint64(info), nil
	}
	if info > 27 {
		return 0, 0, errors.New("indefinite length or reserved form")
	}
	b, err := d.take(1 << (info - 24))
	if err != nil {
		return 0, 0, err
	}
	var least uint64
	switch info {
	case 24:
		n, least = uint64(b[0]), 24
	case 25:
		n, least = uint64(binary.BigEndian.Uint16(b)), 1<<8
	case 26:
		n, least = uint64(binary.BigEndian.Uint32(b)), 1<<16
	default:
		n, least = binary.BigEndian.Uint64(b), 1<<32
	}
	if n < least {
		return 0, 0, errors.New("number not in its shortest form")
	}
	return major, n, nil
}

func (d *decoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.rest)) {
		return nil, errTruncated
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b, nil
}

func (d *decoder) text(n uint64) (string, error) {
	b, err := d.take(n)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", errors.New("text is not UTF-8")
	}
	return string(b), nil
}

func (d *decoder) array(n uint64, depth int) (any, error) {
	if n > maxContainer || n > uint64(len(d.rest)) {
		return nil, fmt.Errorf("array of %d elements", n)
	}
	list := make([]any, 0, min(n, maxHint))
	for range n {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (d *decoder) object(n uint64, depth int) (any, error) {
	if n > maxContainer || n > uint64(len(d.rest)) {
		return nil, fmt.Errorf("object of %d fields", n)
	}
	m := make(map[string]any, min(n, maxHint))
	last := ""
	for i := range n {
		major, size, err := d.head()
		if err != nil {
			return nil, err
		}
		if major != majorText || size > maxKeyBytes {
			return nil, errors.New("field name is not a short text")
		}
		name, err := d.text(size)
		if err != nil {
			return nil, err
		}
		if i > 0 && !before(last, name) {
			return nil, fmt.Errorf("field %q out of order", name)
		}
		last = name
		if m[name], err = d.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return typed(m)
}

// before is the canonical order of names: shorter first, then by bytes.
func before(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

// typed checks names that the data model gives a meaning, and knows a
// blob by its type.
func typed(m map[string]any) (any, error) {
	if _, ok := m["$link"]; ok {
		return nil, errors.New("$link stands for a CID in JSON only")
	}
	if _, ok := m["$bytes"]; ok {
		return nil, errors.New("$bytes stands for bytes in JSON only")
	}
	t, ok := m["$type"]
	if !ok {
		return m, nil
	}
	name, ok := t.(string)
	if !ok || name == "" {
		return nil, errors.New("$type must be a text")
	}
	if name != "blob" {
		return m, nil
	}
	ref, okRef := m["ref"].(atdata.CIDLink)
	mime, okMime := m["mimeType"].(string)
	size, okSize := m["size"].(int64)
	if len(m) != 4 || !okRef || !okMime || !okSize || size < 0 {
		return nil, errors.New("a blob has ref, mimeType and size")
	}
	return atdata.Blob{Ref: ref, MimeType: mime, Size: size}, nil
}

// link reads what follows tag 42: a CID behind a zero byte.
func (d *decoder) link(tag uint64) (any, error) {
	if tag != 42 {
		return nil, fmt.Errorf("tag %d is not in the data model", tag)
	}
	major, n, err := d.head()
	if err != nil {
		return nil, err
	}
	if major != majorBytes || n < 2 || n > maxCIDBytes {
		return nil, errors.New("a link is a short byte string")
	}
	b, err := d.take(n)
	if err != nil {
		return nil, err
	}
	if b[0] != 0 {
		return nil, errors.New("a link begins with a zero byte")
	}
	c, err := cid.Cast(b[1:])
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	if c.Version() != 1 || !bytes.Equal(c.Bytes(), b[1:]) {
		return nil, errors.New("link is not a CIDv1")
	}
	return atdata.CIDLink(c), nil
}
