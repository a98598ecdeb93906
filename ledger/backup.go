package ledger

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg/dump"
	"city-sync.org/citysync/ledger/tlog"
)

// A backup is an archive of package dump: one moment of the ledger's schema. It holds openings, account links and keys of epochs too: keep
// it as secret as the database, and no longer than retention.
const (
	backupFormat = 1
	metaBackup   = "backup" // when the last backup was finished
)

// ErrBackup means that an archive is not whole, or not one of ours. Final: nothing of it was kept.
var ErrBackup = dump.ErrBackup

// BackupHeader says what an archive is a backup of.
type BackupHeader struct {
	Format int               `json:"format"`
	At     time.Time         `json:"at"` // by the database's clock
	Meta   map[string]string `json:"meta"`
	Term   int64             `json:"term"`
	Size   int64             `json:"size"`
	Root   []byte            `json:"root"`
	dump.Contents
}

// Backup writes one consistent snapshot of the pool's schema to w, while the ledger goes on. The ledger's own role may do it.
func Backup(ctx context.Context, pool *pgxpool.Pool, w io.Writer) (head *BackupHeader, err error) {
	err = dump.Snapshot(ctx, pool, func(tx pgx.Tx) error {
		if head, err = readBackupHeader(ctx, tx); err != nil {
			return err
		}
		return dump.Write(ctx, tx, w, head.At, head, head.Contents, nil)
	})
	if err != nil {
		return nil, err
	}
	return head, nil
}

// NoteBackup keeps when a backup was finished, for the metrics. It is called once the archive is safe.
func NoteBackup(ctx context.Context, pool *pgxpool.Pool, head *BackupHeader) error {
	const put = `insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value`
	if _, err := pool.Exec(ctx, put, metaBackup, head.At.UTC().Format(time.RFC3339)); err != nil {
		return fmt.Errorf("note the backup: %w", err)
	}
	return nil
}

func readBackupHeader(ctx context.Context, tx pgx.Tx) (*BackupHeader, error) {
	h := &BackupHeader{Format: backupFormat, Meta: map[string]string{}}
	if err := tx.QueryRow(ctx, `select now(), term, size, root from head`).Scan(&h.At, &h.Term, &h.Size, &h.Root); err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	h.At = h.At.UTC()
	rows, err := tx.Query(ctx, `select key, value from meta where key = any($1)`, boundMeta)
	if err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	var key, value string
	if _, err := pgx.ForEachRow(rows, []any{&key, &value}, func() error { h.Meta[key] = value; return nil }); err != nil {
		return nil, fmt.Errorf("meta: %w", err)
	}
	h.Contents, err = dump.Look(ctx, tx)
	return h, err
}

// checkedRoot gives the header's root.
func (h *BackupHeader) checkedRoot() (root tlog.Hash, err error) {
	if h.Size == 0 && len(h.Root) == 0 {
		return root, nil
	}
	if len(h.Root) != len(root) {
		return root, fmt.Errorf("%w: a root of %d bytes", ErrBackup, len(h.Root))
	}
	copy(root[:], h.Root)
	return root, nil
}
