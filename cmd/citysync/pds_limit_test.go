package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
)

func TestAccountsLimitIsSetByHand(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	code, _, errs := said(t, "pds", "migrate", "--database-url", dsn)
	require.Zero(t, code, errs)
	const did = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
	_, err := pgtest.Open(t, dsn, schemaPDS).Exec(t.Context(),
		`insert into account (did, handle, password, status, signing_key, created) values ($1, 'a.test', '', 'active', '', now())`, did)
	require.NoError(t, err)
	limit := func(more ...string) (int, string, string) {
		return said(t, append([]string{"pds", "limit", "--database-url", dsn, "--did", did}, more...)...)
	}
	for _, step := range []struct {
		args []string
		says string
	}{
		{nil, "the server's usual limits\n"},
		{[]string{"--name", "writes", "--rate", "100000/1h"}, "writes: 100000 in 1h0m0s\n"},
		{[]string{"--name", "uploadBlob", "--rate", "0/1h"}, "uploadBlob: no limit\nwrites: 100000 in 1h0m0s\n"},
		{[]string{"--name", "writes", "--usual"}, "uploadBlob: no limit\n"},
	} {
		code, out, errs := limit(step.args...)
		require.Zero(t, code, errs)
		assert.Equal(t, step.says, out)
	}
	for says, args := range map[string][]string{
		"--name is needed":  {"--rate", "1/1h"},
		"one of them only":  {"--name", "writes", "--rate", "1/1h", "--usual"},
		"is not POINTS":     {"--name", "writes", "--rate", "1"},
		"its own of":        {"--name", "all", "--rate", "1/1h"},
		"--rate or --usual": {"--name", "writes"},
		"at most":           {"--name", "writes", "--rate", "9999999999/1h"},
	} {
		code, _, errs := limit(args...)
		assert.NotZero(t, code)
		assert.Contains(t, errs, says)
	}
	code, _, errs = said(t, "pds", "limit", "--database-url", dsn, "--did", "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb", "--name", "writes", "--usual")
	assert.Zero(t, code, errs)
	code, _, _ = said(t, "pds", "limit", "--database-url", dsn, "--did", "nobody")
	assert.NotZero(t, code)
}
