package ledger

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
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

// store is the ledger's schema. Writes of the log happen in writeBatch only.
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
type lockedConn struct{ *pgx.Conn }

// becomeWriter takes the session lock and a new term. From here on every older term's batch fails.
func (s *store) becomeWriter(ctx context.Context, patience time.Duration) (lockedConn, int64, error) {
	held, err := s.pool.Acquire(ctx)
	if err != nil {
		return lockedConn{}, 0, fmt.Errorf("connection for the writer: %w", err)
	}
	conn := held.Hijack()
	registerMany(conn.TypeMap())
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

const readHead = `select term, size, root from head`

func (s *store) head(ctx context.Context, q querier) (head, error) {
	return scanHead(q.QueryRow(ctx, readHead))
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

// commit ends the batch's transaction and reads the head as it then stands. A COMMIT that is not known to have happened is an error.
func (c lockedConn) commit(ctx context.Context) (h head, err error) {
	var queue pgx.Batch
	queue.Queue("commit")
	queue.Queue(readHead)
	results := c.SendBatch(ctx, &queue)
	defer func() {
		if e := results.Close(); err == nil && e != nil {
			err = fmt.Errorf("commit: %w", e)
		}
	}()
	tag, err := results.Exec()
	if err != nil {
		return h, fmt.Errorf("commit: %w", err)
	}
	if tag.String() != "COMMIT" { // a transaction that had failed is rolled back instead
		return h, broken("commit was answered by %s", tag)
	}
	if h, err = scanHead(results.QueryRow()); err != nil {
		return h, fmt.Errorf("read head back: %w", err)
	}
	return h, nil
}

// statements are what a batch writes, sent in one go. All are checked before the COMMIT.
type statements struct {
	queue pgx.Batch
	tells []string // what each is, for its error
	rows  []int64  // that each must touch, or -1
}

func (s *statements) add(what string, rows int64, sql string, args ...any) {
	s.queue.Queue(sql, args...)
	s.tells, s.rows = append(s.tells, what), append(s.rows, rows)
}

func (s *statements) send(ctx context.Context, conn sender) (err error) {
	results := conn.SendBatch(ctx, &s.queue)
	defer func() {
		if e := results.Close(); err == nil && e != nil {
			err = fmt.Errorf("write the batch: %w", e)
		}
	}()
	for i, want := range s.rows {
		tag, err := results.Exec()
		if err != nil {
			return fmt.Errorf("%s: %w", s.tells[i], err)
		}
		if want >= 0 && tag.RowsAffected() != want {
			return fmt.Errorf("%s: %w", s.tells[i], broken("%d rows were touched, not %d", tag.RowsAffected(), want))
		}
	}
	return nil
}

// writeBatch writes what a batch adds to the log: leaves, openings, nodes, guards, and the head where the term is ours.
func (s *store) writeBatch(ctx context.Context, conn sender, b *batch, term, size int64, nodes []tlog.Hash, root tlog.Hash) error {
	var all statements
	if !b.tx.begun {
		all.add("begin", -1, "begin")
	}
	if len(b.entries) > 0 {
		g, err := guardsOf(&all, b)
		if err != nil {
			return err
		}
		writeLog(&all, b, size, nodes, g)
		g.flush()
	}
	for _, f := range b.forgotten {
		f.write(&all)
	}
	moveHead(&all, term, size, size+int64(len(b.entries)), root)
	err := all.send(ctx, conn)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == notNull && pgErr.TableName == "head" {
		return fmt.Errorf("term %d at size %d is over: %w", term, size, ErrSecondWriter)
	}
	return err
}

const notNull = "23502"

// moveHead takes the head along, and fails where it is not ours any more: a null term is refused.
func moveHead(all *statements, term, from, to int64, root tlog.Hash) {
	const keep = `update head set term = case when term = $1 and size = $2 then term end`
	const move = `update head set term = case when term = $1 and size = $2 then term end, size = $3, root = $4`
	if to == from {
		all.add("keep the head", 1, keep, term, from)
		return
	}
	all.add("move the head", 1, move, term, from, to, root[:])
}

// writeLog puts entries, openings, hashes and the lines of accounts in by one statement: what it costs a server to begin one is most of
// a small batch.
func writeLog(all *statements, b *batch, size int64, nodes []tlog.Hash, g *guards) {
	const write = `with openings as (insert into opening (seq, sealed) select * from unnest($5::bigint[], $6::bytea[])),
		nodes as (insert into node (idx, hash) values ($7, $8)),
		lines as (insert into account_entry (account, seq) select * from unnest($9::bytea[], $10::bigint[]))
		insert into entry (seq, kind, leaf, hash) select * from unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[])`
	n := len(b.entries)
	var sealed []int64
	var openings many
	seqs, kinds, leaves, hashes := make([]int64, n), make([]string, n), make(many, n), make(many, n)
	for i := range b.entries {
		e := &b.entries[i]
		seqs[i], kinds[i], leaves[i], hashes[i] = e.entry.Seq, string(e.entry.Kind), e.leaf, e.hash[:]
		if e.opening != nil {
			sealed, openings = append(sealed, e.entry.Seq), append(openings, e.opening)
		}
	}
	grown := make([]byte, 0, len(nodes)*tlog.HashSize)
	for i := range nodes {
		grown = append(grown, nodes[i][:]...)
	}
	all.add("write entries", int64(n), write, seqs, kinds, leaves, hashes, sealed, openings, tlog.NodeCount(size), grown, g.accounts, g.seqs)
}
