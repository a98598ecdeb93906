package entry

import (
	"errors"
	"fmt"
	"hash/maphash"
)

// The sizes of leaves.
const (
	MaxLeaf     = 4 << 10
	MaxListLeaf = 60 << 10
)

// ErrLeaf means that bytes are no leaf, or an entry has no leaf. Final.
var ErrLeaf = errors.New("bad leaf")

func maxSize(k Kind) int {
	switch k {
	case KindParameters, KindEpochOpen, KindReserve: // they list tiers, offerings or shifts
		return MaxListLeaf
	}
	return MaxLeaf
}

// Encode gives the entry's leaf. An entry with a sealed part must be sealed first.
func (e *Entry) Encode() ([]byte, error) { return e.AppendLeaf(make([]byte, 0, usualSize)) }

// AppendLeaf appends what Encode gives.
func (e *Entry) AppendLeaf(b []byte) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%w: entry %d: %w", ErrLeaf, e.Seq, err)
	}
	from := len(b)
	b, err := appendValue(b, e)
	if err != nil {
		return nil, fmt.Errorf("%w: entry %d: %w", ErrLeaf, e.Seq, err)
	}
	if size := len(b) - from; size > maxSize(e.Kind) {
		return nil, fmt.Errorf("%w: entry %d: %d bytes, at most %d", ErrLeaf, e.Seq, size, maxSize(e.Kind))
	}
	return b, nil
}

// Decode reads a leaf. It accepts only what Encode gives.
func Decode(leaf []byte) (*Entry, error) { return decode(&reader{b: leaf}) }

// A Decoder reads many leaves of one log: texts that stand in several are kept once. It has one owner.
type Decoder struct{ seen texts }

// NewDecoder is a Decoder that has read nothing.
func NewDecoder() *Decoder { return &Decoder{texts{seed: maphash.MakeSeed()}} }

// Decode reads a leaf as Decode does.
func (d *Decoder) Decode(leaf []byte) (*Entry, error) { return decode(&reader{b: leaf, seen: &d.seen}) }

func decode(r *reader) (*Entry, error) {
	size := len(r.b)
	if size > MaxListLeaf {
		return nil, fmt.Errorf("%w: %d bytes", ErrLeaf, size)
	}
	e := new(Entry)
	if err := r.all(e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	if size > maxSize(e.Kind) {
		return nil, fmt.Errorf("%w: %s of %d bytes, at most %d", ErrLeaf, e.Kind, size, maxSize(e.Kind))
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	return e, nil
}
