package media

import "bytes"

// Markers of a JPEG file that matter here.
const (
	soi, eoi, sos     = 0xd8, 0xd9, 0xda
	app0, app2, app14 = 0xe0, 0xe2, 0xee
	app1, app15, com  = 0xe1, 0xef, 0xfe
	rst0, rst7        = 0xd0, 0xd7
)

const exifHead = "Exif\x00\x00"

// jpeg keeps the tables, the frames and scans, the colour profile, and how colours are coded. Whatever follows the end of the image goes too:
// second images and films hide there.
func (p *Plan) jpeg() error {
	b, err := p.at(0, 2)
	if err != nil || b[0] != 0xff || b[1] != soi {
		return malformed("no JPEG")
	}
	p.keep(0, 2)
	turned := false
	for off := int64(2); ; {
		marker, at, err := p.marker(off)
		if err != nil {
			return err
		}
		off = at + 2
		switch {
		case marker == eoi:
			p.keep(at, 2)
			return nil
		case marker == soi:
			return malformed("an image begins within another")
		case marker >= rst0 && marker <= rst7, marker < 0xc0: // of scans only
			return malformed("marker %x", marker)
		}
		size, err := p.at(off, 2)
		if err != nil {
			return err
		}
		n := int64(size[0])<<8 | int64(size[1])
		if n < 2 || off > p.size-n {
			return malformed("segment of %d bytes at %d", n, at)
		}
		end := off + n
		if err := p.segment(marker, at, end, &turned); err != nil {
			return err
		}
		off = end
		if marker == sos {
			if off, err = p.scan(off); err != nil {
				return err
			}
			if off == p.size { // the end is missing: every viewer shows what there is
				return nil
			}
		}
	}
}

// marker finds the next marker, which fill bytes may precede.
func (p *Plan) marker(off int64) (marker byte, at int64, err error) {
	b, err := p.at(off, 2)
	if err != nil {
		return 0, 0, err
	}
	if b[0] != 0xff {
		return 0, 0, malformed("no marker at %d", off)
	}
	for b[1] == 0xff {
		off++
		if b, err = p.at(off, 2); err != nil {
			return 0, 0, err
		}
	}
	return b[1], off, nil
}

func (p *Plan) segment(marker byte, at, end int64, turned *bool) error {
	if marker < app0 || marker > app15 && marker != com {
		p.keep(at, end-at)
		return nil
	}
	if marker == com {
		return nil
	}
	body, err := p.at(at+4, end-at-4)
	if err != nil {
		return err
	}
	switch {
	case marker == app0 && bytes.HasPrefix(body, []byte("JFIF\x00")) && len(body) >= 14:
		if body[12] == 0 && body[13] == 0 && len(body) == 14 {
			p.keep(at, end-at)
			return nil
		}
		p.put(append([]byte{0xff, app0, 0, 16}, append(bytes.Clone(body[:12]), 0, 0)...)) // a thumbnail may show what was cut away
	case marker == app2 && bytes.HasPrefix(body, []byte("ICC_PROFILE\x00")),
		marker == app14 && bytes.HasPrefix(body, []byte("Adobe")):
		p.keep(at, end-at)
	case marker == app1 && bytes.HasPrefix(body, []byte(exifHead)) && !*turned:
		tiff := body[len(exifHead):]
		v := orientation(tiff)
		if v == 1 {
			return nil
		}
		*turned = true
		if only := onlyOrientation(v); bytes.Equal(tiff, only) {
			p.keep(at, end-at)
		} else {
			p.put(append([]byte{0xff, app1, 0, byte(2 + len(exifHead) + len(only))}, append([]byte(exifHead), only...)...))
		}
	}
	return nil
}

// scan copies coded data and answers where the marker stands that ends it.
func (p *Plan) scan(from int64) (int64, error) {
	for off := from; ; {
		b, err := p.view(off)
		if err != nil {
			return 0, err
		}
		i := bytes.IndexByte(b, 0xff)
		switch {
		case off+int64(len(b)) >= p.size && (i < 0 || i == len(b)-1):
			p.keep(from, p.size-from)
			return p.size, nil
		case i < 0:
			off += int64(len(b))
			continue
		case i == len(b)-1: // what follows it is not in view
			off += int64(i)
			if _, err := p.at(off, 2); err != nil {
				return 0, err
			}
			continue
		}
		if next := b[i+1]; next != 0 && next != 0xff && (next < rst0 || next > rst7) {
			p.keep(from, off+int64(i)-from)
			return off + int64(i), nil
		}
		off += int64(i) + 1
	}
}
