package ledger

import "sync"

// paper is where a batch writes its leaves and openings. Each would be a kilobyte of garbage else, of which they fill less than half on
// the average. The sheets are written on again once the database has what stands on them.
type paper struct{ sheets []*sheet }

type sheet struct {
	used int
	room [sheetSize]byte
}

const (
	sheetSize = 64 << 10
	sheetRest = 2 << 10 // with less left a new sheet is begun; what is longer still grows out of its sheet, and is garbage
)

var blank = sync.Pool{New: func() any { return new(sheet) }}

// write lets fn append to the paper, and gives what it appended.
func (p *paper) write(fn func(b []byte) ([]byte, error)) ([]byte, error) {
	if n := len(p.sheets); n == 0 || sheetSize-p.sheets[n-1].used < sheetRest {
		p.sheets = append(p.sheets, blank.Get().(*sheet)) //nolint:forcetypeassert // the pool gives nothing else
	}
	s := p.sheets[len(p.sheets)-1]
	b, err := fn(s.room[s.used:s.used])
	if err != nil {
		return nil, err
	}
	if s.used+len(b) <= sheetSize {
		s.used += len(b)
	}
	return b[:len(b):len(b)], nil
}

// reuse gives the sheets away. Nothing that was written may be looked at from then on.
func (p *paper) reuse() {
	for _, s := range p.sheets {
		s.used = 0
		blank.Put(s)
	}
	p.sheets = nil
}
