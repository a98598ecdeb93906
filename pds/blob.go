package pds

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"
	mh "github.com/multiformats/go-multihash"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/pds/media"
)

// blobFiles keeps blobs on the local disk as DIR/DID/CID. What is being uploaded is in
// DIR/tmp under a name of its own, what was taken down in DIR/quarantine/DID/CID.
type blobFiles struct{ dir string }

const (
	tmpDir        = "tmp"
	quarantineDir = "quarantine"
)

func newBlobFiles(dir string) (blobFiles, error) {
	if err := os.MkdirAll(filepath.Join(dir, tmpDir), 0o700); err != nil {
		return blobFiles{}, fmt.Errorf("blob folder: %w", err)
	}
	return blobFiles{dir: dir}, nil
}

func (f blobFiles) quarantined(did syntax.DID, c cid.Cid) string {
	return filepath.Join(f.dir, quarantineDir, folderName(did), c.String())
}

func (f blobFiles) path(did syntax.DID, c cid.Cid) string {
	return filepath.Join(f.folder(did), c.String())
}

// folder is an account's own. A DID has neither slash nor equals sign, so two DIDs never
// share one; a colon is no file name everywhere.
func (f blobFiles) folder(did syntax.DID) string { return filepath.Join(f.dir, folderName(did)) }

func folderName(did syntax.DID) string { return strings.ReplaceAll(did.String(), ":", "=") }

// empty removes all that an account has here.
func (f blobFiles) empty(did syntax.DID) error {
	return errors.Join(os.RemoveAll(f.folder(did)), os.RemoveAll(filepath.Join(f.dir, quarantineDir, folderName(did))))
}

// upload is a blob that lies whole in a temporary file.
type upload struct {
	temp string
	cid  cid.Cid
	mime string
	size int64
}

// discard removes what was not kept.
func (u upload) discard() { _ = os.Remove(u.temp) }

// receive streams a body to disk while it is hashed. What the bytes are is read from
// themselves where they show it, and is the sender's word otherwise.
func (f blobFiles) receive(body io.Reader, declared string) (upload, error) {
	return f.write(func(w io.Writer) (mimeType string, err error) {
		head := make([]byte, media.HeadSize)
		n, err := io.ReadFull(body, head)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return "", err // the body's own error carries its name to the client
		}
		if _, err := w.Write(head[:n]); err != nil {
			return "", err
		}
		_, err = io.Copy(w, body)
		return media.Type(head[:n], declared), err
	})
}

// strip makes a photo or film that says nothing but what it shows. The one given is discarded then.
func (f blobFiles) strip(up upload) (upload, error) {
	src, err := os.Open(up.temp)
	if err != nil {
		return upload{}, fmt.Errorf("open temporary blob: %w", err)
	}
	defer func() { _ = src.Close() }()
	plan, err := media.Strip(src, up.size, up.mime)
	if errors.Is(err, media.ErrMalformed) {
		return upload{}, refused("InvalidBlob", "the bytes begin as %s and do not go on as such (%v), so what else they tell cannot be taken out; "+
			"%s: true keeps them as they are", up.mime, err, keepMetadata)
	}
	if err != nil || plan == nil || plan.Same() {
		return up, err
	}
	clean, err := f.write(func(w io.Writer) (string, error) {
		_, err := io.Copy(w, plan.Reader())
		return up.mime, err
	})
	if err == nil {
		up.discard()
	}
	return clean, err
}

// write makes a temporary file of what fill writes.
func (f blobFiles) write(fill func(io.Writer) (mimeType string, err error)) (up upload, err error) {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, tmpDir), "up-*")
	if err != nil {
		return upload{}, noRoom(fmt.Errorf("open temporary blob: %w", err))
	}
	defer func() {
		if cerr := tmp.Close(); err == nil && cerr != nil {
			err = noRoom(fmt.Errorf("close temporary blob: %w", cerr))
		}
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	hash := sha256.New()
	var size counter
	mimeType, err := fill(io.MultiWriter(tmp, hash, &size))
	if err != nil {
		return upload{}, noRoom(err)
	}
	sum, err := mh.Encode(hash.Sum(nil), mh.SHA2_256)
	if err != nil {
		return upload{}, err
	}
	return upload{temp: tmp.Name(), cid: cid.NewCidV1(cid.Raw, sum), size: int64(size), mime: mimeType}, nil
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// noRoom names a full disk to the client: nothing is wrong with the upload, and it may be sent again when the operator made room.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "this server has no room for blobs now").After(time.Minute)
	}
	return err
}

// settle puts an upload where its blob belongs. When it answers, the blob outlives a loss of power: its bytes, its name and its folder's name
// are on the disk.
func (f blobFiles) settle(up upload, dest string) error {
	folder := filepath.Dir(dest)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return noRoom(err)
	}
	if err := os.Rename(up.temp, dest); err != nil {
		return noRoom(err)
	}
	return errors.Join(syncPath(folder), syncPath(f.dir))
}

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const (
	anyBytes   = "application/octet-stream"
	blobPolicy = "default-src 'none'; sandbox"

	// keepMetadata is the header with which an upload asks to stay as it is.
	keepMetadata = "X-Keep-Metadata"

	uploadsAtOnce  = 64 // of all accounts: each stands on the disk twice while it is stripped
	uploadsAccount = 8
)

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
	if err := syncPath(up.temp); err != nil {
		return "", noRoom(fmt.Errorf("write temporary blob: %w", err))
	}
	crash.Point("pds/blob/received")
	if err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		mimeType, err = s.keepRow(ctx, tx, did, up)
		return err
	}); err != nil {
		return "", wrapUnlessShown(err, "store blob %s of %s", up.cid, did)
	}
	crash.Point("pds/blob/after-row")
	dest := s.files.path(did, up.cid)
	if err := s.files.settle(up, dest); err != nil {
		return "", wrapUnlessShown(err, "store blob %s of %s", up.cid, did)
	}
	crash.Point("pds/blob/after-file")
	if err := s.stillThere(ctx, did, up.cid); err != nil {
		return "", err
	}
	return mimeType, s.found(ctx, did, up.cid)
}

// keepRow counts a blob that is new against its account's quota. The account's row in blob_use is locked first, here as in the collector, so two
// uploads cannot both take the last room.
func (s *Server) keepRow(ctx context.Context, tx pgx.Tx, did syntax.DID, up upload) (mimeType string, err error) {
	const lock = `
		insert into blob_use (did) values ($1) on conflict (did) do update set did = excluded.did
		returning used, coalesce(quota, $2)`
	var used, quota int64
	err = tx.QueryRow(ctx, lock, did, s.cfg.BlobQuota).Scan(&used, &quota)
	if foreignKeyViolation(err) {
		return "", errRepoNotFound(did.String()) // deleted meanwhile
	}
	if err != nil {
		return "", err
	}
	const upsert = `
		insert into blob (did, cid, mime, size, touched) values (@did, @cid, @mime, @size, @now)
		on conflict (did, cid) do update set touched = excluded.touched,
			mime = case when exists (select from record_blob r where r.did = blob.did and r.cid = blob.cid)
				then blob.mime else excluded.mime end
		returning mime, quarantined, xmax = 0`
	var quarantined, fresh bool
	err = tx.QueryRow(ctx, upsert, pgx.NamedArgs{
		"did": did, "cid": up.cid.Bytes(), "mime": up.mime, "size": up.size, "now": s.clock.Now(),
	}).Scan(&mimeType, &quarantined, &fresh)
	switch {
	case err != nil:
		return "", err
	case quarantined:
		return "", refused("BlobTakendown", "blob %s was taken down and cannot be uploaded again", up.cid)
	case !fresh:
		return mimeType, nil
	case up.size > quota-used:
		return "", xrpc.Errorf(http.StatusRequestEntityTooLarge, "BlobQuotaExceeded", "the account's blobs take %d of %d bytes, and this one has %d", used, quota, up.size)
	}
	_, err = tx.Exec(ctx, `update blob_use set used = used + $2 where did = $1`, did, up.size)
	return mimeType, err
}

// stillThere removes the file again where its account was deleted meanwhile. Whoever deletes an account empties its folder once more after its rows
// are gone, so one of the two sees the other.
func (s *Server) stillThere(ctx context.Context, did syntax.DID, c cid.Cid) error {
	var there bool
	if err := s.pool.QueryRow(ctx, `select exists (select from account where did = $1)`, did).Scan(&there); err != nil {
		return fmt.Errorf("look for %s: %w", did, err)
	}
	if there {
		return nil
	}
	return errors.Join(errRepoNotFound(did.String()), os.Remove(s.files.path(did, c)))
}

// stripped takes out of an upload what it does not show, unless it is the very blob that the account has or that a record which was brought
// here waits for: that one must keep its CID. What is discarded on an error is the caller's.
func (s *Server) stripped(ctx context.Context, did syntax.DID, up upload) (upload, error) {
	var there bool
	err := s.pool.QueryRow(ctx, `select exists (select from blob where did = $1 and cid = $2)`, did, up.cid.Bytes()).Scan(&there)
	if err != nil {
		return up, fmt.Errorf("find blob %s of %s: %w", up.cid, did, err)
	}
	if there {
		return up, nil
	}
	if awaited, err := s.awaited(ctx, did, up.cid); err != nil || awaited {
		return up, err
	}
	clean, err := s.files.strip(up)
	if err != nil {
		return up, err
	}
	return clean, nil
}

// visibleBlob finds a blob that some record of the account refers to (P5).
func (s *Server) visibleBlob(ctx context.Context, did syntax.DID, c cid.Cid) (mimeType string, err error) {
	const find = `
		select mime from blob b where did = $1 and cid = $2 and not quarantined
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
