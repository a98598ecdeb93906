package entry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// A Blank is what of a commitment does not depend on what is committed to: its salts, and the hashes over the padding that stands where
// no field does. It can be made while there is time, and is good for one commitment.
type Blank struct {
	noise []byte      // nil: used
	upper [2][32]byte // over the leaves 2 and 3, and over 4 to 7
}

const (
	blankLeaves = 8
	blankFields = 2 // that leave the padding of upper alone
)

var errBlank = errors.New("a blank commitment is used twice")

// NewBlank draws salts from random, as many as a commitment of eight leaves has.
func NewBlank(random io.Reader) (*Blank, error) {
	b := &Blank{noise: make([]byte, blankLeaves*saltSize)}
	if _, err := io.ReadFull(random, b.noise); err != nil {
		return nil, fmt.Errorf("salts: %w", err)
	}
	var level [blankLeaves][32]byte
	for i := blankFields; i < blankLeaves; i++ {
		level[i] = paddingLeaf(b.noise[i*saltSize : (i+1)*saltSize])
	}
	b.upper[0] = nodeHash(level[2], level[3])
	b.upper[1] = nodeHash(nodeHash(level[4], level[5]), nodeHash(level[6], level[7]))
	return b, nil
}

func paddingLeaf(salt []byte) [32]byte {
	var data [1 + saltSize]byte
	copy(data[1:], salt)
	return sha256.Sum256(data[:])
}

// commit is Commit with the blank's salts.
func (b *Blank) commit(fields []Field) (*Opening, Commitment, error) {
	noise := b.noise
	b.noise = nil
	switch n := len(fields); {
	case noise == nil:
		return nil, Commitment{}, errBlank
	case n > blankFields || n == 0:
		return Commit(fields, bytes.NewReader(noise))
	}
	o := salted(fields, noise)
	var level [blankFields][32]byte
	level[1] = paddingLeaf(noise[saltSize : 2*saltSize])
	for i := range o.Fields {
		if i > 0 && o.Fields[i-1].Name >= o.Fields[i].Name {
			return nil, Commitment{}, fmt.Errorf("field %q is twice", o.Fields[i].Name)
		}
		var err error
		if level[i], err = o.Fields[i].leaf(); err != nil {
			return nil, Commitment{}, err
		}
	}
	root := nodeHash(nodeHash(nodeHash(level[0], level[1]), b.upper[0]), b.upper[1])
	return o, commitmentOf(root, blankLeaves), nil
}

// SealOn is Seal with the salts of a blank commitment.
func (e *Entry) SealOn(b *Blank) (*Opening, error) {
	if e.Sealed == nil {
		return nil, nil
	}
	o, c, err := b.commit(e.Sealed.fields())
	if err != nil {
		return nil, fmt.Errorf("seal entry %d: %w", e.Seq, err)
	}
	e.Commitment = &c
	return o, nil
}
