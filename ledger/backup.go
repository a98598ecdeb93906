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
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/ledger/tlog"
)

// A backup is a tar archive of one moment of the ledger's schema. It is written and read as a stream and needs no more memory than a
// chunk, so tar's rule that a file's size stands before it is kept by cutting each table into chunks:
//
//	backup.json            what this is a backup of, and the columns of its tables
//	table/<name>/<n>       PostgreSQL's COPY text of the table, cut anywhere, n from 000000
//	manifest.json          rows, bytes and SHA-256 of each table
//
// It holds what the database holds, openings, account links and keys of epochs too: keep it as secret, and no longer than retention.
const (
	backupFormat   = 1
	backupChunk    = 1 << 20
	maxBackupFile  = 4 << 20
	fileBackup     = "backup.json"
	fileManifest   = "manifest.json"
	tablePrefix    = "table/"
	metaBackup     = "backup" // when the last backup was finished
	tableMigration = "migration"
)

// ErrBackup means that an archive is not whole, or not one of ours. Final: nothing of it was kept.
var ErrBackup = errors.New("bad backup")

// BackupHeader says what an archive is a backup of.
type BackupHeader struct {
	Format     int               `json:"format"`
	At         time.Time         `json:"at"` // by the database's clock
	Meta       map[string]string `json:"meta"`
	Term       int64             `json:"term"`
	Size       int64             `json:"size"`
	Root       []byte            `json:"root"`
	Migrations []BackupMigration `json:"migrations"`
	Tables     []BackupTable     `json:"tables"` // each after those that it refers to
}

// BackupMigration is a migration that the schema had.
type BackupMigration struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	SHA256  []byte `json:"sha256"`
}

// BackupTable is a table and the columns that were copied.
type BackupTable struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
}

type tableSum struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 []byte `json:"sha256"`
}

type backupManifest struct {
	Header []byte     `json:"header"` // SHA-256 of backup.json
	Tables []tableSum `json:"tables"`
}

// Backup writes one consistent snapshot of the pool's schema to w, while the ledger goes on. The ledger's own role may do it.
func Backup(ctx context.Context, pool *pgxpool.Pool, w io.Writer) (*BackupHeader, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("back up: %w", err)
	}
	defer conn.Release()
	var head *BackupHeader
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// A slow disk is no reason to lose the snapshot half way.
		const patient = `set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; set local datestyle = 'ISO'; set local bytea_output = 'hex'`
		if _, err := tx.Exec(ctx, patient); err != nil {
			return err
		}
		if head, err = readBackupHeader(ctx, tx); err != nil {
			return err
		}
		return writeArchive(ctx, tx, head, w)
	})
	if err != nil {
		return nil, fmt.Errorf("back up: %w", err)
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
	rows, err = tx.Query(ctx, `select version, name, sha256 from migration order by version`)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	if h.Migrations, err = pgx.CollectRows(rows, pgx.RowToStructByPos[BackupMigration]); err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	h.Tables, err = tablesInOrder(ctx, tx)
	return h, err
}

// tablesInOrder lists the schema's tables and their columns, each table after those that it refers to.
func tablesInOrder(ctx context.Context, q querier) ([]BackupTable, error) {
	const tables = `
		select c.relname, (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
			where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns
		from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r' and c.relname <> $1 order by c.relname`
	rows, err := q.Query(ctx, tables, tableMigration)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[BackupTable])
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	const references = `
		select r.relname, t.relname from pg_constraint k join pg_class r on r.oid = k.conrelid join pg_class t on t.oid = k.confrelid
		where k.contype = 'f' and k.connamespace = current_schema()::regnamespace and r.oid <> t.oid`
	rows, err = q.Query(ctx, references)
	if err != nil {
		return nil, fmt.Errorf("list references: %w", err)
	}
	needs := map[string][]string{}
	var from, to string
	if _, err := pgx.ForEachRow(rows, []any{&from, &to}, func() error { needs[from] = append(needs[from], to); return nil }); err != nil {
		return nil, fmt.Errorf("list references: %w", err)
	}
	var ordered []BackupTable
	done := map[string]bool{}
	for len(ordered) < len(all) {
		before := len(ordered)
		for _, t := range all {
			ready := !done[t.Name]
			for _, n := range needs[t.Name] {
				ready = ready && done[n]
			}
			if ready {
				done[t.Name] = true
				ordered = append(ordered, t)
			}
		}
		if len(ordered) == before {
			return nil, broken("tables refer to one another in a circle")
		}
	}
	return ordered, nil
}

func writeArchive(ctx context.Context, tx pgx.Tx, head *BackupHeader, w io.Writer) error {
	a := &archiveWriter{tar: tar.NewWriter(w), at: head.At}
	sum, err := a.json(fileBackup, head)
	if err != nil {
		return err
	}
	m := backupManifest{Header: sum}
	for _, t := range head.Tables {
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
	if _, err := a.json(fileManifest, m); err != nil {
		return err
	}
	return a.tar.Close()
}

func (t BackupTable) columnsSQL() string {
	sql := pgx.Identifier{t.Name}.Sanitize() + " ("
	for i, c := range t.Columns {
		if i > 0 {
			sql += ", "
		}
		sql += pgx.Identifier{c}.Sanitize()
	}
	return sql + ")"
}

type archiveWriter struct {
	tar *tar.Writer
	at  time.Time
}

func (a *archiveWriter) file(name string, data []byte) error {
	h := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: a.at.Truncate(time.Second), Format: tar.FormatUSTAR}
	if err := a.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	if _, err := a.tar.Write(data); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

func (a *archiveWriter) json(name string, v any) (sum []byte, err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", name, err)
	}
	hash := sha256.Sum256(raw)
	return hash[:], a.file(name, raw)
}

// chunkWriter cuts one table's stream into files of the archive. A table without rows has one empty file.
type chunkWriter struct {
	to    *archiveWriter
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
	for c.buf.Len() >= backupChunk {
		if err := c.chunk(c.buf.Next(backupChunk)); err != nil {
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
	return c.to.file(name, data)
}

func chunkName(table string, n int) string { return fmt.Sprintf("%s%s/%06d", tablePrefix, table, n) }

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
