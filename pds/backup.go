package pds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg/dump"
)

// A backup is an archive of package dump: one moment of the schema, with the blobs beside it as blob/<did>/<cid>. Signing keys are in it as
// they are in the database, sealed: without the master key, which is no part of it, nobody can sign with them.
const (
	backupFormat  = 1
	backupService = "pds"
	blobPrefix    = "blob/"
	blobPage      = 500
)

// ErrBackup means that an archive is not whole, or not one of ours. Final: nothing of it was kept.
var ErrBackup = dump.ErrBackup

// BackupHeader says what an archive is a backup of.
type BackupHeader struct {
	Format   int       `json:"format"`
	Service  string    `json:"service"`
	At       time.Time `json:"at"`  // by the database's clock
	Seq      int64     `json:"seq"` // the last event's number
	Accounts int64     `json:"accounts"`
	dump.Contents
}

// BackedUp says what Backup wrote.
type BackedUp struct {
	BackupHeader
	Blobs int64
	Bytes int64 // of the blobs
	Gone  int64 // blobs that were deleted while the backup ran
}

// Backup writes one consistent snapshot of the pool's schema and its blobs to w, while the server goes on. The server's own role may do it.
func Backup(ctx context.Context, pool *pgxpool.Pool, blobDir string, w io.Writer) (*BackedUp, error) {
	files := blobFiles{dir: blobDir}
	out := &BackedUp{BackupHeader: BackupHeader{Format: backupFormat, Service: backupService}}
	err := dump.Snapshot(ctx, pool, func(tx pgx.Tx) error {
		const head = `select now(), (select seq from event_head), (select count(*) from account)`
		err := tx.QueryRow(ctx, head).Scan(&out.At, &out.Seq, &out.Accounts)
		if err != nil {
			return fmt.Errorf("head: %w", err)
		}
		out.At = out.At.UTC()
		if out.Contents, err = dump.Look(ctx, tx); err != nil {
			return err
		}
		return dump.Write(ctx, tx, w, out.At, out.BackupHeader, out.Contents, func(a *dump.Writer) error {
			return files.backup(ctx, tx, pool, a, out)
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

type storedBlob struct {
	DID  syntax.DID
	CID  []byte
	Size int64
}

func (f blobFiles) backup(ctx context.Context, tx pgx.Tx, pool *pgxpool.Pool, a *dump.Writer, out *BackedUp) error {
	const page = `select did, cid, size from blob where (did, cid) > ($1, $2) order by did, cid limit $3`
	last := storedBlob{CID: []byte{}}
	for {
		rows, err := tx.Query(ctx, page, last.DID, last.CID, blobPage)
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedBlob])
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		for _, b := range list {
			there, err := f.backupOne(a, b)
			if err != nil {
				return err
			}
			if !there {
				if err := mustBeGone(ctx, pool, b); err != nil {
					return err
				}
				out.Gone++
				continue
			}
			out.Blobs++
			out.Bytes += b.Size
		}
		if len(list) < blobPage {
			return nil
		}
		last = list[len(list)-1]
	}
}

func (f blobFiles) backupOne(a *dump.Writer, b storedBlob) (there bool, err error) {
	c, err := cid.Cast(b.CID)
	if err != nil {
		return false, fmt.Errorf("stored CID %x: %w", b.CID, err)
	}
	file, err := f.open(b.DID, c)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("blob %s of %s: %w", c, b.DID, err)
	}
	defer func() { _ = file.Close() }() // it was only read
	return true, a.File(blobPrefix+b.DID.String()+"/"+c.String(), b.Size, file)
}

// mustBeGone tells a blob that was deleted since the snapshot, or that a crash left without its file and no record names, from one that is lost.
func mustBeGone(ctx context.Context, pool *pgxpool.Pool, b storedBlob) error {
	const named = `select exists (select from record_blob where did = $1 and cid = $2)`
	var lost bool
	if err := pool.QueryRow(ctx, named, b.DID, b.CID).Scan(&lost); err != nil {
		return fmt.Errorf("look for blob: %w", err)
	}
	if lost {
		return fmt.Errorf("%w: blob %x of %s has a record and no file", errBroken, b.CID, b.DID)
	}
	return nil
}

// blobName reads the name under which a blob stands in an archive.
func blobName(name string) (syntax.DID, cid.Cid, error) {
	rest, ok := strings.CutPrefix(name, blobPrefix)
	who, what, slash := strings.Cut(rest, "/")
	did, err := syntax.ParseDID(who)
	if !ok || !slash || err != nil {
		return "", cid.Undef, fmt.Errorf("%w: %.80q is no blob", ErrBackup, name)
	}
	c, err := cid.Decode(what)
	if err != nil || c.String() != what || c.Prefix().Codec != cid.Raw {
		return "", cid.Undef, fmt.Errorf("%w: %.80q is no blob", ErrBackup, name)
	}
	return did, c, nil
}
