// Package pg opens PostgreSQL pools, applies migrations and runs transactions.
//
// What holds for every pool that Open returns:
//
//   - P1: all of its connections see exactly one schema of ours (search_path), so
//     SQL is written unqualified and no service reaches another's tables by accident.
//   - P2: sessions speak UTC and have bounded statements, lock waits and idle
//     transactions: a forgotten transaction cannot hold a lock for ever.
//   - P3: migrations are numbered without gaps, applied in order under a lock, all of
//     them or none, and never change once applied.
package pg

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	defaultMaxConns = 16
	connectTimeout  = 10 * time.Second
)

var schemaName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// ErrSchemaName is returned for a schema name that is not plain lower case.
var ErrSchemaName = errors.New("schema name must match " + schemaName.String())

// sessionDefaults are set on every connection unless the address names its own value.
var sessionDefaults = map[string]string{
	"application_name":                    "citysync",
	"timezone":                            "UTC",
	"statement_timeout":                   "60s",
	"lock_timeout":                        "20s",
	"idle_in_transaction_session_timeout": "60s",
}

// Open returns a pool whose connections see only schema. The address is a URL or a
// keyword string; its own settings (pool_max_conns, statement_timeout …) win over the
// defaults, except search_path. The pool has reached the server when Open returns, so
// that a wrong address fails at start. The caller closes the pool.
func Open(ctx context.Context, dsn, schema string) (*pgxpool.Pool, error) {
	if !schemaName.MatchString(schema) {
		return nil, fmt.Errorf("open schema %q: %w", schema, ErrSchemaName)
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		// pgx hides the password in this error.
		return nil, fmt.Errorf("parse database address: %w", err)
	}
	for k, v := range sessionDefaults {
		if _, ok := cfg.ConnConfig.RuntimeParams[k]; !ok {
			cfg.ConnConfig.RuntimeParams[k] = v
		}
	}
	cfg.ConnConfig.RuntimeParams["search_path"] = schema
	if !strings.Contains(dsn, "pool_max_conns") {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool for schema %s: %w", schema, err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("reach database for schema %s: %w", schema, err)
	}
	return pool, nil
}

// InTx runs fn in one read-committed transaction: committed when fn returns nil, rolled
// back when it returns an error or panics. fn's error comes back as it is.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, pool, fn)
}
