package ledger

import (
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
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

// store is the ledger's schema. Writes of the log happen in lockedConn.write only.
type store struct{ pool *pgxpool.Pool }

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// lockedConn is the one connection that holds the writer's lock. All batches go through it: a lost lock is a lost connection, and
// so a failed batch.
type lockedConn struct {
	*pgx.Conn
	prepared prepared
}

// writeBuffer is what the system may keep of what was sent and not read yet: a large batch as a whole. With less of it, the server and the
// sender wake each other for each part. Where the system allows less than this, it gives what it allows.
const writeBuffer = 2 << 20

// planning is how the writer's connection plans: a plan is made once, perhaps while a table is empty, and must be right when it is long: by
// its keys.
const planning = `set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
	set jit = off`

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
	if _, err := conn.Exec(ctx, planning); err != nil {
		return fail(fmt.Errorf("set how the writer plans: %w", err))
	}
	statements, err := prepare(ctx, conn)
	if err != nil {
		return fail(err)
	}
	if local, ok := conn.PgConn().Conn().(*net.UnixConn); ok {
		if err := local.SetWriteBuffer(writeBuffer); err != nil {
			return fail(fmt.Errorf("room for the writer's batches: %w", err))
		}
	}
	return lockedConn{conn, statements}, term, nil
}

const readHead = `select term, size, root from head`

func (s *store) head(ctx context.Context, q querier) (head, error) {
	return scanHead(q.QueryRow(ctx, readHead))
}

// headOf reads what readHead answers in binary form.
func headOf(row [][]byte) (h head, err error) {
	if len(row) != 3 || len(row[0]) != 8 || len(row[1]) != 8 || len(row[2]) > len(h.root) {
		return h, broken("head is not what it was")
	}
	h.term, h.size = int64(binary.BigEndian.Uint64(row[0])), int64(binary.BigEndian.Uint64(row[1]))
	copy(h.root[:], row[2])
	return h, nil
}

func scanHead(row pgx.Row) (h head, err error) {
	var root []byte
	if err = row.Scan(&h.term, &h.size, &root); err != nil {
		return head{}, fmt.Errorf("head: %w", err)
	}
	copy(h.root[:], root)
	return h, nil
}

// leaves returns up to n leaves from index from, in order.
func (s *store) leaves(ctx context.Context, from, n int64) ([][]byte, error) {
	rows, err := s.pool.Query(ctx, `select leaf from entry where seq >= $1 and seq < $2 order by seq`, from, from+n)
	if err != nil {
		return nil, fmt.Errorf("leaves from %d: %w", from, err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[[]byte])
}

// nodes gives the stored hashes of the tree, in their order. A row has those from its index on.
func (*store) nodes(ctx context.Context, q querier) ([]tlog.Hash, error) {
	rows, err := q.Query(ctx, `select idx, hash from node order by idx`)
	if err != nil {
		return nil, fmt.Errorf("read the tree: %w", err)
	}
	var nodes []tlog.Hash
	var first int64
	var hashes pgtype.DriverBytes
	_, err = pgx.ForEachRow(rows, []any{&first, &hashes}, func() error {
		if first != int64(len(nodes)) {
			return broken("the stored hashes from %d on follow %d", first, len(nodes))
		}
		for hash := range slices.Chunk(hashes, tlog.HashSize) {
			nodes = append(nodes, tlog.Hash(hash))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the tree: %w", err)
	}
	return nodes, nil
}
