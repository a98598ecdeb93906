// Package dump writes one moment of a service's schema to a tar archive, and fills an empty schema from it.
//
// An archive is written and read as a stream and needs no more memory than a chunk, so tar's rule that a file's size stands before it is
// kept by cutting each table into chunks:
//
//	backup.json            what this is a backup of, and the columns of its tables
//	table/<name>/<n>       PostgreSQL's COPY text of the table, cut anywhere, n from 000000
//	…                      files of the service beside its tables
//	manifest.json          rows, bytes and SHA-256 of each table; number, bytes and SHA-256 of the files
//
// It holds what the database holds: keep it as secret.
package dump

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Names of an archive's own files.
const (
	FileHeader   = "backup.json"
	FileManifest = "manifest.json"

	tablePrefix    = "table/"
	tableMigration = "migration"
	chunkBytes     = 1 << 20
	maxFile        = 4 << 20 // of a chunk, the header and the manifest
)

// ErrBackup means that an archive is not whole, or not one of ours. Final: nothing of it was kept.
var ErrBackup = errors.New("bad backup")

// Contents is the part of a header that says which tables an archive holds. A service embeds it in its own header.
type Contents struct {
	Migrations []Migration `json:"migrations"`
	Tables     []Table     `json:"tables"` // each after those that it refers to
}

// Migration is a migration that the schema had.
type Migration struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	SHA256  []byte `json:"sha256"`
}

// Table is a table and the columns that were copied.
type Table struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
}

type tableSum struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 []byte `json:"sha256"`
}

// fileSum is one sum over all files: each file's name, size and SHA-256, in their order.
type fileSum struct {
	Count  int64  `json:"count"`
	Bytes  int64  `json:"bytes"`
	SHA256 []byte `json:"sha256"`
}

type manifest struct {
	Header []byte     `json:"header"` // SHA-256 of the header
	Tables []tableSum `json:"tables"`
	Files  *fileSum   `json:"files,omitempty"`
}

// Snapshot runs fn on one consistent moment of the schema, which it cannot change, for as long as it takes.
func Snapshot(ctx context.Context, pool *pgxpool.Pool, fn func(pgx.Tx) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	defer conn.Release()
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// A slow disk is no reason to lose the snapshot half way.
		const patient = `set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; set local datestyle = 'ISO'; set local bytea_output = 'hex'`
		if _, err := tx.Exec(ctx, patient); err != nil {
			return err
		}
		return fn(tx)
	})
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

// Look lists the schema's migrations and tables.
func Look(ctx context.Context, tx pgx.Tx) (c Contents, err error) {
	rows, err := tx.Query(ctx, `select version, name, sha256 from migration order by version`)
	if err != nil {
		return c, fmt.Errorf("migrations: %w", err)
	}
	if c.Migrations, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Migration]); err != nil {
		return c, fmt.Errorf("migrations: %w", err)
	}
	c.Tables, err = tablesInOrder(ctx, tx)
	return c, err
}

// tablesInOrder lists the schema's tables and their columns, each table after those that it refers to.
func tablesInOrder(ctx context.Context, tx pgx.Tx) ([]Table, error) {
	const tables = `
		select c.relname, (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
			where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns
		from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r' and c.relname <> $1 order by c.relname`
	rows, err := tx.Query(ctx, tables, tableMigration)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Table])
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	const references = `
		select r.relname, t.relname from pg_constraint k join pg_class r on r.oid = k.conrelid join pg_class t on t.oid = k.confrelid
		where k.contype = 'f' and k.connamespace = current_schema()::regnamespace and r.oid <> t.oid`
	rows, err = tx.Query(ctx, references)
	if err != nil {
		return nil, fmt.Errorf("list references: %w", err)
	}
	needs := map[string][]string{}
	var from, to string
	if _, err := pgx.ForEachRow(rows, []any{&from, &to}, func() error { needs[from] = append(needs[from], to); return nil }); err != nil {
		return nil, fmt.Errorf("list references: %w", err)
	}
	return inOrder(all, needs)
}

func inOrder(all []Table, needs map[string][]string) ([]Table, error) {
	var ordered []Table
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
			return nil, errors.New("tables refer to one another in a circle")
		}
	}
	return ordered, nil
}

func (t Table) columnsSQL() string {
	sql := pgx.Identifier{t.Name}.Sanitize() + " ("
	for i, c := range t.Columns {
		if i > 0 {
			sql += ", "
		}
		sql += pgx.Identifier{c}.Sanitize()
	}
	return sql + ")"
}

func chunkName(table string, n int) string { return fmt.Sprintf("%s%s/%06d", tablePrefix, table, n) }

// second is a time as tar keeps it.
func second(t time.Time) time.Time { return t.Truncate(time.Second) }
