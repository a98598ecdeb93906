package tlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	// TileWidth is the number of hashes of a full tile, or of entries of a full bundle.
	TileWidth = 1 << tileHeight
	// EntriesLevel is the level of a tile that is a bundle of entries.
	EntriesLevel = -1

	maxLevel = 63 / tileHeight
	maxPath  = 64
)

// ErrTile means that a path or the bytes of a tile are malformed. Final.
var ErrTile = errors.New("malformed tile")

// Tile is the place of a tile: its level, or EntriesLevel, its index there and its width, TileWidth when full.
type Tile struct {
	Level int
	N     int64
	Width int
}

// Path is where the tile is served, without the first slash: tile/0/x001/067, tile/entries/000.p/3.
func (t Tile) Path() string {
	level := "entries"
	if t.Level != EntriesLevel {
		level = strconv.Itoa(t.Level)
	}
	n := fmt.Sprintf("%03d", t.N%1000)
	for rest := t.N / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	path := "tile/" + level + "/" + n
	if t.Width != TileWidth {
		path += ".p/" + strconv.Itoa(t.Width)
	}
	return path
}

// ParseTilePath reads what Path writes, and nothing else.
func ParseTilePath(path string) (Tile, error) {
	bad := fmt.Errorf("%w: path %.*q", ErrTile, maxPath, path)
	rest, ok := strings.CutPrefix(path, "tile/")
	level, rest, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || len(path) > maxPath {
		return Tile{}, bad
	}
	t := Tile{Level: EntriesLevel, Width: TileWidth}
	var err error
	if level != "entries" {
		if t.Level, err = strconv.Atoi(level); err != nil || t.Level < 0 || t.Level > maxLevel {
			return Tile{}, bad
		}
	}
	number, width, partial := strings.Cut(rest, ".p/")
	if partial {
		if t.Width, err = strconv.Atoi(width); err != nil || t.Width < 1 || t.Width >= TileWidth {
			return Tile{}, bad
		}
	}
	for group := range strings.SplitSeq(strings.ReplaceAll(number, "x", ""), "/") {
		d, err := strconv.ParseUint(group, 10, 10)
		if err != nil || t.N > math.MaxInt64/TileWidth/1000 {
			return Tile{}, bad
		}
		t.N = t.N*1000 + int64(d)
	}
	if t.N > math.MaxInt64/TileWidth || t.Path() != path {
		return Tile{}, bad
	}
	return t, nil
}

// In says whether a tree of size leaves has all that the tile shows.
func (t Tile) In(size int64) bool {
	at := size
	if t.Level > 0 {
		at = size >> (tileHeight * t.Level)
	}
	return t.N >= 0 && t.Width > 0 && t.Width <= TileWidth && t.N*TileWidth+int64(t.Width) <= at
}

// Leaves gives the indexes of the entries of a bundle: from, inclusive, to, exclusive.
func (t Tile) Leaves() (from, to int64) {
	return t.N * TileWidth, t.N*TileWidth + int64(t.Width)
}

// Tiles gives the tiles of a tree of size leaves at a level, the last one partial if it must be.
func Tiles(level int, size int64) []Tile {
	at := size
	if level > 0 {
		at = size >> (tileHeight * level)
	}
	var list []Tile
	for n := int64(0); n*TileWidth < at; n++ {
		list = append(list, Tile{Level: level, N: n, Width: int(min(TileWidth, at-n*TileWidth))})
	}
	return list
}

// Levels is the number of levels of hash tiles that a tree of size leaves has.
func Levels(size int64) int {
	n := 0
	for at := size; at > 0; at >>= tileHeight {
		n++
	}
	return n
}

// ReadTile gives the bytes of a hash tile.
func ReadTile(t Tile, size int64, nodes Nodes) ([]byte, error) {
	if t.Level < 0 || t.Level > maxLevel || !t.In(size) {
		return nil, fmt.Errorf("%w: %s of a tree of %d", ErrTile, t.Path(), size)
	}
	indexes := make([]int64, t.Width)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(tileHeight*t.Level, t.N*TileWidth+int64(i))
	}
	hashes, err := nodes.ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.Path(), err)
	}
	if len(hashes) != len(indexes) {
		return nil, fmt.Errorf("read %s: %d hashes of %d", t.Path(), len(hashes), len(indexes))
	}
	out := make([]byte, 0, len(hashes)*len(Hash{}))
	for _, h := range hashes {
		out = append(out, h[:]...)
	}
	return out, nil
}

// DecodeTile reads the hashes of a hash tile of a known width.
func DecodeTile(data []byte, width int) ([]Hash, error) {
	if width < 1 || width > TileWidth || len(data) != width*len(Hash{}) {
		return nil, fmt.Errorf("%w: %d bytes for %d hashes", ErrTile, len(data), width)
	}
	hashes := make([]Hash, width)
	for i := range hashes {
		copy(hashes[i][:], data[i*len(Hash{}):])
	}
	return hashes, nil
}

// MaxBundle bounds the bytes of a bundle: each entry has a length of two bytes before it.
const MaxBundle = TileWidth * (2 + math.MaxUint16)

// EncodeBundle gives the bytes of a bundle of entries.
func EncodeBundle(entries [][]byte) ([]byte, error) {
	if len(entries) < 1 || len(entries) > TileWidth {
		return nil, fmt.Errorf("%w: bundle of %d entries", ErrTile, len(entries))
	}
	var out []byte
	for i, e := range entries {
		if len(e) > math.MaxUint16 {
			return nil, fmt.Errorf("%w: entry %d of the bundle has %d bytes", ErrTile, i, len(e))
		}
		out = binary.BigEndian.AppendUint16(out, uint16(len(e)))
		out = append(out, e...)
	}
	return out, nil
}

// DecodeBundle reads a bundle of exactly width entries. They share data's memory.
func DecodeBundle(data []byte, width int) ([][]byte, error) {
	if width < 1 || width > TileWidth || len(data) > MaxBundle {
		return nil, fmt.Errorf("%w: bundle of %d entries in %d bytes", ErrTile, width, len(data))
	}
	entries := make([][]byte, 0, width)
	for len(entries) < width {
		if len(data) < 2 {
			return nil, fmt.Errorf("%w: bundle ends at entry %d of %d", ErrTile, len(entries), width)
		}
		n := int(binary.BigEndian.Uint16(data))
		if data = data[2:]; len(data) < n {
			return nil, fmt.Errorf("%w: bundle ends in entry %d of %d", ErrTile, len(entries), width)
		}
		entries = append(entries, data[:n:n])
		data = data[n:]
	}
	if len(data) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after %d entries", ErrTile, len(data), width)
	}
	return entries, nil
}
