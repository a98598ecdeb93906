package pg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"sort"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrMigrationEdited is final: a migration that the database already has differs from
// the one in the program. Restore the file and write a new migration.
var ErrMigrationEdited = errors.New("migration was edited after it was applied")

// ErrMigrationSet is final: the program's own migration files are misnumbered.
var ErrMigrationSet = errors.New("migrations must be numbered 0001, 0002, … without gaps")

var migrationName = regexp.MustCompile(`^([0-9]{4})_[a-z0-9_]+\.sql$`)

type migration struct {
	version int
	name    string
	sql     string
	sum     [sha256.Size]byte
}

// Migrate brings schema up to the migrations in fsys: files NNNN_name.sql, at its root or
// in folders of it. It creates the schema where it is missing. All that is pending is
// applied in one transaction: a crash or an error leaves the schema as it was. Two
// programs that start at once take turns. A schema newer than this program is left
// alone, since a migration must not break the code before it.
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string, fsys fs.FS) error {
	if !schemaName.MatchString(schema) {
		return fmt.Errorf("migrate schema %q: %w", schema, ErrSchemaName)
	}
	todo, err := readMigrations(fsys)
	if err != nil {
		return fmt.Errorf("migrations of schema %s: %w", schema, err)
	}
	err = InTx(ctx, pool, func(tx pgx.Tx) error {
		if err := prepare(ctx, tx, schema); err != nil {
			return err
		}
		have, err := applied(ctx, tx)
		if err != nil {
			return err
		}
		for _, m := range todo {
			if err := apply(ctx, tx, m, have[m.version]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("migrate schema %s: %w", schema, err)
	}
	return nil
}

// prepare takes the lock, and only then looks whether the schema is there: two starts at
// once would otherwise both create it.
func prepare(ctx context.Context, tx pgx.Tx, schema string) error {
	const lock = `select pg_advisory_xact_lock(hashtextextended('citysync.migrate.' || $1, 0))`
	if _, err := tx.Exec(ctx, lock, schema); err != nil {
		return fmt.Errorf("take migration lock: %w", err)
	}
	// A long index build is no reason to stop half way; the lock above has its own limit.
	if _, err := tx.Exec(ctx, `set local statement_timeout = 0`); err != nil {
		return fmt.Errorf("lift statement timeout: %w", err)
	}
	var exists bool
	const look = `select exists (select from pg_namespace where nspname = $1)`
	if err := tx.QueryRow(ctx, look, schema).Scan(&exists); err != nil {
		return fmt.Errorf("look for schema: %w", err)
	}
	ident := pgx.Identifier{schema}.Sanitize()
	if !exists { // a production role may use its schema without the right to create one
		if _, err := tx.Exec(ctx, `create schema `+ident); err != nil {
			return fmt.Errorf("create schema: %w", err)
		}
	}
	if _, err := tx.Exec(ctx, `set local search_path to `+ident); err != nil {
		return fmt.Errorf("set search path: %w", err)
	}
	var table bool
	const lookTable = `select exists (select from pg_tables where schemaname = $1 and tablename = 'migration')`
	if err := tx.QueryRow(ctx, lookTable, schema).Scan(&table); err != nil {
		return fmt.Errorf("look for migration table: %w", err)
	}
	if table {
		return nil
	}
	const create = `create table migration (
		version    int primary key check (version > 0),
		name       text not null,
		sha256     bytea not null check (length(sha256) = 32),
		applied_at timestamptz not null default now()
	)`
	if _, err := tx.Exec(ctx, create); err != nil {
		return fmt.Errorf("create migration table: %w", err)
	}
	return nil
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func applied(ctx context.Context, q querier) (map[int][]byte, error) {
	rows, err := q.Query(ctx, `select version, sha256 from migration`)
	if err != nil {
		return nil, fmt.Errorf("read applied migrations: %w", err)
	}
	have := map[int][]byte{}
	var version int
	var sum []byte
	_, err = pgx.ForEachRow(rows, []any{&version, &sum}, func() error {
		have[version] = bytes.Clone(sum)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read applied migrations: %w", err)
	}
	return have, nil
}

func apply(ctx context.Context, tx pgx.Tx, m migration, have []byte) error {
	if have != nil {
		if !bytes.Equal(have, m.sum[:]) {
			return fmt.Errorf("%s: %w", m.name, ErrMigrationEdited)
		}
		return nil
	}
	if _, err := tx.Exec(ctx, m.sql); err != nil { // no arguments: several statements may stand in one file
		return fmt.Errorf("%s: %w", m.name, err)
	}
	const record = `insert into migration (version, name, sha256) values ($1, $2, $3)`
	if _, err := tx.Exec(ctx, record, m.version, m.name, m.sum[:]); err != nil {
		return fmt.Errorf("record %s: %w", m.name, err)
	}
	return nil
}

func readMigrations(fsys fs.FS) ([]migration, error) {
	var all []migration
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || path.Ext(p) != ".sql" {
			return nil
		}
		match := migrationName.FindStringSubmatch(path.Base(p))
		if match == nil {
			return fmt.Errorf("%s: name must match %s: %w", p, migrationName, ErrMigrationSet)
		}
		body, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		version, err := strconv.Atoi(match[1])
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		all = append(all, migration{version: version, name: path.Base(p), sql: string(body), sum: sha256.Sum256(body)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	sort.Slice(all, func(i, j int) bool { return all[i].version < all[j].version })
	for i, m := range all {
		if m.version != i+1 {
			return nil, fmt.Errorf("%s stands at place %d: %w", m.name, i+1, ErrMigrationSet)
		}
	}
	return all, nil
}
