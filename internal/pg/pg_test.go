package pg_test

import (
	"context"
	"errors"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

var notes = files("migrations/0001_note.sql", `create table note (id int primary key); insert into note values (1);`)

func TestOpenSeesItsSchemaAlone(t *testing.T) { // P1
	t.Parallel()
	dsn := pgtest.DSN(t)
	one, two := pgtest.Open(t, dsn, "one"), pgtest.Open(t, dsn, "two")
	require.NoError(t, pg.Migrate(t.Context(), one, "one", notes))
	_, err := two.Exec(t.Context(), `select id from note`)
	assert.ErrorContains(t, err, `relation "note" does not exist`)
}

func TestSessionsAreBoundedAndSpeakUTC(t *testing.T) { // P2
	t.Parallel()
	pool := pgtest.Open(t, pgtest.DSN(t)+"&lock_timeout=1234ms", "bounded")
	for name, want := range map[string]string{
		"timezone": "UTC", "statement_timeout": "1min", "idle_in_transaction_session_timeout": "1min",
		"lock_timeout": "1234ms", // the address wins
		"search_path":  "bounded",
	} {
		var got string
		require.NoError(t, pool.QueryRow(t.Context(), `select current_setting($1)`, name).Scan(&got))
		assert.Equal(t, want, got, name)
	}
}

func TestOpenRefusesBadAddresses(t *testing.T) {
	t.Parallel()
	_, err := pg.Open(t.Context(), "postgres:///x", `a"; drop schema b`)
	require.ErrorIs(t, err, pg.ErrSchemaName)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = pg.Open(ctx, "postgres:///x?user=u&password=hunter2&host="+t.TempDir(), "s")
	require.ErrorContains(t, err, "reach database for schema s")
	assert.NotContains(t, err.Error(), "hunter2")
}

func TestInTxCommitsOrRollsBack(t *testing.T) {
	t.Parallel()
	pool := pgtest.Schema(t, notes)
	count := func() (n int) {
		require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from note`).Scan(&n))
		return n
	}
	insert := func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `insert into note values (2)`)
		return err
	}
	boom := errors.New("boom")
	err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error { return errors.Join(insert(tx), boom) })
	require.ErrorIs(t, err, boom)
	require.Equal(t, 1, count())

	require.Panics(t, func() {
		_ = pg.InTx(t.Context(), pool, func(tx pgx.Tx) error { panic(insert(tx)) })
	})
	require.Equal(t, 1, count())

	require.NoError(t, pg.InTx(t.Context(), pool, insert))
	require.Equal(t, 2, count())
}

func TestMigrateAppliesOnlyWhatIsNew(t *testing.T) { // P3
	t.Parallel()
	pool := pgtest.Schema(t, notes)
	more := files("migrations/0001_note.sql", string(notes["migrations/0001_note.sql"].Data),
		"migrations/0002_body.sql", `alter table note add body text not null default 'old';`)
	for range 2 {
		require.NoError(t, pg.Migrate(t.Context(), pool, pgtest.SchemaName, more))
	}
	var body string
	require.NoError(t, pool.QueryRow(t.Context(), `select body from note`).Scan(&body))
	assert.Equal(t, "old", body)
	// Code of an earlier release starts on the newer schema.
	require.NoError(t, pg.Migrate(t.Context(), pool, pgtest.SchemaName, notes))
}

func TestMigrateRefusesAnEditedMigration(t *testing.T) { // P3
	t.Parallel()
	pool := pgtest.Schema(t, notes)
	edited := files("migrations/0001_note.sql", `create table note (id bigint primary key);`)
	err := pg.Migrate(t.Context(), pool, pgtest.SchemaName, edited)
	require.ErrorIs(t, err, pg.ErrMigrationEdited)
	assert.ErrorContains(t, err, "0001_note.sql")
}

func TestMigrateIsAllOrNothing(t *testing.T) { // P3
	t.Parallel()
	pool := pgtest.Open(t, pgtest.DSN(t), "whole")
	broken := files("0001_a.sql", `create table a (id int);`, "0002_b.sql", `create table b (id no_such_type);`)
	require.ErrorContains(t, pg.Migrate(t.Context(), pool, "whole", broken), "0002_b.sql")
	var tables int
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from pg_tables where schemaname = 'whole'`).Scan(&tables))
	assert.Zero(t, tables)
}

func TestMigrateRefusesMisnumberedFiles(t *testing.T) {
	t.Parallel()
	pool := pgtest.Open(t, pgtest.DSN(t), "numbers")
	for name, fsys := range map[string]fstest.MapFS{
		"gap":      files("0001_a.sql", "", "0003_c.sql", ""),
		"twice":    files("0001_a.sql", "", "0001_b.sql", ""),
		"from two": files("0002_a.sql", ""),
		"name":     files("first.sql", ""),
	} {
		assert.ErrorIs(t, pg.Migrate(t.Context(), pool, "numbers", fsys), pg.ErrMigrationSet, name)
	}
}

func TestMigrateTakesTurns(t *testing.T) { // P3
	t.Parallel()
	pool := pgtest.Open(t, pgtest.DSN(t), "turns")
	var g errgroup.Group
	for range 4 {
		g.Go(func() error { return pg.Migrate(t.Context(), pool, "turns", notes) })
	}
	require.NoError(t, g.Wait())
}

func TestReplayAllowsEachKeyOnce(t *testing.T) {
	t.Parallel()
	pool := pgtest.Schema(t, files("0001_jti.sql", `
		create table service_auth_jti (key text collate "C" primary key, until timestamptz not null);
		create index service_auth_jti_until on service_auth_jti (until);
		insert into service_auth_jti select 'old-' || n, now() - interval '2 hours' from generate_series(1, 60) n;
		insert into service_auth_jti values ('recent', now() - interval '1 minute');`))
	replay := pg.NewReplay(pool)
	until := time.Now().Add(time.Minute)

	fresh, err := replay.Use(t.Context(), "a", until)
	require.NoError(t, err)
	require.True(t, fresh)
	fresh, err = replay.Use(t.Context(), "a", until)
	require.NoError(t, err)
	require.False(t, fresh)

	// Two uses have swept what was long over, and nothing else.
	var left []string
	rows, err := pool.Query(t.Context(), `select key from service_auth_jti order by key`)
	require.NoError(t, err)
	left, err = pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "recent"}, left)

	// Of many uses at once exactly one is the first.
	var g errgroup.Group
	wins := make(chan bool, 8)
	for range cap(wins) {
		g.Go(func() error {
			ok, err := replay.Use(t.Context(), "contested", until)
			wins <- ok
			return err
		})
	}
	require.NoError(t, g.Wait())
	close(wins)
	won := 0
	for ok := range wins {
		if ok {
			won++
		}
	}
	assert.Equal(t, 1, won)
}
