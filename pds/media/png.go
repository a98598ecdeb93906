package media

import (
	"encoding/binary"
	"hash/crc32"
)

const pngHead = "\x89PNG\r\n\x1a\n"

// pngKept are the chunks that say how the picture looks, moving pictures included.
var pngKept = map[string]bool{
	"IHDR": true, "PLTE": true, "IDAT": true, "tRNS": true, "cHRM": true, "gAMA": true, "iCCP": true, "sBIT": true, "sRGB": true, "cICP": true,
	"mDCV": true, "cLLI": true, "bKGD": true, "hIST": true, "pHYs": true, "sPLT": true, "acTL": true, "fcTL": true, "fdAT": true, "CgBI": true,
}

// maxExif is as much of Exif data as is looked at for the orientation, which stands in front.
const maxExif = 64 << 10

func (p *Plan) png() error {
	b, err := p.at(0, int64(len(pngHead)))
	if err != nil || string(b) != pngHead {
		return malformed("no PNG")
	}
	p.keep(0, int64(len(pngHead)))
	for off := int64(len(pngHead)); ; {
		head, err := p.at(off, 8)
		if err != nil {
			return err
		}
		n, name := int64(binary.BigEndian.Uint32(head)), string(head[4:])
		if n > 1<<31-1 || off > p.size-12-n {
			return malformed("chunk of %d bytes at %d", n, off)
		}
		switch {
		case name == "IEND":
			p.keep(off, 12+n)
			return nil
		case pngKept[name]:
			p.keep(off, 12+n)
		case name == "eXIf":
			if err := p.pngExif(off, n); err != nil {
				return err
			}
		case name[0]&0x20 == 0: // without a critical chunk it is another picture
			return malformed("chunk %q", name)
		}
		off += 12 + n
	}
}

func (p *Plan) pngExif(off, n int64) error {
	tiff, err := p.at(off+8, min(n, maxExif))
	if err != nil {
		return err
	}
	v := orientation(tiff)
	if v == 1 {
		return nil
	}
	only := onlyOrientation(v)
	if string(only) == string(tiff) {
		p.keep(off, 12+n)
		return nil
	}
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(only)))
	chunk = append(append(chunk, "eXIf"...), only...)
	p.put(binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:])))
	return nil
}
