package pg_test

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

func TestAwayTellsALostServerFromRefusedWork(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.DSN(t))
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()

	_, err = conn.Exec(ctx, `select 1/0`)
	require.Error(t, err)
	assert.False(t, pg.Away(fmt.Errorf("divide: %w", err)), "the server is there: %v", err)

	_, err = conn.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
	require.Error(t, err)
	assert.True(t, pg.Away(fmt.Errorf("work: %w", err)), "cut in the middle: %v", err)
	_, err = conn.Exec(ctx, `select 1`)
	require.Error(t, err)
	assert.True(t, pg.Away(err), "on a connection that was cut: %v", err)
	_, err = conn.Begin(ctx)
	require.Error(t, err)
	assert.True(t, pg.Away(err), "a transaction on it: %v", err)

	_, err = pgx.Connect(ctx, "postgres:///x?host="+t.TempDir())
	require.Error(t, err)
	assert.True(t, pg.Away(err), "nobody listens: %v", err)

	assert.False(t, pg.Away(nil))
	assert.False(t, pg.Away(errors.New("something else")))
	assert.False(t, pg.Away(&url.Error{Op: "Get", URL: "http://x", Err: &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}}))
}
