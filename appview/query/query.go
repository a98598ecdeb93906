// Package query reads the AppView's index: SELECT only, typed rows, keyset cursors, one file per noun.
//
// A row says what the network shows. Whether a record counts is the ledger's word, taken from its log as the index checked it:
// a task counts with its reserve entry, a claim with its claim entry, a verification with its mint.
package query

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	// ErrNotFound says that the index holds no such thing. Final until the network shows it.
	ErrNotFound = errors.New("not found")
	// ErrBadCursor says that a cursor was not one of ours. Final.
	ErrBadCursor = errors.New("bad cursor")
)

// DB answers queries from one index. It is safe for concurrent use.
type DB struct {
	pool *pgxpool.Pool
	city string
}

// New reads the index behind pool, as seen from one city (its DID).
func New(pool *pgxpool.Pool, city string) *DB { return &DB{pool: pool, city: city} }

// City is the DID of the city whose accreditations, catalog and book the answers are about.
func (db *DB) City() string { return db.city }

// Page bounds a listing.
type Page struct {
	Limit  int    // at least 1
	Cursor string // as a former answer gave it; empty at the start
}

// keys are the values of the last row of a page; a cursor is their unpadded base64 form, so that it passes a URL whole.
func cursorOf(keys ...string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(keys, "\x00")))
}

func parseCursor(cursor string, n int) ([]string, error) {
	if cursor == "" {
		return make([]string, n), nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(raw) > 1024 {
		return nil, ErrBadCursor
	}
	keys := strings.Split(string(raw), "\x00")
	if len(keys) != n {
		return nil, ErrBadCursor
	}
	return keys, nil
}

func list[T any](ctx context.Context, db *DB, what, sql string, args pgx.NamedArgs) ([]T, error) {
	for _, v := range args { // no stored text has such bytes, and PostgreSQL refuses to look
		if s, ok := v.(string); ok && (strings.Contains(s, "\x00") || !utf8.ValidString(s)) {
			return nil, nil
		}
	}
	rows, err := db.pool.Query(ctx, sql, args)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", what, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[T])
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", what, err)
	}
	return out, nil
}

func one[T any](ctx context.Context, db *DB, what, sql string, args pgx.NamedArgs) (T, error) {
	rows, err := list[T](ctx, db, what, sql, args)
	if err != nil {
		var none T
		return none, err
	}
	if len(rows) == 0 {
		var none T
		return none, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return rows[0], nil
}

// trim cuts a listing that was asked one row too far, and gives the cursor of the next page or "".
func trim[T any](rows []T, limit int, key func(T) []string) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	rows = rows[:limit]
	return rows, cursorOf(key(rows[limit-1])...)
}
