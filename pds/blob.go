package pds

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"
	mh "github.com/multiformats/go-multihash"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg"
)

// blobFiles keeps blobs on the local disk as DIR/DID/CID. What is being uploaded is in
// DIR/tmp under a name of its own.
type blobFiles struct{ dir string }

const tmpDir = "tmp"

func newBlobFiles(dir string) (blobFiles, error) {
	if err := os.MkdirAll(filepath.Join(dir, tmpDir), 0o700); err != nil {
		return blobFiles{}, fmt.Errorf("blob folder: %w", err)
	}
	return blobFiles{dir: dir}, nil
}

func (f blobFiles) path(did syntax.DID, c cid.Cid) string {
	return filepath.Join(f.folder(did), c.String())
}

// folder is an account's own. A DID has neither slash nor equals sign, so two DIDs never
// share one; a colon is no file name everywhere.
func (f blobFiles) folder(did syntax.DID) string {
	return filepath.Join(f.dir, strings.ReplaceAll(did.String(), ":", "="))
}

// upload is a blob that lies whole in a temporary file.
type upload struct {
	temp string
	cid  cid.Cid
	mime string
	size int64
}

// receive streams a body to disk while it is hashed. What the bytes are is read from
// themselves where they show it, and is the sender's word otherwise.
func (f blobFiles) receive(body io.Reader, declared string) (up upload, err error) {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, tmpDir), "up-*")
	if err != nil {
		return upload{}, fmt.Errorf("open temporary blob: %w", err)
	}
	defer func() {
		if cerr := tmp.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close temporary blob: %w", cerr)
		}
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	head := make([]byte, 512)
	n, err := io.ReadFull(body, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return upload{}, err
	}
	head = head[:n]
	hash := sha256.New()
	w := io.MultiWriter(tmp, hash)
	if _, err := w.Write(head); err != nil {
		return upload{}, fmt.Errorf("write temporary blob: %w", err)
	}
	rest, err := io.Copy(w, body)
	if err != nil {
		return upload{}, err // the body's own error carries its name to the client
	}
	if err := tmp.Sync(); err != nil {
		return upload{}, fmt.Errorf("write temporary blob: %w", err)
	}
	sum, err := mh.Encode(hash.Sum(nil), mh.SHA2_256)
	if err != nil {
		return upload{}, err
	}
	return upload{
		temp: tmp.Name(), cid: cid.NewCidV1(cid.Raw, sum), size: int64(n) + rest,
		mime: sniff(head, declared),
	}, nil
}

const (
	anyBytes   = "application/octet-stream"
	blobPolicy = "default-src 'none'; sandbox"
)

func sniff(head []byte, declared string) string {
	seen, _, err := mime.ParseMediaType(http.DetectContentType(head))
	if err == nil && seen != anyBytes && seen != "text/plain" {
		return seen
	}
	if word, _, err := mime.ParseMediaType(declared); err == nil && len(word) <= 255 {
		return word
	}
	return anyBytes
}

// haveAll refuses what has a row and no file: a crash left it so, and nobody was told that
// it is there. The caller holds the rows, so the collector takes none of the files.
func (f blobFiles) haveAll(did syntax.DID, wanted map[cid.Cid]atdata.Blob) error {
	for c := range wanted {
		_, err := os.Stat(f.path(did, c))
		if errors.Is(err, fs.ErrNotExist) {
			return refused("BlobNotFound", "blob %s was not uploaded", c)
		}
		if err != nil {
			return fmt.Errorf("look for blob %s of %s: %w", c, did, err)
		}
	}
	return nil
}

// keep makes an upload the account's own: the row first, the file after. A crash between
// them leaves a row that nobody sees, that no record may name and that the collector takes.
func (s *Server) keep(ctx context.Context, did syntax.DID, up upload) (mimeType string, err error) {
	crash.Point("pds/blob/received")
	const upsert = `
		insert into blob (did, cid, mime, size, touched) values (@did, @cid, @mime, @size, @now)
		on conflict (did, cid) do update set touched = excluded.touched,
			mime = case when exists (select from record_blob r where r.did = blob.did and r.cid = blob.cid)
				then blob.mime else excluded.mime end
		returning mime`
	err = s.pool.QueryRow(ctx, upsert, pgx.NamedArgs{
		"did": did, "cid": up.cid.Bytes(), "mime": up.mime, "size": up.size, "now": s.clock.Now(),
	}).Scan(&mimeType)
	if err != nil {
		return "", fmt.Errorf("store blob %s of %s: %w", up.cid, did, err)
	}
	crash.Point("pds/blob/after-row")
	dest := s.files.path(did, up.cid)
	if err := os.MkdirAll(filepath.Dir(dest), 0o700); err != nil {
		return "", fmt.Errorf("store blob %s of %s: %w", up.cid, did, err)
	}
	if err := os.Rename(up.temp, dest); err != nil {
		return "", fmt.Errorf("store blob %s of %s: %w", up.cid, did, err)
	}
	crash.Point("pds/blob/after-file")
	if err := s.found(ctx, did, up.cid); err != nil {
		return "", err
	}
	return mimeType, nil
}

// visibleBlob finds a blob that some record of the account refers to (P5).
func (s *Server) visibleBlob(ctx context.Context, did syntax.DID, c cid.Cid) (mimeType string, err error) {
	const find = `
		select mime from blob b where did = $1 and cid = $2
		and exists (select from record_blob r where r.did = b.did and r.cid = b.cid)`
	err = s.pool.QueryRow(ctx, find, did, c.Bytes()).Scan(&mimeType)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", refused("BlobNotFound", "%s has no blob %s", did, c)
	}
	if err != nil {
		return "", fmt.Errorf("find blob %s of %s: %w", c, did, err)
	}
	return mimeType, nil
}

// collectBlobs removes a few blobs that no record has referred to for the grace, and
// answers how many. The file goes before the row is gone for good: a crash between
// leaves a row to collect again, never a file that nobody knows.
func (s *Server) collectBlobs(ctx context.Context, now time.Time) (n int, err error) {
	const pick = `
		delete from blob where (did, cid) in (
			select did, cid from blob b
			where touched < $1
			and not exists (select from record_blob r where r.did = b.did and r.cid = b.cid)
			order by touched limit 100 for update skip locked
		) returning did, cid`
	type gone struct {
		DID syntax.DID
		CID []byte
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, pick, now.Add(-s.cfg.BlobGrace))
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[gone])
		if err != nil {
			return err
		}
		for _, g := range list {
			c, err := cid.Cast(g.CID)
			if err != nil {
				return err
			}
			if err := os.Remove(s.files.path(g.DID, c)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		n = len(list)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("collect blobs: %w", err)
	}
	return n, nil
}

// sweepUploads removes what broken uploads left behind.
func (f blobFiles) sweepUploads(before time.Time) error {
	dir := filepath.Join(f.dir, tmpDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep uploads: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.ModTime().Before(before) {
			continue // gone meanwhile, or still being written
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep uploads: %w", err)
		}
	}
	return nil
}
