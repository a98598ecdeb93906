package pg_test

import (
	"context"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

var granted = fstest.MapFS{"0001_init.sql": {Data: []byte(`
create table log (n bigint generated always as identity primary key, s text);
create table fixed (s text);
create table child (n bigint references log (n), s text);
insert into fixed values ('x')`)}}

func grantAll(ctx context.Context, pool *pgxpool.Pool, role string) error {
	return pg.Grant(ctx, pool, role, pg.Rights{Append: []string{"log"}, Read: []string{"fixed"}})
}

func TestRoleMayDoWhatItWasGrantedAndNoMore(t *testing.T) {
	t.Parallel()
	owner := pgtest.Schema(t, granted)
	_, err := owner.Exec(t.Context(), `create schema other; create table other.secret (s text); grant all on log to public`)
	require.NoError(t, err)
	pool := pgtest.AsRole(t, owner, grantAll)
	for _, sql := range []string{
		"insert into log (s) values ('a')", "select * from log", "select * from fixed", "select * from migration",
		"insert into child (n, s) values (1, 'a')", "update child set s = 'b'", "delete from child",
	} {
		_, err := pool.Exec(t.Context(), sql)
		assert.NoError(t, err, sql)
	}
	for _, sql := range []string{
		"update log set s = 'b'", "delete from log", "truncate log cascade", "select * from log for update", "alter table log disable trigger all", "drop table log",
		"insert into fixed values ('y')", "update fixed set s = 'y'", "delete from fixed", "truncate child", "insert into migration (version, name, sha256) values (9, 'x', '')",
		"create table mine (n int)", "create function f() returns int language sql as 'select 1'", "select * from other.secret", "create schema mine",
		"create trigger t before insert on log execute function refuse()", "set role " + userOf(owner),
	} {
		_, err := pool.Exec(t.Context(), sql)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, sql)
		assert.Equal(t, "42501", refused.Code, "%s: %s", sql, refused.Message)
	}
	// A program that has nothing to migrate starts under the role.
	assert.NoError(t, pg.Migrate(t.Context(), pool, pgtest.SchemaName, granted))
}

func userOf(pool *pgxpool.Pool) string { return pool.Config().ConnConfig.User }

func TestGrantRefusesARoleThatItWouldNotBind(t *testing.T) {
	t.Parallel()
	owner := pgtest.Schema(t, granted)
	require.ErrorIs(t, grantAll(t.Context(), owner, userOf(owner)), pg.ErrRoleAbove)
	require.ErrorContains(t, grantAll(t.Context(), owner, "no_such_role"), "no_such_role")
	pgtest.AsRole(t, owner, func(ctx context.Context, pool *pgxpool.Pool, role string) error {
		require.ErrorContains(t, pg.Grant(ctx, pool, role, pg.Rights{Append: []string{"lgo"}}), "no table lgo")
		_, err := pool.Exec(ctx, "grant "+userOf(pool)+" to "+role)
		require.NoError(t, err)
		require.ErrorIs(t, grantAll(ctx, pool, role), pg.ErrRoleAbove, "a member of the owner")
		return nil
	})
}

func TestGrantTakesBackWhatTheRoleHadBefore(t *testing.T) {
	t.Parallel()
	owner := pgtest.Schema(t, granted)
	pool := pgtest.AsRole(t, owner, func(ctx context.Context, pool *pgxpool.Pool, role string) error {
		if _, err := pool.Exec(ctx, "grant all on all tables in schema "+pgtest.SchemaName+" to "+role); err != nil {
			return err
		}
		return grantAll(ctx, pool, role)
	})
	_, err := pool.Exec(t.Context(), "truncate log cascade")
	require.ErrorContains(t, err, "permission denied")
}
