package ledger

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refusal is the error that PostgreSQL answers sql with, in a transaction that changes nothing.
func (w *world) refusal(sql string) *pgconn.PgError {
	w.t.Helper()
	tx, err := w.role().Begin(w.ctx)
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, tx.Rollback(w.ctx)) }()
	_, err = tx.Exec(w.ctx, sql)
	var refused *pgconn.PgError
	require.ErrorAs(w.t, err, &refused, sql)
	return refused
}

// A leaf and its entry are one row; tiles are served from the tree's stored hashes. All flows of this package's tests run under this role.
func TestLedgersRoleCannotChangeTheLog(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	require.NotEqual(t, c.world.pool.Config().ConnConfig.User, c.role().Config().ConnConfig.User)
	_, err := c.world.pool.Exec(c.ctx, `insert into checkpoint (size, root, note, at) values (1, $1, 'x', now())`, make([]byte, 32))
	require.NoError(t, err)
	// The triggers would refuse as well: without them it is the permission alone.
	_, err = c.world.pool.Exec(c.ctx, `
		alter table entry disable trigger user; alter table node disable trigger user; alter table checkpoint disable trigger user`)
	require.NoError(t, err)
	for table, change := range map[string]string{
		"entry": "leaf = leaf", "node": "hash = hash", "checkpoint": "note = note",
	} {
		for _, sql := range []string{
			"update " + table + " set " + change, "delete from " + table, "truncate " + table + " cascade", "select * from " + table + " for update",
			"insert into " + table + " select * from " + table + " on conflict do nothing; delete from " + table + " where false",
		} {
			refused := c.refusal(sql)
			assert.Equal(t, "42501", refused.Code, sql)
			assert.Contains(t, refused.Message, "permission denied for table "+table, sql)
		}
		for _, sql := range []string{
			"alter table " + table + " enable trigger user", "drop table " + table + " cascade", "drop trigger append_only on " + table,
			"create rule r as on insert to " + table + " do instead nothing",
		} {
			assert.Equal(t, "42501", c.refusal(sql).Code, sql)
		}
	}
	for _, sql := range []string{"create table evil (n int)", "create or replace function refuse_change() returns trigger language plpgsql as 'begin return old; end'", "set session_replication_role = replica"} {
		assert.Equal(t, "42501", c.refusal(sql).Code, sql)
	}
	var n int64
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select count(*) from entry`).Scan(&n))
	require.Equal(t, c.l.seq.log.size(), n)
}
