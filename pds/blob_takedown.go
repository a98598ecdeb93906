package pds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
)

// quarantineBlob takes a blob down, or puts it back. Taken down it is served to nobody, no record may name it anew and it cannot be uploaded again;
// its bytes stay, where an operator finds them. A blob is taken down in the database first and put back there last, so a crash between leaves it
// unseen; the same call again brings it to its end.
func (s *Server) quarantineBlob(ctx context.Context, did syntax.DID, c cid.Cid, on bool) error {
	from, to := s.files.path(did, c), s.files.quarantined(did, c)
	if !on {
		from, to = to, from
	}
	mark := func() error {
		tag, err := s.pool.Exec(ctx, `update blob set quarantined = $3 where did = $1 and cid = $2`, did, c.Bytes(), on)
		if err != nil {
			return fmt.Errorf("take down blob %s of %s: %w", c, did, err)
		}
		if tag.RowsAffected() == 0 {
			return refused("BlobNotFound", "%s has no blob %s", did, c)
		}
		return nil
	}
	move := func() error {
		if err := s.files.move(from, to); err != nil {
			return fmt.Errorf("take down blob %s of %s: %w", c, did, err)
		}
		return nil
	}
	steps := [2]func() error{mark, move}
	if !on {
		steps = [2]func() error{move, mark}
	}
	if err := steps[0](); err != nil {
		return err
	}
	crash.Point("pds/quarantine/half")
	return steps[1]()
}

// move is done also when it was done before.
func (f blobFiles) move(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncPath(filepath.Dir(to))
}

// open opens a blob where it is, be it taken down, and while it is being moved.
func (f blobFiles) open(did syntax.DID, c cid.Cid) (*os.File, error) {
	for _, path := range []string{f.path(did, c), f.quarantined(did, c)} {
		file, err := os.Open(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
	}
	return os.Open(f.path(did, c))
}

// quarantineAgain puts apart what a restored database says is taken down.
func (f blobFiles) quarantineAgain(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `select did, cid, size from blob where quarantined`)
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedBlob])
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	for _, b := range list {
		c, err := cid.Cast(b.CID)
		if err != nil {
			return fmt.Errorf("stored CID %x: %w", b.CID, err)
		}
		if err := f.move(f.path(b.DID, c), f.quarantined(b.DID, c)); err != nil {
			return fmt.Errorf("take down blob %s of %s: %w", c, b.DID, err)
		}
	}
	return nil
}

// blobQuarantined says whether a blob is taken down.
func (s *Server) blobQuarantined(ctx context.Context, did syntax.DID, c cid.Cid) (on bool, err error) {
	err = s.pool.QueryRow(ctx, `select quarantined from blob where did = $1 and cid = $2`, did, c.Bytes()).Scan(&on)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, refused("BlobNotFound", "%s has no blob %s", did, c)
	}
	if err != nil {
		return false, fmt.Errorf("find blob %s of %s: %w", c, did, err)
	}
	return on, nil
}
