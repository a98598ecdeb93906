package witness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"city-sync.org/citysync/ledger/tlog"
)

// Names in a copy's folder.
const (
	fileState      = "state.json"
	fileCheckpoint = "checkpoint"
	filePolicy     = "policy"
	fileOpenings   = "openings.jsonl"
	folderProofs   = "proofs"
)

const (
	maxState  = 1 << 20
	maxProofs = 100
)

// state is what must never go back: it is on the disk before a cosignature leaves the house.
type state struct {
	Origin  string   `json:"origin"`
	Witness string   `json:"witness"` // verifier key
	LogKeys []logKey `json:"logKeys"`
	Audited int64    `json:"audited"` // entries in the copy, each re-executed
	Size    int64    `json:"size"`    // cosigned
	Root    []byte   `json:"root"`
	Note    string   `json:"note"` // of the log, with our cosignature
}

// logKey is a key of the log and until when it signs; empty: no end.
type logKey struct {
	Key   string `json:"key"`
	Until string `json:"until,omitempty"`
}

// folder is a copy on disk. A file is written beside its place, synced and renamed, so that each is whole or not there.
type folder struct {
	path   string
	rename func(from, to string) error
}

func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(filepath.Join(path, folderProofs), 0o700); err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	return &folder{path, os.Rename}, nil
}

func (f *folder) file(name string) string { return filepath.Join(f.path, filepath.FromSlash(name)) }

// put writes a file so that after its return it is there for good.
func (f *folder) put(name string, data []byte, mode fs.FileMode) error {
	path := f.file(name)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = f.rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // the first error counts
		return fmt.Errorf("copy: write %s: %w", name, err)
	}
	return syncFolder(dir)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("copy: sync %s: %w", dir, err)
	}
	return nil
}

// get reads a file; nil where there is none.
func (f *folder) get(name string, max int64) ([]byte, error) {
	file, err := os.Open(f.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, max+1))
	if err != nil || int64(len(data)) > max {
		return nil, fmt.Errorf("copy: %s: %d bytes: %w", name, len(data), err)
	}
	return data, nil
}

func (f *folder) readState() (*state, error) {
	raw, err := f.get(fileState, maxState)
	if raw == nil || err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("copy: %s: %w", fileState, err)
	}
	if s.Audited < s.Size || s.Size < 0 {
		return nil, fmt.Errorf("copy: %s: %d entries, %d cosigned", fileState, s.Audited, s.Size)
	}
	return s, nil
}

func (f *folder) writeState(s *state) error {
	raw, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return f.put(fileState, append(raw, '\n'), 0o600)
}

// bundle reads the entries of a bundle: at least width of them.
func (f *folder) bundle(n int64, width int) ([][]byte, error) {
	for w := width; w <= tlog.TileWidth; w++ { // its own first: a wider one may be of a checkpoint that was left behind
		raw, err := f.get(tlog.Tile{Level: tlog.EntriesLevel, N: n, Width: w}.Path(), tlog.MaxBundle)
		if err != nil {
			return nil, err
		}
		if raw == nil {
			continue
		}
		list, err := tlog.DecodeBundle(raw, w)
		if err != nil {
			return nil, fmt.Errorf("copy: bundle %d: %w", n, err)
		}
		return list[:width], nil
	}
	return nil, fmt.Errorf("copy: entries from %d on are missing: %w", n*tlog.TileWidth, fs.ErrNotExist)
}

// leaves gives fn the first size entries in order.
func (f *folder) leaves(size int64, fn func(seq int64, leaf []byte) error) error {
	for _, t := range tlog.Tiles(tlog.EntriesLevel, size) {
		list, err := f.bundle(t.N, t.Width)
		if err != nil {
			return err
		}
		for i, leaf := range list {
			if err := fn(t.N*tlog.TileWidth+int64(i), leaf); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeTiles writes the hash tiles of a tree of size leaves that one of old leaves did not have whole.
func (f *folder) writeTiles(old, size int64, nodes tlog.Nodes) error {
	for level := range tlog.Levels(size) {
		first := (old >> (8 * level)) / tlog.TileWidth
		for _, t := range tlog.Tiles(level, size) {
			if t.N < first {
				continue
			}
			data, err := tlog.ReadTile(t, size, nodes)
			if err != nil {
				return err
			}
			if err := f.put(t.Path(), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// tidy removes the partial tiles of an earlier size that the newest checkpoint has no use for.
func (f *folder) tidy(old, size, audited int64) error {
	for level := tlog.EntriesLevel; level < tlog.Levels(max(old, 1)); level++ {
		before, now := tlog.Tiles(level, old), tlog.Tiles(level, size)
		if len(before) == 0 {
			continue
		}
		t := before[len(before)-1]
		if t.Width == tlog.TileWidth || slices.Contains(now, t) {
			continue
		}
		dir := filepath.Dir(f.file(t.Path()))
		keep := map[string]bool{}
		for _, at := range []int64{size, audited} {
			at := tlog.Tiles(level, at)
			if last := at[len(at)-1]; last.N == t.N && last.Width != tlog.TileWidth {
				keep[fmt.Sprint(last.Width)] = true
			}
		}
		names, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy: %w", err)
		}
		for _, n := range names {
			if !keep[n.Name()] && !strings.HasPrefix(n.Name(), ".") {
				if err := os.Remove(filepath.Join(dir, n.Name())); err != nil {
					return fmt.Errorf("copy: %w", err)
				}
			}
		}
		if len(keep) == 0 {
			_ = os.Remove(dir) // empty: a folder more or less is nothing
		}
	}
	return nil
}

// opening is one line of the file of openings.
type opening struct {
	Seq    int64  `json:"seq"`
	Sealed []byte `json:"sealed,omitempty"` // none: it was erased
}

// openings reads those of the copy by seq. A line that a crash cut off was not used yet.
func (f *folder) openings() (map[int64][]byte, error) {
	out := map[int64][]byte{}
	file, err := os.Open(f.file(fileOpenings))
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		var o opening
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			continue
		}
		out[o.Seq] = o.Sealed
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("copy: %s: %w", fileOpenings, err)
	}
	return out, nil
}

// addOpenings puts openings at the end of the file. A newline first ends a line that a crash cut off.
func (f *folder) addOpenings(list []opening) error {
	if len(list) == 0 {
		return nil
	}
	var b bytes.Buffer
	b.WriteByte('\n')
	for _, o := range list {
		line, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		b.Write(append(line, '\n'))
	}
	file, err := os.OpenFile(f.file(fileOpenings), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	_, err = file.Write(b.Bytes())
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("copy: %s: %w", fileOpenings, err)
	}
	return syncFolder(f.path)
}

// replaceOpenings writes the file anew, without what was erased.
func (f *folder) replaceOpenings(all map[int64][]byte) error {
	var b bytes.Buffer
	keys := make([]int64, 0, len(all))
	for seq := range all {
		keys = append(keys, seq)
	}
	slices.Sort(keys)
	for _, seq := range keys {
		line, err := json.Marshal(opening{Seq: seq, Sealed: all[seq]})
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		b.Write(append(line, '\n'))
	}
	return f.put(fileOpenings, b.Bytes(), 0o600)
}

// proofs lists the names of the proofs that were saved.
func (f *folder) proofs() ([]string, error) {
	names, err := os.ReadDir(f.file(folderProofs))
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".json") && !strings.HasPrefix(n.Name(), ".") {
			out = append(out, n.Name())
		}
	}
	return out, nil
}

// addBundle puts entries behind those that the copy has from index at on: into one bundle, which grows.
func (f *folder) addBundle(at int64, list [][]byte) error {
	n := at / tlog.TileWidth
	var all [][]byte
	if have := int(at % tlog.TileWidth); have > 0 {
		old, err := f.bundle(n, have)
		if err != nil {
			return err
		}
		all = append(all, old...)
	}
	return f.writeBundle(n, append(all, list...))
}

// putBundle writes the last, partial bundle of a tree of size entries where the copy has it only within a wider one.
func (f *folder) putBundle(size, audited int64) error {
	width := int(size % tlog.TileWidth)
	if width == 0 || size == audited {
		return nil
	}
	list, err := f.bundle(size/tlog.TileWidth, width)
	if err != nil {
		return err
	}
	return f.writeBundle(size/tlog.TileWidth, list)
}

func (f *folder) writeBundle(n int64, list [][]byte) error {
	raw, err := tlog.EncodeBundle(list)
	if err != nil {
		return err
	}
	return f.put(tlog.Tile{Level: tlog.EntriesLevel, N: n, Width: len(list)}.Path(), raw, 0o644)
}
