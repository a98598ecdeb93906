package dump

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Reader reads an archive in the order in which it was written, and takes no other: Header, Tables, Files, Manifest.
type Reader struct {
	tar    *tar.Reader
	next   *tar.Header // read already, or nil
	header [sha256.Size]byte
	tables []tableSum
	files  hash.Hash
	sum    *fileSum
}

// NewReader reads an archive from r.
func NewReader(r io.Reader) *Reader {
	return &Reader{tar: tar.NewReader(r), files: sha256.New()}
}

// Known tells how many of a program's migrations, in folder dir of all, the archive's schema had.
func (c Contents) Known(all fs.FS, dir string) (int, error) {
	have := 0
	for i, m := range c.Migrations {
		raw, err := fs.ReadFile(all, path.Join(dir, path.Base(m.Name)))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("%w: its schema has %s, which this program does not know: restore with the program that made it", ErrBackup, m.Name)
		}
		if err != nil {
			return 0, err
		}
		if sum := sha256.Sum256(raw); m.Version != i+1 || !bytes.Equal(sum[:], m.SHA256) {
			return 0, fmt.Errorf("%w: %s is not this program's", ErrBackup, m.Name)
		}
		have++
	}
	if have == 0 {
		return 0, fmt.Errorf("%w: of a schema without tables", ErrBackup)
	}
	return have, nil
}

// FirstMigrations are a program's migrations up to number n: a backup is restored into the tables it was made of, and the others then go on.
func FirstMigrations(all fs.FS, n int) fs.FS { return firstMigrations{all, n} }

type firstMigrations struct {
	fs.FS
	n int
}

// ReadDir leaves out the later ones.
func (f firstMigrations) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(all, func(e fs.DirEntry) bool {
		version, _, _ := strings.Cut(e.Name(), "_")
		n, err := strconv.Atoi(version)
		return err == nil && n > f.n
	}), err
}

// peek gives the next file's header.
func (a *Reader) peek() (*tar.Header, error) {
	if a.next != nil {
		return a.next, nil
	}
	h, err := a.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends before its manifest", ErrBackup)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%w: %.80q is no file", ErrBackup, h.Name)
	}
	a.next = h
	return h, nil
}

func checkSize(h *tar.Header, most int64) error {
	if h.Size > most {
		return fmt.Errorf("%w: %.80q of %d bytes", ErrBackup, h.Name, h.Size)
	}
	return nil
}

func (a *Reader) json(name string, v any) (sum [sha256.Size]byte, err error) {
	h, err := a.peek()
	if err != nil {
		return sum, err
	}
	if h.Name != name {
		return sum, fmt.Errorf("%w: %.80q where %s should stand", ErrBackup, h.Name, name)
	}
	if err := checkSize(h, maxFile); err != nil {
		return sum, err
	}
	a.next = nil
	raw, err := io.ReadAll(a.tar) // its size was checked
	if err != nil {
		return sum, fmt.Errorf("%w: %s: %w", ErrBackup, name, err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return sum, fmt.Errorf("%w: %s: %w", ErrBackup, name, err)
	}
	if d.InputOffset() != int64(len(raw)) {
		return sum, fmt.Errorf("%w: %s has more than it should", ErrBackup, name)
	}
	return sha256.Sum256(raw), nil
}

// Header reads the header into v.
func (a *Reader) Header(v any) (err error) {
	a.header, err = a.json(FileHeader, v)
	return err
}

// Tables fills the schema's tables, which must be those of contents; rows that migrations made go. Sequences go on after what was copied.
func (a *Reader) Tables(ctx context.Context, tx pgx.Tx, contents Contents) error {
	if err := sameTables(ctx, tx, contents.Tables); err != nil {
		return err
	}
	for _, t := range slices.Backward(contents.Tables) {
		if _, err := tx.Exec(ctx, `delete from `+pgx.Identifier{t.Name}.Sanitize()); err != nil {
			return fmt.Errorf("empty %s: %w", t.Name, err)
		}
	}
	for _, t := range contents.Tables {
		sum, err := a.table(ctx, tx, t)
		if err != nil {
			return err
		}
		a.tables = append(a.tables, sum)
	}
	return restoreSequences(ctx, tx, contents.Tables)
}

func sameTables(ctx context.Context, tx pgx.Tx, want []Table) error {
	have, err := tablesInOrder(ctx, tx)
	if err != nil {
		return err
	}
	same := func(a, b Table) bool { return a.Name == b.Name && slices.Equal(a.Columns, b.Columns) }
	if !slices.EqualFunc(have, want, same) {
		return fmt.Errorf("%w: its tables are not those of its migrations; restore into a schema that nothing else has changed", ErrBackup)
	}
	return nil
}

// restoreSequences lets identity columns go on after the highest value that was copied.
func restoreSequences(ctx context.Context, tx pgx.Tx, tables []Table) error {
	const identities = `select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid
		where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r' and a.attidentity <> ''`
	rows, err := tx.Query(ctx, identities)
	if err != nil {
		return fmt.Errorf("list sequences: %w", err)
	}
	type column struct{ Table, Name string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return fmt.Errorf("list sequences: %w", err)
	}
	for _, c := range list {
		if !slices.ContainsFunc(tables, func(t Table) bool { return t.Name == c.Table }) {
			continue
		}
		table, name := pgx.Identifier{c.Table}.Sanitize(), pgx.Identifier{c.Name}.Sanitize()
		set := `select setval(pg_get_serial_sequence($1, $2), coalesce((select max(` + name + `) from ` + table + `), 0) + 1, false)`
		if _, err := tx.Exec(ctx, set, table, c.Name); err != nil {
			return fmt.Errorf("sequence of %s: %w", c.Table, err)
		}
	}
	return nil
}

// table copies one table's chunks into the database.
func (a *Reader) table(ctx context.Context, tx pgx.Tx, t Table) (tableSum, error) {
	c := &chunkReader{from: a, table: t.Name, sum: sha256.New()}
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, c, "copy "+t.columnsSQL()+" from stdin")
	switch {
	case c.err != nil:
		return tableSum{}, c.err
	case err != nil:
		return tableSum{}, fmt.Errorf("%w: table %s: %w", ErrBackup, t.Name, err)
	case c.n == 0:
		return tableSum{}, fmt.Errorf("%w: table %s is missing", ErrBackup, t.Name)
	}
	return tableSum{Name: t.Name, Rows: tag.RowsAffected(), Bytes: c.bytes, SHA256: c.sum.Sum(nil)}, nil
}

// Files gives each file that stands beside the tables, of at most most bytes. What each leaves unread is read for the sum.
func (a *Reader) Files(most int64, each func(name string, size int64, r io.Reader) error) error {
	for {
		h, err := a.peek()
		if err != nil {
			return err
		}
		if h.Name == FileManifest {
			return nil
		}
		if err := checkSize(h, most); err != nil {
			return err
		}
		a.next = nil
		sum := sha256.New()
		r := io.TeeReader(a.tar, sum)
		if err := each(h.Name, h.Size, r); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrBackup, h.Name, err)
		}
		if a.sum == nil {
			a.sum = &fileSum{}
		}
		a.sum.Count++
		a.sum.Bytes += h.Size
		noteFile(a.files, h.Name, h.Size, sum.Sum(nil))
	}
}

// Manifest compares what came with what was written, and sees that nothing follows.
func (a *Reader) Manifest() error {
	var m manifest
	if _, err := a.json(FileManifest, &m); err != nil {
		return err
	}
	if !bytes.Equal(m.Header, a.header[:]) {
		return fmt.Errorf("%w: %s is not the one that its manifest names", ErrBackup, FileHeader)
	}
	if len(m.Tables) != len(a.tables) {
		return fmt.Errorf("%w: %d tables, its manifest names %d", ErrBackup, len(a.tables), len(m.Tables))
	}
	for i, want := range m.Tables {
		got := a.tables[i]
		if got.Name != want.Name || got.Rows != want.Rows || got.Bytes != want.Bytes || !bytes.Equal(got.SHA256, want.SHA256) {
			return fmt.Errorf("%w: table %s has %d rows in %d bytes under %x, its manifest says %s, %d, %d and %x", ErrBackup,
				got.Name, got.Rows, got.Bytes, got.SHA256, want.Name, want.Rows, want.Bytes, want.SHA256)
		}
	}
	if err := a.checkFiles(m.Files); err != nil {
		return err
	}
	if _, err := a.tar.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its manifest", ErrBackup)
	}
	return nil
}

func (a *Reader) checkFiles(want *fileSum) error {
	if want == nil {
		want = &fileSum{}
	}
	have := fileSum{}
	if a.sum != nil {
		have = *a.sum
		have.SHA256 = a.files.Sum(nil)
	}
	if have.Count != want.Count || have.Bytes != want.Bytes || !bytes.Equal(have.SHA256, want.SHA256) {
		return fmt.Errorf("%w: %d files of %d bytes under %x, its manifest says %d, %d and %x", ErrBackup,
			have.Count, have.Bytes, have.SHA256, want.Count, want.Bytes, want.SHA256)
	}
	return nil
}

// chunkReader is the stream of one table.
type chunkReader struct {
	from  *Reader
	table string
	n     int
	open  bool
	bytes int64
	sum   hash.Hash
	err   error // of the archive; the database's own is another
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for {
		if c.open {
			n, err := c.from.tar.Read(p)
			c.sum.Write(p[:n])
			c.bytes += int64(n)
			if errors.Is(err, io.EOF) {
				c.open, err = false, nil
			}
			if err != nil {
				c.err = fmt.Errorf("%w: %w", ErrBackup, err)
				return n, c.err
			}
			if n > 0 {
				return n, nil
			}
			continue
		}
		h, err := c.from.peek()
		if err == nil && h.Name == chunkName(c.table, c.n) {
			err = checkSize(h, maxFile)
		}
		if err != nil {
			c.err = err
			return 0, err
		}
		if h.Name != chunkName(c.table, c.n) {
			return 0, io.EOF // of the table; what follows is looked at next
		}
		c.from.next, c.open = nil, true
		c.n++
	}
}
