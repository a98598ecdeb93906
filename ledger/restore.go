package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/dump"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// ErrNotEmpty means that the schema holds a ledger already. Restore into an empty one.
var ErrNotEmpty = errors.New("the schema holds a ledger")

// restoreWait is how long Restore waits for a writer to let go of the schema.
const restoreWait = time.Second

// termJump is what a restored log's term lies above the backup's at least. No process counted this far since, by one at each start, so
// every process of the time before is fenced, those too that started after the backup was made.
const termJump = 1 << 20

// Restore fills an empty schema from an archive, as the schema's owner, and brings its tables up to this program. Nothing is kept
// unless every byte is as it was written, the leaves make the tree and the root that the backup names, and the rules replay them.
// Afterwards the database is marked as restored: the ledger starts on it only when the world has not seen more of its log.
func Restore(ctx context.Context, pool *pgxpool.Pool, schema string, r io.Reader, now time.Time) (*BackupHeader, error) {
	a := dump.NewReader(r)
	head, err := backupHeader(a)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	have, err := head.Known(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := pg.Migrate(ctx, pool, schema, dump.FirstMigrations(migrations, have)); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	st := &store{pool: pool}
	conn, _, err := st.becomeWriter(ctx, restoreWait) // a process that still writes here is told from one that is gone
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // gives the lock back
	err = pgx.BeginFunc(ctx, conn.Conn, func(tx pgx.Tx) error { return restore(ctx, tx, st, a, head, now) })
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := pg.Migrate(ctx, pool, schema, migrations); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return head, nil
}

func restore(ctx context.Context, tx pgx.Tx, st *store, a *dump.Reader, head *BackupHeader, now time.Time) error {
	const patient = `set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0`
	if _, err := tx.Exec(ctx, patient); err != nil {
		return err
	}
	var used bool
	if err := tx.QueryRow(ctx, `select exists (select from meta) or exists (select from entry)`).Scan(&used); err != nil {
		return fmt.Errorf("look into the schema: %w", err)
	}
	if used {
		return ErrNotEmpty
	}
	if err := a.Tables(ctx, tx, head.Contents); err != nil {
		return err
	}
	if err := a.Manifest(); err != nil {
		return err
	}
	if err := checkRestored(ctx, tx, st, head); err != nil {
		return err
	}
	return markRestored(ctx, tx, now)
}

func backupHeader(a *dump.Reader) (*BackupHeader, error) {
	var h BackupHeader
	if err := a.Header(&h); err != nil {
		return nil, err
	}
	if h.Format != backupFormat {
		return nil, fmt.Errorf("%w: format %d, this program reads %d", ErrBackup, h.Format, backupFormat)
	}
	_, err := h.checkedRoot()
	return &h, err
}

// checkRestored does what the ledger does at its start, before anything is kept.
func checkRestored(ctx context.Context, tx pgx.Tx, st *store, head *BackupHeader) error {
	want, err := head.checkedRoot()
	if err != nil {
		return err
	}
	stored, err := st.head(ctx, tx)
	if err != nil {
		return err
	}
	size, root := stored.size, stored.root
	if size != head.Size || root != want {
		return fmt.Errorf("%w: it says %d entries under %s, its head %d under %s", ErrBackup, head.Size, want, size, root)
	}
	rows, err := tx.Query(ctx, `select key, value from meta where key = any($1)`, boundMeta)
	if err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	have := map[string]string{}
	var key, value string
	if _, err := pgx.ForEachRow(rows, []any{&key, &value}, func() error { have[key] = value; return nil }); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	if !maps.Equal(have, head.Meta) {
		return fmt.Errorf("%w: it says it is of %v, its tables of %v", ErrBackup, head.Meta, have)
	}
	s, err := reader(st, have[metaTZ])
	if err != nil {
		return err
	}
	if err := st.replay(ctx, tx, s.replayed); err != nil {
		return err
	}
	return s.checkTree(ctx, tx, size, root)
}

// reader is a sequencer that only takes a stored log back.
func reader(st *store, tz string) (*sequencer, error) {
	loc, err := time.LoadLocation(tz)
	if err != nil || tz == "" {
		return nil, fmt.Errorf("%w: %q is no time zone", ErrBackup, tz)
	}
	return &sequencer{store: st, log: &treeLog{}, state: rules.NewState(loc), bound: map[syntax.DID]*entry.Bind{}}, nil
}
