package ledger

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
	"maps"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
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
	a := &archiveReader{tar: tar.NewReader(r)}
	head, err := a.header()
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	have, err := checkMigrations(head)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := pg.Migrate(ctx, pool, schema, firstMigrations{migrations, have}); err != nil {
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

func restore(ctx context.Context, tx pgx.Tx, st *store, a *archiveReader, head *BackupHeader, now time.Time) error {
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
	if err := sameTables(ctx, tx, head.Tables); err != nil {
		return err
	}
	for _, t := range slices.Backward(head.Tables) { // rows that migrations made, such as the head
		if _, err := tx.Exec(ctx, `delete from `+pgx.Identifier{t.Name}.Sanitize()); err != nil {
			return fmt.Errorf("empty %s: %w", t.Name, err)
		}
	}
	var sums []tableSum
	for _, t := range head.Tables {
		sum, err := a.table(ctx, tx, t)
		if err != nil {
			return err
		}
		sums = append(sums, sum)
	}
	if err := a.manifest(sums); err != nil {
		return err
	}
	if err := restoreSequences(ctx, tx, head.Tables); err != nil {
		return err
	}
	if err := checkRestored(ctx, tx, st, head); err != nil {
		return err
	}
	return markRestored(ctx, tx, now)
}

// checkMigrations tells how many of this program's migrations the archive's schema had.
func checkMigrations(head *BackupHeader) (int, error) {
	have := 0
	for i, m := range head.Migrations {
		raw, err := fs.ReadFile(migrations, "migrations/"+path.Base(m.Name))
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

// firstMigrations are the program's migrations up to one: a backup is restored into the tables it was made of, and these then go on.
type firstMigrations struct {
	fs.FS
	n int
}

// ReadDir leaves out the later ones.
func (f firstMigrations) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(all, func(e fs.DirEntry) bool {
		version, _, _ := bytes.Cut([]byte(e.Name()), []byte("_"))
		n, err := strconv.Atoi(string(version))
		return err == nil && n > f.n
	}), err
}

func sameTables(ctx context.Context, tx pgx.Tx, want []BackupTable) error {
	have, err := tablesInOrder(ctx, tx)
	if err != nil {
		return err
	}
	same := func(a, b BackupTable) bool { return a.Name == b.Name && slices.Equal(a.Columns, b.Columns) }
	if !slices.EqualFunc(have, want, same) {
		return fmt.Errorf("%w: its tables are not those of its migrations; restore into a schema that nothing else has changed", ErrBackup)
	}
	return nil
}

// restoreSequences lets identity columns go on after the highest value that was copied.
func restoreSequences(ctx context.Context, tx pgx.Tx, tables []BackupTable) error {
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
		if !slices.ContainsFunc(tables, func(t BackupTable) bool { return t.Name == c.Table }) {
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

// archiveReader reads an archive in the order in which it was written, and takes no other.
type archiveReader struct {
	tar  *tar.Reader
	next *tar.Header // read already, or nil
	head [sha256.Size]byte
}

// peek gives the next file's header.
func (a *archiveReader) peek() (*tar.Header, error) {
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
	if h.Typeflag != tar.TypeReg || h.Size > maxBackupFile {
		return nil, fmt.Errorf("%w: %.80q of %d bytes", ErrBackup, h.Name, h.Size)
	}
	a.next = h
	return h, nil
}

func (a *archiveReader) json(name string, v any) error {
	h, err := a.peek()
	if err != nil {
		return err
	}
	if h.Name != name {
		return fmt.Errorf("%w: %.80q where %s should stand", ErrBackup, h.Name, name)
	}
	a.next = nil
	raw, err := io.ReadAll(a.tar) // peek has bounded it
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBackup, name, err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBackup, name, err)
	}
	if d.InputOffset() != int64(len(raw)) {
		return fmt.Errorf("%w: %s has more than it should", ErrBackup, name)
	}
	if name == fileBackup {
		a.head = sha256.Sum256(raw)
	}
	return nil
}

func (a *archiveReader) header() (*BackupHeader, error) {
	var h BackupHeader
	if err := a.json(fileBackup, &h); err != nil {
		return nil, err
	}
	if h.Format != backupFormat {
		return nil, fmt.Errorf("%w: format %d, this program reads %d", ErrBackup, h.Format, backupFormat)
	}
	_, err := h.checkedRoot()
	return &h, err
}

// table copies one table's chunks into the database.
func (a *archiveReader) table(ctx context.Context, tx pgx.Tx, t BackupTable) (tableSum, error) {
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

// manifest compares what came with what was written, and sees that nothing follows.
func (a *archiveReader) manifest(have []tableSum) error {
	var m backupManifest
	if err := a.json(fileManifest, &m); err != nil {
		return err
	}
	if !bytes.Equal(m.Header, a.head[:]) {
		return fmt.Errorf("%w: %s is not the one that its manifest names", ErrBackup, fileBackup)
	}
	if len(m.Tables) != len(have) {
		return fmt.Errorf("%w: %d tables, its manifest names %d", ErrBackup, len(have), len(m.Tables))
	}
	for i, want := range m.Tables {
		got := have[i]
		if got.Name != want.Name || got.Rows != want.Rows || got.Bytes != want.Bytes || !bytes.Equal(got.SHA256, want.SHA256) {
			return fmt.Errorf("%w: table %s has %d rows in %d bytes under %x, its manifest says %s, %d, %d and %x", ErrBackup,
				got.Name, got.Rows, got.Bytes, got.SHA256, want.Name, want.Rows, want.Bytes, want.SHA256)
		}
	}
	if _, err := a.tar.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its manifest", ErrBackup)
	}
	return nil
}

// chunkReader is the stream of one table.
type chunkReader struct {
	from  *archiveReader
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
