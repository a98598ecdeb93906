package pg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNotCurrent is final until somebody who may change the schema has migrated it: what
// this program needs is missing there.
var ErrNotCurrent = errors.New("the schema lacks migrations of this program")

// Current checks that schema has every migration in fsys, and changes nothing: it is for
// a role that may use tables and not make them. Like Migrate it takes a schema that is
// newer than this program.
func Current(ctx context.Context, pool *pgxpool.Pool, schema string, fsys fs.FS) error {
	want, err := readMigrations(fsys)
	if err != nil {
		return fmt.Errorf("migrations of schema %s: %w", schema, err)
	}
	var readable bool
	const look = `select exists (
		select from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = 'migration'
			and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'))`
	if err := pool.QueryRow(ctx, look, schema).Scan(&readable); err != nil {
		return fmt.Errorf("check schema %s: %w", schema, err)
	}
	if !readable {
		return fmt.Errorf("schema %s is missing, or this role may not read it: %w", schema, ErrNotCurrent)
	}
	have, err := applied(ctx, pool)
	if err != nil {
		return fmt.Errorf("check schema %s: %w", schema, err)
	}
	for _, m := range want {
		sum, ok := have[m.version]
		if !ok {
			return fmt.Errorf("schema %s: %s is not applied: %w", schema, m.name, ErrNotCurrent)
		}
		if !bytes.Equal(sum, m.sum[:]) {
			return fmt.Errorf("schema %s: %s: %w", schema, m.name, ErrMigrationEdited)
		}
	}
	return nil
}

// MayMigrate tells whether the pool's role may change schema, or make it where it is missing.
func MayMigrate(ctx context.Context, pool *pgxpool.Pool, schema string) (bool, error) {
	const ask = `select coalesce(
		(select has_schema_privilege(oid, 'create') from pg_namespace where nspname = $1),
		has_database_privilege(current_database(), 'create'))`
	var may bool
	if err := pool.QueryRow(ctx, ask, schema).Scan(&may); err != nil {
		return false, fmt.Errorf("ask for the rights on schema %s: %w", schema, err)
	}
	return may, nil
}
