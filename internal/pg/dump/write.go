package dump

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
)

// Writer writes the files of a service that stand beside its tables.
type Writer struct {
	tar   *tar.Writer
	at    time.Time
	files hash.Hash
	sum   *fileSum // nil before the first
}

// Write writes an archive: header, the tables of contents as tx sees them, what more writes, and the manifest. More may be nil.
func Write(ctx context.Context, tx pgx.Tx, w io.Writer, at time.Time, header any, contents Contents, more func(*Writer) error) error {
	a := &Writer{tar: tar.NewWriter(w), at: at, files: sha256.New()}
	sum, err := a.json(FileHeader, header)
	if err != nil {
		return err
	}
	m := manifest{Header: sum}
	for _, t := range contents.Tables {
		cw := &chunkWriter{to: a, table: t.Name, sum: sha256.New()}
		tag, err := tx.Conn().PgConn().CopyTo(ctx, cw, "copy "+t.columnsSQL()+" to stdout")
		if err == nil {
			err = cw.flush()
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", t.Name, err)
		}
		m.Tables = append(m.Tables, tableSum{Name: t.Name, Rows: tag.RowsAffected(), Bytes: cw.bytes, SHA256: cw.sum.Sum(nil)})
	}
	if more != nil {
		if err := more(a); err != nil {
			return err
		}
	}
	if m.Files = a.sum; m.Files != nil {
		m.Files.SHA256 = a.files.Sum(nil)
	}
	if _, err := a.json(FileManifest, m); err != nil {
		return err
	}
	return a.tar.Close()
}

// File writes one file of size bytes.
func (a *Writer) File(name string, size int64, r io.Reader) error {
	if err := a.begin(name, size); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(a.tar, io.TeeReader(io.LimitReader(r, size), sum))
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	if n != size {
		return fmt.Errorf("archive %s: %d bytes of %d", name, n, size)
	}
	if a.sum == nil {
		a.sum = &fileSum{}
	}
	a.sum.Count++
	a.sum.Bytes += size
	noteFile(a.files, name, size, sum.Sum(nil))
	return nil
}

func noteFile(h hash.Hash, name string, size int64, sum []byte) {
	h.Write(binary.BigEndian.AppendUint64([]byte(name+"\n"), uint64(size)))
	h.Write(sum)
}

func (a *Writer) begin(name string, size int64) error {
	h := &tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: second(a.at), Format: tar.FormatPAX}
	if err := a.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

func (a *Writer) small(name string, data []byte) error {
	if err := a.begin(name, int64(len(data))); err != nil {
		return err
	}
	if _, err := a.tar.Write(data); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

func (a *Writer) json(name string, v any) (sum []byte, err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", name, err)
	}
	hash := sha256.Sum256(raw)
	return hash[:], a.small(name, raw)
}

// chunkWriter cuts one table's stream into files of the archive. A table without rows has one empty file.
type chunkWriter struct {
	to    *Writer
	table string
	buf   bytes.Buffer
	n     int
	bytes int64
	sum   hash.Hash
}

func (c *chunkWriter) Write(p []byte) (int, error) {
	c.sum.Write(p)
	c.bytes += int64(len(p))
	c.buf.Write(p)
	for c.buf.Len() >= chunkBytes {
		if err := c.chunk(c.buf.Next(chunkBytes)); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *chunkWriter) flush() error {
	if c.n > 0 && c.buf.Len() == 0 {
		return nil
	}
	return c.chunk(c.buf.Bytes())
}

func (c *chunkWriter) chunk(data []byte) error {
	name := chunkName(c.table, c.n)
	c.n++
	return c.to.small(name, data)
}
