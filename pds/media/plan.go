package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrMalformed says that a file is not built as its kind is, so that nobody can tell what is in it. Final for that file.
var ErrMalformed = errors.New("malformed")

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, a...)...)
}

// Plan is a file as it is to be written: runs of the original, and a few bytes instead of others.
type Plan struct {
	src    io.ReaderAt
	size   int64 // of the original
	out    int64
	pieces []piece

	seen   []byte // of the original, from seenAt on
	seenAt int64
}

// piece is a run of the original, or bytes of its own, or so many zeros.
type piece struct {
	off, n int64
	lit    []byte // nil: a run of the original, unless off is negative: zeros
}

const zeros = -1

// maxPieces bounds the memory of a plan. Runs that touch are one piece, so that only what is taken out makes more.
const maxPieces = 1 << 16

// Strip plans the file without what was not photographed. The plan is nil for kinds that have nothing to take out.
func Strip(src io.ReaderAt, size int64, mime string) (*Plan, error) {
	p := &Plan{src: src, size: size}
	var err error
	switch mime {
	case "image/jpeg":
		err = p.jpeg()
	case "image/png":
		err = p.png()
	case "image/webp":
		err = p.webp()
	case "image/avif", "image/heic", "image/heif", "video/mp4", "video/quicktime", "video/3gpp", "audio/mp4":
		err = p.boxes()
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(p.pieces) > maxPieces {
		return nil, malformed("too many pieces")
	}
	return p, nil
}

// Same says that nothing is taken out.
func (p *Plan) Same() bool {
	return len(p.pieces) == 1 && p.pieces[0].lit == nil && p.pieces[0].off == 0 && p.pieces[0].n == p.size
}

// Size is that of the file to be written.
func (p *Plan) Size() int64 { return p.out }

// Reader reads the file to be written.
func (p *Plan) Reader() io.Reader {
	parts := make([]io.Reader, len(p.pieces))
	for i, q := range p.pieces {
		switch {
		case q.lit != nil:
			parts[i] = bytes.NewReader(q.lit)
		case q.off == zeros:
			parts[i] = io.LimitReader(zeroReader{}, q.n)
		default:
			parts[i] = io.NewSectionReader(p.src, q.off, q.n)
		}
	}
	return io.MultiReader(parts...)
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// keep copies a run of the original.
func (p *Plan) keep(off, n int64) {
	if n == 0 {
		return
	}
	p.out += n
	if last := len(p.pieces) - 1; last >= 0 {
		if q := &p.pieces[last]; q.lit == nil && q.off >= 0 && q.off+q.n == off {
			q.n += n
			return
		}
	}
	p.add(piece{off: off, n: n})
}

func (p *Plan) put(b []byte) {
	p.out += int64(len(b))
	p.add(piece{lit: b})
}

func (p *Plan) blank(n int64) {
	if n > 0 {
		p.out += n
		p.add(piece{off: zeros, n: n})
	}
}

func (p *Plan) add(q piece) {
	if len(p.pieces) <= maxPieces { // one too many tells Strip
		p.pieces = append(p.pieces, q)
	}
}

// at shows n bytes of the original, which are a few: a header, or a block whose size its format bounds. They are good until the next call.
func (p *Plan) at(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > p.size-n {
		return nil, malformed("cut short at %d", p.size)
	}
	if off < p.seenAt || off+n > p.seenAt+int64(len(p.seen)) {
		b := make([]byte, min(max(n, window), p.size-off))
		if got, err := p.src.ReadAt(b, off); err != nil && got < len(b) {
			return nil, fmt.Errorf("read: %w", err)
		}
		p.seen, p.seenAt = b, off
	}
	from := off - p.seenAt
	return p.seen[from : from+n : from+n], nil
}

// view shows what stands at a place as far as it was read already, and a window of it where it was not. At the end it is empty.
func (p *Plan) view(off int64) ([]byte, error) {
	if have := p.seenAt + int64(len(p.seen)); off >= p.seenAt && off < have {
		return p.seen[off-p.seenAt:], nil
	}
	return p.at(off, min(window, p.size-off))
}

// window is read at once, so that a file of a million tiny parts is not a million reads.
const window = 16 << 10
