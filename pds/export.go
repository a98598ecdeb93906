package pds

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/repo"
)

const (
	exportPage   = 500     // blocks read at once
	exportMemory = 1 << 20 // bytes of an export that stay in memory; larger ones go to a file
)

// export writes a repository to a spool: the commit first, then every block, or those
// that came after since. By P3 the table holds nothing else.
//
// The reader gets the spool, not the database: a slow one would hold a connection and an
// old snapshot, for which every write pays, as long as it likes.
func (s *Server) export(ctx context.Context, did syntax.DID, since string) (*spool, error) {
	leave, err := s.exportSlot(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	out := &spool{dir: filepath.Join(s.files.dir, tmpDir)}
	err = s.snapshot(ctx, func(tx pgx.Tx) error {
		h, err := readHead(ctx, tx, did)
		if err != nil {
			return err
		}
		var readErr error
		w := bufio.NewWriterSize(out, 64<<10)
		if err := repo.WriteCAR(w, h.Commit, exportBlocks(ctx, tx, did, h.Commit, since, &readErr)); err != nil {
			return fmt.Errorf("export %s: %w", did, err)
		}
		if readErr != nil {
			return readErr
		}
		return w.Flush()
	})
	if err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

// exportSlot waits until one more may read the database at length. The caller calls leave when it has read.
func (s *Server) exportSlot(ctx context.Context) (leave func(), err error) {
	select {
	case s.exports <- struct{}{}:
		return func() { <-s.exports }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// exportBlocks holds one block at a time: a page of them can be half a gigabyte, and anybody may ask for an export.
func exportBlocks(ctx context.Context, tx pgx.Tx, did syntax.DID, head cid.Cid, since string, failed *error) iter.Seq[repo.Block] {
	const first = `select bytes from block where did = $1 and cid = $2`
	const page = `
		select cid, bytes from block
		where did = $1 and cid > $2 and rev > $3 and cid <> $4 order by cid limit $5`
	return func(yield func(repo.Block) bool) {
		var commit []byte
		if err := tx.QueryRow(ctx, first, did, head.Bytes()).Scan(&commit); err != nil {
			*failed = fmt.Errorf("export %s: head: %w", did, err)
			return
		}
		if !yield(repo.Block{CID: head, Data: commit}) {
			return
		}
		for after, more := []byte{}, true; more; {
			rows, err := tx.Query(ctx, page, did, after, since, head.Bytes(), exportPage)
			if err != nil {
				*failed = fmt.Errorf("export %s: %w", did, err)
				return
			}
			n := 0
			if after, n, err = yieldBlocks(rows, yield); err != nil {
				*failed = fmt.Errorf("export %s: %w", did, err)
				return
			}
			more = n == exportPage
		}
	}
}

// yieldBlocks passes rows of cid and bytes on until yield has enough, which ends with fewer than there are. It answers with the last CID.
func yieldBlocks(rows pgx.Rows, yield func(repo.Block) bool) (last []byte, n int, err error) {
	defer rows.Close()
	for rows.Next() {
		var raw, data []byte
		if err := rows.Scan(&raw, &data); err != nil {
			return nil, n, err
		}
		id, err := cid.Cast(raw)
		if err != nil {
			return nil, n, fmt.Errorf("stored CID %x: %w", raw, err)
		}
		if !yield(repo.Block{CID: id, Data: data}) {
			return raw, n, nil
		}
		last = raw
		n++
	}
	return last, n, rows.Err()
}

// spool holds bytes between a writer and a slower reader: a little in memory, more in a
// file that has no name and so goes with the process.
type spool struct {
	dir  string
	size int64
	mem  bytes.Buffer
	file *os.File
}

func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && s.mem.Len()+len(p) > exportMemory {
		f, err := os.CreateTemp(s.dir, "spool-*")
		if err != nil {
			return 0, err
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return 0, err
		}
		if _, err := f.Write(s.mem.Bytes()); err != nil {
			return 0, err
		}
		s.mem = bytes.Buffer{}
	}
	var n int
	var err error
	if s.file != nil {
		n, err = s.file.Write(p)
	} else {
		n, err = s.mem.Write(p)
	}
	s.size += int64(n)
	return n, err
}

func (s *spool) copyTo(w io.Writer) error {
	if s.file == nil {
		_, err := w.Write(s.mem.Bytes())
		return err
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(w, s.file)
	return err
}

func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close() // nothing in it is wanted any more
	}
}
