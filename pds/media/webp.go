package media

import (
	"bytes"
	"encoding/binary"
)

var webpKept = map[string]bool{"VP8 ": true, "VP8L": true, "VP8X": true, "ALPH": true, "ANIM": true, "ANMF": true, "ICCP": true}

const (
	webpFlagXMP  = 0x04
	webpFlagExif = 0x08
)

// webp keeps the picture, its transparency, movement and colours. The sizes before them are written anew.
func (p *Plan) webp() error {
	b, err := p.at(0, 12)
	if err != nil || string(b[:4]) != "RIFF" || string(b[8:]) != "WEBP" {
		return malformed("no WebP")
	}
	end := 8 + int64(binary.LittleEndian.Uint32(b[4:]))
	if end < 12 || end > p.size {
		return malformed("%d bytes of %d", p.size, end)
	}
	body := Plan{src: p.src, size: p.size}
	extended, turn := int64(-1), byte(1) // where VP8X stands
	for off := int64(12); off < end; {
		head, err := p.at(off, 8)
		if err != nil {
			return err
		}
		name, n := string(head[:4]), int64(binary.LittleEndian.Uint32(head[4:]))
		whole := 8 + n + n&1
		if off+whole > end {
			if off+8+n != end { // some writers leave out the last filler
				return malformed("chunk of %d bytes at %d", n, off)
			}
			whole = 8 + n
		}
		switch {
		case name == "VP8X" && (extended >= 0 || off != 12 || n < 10):
			return malformed("VP8X at %d", off)
		case name == "VP8X":
			extended = off
		case webpKept[name]:
			body.keep(off, whole)
		case name == "EXIF":
			tiff, err := p.at(off+8, min(n, maxExif))
			if err != nil {
				return err
			}
			turn = orientation(bytes.TrimPrefix(tiff, []byte(exifHead)))
		}
		off += whole
	}
	return p.webpAround(&body, extended, turn)
}

// webpAround writes what stands before and after the picture.
func (p *Plan) webpAround(body *Plan, extended int64, turn byte) error {
	var front, back []byte
	if extended >= 0 {
		there, err := p.at(extended, 18)
		if err != nil {
			return err
		}
		front = bytes.Clone(there)
		binary.LittleEndian.PutUint32(front[4:], 10)
		front[8] &^= webpFlagXMP | webpFlagExif
		if turn != 1 {
			front[8] |= webpFlagExif
			only := onlyOrientation(turn)
			back = binary.LittleEndian.AppendUint32([]byte("EXIF"), uint32(len(only)))
			back = append(back, only...)
		}
	}
	total := 4 + int64(len(front)) + body.out + int64(len(back))
	if body.out&1 != 0 { // the filler that its writer left out
		total++
		back = append([]byte{0}, back...)
	}
	head := binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(total)) // no more than was there, and a few bytes
	p.putOrKeep(append(append(head, "WEBP"...), front...))
	for _, q := range body.pieces {
		p.keep(q.off, q.n)
	}
	p.putOrKeep(back)
	return nil
}

// putOrKeep keeps what the original has at this place already, so that a clean file is one run.
func (p *Plan) putOrKeep(b []byte) {
	if len(b) == 0 {
		return
	}
	off := int64(0)
	if last := len(p.pieces) - 1; last >= 0 {
		off = p.pieces[last].off + p.pieces[last].n
		if p.pieces[last].lit != nil {
			off = p.size
		}
	}
	if there, err := p.at(off, int64(len(b))); err == nil && bytes.Equal(there, b) {
		p.keep(off, int64(len(b)))
		return
	}
	p.put(b)
}
