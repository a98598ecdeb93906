package main

import (
	"bytes"
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/obs"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

// settledIn is a city's homes in a database that was given, with a role for each.
func settledIn(t *testing.T, dsn string) *stack {
	t.Helper()
	dir, err := openDataDir(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(dir.close)
	s := &stack{
		ground: ground{log: slog.New(slog.DiscardHandler), registry: obs.Registry()},
		cfg:    devConfig{DatabaseURL: dsn}, dsn: dsn, dir: dir, homes: map[string]settled{},
		state: &cityState{Instance: randomHex(16), SecondPDS: true},
	}
	require.NoError(t, s.moveIn(t.Context()))
	return s
}

// refusedSQL is how the database answers one statement of a role.
func refusedSQL(t *testing.T, h home, sql string) string {
	t.Helper()
	pool, err := pg.Open(t.Context(), h.dsn, h.schema)
	require.NoError(t, err)
	defer pool.Close()
	if _, err = pool.Exec(t.Context(), sql); err != nil {
		return err.Error()
	}
	return ""
}

func TestAServicesRoleUsesItsOwnTablesAndNoOthers(t *testing.T) {
	t.Parallel()
	s := settledIn(t, pgtest.DSN(t))
	require.Len(t, s.homes, 4)
	for name, own := range s.homes {
		assert.Empty(t, refusedSQL(t, own.home, `select count(*) from migration`), name)
		assert.Contains(t, refusedSQL(t, own.home, `create table mine (n int)`), "permission denied", name)
		assert.Contains(t, refusedSQL(t, own.home, `set role citysync`), "permission denied", name)
		for other := range s.homes {
			if other != name {
				assert.Contains(t, refusedSQL(t, own.home, `select count(*) from `+other+`.migration`),
					"permission denied for schema "+other, "%s reads the tables of %s", name, other)
			}
		}
		assert.NoError(t, s.settle(t.Context(), own.home), "it finds its tables current")
	}
	for _, sql := range []string{`delete from entry`, `update entry set kind = ''`, `truncate entry cascade`} {
		assert.Contains(t, refusedSQL(t, s.homes[schemaLedger].home, sql), "permission denied for table", sql)
	}
	// A later start is the same roles, and a fresh city takes the old one's away.
	require.NoError(t, s.moveIn(t.Context()))
	require.NoError(t, claimDatabase(t.Context(), s.dsn, otherCity, true))
	assert.Contains(t, refusedSQL(t, home{dsn: s.dsn, schema: "public"}, `set role `+rolePrefix(s.state.Instance)+"ledger"), "does not exist")
}

func TestARoleThatMayMakeNoRolesIsSharedByAllServices(t *testing.T) {
	t.Parallel()
	owner := pgtest.DSN(t)
	name := "plain_" + randomHex(8)
	execSQL(t, owner, `create role `+name+` login`)
	execSQL(t, owner, `do $$ begin execute format('grant create on database %I to `+name+`', current_database()); end $$`)
	dsn, err := enterAs(owner, name, "any")
	require.NoError(t, err)
	s := settledIn(t, dsn)
	for place, h := range s.homes {
		assert.Equal(t, dsn, h.dsn, place)
		assert.NoError(t, s.settle(t.Context(), h.home), place)
	}
}

func TestAServiceWhoseRoleMayNotMigrateSaysWhoMust(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	role := "clerk_" + randomHex(8)
	execSQL(t, dsn, `create role `+role+` login`)
	as, err := enterAs(dsn, role, "any")
	require.NoError(t, err)
	g := &ground{log: slog.New(slog.DiscardHandler)}
	h := home{name: "ledger", service: schemaLedger, dsn: as, schema: "ledger"}
	err = g.settle(t.Context(), h)
	require.ErrorContains(t, err, "SchemaNotCurrent")
	require.ErrorContains(t, err, "citysync ledger migrate --database-url DSN --grant-to ROLE")

	var out bytes.Buffer
	code := run(t.Context(), []string{"citysync", "ledger", "migrate", "--database-url", dsn, "--grant-to", role}, nil, streams{&out, io.Discard})
	require.Equal(t, 0, code)
	assert.Equal(t, "schema ledger is current; "+role+" may use it\n", out.String())
	assert.NoError(t, g.settle(t.Context(), h))
	code = run(t.Context(), []string{"citysync", "ledger", "migrate", "--database-url", dsn, "--grant-to", "nobody_" + role}, nil, streams{io.Discard, io.Discard})
	assert.Equal(t, 1, code, "the role must exist")
}

func TestAddressesWithAnotherRole(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://owner:secret@db.example:5432/city?sslmode=require": "postgres://db.example:5432/city?password=pw&sslmode=require&user=clerk",
		"postgresql:///city?host=%2Frun%2Fpg&user=owner":               "postgresql:///city?host=%2Frun%2Fpg&password=pw&user=clerk",
		"host=/run/pg dbname=city user=owner":                          "host=/run/pg dbname=city user=owner user=clerk password=pw",
	} {
		got, err := enterAs(dsn, "clerk", "pw")
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
}
