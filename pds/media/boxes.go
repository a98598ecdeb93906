package media

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Films, HEIC and AVIF are boxes within boxes, and other boxes point into them by place in the file. So nothing is cut out here: what is to go
// becomes a free box of the same size, filled with zeros.

// boxesKept are the boxes that are copied, by where they stand. What is not known there is blanked, and so is what is free already.
var boxesKept = map[string]map[string]bool{
	"":     set("ftyp", "styp", "moov", "moof", "mdat", "mfra", "sidx", "ssix", "meta", "wide", "pdin"),
	"moov": set("mvhd", "trak", "mvex", "iods", "pssh"),
	"trak": set("tkhd", "mdia", "edts", "tref", "clip", "matt", "load", "tapt", "txas", "imap", "trgr"),
}

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

// span is a run of the original that is to go.
type span struct {
	off, n  int64
	instead []byte // stands at its beginning; zeros after
}

type box struct {
	name      string
	off, size int64 // with its head
	head      int64
}

func (b box) body() int64 { return b.off + b.head }
func (b box) end() int64  { return b.off + b.size }

func (p *Plan) boxes() error {
	var gone, data []span
	var meta []box
	err := p.each(0, p.size, func(b box) error {
		switch b.name {
		case "mdat":
			data = append(data, span{off: b.body(), n: b.end() - b.body()})
		case "meta":
			meta = append(meta, b)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := p.inside("", 0, p.size, &gone); err != nil {
		return err
	}
	for _, b := range meta {
		if err := p.items(b, data, &gone); err != nil {
			return err
		}
	}
	slices.SortFunc(gone, func(a, b span) int { return int(min(max(a.off-b.off, -1), 1)) })
	at := int64(0)
	for _, g := range gone {
		if g.off < at { // a box within one that went
			g.n, g.off, g.instead = g.off+g.n-at, at, nil
		}
		if g.n <= 0 {
			continue
		}
		p.keep(at, g.off-at)
		instead := g.instead[:min(int64(len(g.instead)), g.n)]
		if len(instead) > 0 {
			p.put(instead)
		}
		p.blank(g.n - int64(len(instead)))
		at = g.off + g.n
	}
	p.keep(at, p.size-at)
	return nil
}

// each calls fn for the boxes between two places.
func (p *Plan) each(from, end int64, fn func(box) error) error {
	for off := from; off < end; {
		if end-off < 8 {
			return malformed("%d bytes too many at %d", end-off, off)
		}
		head, err := p.at(off, 8)
		if err != nil {
			return err
		}
		b := box{name: string(head[4:]), off: off, size: int64(binary.BigEndian.Uint32(head)), head: 8}
		switch b.size {
		case 0:
			b.size = end - off
		case 1:
			long, err := p.at(off+8, 8)
			if err != nil {
				return err
			}
			b.head, b.size = 16, int64(binary.BigEndian.Uint64(long)&(1<<63-1))
		}
		if b.size < b.head || b.size > end-off {
			return malformed("box of %d bytes at %d", b.size, off)
		}
		if err := fn(b); err != nil {
			return err
		}
		off += b.size
	}
	return nil
}

func (p *Plan) inside(name string, from, end int64, gone *[]span) error {
	kept := boxesKept[name]
	return p.each(from, end, func(b box) error {
		switch {
		case !kept[b.name]:
			head, err := p.at(b.off, b.head)
			if err != nil {
				return err
			}
			instead := bytes.Clone(head)
			copy(instead[4:], "free")
			*gone = append(*gone, span{off: b.off, n: b.size, instead: instead})
		case boxesKept[b.name] != nil:
			return p.inside(b.name, b.body(), b.end(), gone)
		}
		if len(*gone) > maxPieces {
			return malformed("too many boxes")
		}
		return nil
	})
}

// maxItems bounds the tables of items in bytes; a photo has dozens of items.
const maxItems = 1 << 20

// items blanks the items of a photo that are no picture: Exif data, XMP. How it is turned stands among its properties, which stay.
func (p *Plan) items(meta box, data []span, gone *[]span) error {
	var idat box
	var iinf, iloc []byte
	if meta.size < meta.head+4 {
		return malformed("meta of %d bytes", meta.size)
	}
	err := p.each(meta.body()+4, meta.end(), func(b box) error {
		var into *[]byte
		switch b.name {
		case "iinf":
			into = &iinf
		case "iloc":
			into = &iloc
		case "idat":
			idat = b
			return nil
		default:
			return nil
		}
		if b.size > maxItems || *into != nil {
			return malformed("%s of %d bytes", b.name, b.size)
		}
		body, err := p.at(b.body(), b.size-b.head)
		*into = bytes.Clone(body)
		return err
	})
	if err != nil || iinf == nil {
		return err
	}
	drop, err := notPictures(iinf)
	if err != nil || len(drop) == 0 {
		return err
	}
	places, err := itemPlaces(iloc, drop)
	if err != nil {
		return err
	}
	for _, pl := range places {
		within := data
		if pl.inIdat {
			pl.off += idat.body()
			within = []span{{off: idat.body(), n: idat.end() - idat.body()}}
		}
		// Elsewhere stand the tables themselves, and an item that lay there would blank them.
		if !slices.ContainsFunc(within, func(s span) bool { return pl.off >= s.off && pl.n > 0 && pl.n <= s.n && pl.off-s.off <= s.n-pl.n }) {
			return malformed("item of %d bytes at %d", pl.n, pl.off)
		}
		g := span{off: pl.off, n: pl.n}
		if pl.exif && pl.n >= int64(len(emptyExif)) {
			g.instead = emptyExif
		}
		*gone = append(*gone, g)
	}
	return nil
}

// emptyExif is an item of Exif data that says nothing: where its TIFF form begins, its head, a directory of no entries.
var emptyExif = []byte{0, 0, 0, 0, 'M', 'M', 0, '*', 0, 0, 0, 8, 0, 0, 0, 0, 0, 0}

// pictures are the types of items that are coded pictures or made of them.
var pictures = set("hvc1", "hev1", "lhv1", "av01", "avc1", "vvc1", "jpeg", "j2k1", "unci", "hvt1", "grid", "iovl", "iden", "tmap", "a1op", "a1lx")

// notPictures reads which items go, and whether each is Exif data.
func notPictures(iinf []byte) (map[uint32]bool, error) {
	r := &fields{b: iinf}
	version := r.uint(1)
	r.uint(3)
	count := r.uint(2)
	if version > 0 {
		count = count<<16 | r.uint(2)
	}
	drop := map[uint32]bool{}
	for range count {
		size := r.uint(4)
		if size < 8 || r.short {
			return nil, malformed("table of items")
		}
		e := &fields{b: r.take(size - 4)}
		name := string(e.take(4))
		version := e.uint(1)
		e.uint(3)
		if name != "infe" || version < 2 || version > 3 {
			return nil, malformed("entry %q of the items", name)
		}
		id := e.uint(map[bool]int{false: 2, true: 4}[version == 3])
		e.uint(2)
		kind := string(e.take(4))
		if e.short {
			return nil, malformed("entry of the items")
		}
		if !pictures[kind] {
			drop[uint32(id)] = kind == "Exif"
		}
	}
	return drop, nil
}

type place struct {
	off, n int64
	inIdat bool
	exif   bool
}

func itemPlaces(iloc []byte, drop map[uint32]bool) ([]place, error) {
	r := &fields{b: iloc}
	version := r.uint(1)
	r.uint(3)
	sizes := r.uint(2)
	offSize, lenSize, baseSize, indexSize := int(sizes>>12), int(sizes>>8&15), int(sizes>>4&15), int(sizes&15)
	wide := 2
	if version == 2 {
		wide = 4
	}
	if version == 0 {
		indexSize = 0
	}
	if version > 2 || offSize > 8 || lenSize > 8 || baseSize > 8 || indexSize > 8 {
		return nil, malformed("places of the items")
	}
	var out []place
	for range r.uint(wide) {
		id := uint32(r.uint(wide))
		method := uint64(0)
		if version > 0 {
			method = r.uint(2) & 15
		}
		elsewhere := r.uint(2) != 0
		base := r.uint(baseSize)
		exif, goes := drop[id]
		extents := r.uint(2)
		if extents > 1 && offSize+lenSize == 0 { // parts that take no room: a small table could name four billion
			return nil, malformed("places of item %d", id)
		}
		for i := range extents {
			r.uint(indexSize)
			off, n := r.uint(offSize), r.uint(lenSize)
			if r.short {
				return nil, malformed("places of the items")
			}
			if !goes {
				continue
			}
			if method > 1 || elsewhere || base > 1<<62 || off > 1<<62 || n > 1<<62 {
				return nil, malformed("place of item %d", id)
			}
			out = append(out, place{off: int64(base + off), n: int64(n), inIdat: method == 1, exif: exif && i == 0})
		}
		if r.short {
			return nil, malformed("places of the items")
		}
	}
	return out, nil
}

// fields reads big-endian numbers one after the other.
type fields struct {
	b     []byte
	short bool // something was asked for that is not there
}

func (f *fields) take(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.short, f.b = true, nil
		return nil
	}
	out := f.b[:n]
	f.b = f.b[n:]
	return out
}

func (f *fields) uint(size int) (v uint64) {
	for _, b := range f.take(uint64(size)) {
		v = v<<8 | uint64(b)
	}
	return v
}
