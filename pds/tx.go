package pds

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pipeTx is a transaction that spends no round trips of its own: begin travels with the
// first batch and commit with the last. A write is two round trips by it, not four.
type pipeTx struct {
	conn  *pgxpool.Conn
	begun bool
	done  bool
}

// inPipeTx runs fn, which must end with commit to change anything. All that fn leaves
// open is rolled back.
func inPipeTx(ctx context.Context, pool *pgxpool.Pool, fn func(*pipeTx) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer conn.Release() // a connection that is still inside a transaction is thrown away
	tx := &pipeTx{conn: conn}
	err = fn(tx)
	if tx.begun && !tx.done {
		tx.rollback(ctx)
	}
	return err
}

// first sends the batch with begin before it.
func (t *pipeTx) first(ctx context.Context, batch *pgx.Batch) error {
	t.begun = true
	begin := &pgx.Batch{QueuedQueries: append([]*pgx.QueuedQuery{{SQL: "begin"}}, batch.QueuedQueries...)}
	return t.conn.SendBatch(ctx, begin).Close()
}

// commit sends the batch with commit after it. A statement that fails keeps the commit from
// happening. A callback could not: where there is one, the commit waits for what it says.
func (t *pipeTx) commit(ctx context.Context, batch *pgx.Batch) error {
	if slices.ContainsFunc(batch.QueuedQueries, func(q *pgx.QueuedQuery) bool { return q.Fn != nil }) {
		if err := t.conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		batch = &pgx.Batch{}
	}
	batch.Queue("commit")
	err := t.conn.SendBatch(ctx, batch).Close()
	t.done = err == nil
	return err
}

func (t *pipeTx) rollback(ctx context.Context) {
	if t.conn.Conn().IsClosed() {
		return
	}
	// The request may have been cancelled; the connection should live on all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = t.conn.Exec(ctx, "rollback") // on an error Release throws the connection away
}

// QueryRow and Query implement querier.
func (t *pipeTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return t.conn.QueryRow(ctx, sql, args...)
}

func (t *pipeTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return t.conn.Query(ctx, sql, args...)
}
