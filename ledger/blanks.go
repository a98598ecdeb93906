package ledger

import (
	"crypto/rand"
	"fmt"

	"city-sync.org/citysync/ledger/entry"
)

// blanks are commitments whose salts are drawn and whose padding is hashed: most of what sealing an entry takes. The writer makes them
// while the database works, so that a batch that is waited for has them.
type blanks chan *entry.Blank

// fill makes as many as a full batch takes.
func (s blanks) fill() error {
	for {
		if len(s) == cap(s) {
			return nil
		}
		b, err := entry.NewBlank(rand.Reader)
		if err != nil {
			return fmt.Errorf("blank commitments: %w", err)
		}
		select {
		case s <- b:
		default:
			return nil
		}
	}
}

// seal commits to what an entry seals.
func (s *sequencer) seal(e *entry.Entry) (*entry.Opening, error) {
	if e.Sealed == nil {
		return nil, nil
	}
	select {
	case b := <-s.blanks:
		return e.SealOn(b)
	default:
		return e.Seal(rand.Reader)
	}
}
