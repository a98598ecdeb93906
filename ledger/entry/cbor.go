package entry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// The codec writes and reads DAG-CBOR for the types of this package only: structs as maps, in the order of shorter keys
// first, then bytewise; zero fields are left out unless tagged "always". Reading is strict: minimal heads, definite
// lengths, keys in order and known, no tags, floats or nulls, no field that writing leaves out and none missing that it
// does not. So what was read needs no second writing to know that it would give the same bytes; the fuzz targets do it.

const (
	majorUint  = 0
	majorNeg   = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorOther = 7
)

const maxItems = 4096 // of one array or map

var errCBOR = errors.New("not canonical DAG-CBOR")

// A plan says once how the values of a type are written and read.
type plan struct {
	kind   reflect.Kind
	raw    bool    // a slice of bytes
	elem   *plan   // of a pointer or a list
	fields []field // of a struct, in their order
}

type field struct {
	name   string
	key    []byte // name as it is written
	index  int
	always bool
	plan   *plan
}

var plans sync.Map // reflect.Type → *plan; a cache of what the types say

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{kind: t.Kind()}
	switch {
	case p.kind == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		p.raw = true
	case p.kind == reflect.Slice, p.kind == reflect.Pointer:
		p.elem = planOf(t.Elem())
	case p.kind == reflect.Struct:
		p.fields = fieldsOf(t)
	}
	plans.Store(t, p)
	return p
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		tag, ok := t.Field(i).Tag.Lookup("dag")
		if !ok || tag == "-" {
			continue
		}
		name, opt, _ := strings.Cut(tag, ",")
		fields = append(fields, field{
			name: name, key: appendText(nil, name), index: i, always: opt == "always", plan: planOf(t.Field(i).Type),
		})
	}
	slices.SortFunc(fields, func(a, b field) int { return keyOrder(a.name, b.name) })
	return fields
}

func keyOrder(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func appendHead(b []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(b, m|byte(n))
	case n <= math.MaxUint8:
		return append(b, m|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, m|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, m|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, m|27), n)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

func appendBytes(b, s []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

func appendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendHead(b, majorNeg, uint64(-(n + 1)))
	}
	return appendHead(b, majorUint, uint64(n))
}

// usualSize is enough for most leaves and openings.
const usualSize = 1 << 10

func marshal(v any) ([]byte, error) { return appendValue(make([]byte, 0, usualSize), v) }

func appendValue(b []byte, v any) ([]byte, error) {
	value := reflect.ValueOf(v)
	return planOf(value.Type()).write(b, value)
}

func (p *plan) write(b []byte, v reflect.Value) ([]byte, error) {
	switch p.kind {
	case reflect.Pointer:
		if v.IsNil() {
			return nil, fmt.Errorf("%w: null", errCBOR)
		}
		return p.elem.write(b, v.Elem())
	case reflect.Interface:
		if v.IsNil() {
			return nil, fmt.Errorf("%w: null", errCBOR)
		}
		return planOf(v.Elem().Type()).write(b, v.Elem())
	case reflect.String:
		s := v.String()
		if !utf8.ValidString(s) {
			return nil, fmt.Errorf("%w: text is not UTF-8", errCBOR)
		}
		return appendText(b, s), nil
	case reflect.Int64, reflect.Int:
		return appendInt(b, v.Int()), nil
	case reflect.Bool:
		if v.Bool() {
			return append(b, majorOther<<5|21), nil
		}
		return append(b, majorOther<<5|20), nil
	case reflect.Array:
		s := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(s), v)
		return appendBytes(b, s), nil
	case reflect.Slice:
		if p.raw {
			return appendBytes(b, v.Bytes()), nil
		}
		return p.writeArray(b, v)
	case reflect.Struct:
		return p.writeStruct(b, v)
	}
	return nil, fmt.Errorf("%w: %s cannot be written", errCBOR, v.Type())
}

func (p *plan) writeArray(b []byte, v reflect.Value) ([]byte, error) {
	if v.Len() > maxItems {
		return nil, fmt.Errorf("%w: %d items in a list", errCBOR, v.Len())
	}
	b = appendHead(b, majorArray, uint64(v.Len()))
	var err error
	for i := range v.Len() {
		if b, err = p.elem.write(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (f *field) omitted(v reflect.Value) bool {
	if f.always {
		return false
	}
	switch f.plan.kind {
	case reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Pointer:
		return v.IsNil()
	case reflect.Int64, reflect.Int:
		return v.Int() == 0
	}
	return v.IsZero()
}

func (p *plan) writeStruct(b []byte, v reflect.Value) ([]byte, error) {
	var room [64]int
	present := room[:0] // of the fields
	for i := range p.fields {
		if f := &p.fields[i]; !f.omitted(v.Field(f.index)) {
			present = append(present, i)
		}
	}
	b = appendHead(b, majorMap, uint64(len(present)))
	var err error
	for _, i := range present {
		f := &p.fields[i]
		b = append(b, f.key...)
		if b, err = f.plan.write(b, v.Field(f.index)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return b, nil
}

// unmarshalShared fills v, a pointer, from exactly the bytes marshal would give for it. Bytes in it may be parts of data.
func unmarshalShared(data []byte, v any) error { return (&reader{b: data, shared: true}).all(v) }

type reader struct {
	b      []byte
	shared bool   // bytes that are read may be parts of b
	seen   *texts // may be nil
}

// texts are texts that were read before: what comes again and again, such as a task's uri, is kept once.
type texts struct {
	seed maphash.Seed
	last [1 << 10]string // by hash
}

func (t *texts) of(s []byte) string {
	at := &t.last[maphash.Bytes(t.seed, s)%uint64(len(t.last))]
	if *at != string(s) {
		*at = string(s)
	}
	return *at
}

func (d *reader) all(v any) error {
	value := reflect.ValueOf(v).Elem()
	if err := d.value(planOf(value.Type()), value); err != nil {
		return err
	}
	if len(d.b) != 0 {
		return fmt.Errorf("%w: %d bytes follow", errCBOR, len(d.b))
	}
	return nil
}

// kept is s for a value that outlives the reading.
func (d *reader) kept(s []byte) []byte {
	switch {
	case d.shared:
		return s[:len(s):len(s)]
	case len(s) == 0:
		return []byte{}
	}
	return bytes.Clone(s)
}

func (d *reader) head() (major byte, n uint64, err error) {
	if len(d.b) == 0 {
		return 0, 0, fmt.Errorf("%w: cut short", errCBOR)
	}
	first := d.b[0]
	major, info := first>>5, first&31
	d.b = d.b[1:]
	if info < 24 {
		return major, uint64(info), nil
	}
	if info > 27 {
		return 0, 0, fmt.Errorf("%w: head %#x", errCBOR, first)
	}
	size := 1 << (info - 24)
	if len(d.b) < size {
		return 0, 0, fmt.Errorf("%w: cut short", errCBOR)
	}
	for _, c := range d.b[:size] {
		n = n<<8 | uint64(c)
	}
	d.b = d.b[size:]
	if n < 24 || (size > 1 && n < 1<<(4*size)) {
		return 0, 0, fmt.Errorf("%w: head is not minimal", errCBOR)
	}
	return major, n, nil
}

func (d *reader) want(major byte) (uint64, error) {
	m, n, err := d.head()
	if err != nil {
		return 0, err
	}
	if m != major {
		return 0, fmt.Errorf("%w: major type %d, want %d", errCBOR, m, major)
	}
	return n, nil
}

func (d *reader) raw(major byte) ([]byte, error) {
	n, err := d.want(major)
	if err != nil {
		return nil, err
	}
	return d.take(n)
}

func (d *reader) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.b)) {
		return nil, fmt.Errorf("%w: cut short", errCBOR)
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s, nil
}

func (d *reader) text() (string, error) {
	s, err := d.raw(majorText)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(s) {
		return "", fmt.Errorf("%w: text is not UTF-8", errCBOR)
	}
	if d.seen != nil {
		return d.seen.of(s), nil
	}
	return string(s), nil
}

func (d *reader) items(major byte) (int, error) {
	n, err := d.want(major)
	if err != nil {
		return 0, err
	}
	if n > maxItems || n > uint64(len(d.b)) {
		return 0, fmt.Errorf("%w: %d items in a list", errCBOR, n)
	}
	return int(n), nil
}

func (d *reader) value(p *plan, v reflect.Value) error {
	switch p.kind {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(p.elem, v.Elem())
	case reflect.Interface:
		return d.scalar(v)
	case reflect.String:
		s, err := d.text()
		if err != nil {
			return err
		}
		v.SetString(s)
		return nil
	case reflect.Int64, reflect.Int:
		n, err := d.int()
		if err != nil {
			return err
		}
		v.SetInt(n)
		return nil
	case reflect.Bool:
		m, n, err := d.head()
		if err != nil {
			return err
		}
		if m != majorOther || (n != 20 && n != 21) {
			return fmt.Errorf("%w: not a boolean", errCBOR)
		}
		v.SetBool(n == 21)
		return nil
	case reflect.Array:
		s, err := d.raw(majorBytes)
		if err != nil {
			return err
		}
		if len(s) != v.Len() {
			return fmt.Errorf("%w: %d bytes, want %d", errCBOR, len(s), v.Len())
		}
		reflect.Copy(v, reflect.ValueOf(s))
		return nil
	case reflect.Slice:
		if p.raw {
			s, err := d.raw(majorBytes)
			if err != nil {
				return err
			}
			v.SetBytes(d.kept(s))
			return nil
		}
		return d.list(p, v)
	case reflect.Struct:
		return d.structure(p, v)
	}
	return fmt.Errorf("%w: %s cannot be read", errCBOR, v.Type())
}

func (d *reader) int() (int64, error) {
	m, n, err := d.head()
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("%w: number out of range", errCBOR)
	}
	switch m {
	case majorUint:
		return int64(n), nil
	case majorNeg:
		return -int64(n) - 1, nil
	}
	return 0, fmt.Errorf("%w: not a number", errCBOR)
}

// scalar reads the value of a committed field: text, bytes or a number.
func (d *reader) scalar(v reflect.Value) error {
	if len(d.b) == 0 {
		return fmt.Errorf("%w: cut short", errCBOR)
	}
	var got any
	var err error
	switch d.b[0] >> 5 {
	case majorText:
		got, err = d.text()
	case majorBytes:
		var s []byte
		s, err = d.raw(majorBytes)
		got = d.kept(s)
	default:
		got, err = d.int()
	}
	if err != nil {
		return err
	}
	v.Set(reflect.ValueOf(got))
	return nil
}

func (d *reader) list(p *plan, v reflect.Value) error {
	n, err := d.items(majorArray)
	if err != nil {
		return err
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		if err := d.value(p.elem, v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func (d *reader) structure(p *plan, v reflect.Value) error {
	n, err := d.items(majorMap)
	if err != nil {
		return err
	}
	fields := p.fields
	for range n {
		key, err := d.raw(majorText)
		if err != nil {
			return err
		}
		// Fields come in canonical order, so each key is searched after the last.
		for len(fields) > 0 && fields[0].name != string(key) && !fields[0].always {
			fields = fields[1:]
		}
		if len(fields) == 0 || fields[0].name != string(key) {
			return fmt.Errorf("%w: field %.40q is unknown, twice or out of order, or one before it is missing", errCBOR, key)
		}
		f := &fields[0]
		fields = fields[1:]
		value := v.Field(f.index)
		if err := d.value(f.plan, value); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if f.omitted(value) {
			return fmt.Errorf("%w: field %q is there with nothing in it", errCBOR, f.name)
		}
	}
	if i := slices.IndexFunc(fields, func(f field) bool { return f.always }); i >= 0 {
		return fmt.Errorf("%w: field %q is missing", errCBOR, fields[i].name)
	}
	return nil
}
