package pg_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

func TestARoleThatMayOnlyUseTablesChecksThem(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	owner := pgtest.Open(t, dsn, "shop")
	do := func(sql string) {
		t.Helper()
		_, err := owner.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	do(`do $$ begin create role shop_clerk login; exception when duplicate_object then null; end $$`)
	t.Cleanup(func() {
		_, _ = owner.Exec(t.Context(), `drop owned by shop_clerk`) // the role itself goes with the server
	})
	clerk := pgtest.Open(t, dsn+"&user=shop_clerk", "shop")

	assert.ErrorIs(t, pg.Current(t.Context(), clerk, "shop", notes), pg.ErrNotCurrent, "nothing is there")
	require.NoError(t, pg.Migrate(t.Context(), owner, "shop", notes))
	assert.ErrorIs(t, pg.Current(t.Context(), clerk, "shop", notes), pg.ErrNotCurrent, "it may not enter")
	do(`grant usage on schema shop to shop_clerk`)
	assert.ErrorIs(t, pg.Current(t.Context(), clerk, "shop", notes), pg.ErrNotCurrent, "it may not read")
	do(`grant select on migration to shop_clerk`)
	require.NoError(t, pg.Current(t.Context(), clerk, "shop", notes))

	may, err := pg.MayMigrate(t.Context(), owner, "shop")
	require.NoError(t, err)
	assert.True(t, may)
	may, err = pg.MayMigrate(t.Context(), clerk, "shop")
	require.NoError(t, err)
	assert.False(t, may)
	may, err = pg.MayMigrate(t.Context(), clerk, "another")
	require.NoError(t, err)
	assert.False(t, may)

	newer := files("0001_note.sql", string(notes["migrations/0001_note.sql"].Data), "0002_more.sql", `create table more (id int);`)
	err = pg.Current(t.Context(), clerk, "shop", newer)
	require.ErrorIs(t, err, pg.ErrNotCurrent)
	assert.ErrorContains(t, err, "0002_more.sql")
	edited := files("0001_note.sql", `create table note (id bigint primary key);`)
	assert.ErrorIs(t, pg.Current(t.Context(), clerk, "shop", edited), pg.ErrMigrationEdited)
	require.NoError(t, pg.Migrate(t.Context(), owner, "shop", newer))
	assert.NoError(t, pg.Current(t.Context(), clerk, "shop", notes), "an earlier release runs on the newer schema")
}
