package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

const (
	thisCity  = "00000000000000000000000000000001"
	otherCity = "00000000000000000000000000000002"
)

func execSQL(t *testing.T, dsn, sql string) {
	t.Helper()
	pool, err := pg.Open(t.Context(), dsn, "public")
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func TestDatabaseBelongsToOneCity(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	require.NoError(t, claimDatabase(t.Context(), dsn, thisCity, false))
	assert.NoError(t, claimDatabase(t.Context(), dsn, thisCity, false), "its own city comes back")
	err := claimDatabase(t.Context(), dsn, otherCity, false)
	assert.ErrorContains(t, err, "CityMismatch")
}

func TestFreshEmptiesOnlySchemasOfThisProgram(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	require.NoError(t, claimDatabase(t.Context(), dsn, thisCity, false))
	execSQL(t, dsn, `create schema pds; create table pds.account (did text); create table public.theirs (n int); insert into public.theirs values (1)`)
	require.NoError(t, claimDatabase(t.Context(), dsn, otherCity, true))
	execSQL(t, dsn, `do $$ begin
		if to_regclass('pds.account') is not null then raise exception 'the old city is still there'; end if;
		if (select n from public.theirs) <> 1 then raise exception 'a stranger''s table is gone'; end if;
	end $$`)
	assert.NoError(t, claimDatabase(t.Context(), dsn, otherCity, false))
}

func TestDatabaseWithoutTheMarkIsRefusedUntouched(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	execSQL(t, dsn, `create schema ledger; create table ledger.theirs (n int); insert into ledger.theirs values (1)`)
	for _, fresh := range []bool{false, true} {
		err := claimDatabase(t.Context(), dsn, thisCity, fresh)
		assert.ErrorContains(t, err, "NotOurs")
	}
	execSQL(t, dsn, `do $$ begin
		if (select n from ledger.theirs) <> 1 then raise exception 'gone'; end if;
		if to_regclass('citysync.mark') is not null then raise exception 'marked'; end if;
	end $$`)
}
