package ledger

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/ledger/tlog"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the ledger's schema, for pg.Migrate.
func Migrations() fs.FS { return migrations }

// ErrSecondWriter means that another process writes this log, or still does. Retry when it has ended.
var ErrSecondWriter = errors.New("another process writes this log")

const defaultWriterWait = 5 * time.Second

// store is the ledger's schema. Writes of the log happen in writeBatch only.
type store struct{ pool *pgxpool.Pool }

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// lockedConn is the one connection that holds the writer's lock. All batches go through it: a lost lock is a lost connection, and
// so a failed batch.
type lockedConn struct{ *pgx.Conn }

// becomeWriter takes the session lock and a new term. From here on every older term's batch fails.
func (s *store) becomeWriter(ctx context.Context, patience time.Duration) (lockedConn, int64, error) {
	held, err := s.pool.Acquire(ctx)
	if err != nil {
		return lockedConn{}, 0, fmt.Errorf("connection for the writer: %w", err)
	}
	conn := held.Hijack()
	fail := func(err error) (lockedConn, int64, error) {
		_ = conn.Close(context.WithoutCancel(ctx)) // the first error counts
		return lockedConn{}, 0, err
	}
	const lock = `select pg_advisory_lock(hashtextextended('citysync.ledger.writer.' || current_schema(), 0))`
	if _, err := conn.Exec(ctx, `select set_config('lock_timeout', $1, false)`, strconv.FormatInt(patience.Milliseconds(), 10)); err != nil {
		return fail(fmt.Errorf("set the writer's lock timeout: %w", err))
	}
	if _, err := conn.Exec(ctx, lock); err != nil {
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "55P03" {
			return fail(ErrSecondWriter)
		}
		return fail(fmt.Errorf("take the writer's lock: %w", err))
	}
	var term int64
	if err := conn.QueryRow(ctx, `update head set term = term + 1 returning term`).Scan(&term); err != nil {
		return fail(fmt.Errorf("take a term: %w", err))
	}
	return lockedConn{conn}, term, nil
}

func (s *store) head(ctx context.Context, q querier) (term, size int64, root tlog.Hash, err error) {
	var raw []byte
	if err = q.QueryRow(ctx, `select term, size, root from head`).Scan(&term, &size, &raw); err != nil {
		return 0, 0, root, fmt.Errorf("head: %w", err)
	}
	copy(root[:], raw)
	return term, size, root, nil
}

// leaves returns up to n leaves from index from, in order.
func (s *store) leaves(ctx context.Context, from, n int64) ([][]byte, error) {
	rows, err := s.pool.Query(ctx, `select leaf from entry where seq >= $1 and seq < $2 order by seq`, from, from+n)
	if err != nil {
		return nil, fmt.Errorf("leaves from %d: %w", from, err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[[]byte])
}

// replay gives fn every entry in order with what stands of its opening. It reads in pages: a long log is no long statement.
func (*store) replay(ctx context.Context, q querier, fn func(row *logRow) error) error {
	const (
		size = 5000
		page = `select e.seq, e.leaf, e.hash, o.sealed from entry e left join opening o using (seq) where e.seq >= $1 order by e.seq limit $2`
	)
	for from := int64(0); ; {
		rows, err := q.Query(ctx, page, from, size)
		if err != nil {
			return fmt.Errorf("read the log from %d: %w", from, err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByName[logRow])
		if err != nil {
			return fmt.Errorf("read the log from %d: %w", from, err)
		}
		for i := range list {
			if err := fn(&list[i]); err != nil {
				return err
			}
		}
		if len(list) < size {
			return nil
		}
		from = list[len(list)-1].Seq + 1
	}
}

type logRow struct {
	Seq                int64
	Leaf, Hash, Sealed []byte
}

func (*store) nodes(ctx context.Context, q querier) ([]tlog.Hash, error) {
	rows, err := q.Query(ctx, `select hash from node order by idx`)
	if err != nil {
		return nil, fmt.Errorf("read the tree: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (h tlog.Hash, err error) {
		var raw []byte
		err = row.Scan(&raw)
		copy(h[:], raw)
		return h, err
	})
}

// writeBatch writes what a batch adds to the log: leaves, openings, nodes, guards, and the head where the term is ours.
func (s *store) writeBatch(ctx context.Context, b *batch, term, size int64, nodes []tlog.Hash, root tlog.Hash) error {
	const moveHead = `update head set size = @to, root = @root where term = @term and size = @from`
	const keepHead = `update head set term = term where term = @term and size = @from`
	sql := keepHead
	if len(b.entries) > 0 {
		sql = moveHead
		if err := copyLog(ctx, b, size, nodes); err != nil {
			return err
		}
		if err := writeGuards(ctx, b); err != nil {
			return err
		}
	}
	tag, err := b.tx.Exec(ctx, sql, pgx.NamedArgs{"to": size + int64(len(b.entries)), "root": root[:], "term": term, "from": size})
	if err != nil {
		return fmt.Errorf("move the head: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("term %d at size %d is over: %w", term, size, ErrSecondWriter)
	}
	return nil
}

func copyLog(ctx context.Context, b *batch, size int64, nodes []tlog.Hash) error {
	first := tlog.NodeCount(size)
	entries, openings := make([][]any, 0, len(b.entries)), make([][]any, 0, len(b.entries))
	for _, e := range b.entries {
		hash := tlog.LeafHash(e.leaf)
		entries = append(entries, []any{e.entry.Seq, string(e.entry.Kind), e.leaf, hash[:]})
		if e.opening != nil {
			openings = append(openings, []any{e.entry.Seq, e.opening})
		}
	}
	hashes := make([][]any, len(nodes))
	for i, h := range nodes {
		hashes[i] = []any{first + int64(i), h[:]}
	}
	for _, t := range []struct {
		table   string
		columns []string
		rows    [][]any
	}{
		{"entry", []string{"seq", "kind", "leaf", "hash"}, entries},
		{"node", []string{"idx", "hash"}, hashes},
		{"opening", []string{"seq", "sealed"}, openings},
	} {
		if len(t.rows) == 0 {
			continue
		}
		if _, err := b.tx.CopyFrom(ctx, pgx.Identifier{t.table}, t.columns, pgx.CopyFromRows(t.rows)); err != nil {
			return fmt.Errorf("write %s: %w", t.table, err)
		}
	}
	return nil
}
