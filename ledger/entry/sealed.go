package entry

import (
	"errors"
	"fmt"
	"io"

	"github.com/bluesky-social/indigo/atproto/syntax"
)

// Sealed is the private part of an entry. A zero field is absent, and commits to nothing.
type Sealed struct {
	Account  Account    // activate, claim, mint, burn, hold, capture
	At       string     // UTC, to the second: when the act was done
	Resident syntax.DID // activate, bind staff: the civic DID
	Org      syntax.DID // bind staff: for whom the person verifies
	Seed     []byte     // stateDigest: 32 bytes that place and salt the leaves of the balances

	// Erased says that the opening was destroyed because its person asked to be forgotten. Such an entry's part in the
	// totals is known, and no more.
	Erased bool
}

// ErrOpening means that an opening does not belong to a commitment. Final.
var ErrOpening = errors.New("opening does not match commitment")

func (s Sealed) fields() []Field {
	var f []Field
	if s.Account != (Account{}) {
		f = append(f, Field{Name: "account", Value: s.Account[:]})
	}
	if s.At != "" {
		f = append(f, Field{Name: "at", Value: s.At})
	}
	if s.Resident != "" {
		f = append(f, Field{Name: "resident", Value: string(s.Resident)})
	}
	if s.Org != "" {
		f = append(f, Field{Name: "org", Value: string(s.Org)})
	}
	if len(s.Seed) > 0 {
		f = append(f, Field{Name: "seed", Value: s.Seed})
	}
	return f
}

// Seal commits to the entry's sealed part with salts from random, and returns the opening that must be kept apart from the
// log. An entry without a sealed part has no opening.
func (e *Entry) Seal(random io.Reader) (*Opening, error) {
	if e.Sealed == nil {
		return nil, nil
	}
	o, c, err := Commit(e.Sealed.fields(), random)
	if err != nil {
		return nil, fmt.Errorf("seal entry %d: %w", e.Seq, err)
	}
	e.Commitment = &c
	return o, nil
}

// Unseal checks an opening against the entry's commitment and fills in the sealed part.
func (e *Entry) Unseal(o *Opening) error {
	if e.Commitment == nil {
		return fmt.Errorf("%w: entry %d has none", ErrOpening, e.Seq)
	}
	if err := o.Verify(*e.Commitment); err != nil {
		return fmt.Errorf("entry %d: %w", e.Seq, err)
	}
	var s Sealed
	for _, f := range o.Fields {
		text, isText := f.Value.(string)
		raw, isBytes := f.Value.([]byte)
		switch {
		case f.Name == "account" && isBytes && len(raw) == len(s.Account):
			copy(s.Account[:], raw)
		case f.Name == "at" && isText:
			s.At = text
		case f.Name == "resident" && isText:
			s.Resident = syntax.DID(text)
		case f.Name == "seed" && isBytes && len(raw) == 32:
			s.Seed = raw
		case f.Name == "org" && isText:
			s.Org = syntax.DID(text)
		default:
			return fmt.Errorf("%w: entry %d has field %q", ErrOpening, e.Seq, f.Name)
		}
	}
	e.Sealed = &s
	return nil
}
