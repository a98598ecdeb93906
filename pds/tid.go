package pds

import (
	"crypto/rand"
	"encoding/binary"
	"sync"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
)

// tids makes record keys and revisions: the clock's microseconds and a number of this
// process, rising even when the clock stands or steps back.
type tids struct {
	clock clock.Clock
	id    uint64

	mu   sync.Mutex // guards last
	last uint64
}

func newTIDs(c clock.Clock) *tids {
	var b [2]byte
	_, _ = rand.Read(b[:])
	return &tids{clock: c, id: uint64(binary.BigEndian.Uint16(b[:])) & 0x3ff}
}

func (t *tids) next() syntax.TID {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = t.after(t.last)
	return syntax.NewTIDFromInteger(t.last)
}

func (t *tids) after(last uint64) uint64 {
	v := uint64(t.clock.Now().UnixMicro())<<10 | t.id
	if v <= last {
		v = (last>>10+1)<<10 | t.id
	}
	return v
}

// nextRev is a revision above prev, which is empty for a new repository.
func (t *tids) nextRev(prev string) (string, error) {
	var last uint64
	if prev != "" {
		p, err := syntax.ParseTID(prev)
		if err != nil {
			return "", err
		}
		last = p.Integer()
	}
	return syntax.NewTIDFromInteger(t.after(last)).String(), nil
}
