package pds

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	mh "github.com/multiformats/go-multihash"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/dump"
)

// A restored server's consumers have seen more than the backup knows. So event numbers go on well above the backup's, every sign-in of the
// time before ends (one that was revoked since would be good again), and each repository begins with a commit and a #sync of its own, made
// when the server starts: whoever followed it takes it as it is now.

// RestoreConfig says how an archive is restored.
type RestoreConfig struct {
	Schema  string
	BlobDir string // empty, or not there yet
	// SeqMargin is how far event numbers are raised above the backup's; DefaultSeqMargin where it is zero. More events than that since the
	// backup mean that a relay hears nothing until they are passed.
	SeqMargin int64
}

// DefaultSeqMargin is a hundred writes a second for almost three hours, or a million in all the time since the backup.
const DefaultSeqMargin = 1_000_000

const maxBackupBlob = 1 << 30

// ErrNotEmpty means that the schema or the blob folder holds a server already. Restore into empty ones.
var ErrNotEmpty = errors.New("there is a server already")

// Restored says what Restore kept.
type Restored struct {
	BackupHeader
	NextSeq int64 // the number above which events go on
	Blobs   int64
	Lost    int64 // blobs that a record names and the archive does not hold
}

// Restore fills an empty schema and an empty blob folder from an archive, as the schema's owner, and brings the tables up to this program.
// Nothing is kept unless every byte is as it was written.
func Restore(ctx context.Context, pool *pgxpool.Pool, cfg RestoreConfig, r io.Reader) (*Restored, error) {
	if cfg.SeqMargin == 0 {
		cfg.SeqMargin = DefaultSeqMargin
	}
	if cfg.SeqMargin < 0 {
		return nil, fmt.Errorf("restore: margin %d", cfg.SeqMargin)
	}
	a := dump.NewReader(r)
	out := &Restored{}
	if err := a.Header(&out.BackupHeader); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if out.Format != backupFormat || out.Service != backupService {
		return nil, fmt.Errorf("restore: %w: format %d of %.40q, this program reads %d of %s", ErrBackup, out.Format, out.Service, backupFormat, backupService)
	}
	have, err := out.Known(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := emptyFolder(cfg.BlobDir); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := pg.Migrate(ctx, pool, cfg.Schema, dump.FirstMigrations(migrations, have)); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return restore(ctx, tx, a, cfg, out) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("restore: %w", err), emptyOut(cfg.BlobDir))
	}
	if err := pg.Migrate(ctx, pool, cfg.Schema, migrations); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := settle(ctx, pool); err != nil { // what the migrations since brought
		return nil, fmt.Errorf("restore: %w", err)
	}
	return out, nil
}

func emptyFolder(dir string) error {
	if dir == "" {
		return errors.New("a blob folder is needed")
	}
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range list {
		if e.Name() != tmpDir {
			return fmt.Errorf("%w: blob folder %s holds %s", ErrNotEmpty, dir, e.Name())
		}
	}
	return nil
}

// emptyOut removes what a restore that failed has put into a folder that was empty.
func emptyOut(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range list {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

func restore(ctx context.Context, tx pgx.Tx, a *dump.Reader, cfg RestoreConfig, out *Restored) error {
	const patient = `set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0`
	if _, err := tx.Exec(ctx, patient); err != nil {
		return err
	}
	var used bool
	const look = `select exists (select from account) or exists (select from signup) or (select seq > 0 from event_head)`
	if err := tx.QueryRow(ctx, look).Scan(&used); err != nil {
		return fmt.Errorf("look into the schema: %w", err)
	}
	if used {
		return fmt.Errorf("%w: the schema is not empty", ErrNotEmpty)
	}
	if err := a.Tables(ctx, tx, out.Contents); err != nil {
		return err
	}
	files, err := newBlobFiles(cfg.BlobDir)
	if err != nil {
		return err
	}
	err = a.Files(maxBackupBlob, func(name string, _ int64, r io.Reader) error {
		out.Blobs++
		return files.restore(name, r)
	})
	if err != nil {
		return err
	}
	if err := a.Manifest(); err != nil {
		return err
	}
	var seq, accounts int64
	const raise = `update event_head set seq = seq + $1 returning seq, (select count(*) from account)`
	if err := tx.QueryRow(ctx, raise, cfg.SeqMargin).Scan(&seq, &accounts); err != nil {
		return fmt.Errorf("raise the event number: %w", err)
	}
	if seq != out.Seq+cfg.SeqMargin || accounts != out.Accounts {
		return fmt.Errorf("%w: it says %d accounts and event %d, its tables %d and %d", ErrBackup, out.Accounts, out.Seq, accounts, seq-cfg.SeqMargin)
	}
	out.NextSeq = seq
	if out.Lost, err = files.lost(ctx, tx); err != nil {
		return err
	}
	if err := files.quarantineAgain(ctx, tx); err != nil {
		return err
	}
	// With the tables, so that none of them is ever there without it.
	return settle(ctx, tx)
}

// restore writes a blob, whose bytes must be those that its name says.
func (f blobFiles) restore(name string, r io.Reader) (err error) {
	did, want, err := blobName(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.folder(did), 0o700); err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	file, err := os.OpenFile(f.path(did, want), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(file, hash), r)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	sum, err := mh.Encode(hash.Sum(nil), mh.SHA2_256)
	if err != nil {
		return err
	}
	if !cid.NewCidV1(cid.Raw, sum).Equals(want) {
		return fmt.Errorf("%w: %s has other bytes than its name says", ErrBackup, name)
	}
	return nil
}

// lost counts the blobs that a record names and that have no file: they were deleted while the backup ran.
func (f blobFiles) lost(ctx context.Context, tx pgx.Tx) (n int64, err error) {
	rows, err := tx.Query(ctx, `select distinct did, cid, 0::bigint from record_blob`)
	if err != nil {
		return 0, fmt.Errorf("list blobs: %w", err)
	}
	var b storedBlob
	_, err = pgx.ForEachRow(rows, []any{&b.DID, &b.CID, &b.Size}, func() error {
		c, err := cid.Cast(b.CID)
		if err != nil {
			return err
		}
		if _, err := os.Stat(f.path(b.DID, c)); errors.Is(err, fs.ErrNotExist) {
			n++
		} else if err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list blobs: %w", err)
	}
	return n, nil
}
