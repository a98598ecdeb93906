package pg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Rights are what a service's own role may do with the tables of its schema. A table that is not named may be read and
// its rows written, changed and deleted. None may be truncated, altered, dropped or given a trigger, and no table made.
type Rights struct {
	Append []string // may be read and written, never changed or deleted
	Read   []string // may be read only; the list of migrations always is
}

// ErrRoleAbove is returned for a role that no grant binds: a superuser, the owner of the tables, or a member of it.
var ErrRoleAbove = errors.New("role is above what can be granted: it is a superuser, owns the tables or is a member of their owner")

// Grant gives role exactly these rights in the pool's schema, in one transaction: what it had there before is revoked,
// and so is what everybody had. The pool's user owns the schema. It is called again after each migration, since a new
// table gives rights to nobody.
func Grant(ctx context.Context, pool *pgxpool.Pool, role string, r Rights) error {
	if err := InTx(ctx, pool, func(tx pgx.Tx) error { return grant(ctx, tx, role, r) }); err != nil {
		return fmt.Errorf("grant rights to role %s: %w", role, err)
	}
	return nil
}

func grant(ctx context.Context, tx pgx.Tx, role string, r Rights) error {
	// Two services that start at once would write the same catalog rows.
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended('citysync.grant', 0))`); err != nil {
		return err
	}
	var schema string
	var super bool
	const look = `select coalesce(current_schema(), ''), rolsuper from pg_roles where rolname = $1`
	if err := tx.QueryRow(ctx, look, role).Scan(&schema, &super); err != nil {
		return fmt.Errorf("look for the role: %w", err)
	}
	const owned = `
		select c.relname, pg_has_role($1, c.relowner, 'member')
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = current_schema() and c.relkind in ('r', 'p') order by c.relname`
	rows, err := tx.Query(ctx, owned, role)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	var tables []string
	var table string
	above := super
	var member bool
	if _, err := pgx.ForEachRow(rows, []any{&table, &member}, func() error {
		tables, above = append(tables, table), above || member
		return nil
	}); err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	if above {
		return ErrRoleAbove
	}
	for _, named := range slices.Concat(r.Append, r.Read) {
		if !slices.Contains(tables, named) { // a misspelt name would leave the table open to change
			return fmt.Errorf("schema %s has no table %s", schema, named)
		}
	}
	in, to := pgx.Identifier{schema}.Sanitize(), pgx.Identifier{role}.Sanitize()
	var sql strings.Builder
	for _, who := range []string{to, "public"} {
		fmt.Fprintf(&sql, "revoke all on all tables in schema %[1]s from %[2]s; revoke all on all sequences in schema %[1]s from %[2]s; revoke all on schema %[1]s from %[2]s;\n", in, who)
	}
	fmt.Fprintf(&sql, "grant usage on schema %s to %s;\n", in, to)
	for _, table := range tables {
		rights := "select, insert, update, delete"
		switch {
		case slices.Contains(r.Append, table):
			rights = "select, insert"
		case slices.Contains(r.Read, table), table == "migration":
			rights = "select"
		}
		fmt.Fprintf(&sql, "grant %s on %s.%s to %s;\n", rights, in, pgx.Identifier{table}.Sanitize(), to)
	}
	_, err = tx.Exec(ctx, sql.String())
	return err
}
