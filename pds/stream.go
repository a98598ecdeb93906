package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

// eventStore is table event as the firehose reads it.
type eventStore struct{ pool *pgxpool.Pool }

// windowBytes bounds the newest frames, which are kept in memory for all readers. Who is further behind reads the table.
const windowBytes = 16 << 20

func (s *Server) newStream() *firehose.Server {
	return firehose.NewServer(eventStore{s.pool}, s.wake.c, firehose.ServerConfig{Log: s.log, WindowBytes: windowBytes})
}

// patiently does again what a database that is away did not do: whoever follows the stream, the server's own tail first of all, goes on when it
// is back.
func patiently(ctx context.Context, do func() error) error {
	for wait := listenRetryMin; ; wait = min(2*wait, listenRetryMax) {
		err := do()
		if !pg.Away(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// Bounds implements firehose.Store.
func (e eventStore) Bounds(ctx context.Context) (oldest, newest int64, err error) {
	var pruned int64
	err = patiently(ctx, func() error {
		return e.pool.QueryRow(ctx, `select seq, pruned from event_head`).Scan(&newest, &pruned)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("read event head: %w", err)
	}
	if newest == 0 {
		return 0, 0, nil
	}
	return pruned + 1, newest, nil
}

// streamsAddress are the streams that one address may hold open; all of them have some hundreds together, and nobody is to take them from the relays.
const streamsAddress = 20

// eachAddress lets each address hold a few streams.
func (s *Server) eachAddress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ip := s.ip(r); !s.limits.spares(ip) {
			leave, err := s.streams.enter(ip)
			var full *xrpc.Error
			if errors.As(err, &full) {
				xrpc.WriteError(w, full)
				return
			}
			defer leave()
		}
		next.ServeHTTP(w, r)
	})
}

// pageBytes bounds a page, of which every reader in the past holds one. It has room for one frame of any size.
const pageBytes = 8 << 20

// Page implements firehose.Store.
func (e eventStore) Page(ctx context.Context, after int64, limit int) ([]firehose.Frame, error) {
	// An account's event says "deleted" as CBOR writes a text of seven bytes.
	const read = `
		select seq, frame, case when kind = 'account' then position('\x67'::bytea || 'deleted'::bytea in frame) > 0 else false end from (
			select seq, kind, frame, sum(octet_length(frame)) over (order by seq) as bytes from (
				select seq, kind, frame from event where seq > $1 order by seq limit $2) as some_of_them) as summed
		where bytes <= $3 order by seq`
	var page []firehose.Frame
	err := patiently(ctx, func() error {
		rows, err := e.pool.Query(ctx, read, after, limit, pageBytes)
		if err != nil {
			return err
		}
		page, err = pgx.CollectRows(rows, pgx.RowToStructByPos[firehose.Frame])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read events after %d: %w", after, err)
	}
	return page, nil
}

// prunePage keeps one round of pruning short: a backlog of days must not run into the
// statement's time limit and stay for ever.
const prunePage = 10_000

// pruneEvents drops the events that are older than the window: always a first part of
// the stream, so that what is kept has no holes.
func (s *Server) pruneEvents(ctx context.Context, now time.Time) error {
	const bound = `
		select max(seq) from (select seq, at from event order by seq limit $2) as oldest
		where at < $1`
	for more := true; more; {
		err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
			var last *int64
			if err := tx.QueryRow(ctx, bound, now.Add(-s.cfg.EventWindow), prunePage).Scan(&last); err != nil {
				return err
			}
			if more = last != nil; !more {
				return nil
			}
			if _, err := tx.Exec(ctx, `delete from event where seq <= $1`, *last); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `update event_head set pruned = $1 where pruned < $1`, *last)
			return err
		})
		if err != nil {
			return fmt.Errorf("prune events: %w", err)
		}
	}
	return nil
}
