package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgtest"
)

func TestOperatorComparesAndRebuildsAnIndex(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	pool := pgtest.Open(t, dsn, schemaAppView)
	require.NoError(t, pg.Migrate(t.Context(), pool, schemaAppView, index.Migrations()))
	appview := func(args ...string) (int, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"citysync", "appview"}, args...), nil, streams{&out, &errs})
		return code, strings.TrimSpace(out.String()) + errs.String()
	}
	code, empty := appview("state-hash", "--database-url", dsn)
	require.Equal(t, 0, code, empty)
	require.Regexp(t, "^[0-9a-f]{64}$", empty)
	_, err := pool.Exec(t.Context(), `insert into rule_set (did, rkey, cid, title) values ('did:plc:x', 'a', 'c', 'nobody signed this')`)
	require.NoError(t, err)
	_, damaged := appview("state-hash", "--database-url", dsn)
	assert.NotEqual(t, empty, damaged)
	code, rebuilt := appview("rebuild", "--database-url", dsn)
	require.Equal(t, 0, code, rebuilt)
	assert.Equal(t, empty, rebuilt)

	for _, args := range [][]string{{"rebuild"}, {"state-hash", "--database-url", dsn, "extra"}, {"rebuild", "--database-url", "postgres://nobody@localhost:1/x"}} {
		assert.Equal(t, 1, run(t.Context(), append([]string{"citysync", "appview"}, args...), nil, streams{io.Discard, io.Discard}), args)
	}
}
