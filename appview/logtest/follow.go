package logtest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/clock"
)

// Follow stores the city's row behind pool and copies the log there until all of it is held, cosigned included where it is. The reader then
// stops.
func (l *Log) Follow(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `
insert into city (did, rkey, cid, name, tz, langs, ledger, log_origin, log_vkey, log_url)
values ($1, 'self', $2, 'Berkeley', 'America/Los_Angeles', '{en,es}', $3, $3, $4, $5) on conflict do nothing`, City, CID, Origin, l.VKey, l.URL)
	require.NoError(t, err)
	x, err := index.New(pool, clock.New(At), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	reader := index.NewLogReader(x, City, &http.Client{Timeout: 10 * time.Second}, slog.New(slog.DiscardHandler))
	go func() { done <- reader.Run(ctx) }()
	held := func(sql string, want int) {
		t.Helper()
		require.Eventually(t, func() bool {
			var n int
			return pool.QueryRow(t.Context(), sql).Scan(&n) == nil && n == want
		}, 20*time.Second, 10*time.Millisecond, "%s: %d", sql, want)
	}
	held("select count(*) from log_entry", l.Size())
	if n := l.cosignatures(); n > 0 {
		held("select cardinality(witnesses) from log_cosigned", n)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		assert.NoError(t, err)
	}
}
