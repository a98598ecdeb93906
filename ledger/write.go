package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg/wire"
	"city-sync.org/citysync/ledger/tlog"
)

// statements are what a batch writes beside the log now and then, sent in one go. All are checked before the COMMIT.
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
	if len(s.rows) == 0 {
		return nil
	}
	results := conn.SendBatch(ctx, &s.queue)
	defer func() {
		if e := results.Close(); err == nil && e != nil {
			err = fmt.Errorf("write beside the log: %w", e)
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

// written is a batch as it is sent: what write_batch takes, and what the few batches that open or end an account have before and after it.
type written struct {
	before, after statements
	call          *arguments
	meanwhile     func() error // is done while the database works
}

// writeBatch collects what a batch adds to the log: leaves, openings, nodes, guards, and the head where the term is ours.
func writeBatch(b *batch, term, size int64, nodes []tlog.Hash, root tlog.Hash, call *arguments) (*written, error) {
	w := &written{call: call}
	g, err := guardsOf(&w.before, b)
	if err != nil {
		return nil, err
	}
	w.arguments(b, g, term, size, nodes, root)
	for _, f := range b.forgotten {
		f.write(&w.after)
	}
	return w, nil
}

// arguments are write_batch's, in its order.
func (w *written) arguments(b *batch, g *guards, term, size int64, nodes []tlog.Hash, root tlog.Hash) {
	n := len(b.entries)
	kinds, seqs := make([]string, n), make([]int64, 0, n)
	var leaves, openings places
	leaves.make(n)
	openings.make(n)
	for i := range b.entries {
		e := &b.entries[i]
		kinds[i] = string(e.entry.Kind)
		leaves.add(e.leaf)
		if e.opening != nil {
			seqs = append(seqs, e.entry.Seq)
			openings.add(e.opening)
		}
	}
	a := w.call
	a.Reset()
	a.Int8(term)
	a.Int8(size)
	a.Bytea(root[:])
	a.Int8(tlog.NodeCount(size))
	a.Texts(kinds)
	a.Int4s(leaves.starts)
	a.Int4s(leaves.sizes)
	a.Int8s(seqs)
	a.Int4s(openings.starts)
	a.Int4s(openings.sizes)
	a.Int8s(g.seqs)
	g.sums(a)
	a.Bytea(g.accounts)
	of := func(part func(e *staged) []byte) {
		a.Parts(func(yield func([]byte) bool) {
			for i := range b.entries {
				if !yield(part(&b.entries[i])) {
					return
				}
			}
		})
	}
	of(func(e *staged) []byte { return e.hash[:] })
	a.Parts(func(yield func([]byte) bool) {
		for i := range nodes {
			if !yield(nodes[i][:]) {
				return
			}
		}
	})
	of(func(e *staged) []byte { return e.opening })
	of(func(e *staged) []byte { return e.leaf })
}

// places are where values stand that follow each other in one.
type places struct {
	starts, sizes []int32
	next          int32
}

func (p *places) make(n int) { p.starts, p.sizes = make([]int32, 0, n), make([]int32, 0, n) }

func (p *places) add(value []byte) {
	p.starts, p.sizes = append(p.starts, p.next), append(p.sizes, int32(len(value)))
	p.next += int32(len(value))
}

const writeArguments = 31

// prepared are the statements of every batch.
type prepared struct{ write, commit, head *pgconn.StatementDescription }

func prepare(ctx context.Context, conn *pgx.Conn) (p prepared, err error) {
	list := make([]string, writeArguments)
	for i := range list {
		list[i] = "$" + strconv.Itoa(i+1)
	}
	for _, s := range []struct {
		to        **pgconn.StatementDescription
		name, sql string
	}{
		{&p.write, "batch_write", "select write_batch(" + strings.Join(list, ", ") + ")"},
		{&p.commit, "batch_commit", "commit"},
		{&p.head, "batch_head", readHead},
	} {
		if *s.to, err = conn.Prepare(ctx, s.name, s.sql); err != nil {
			return p, fmt.Errorf("prepare %s: %w", s.name, err)
		}
	}
	return p, nil
}

// whole tells whether a batch is one call and nothing else: then it is sent without a BEGIN, and another may be sent behind it.
func (w *written) whole(begun bool) bool {
	return !begun && len(w.before.rows) == 0 && len(w.after.rows) == 0
}

// write sends a batch and commits it, and gives the head as it then stands: in one round trip, where nothing stands beside the log. Where
// a statement fails the server does not come to the COMMIT behind it. A COMMIT that is not known to have happened is an error.
// One that was posted before is only waited for.
func (c lockedConn) write(ctx context.Context, w *written, begun, posted bool) (head, error) {
	if w.whole(begun) {
		if !posted {
			if err := c.post(ctx, w.call); err != nil {
				return head{}, err
			}
		}
		if err := w.mean(); err != nil {
			return head{}, err
		}
		return c.answer(ctx)
	}
	if !begun {
		if _, err := c.Exec(ctx, "begin"); err != nil {
			return head{}, fmt.Errorf("begin: %w", err)
		}
	}
	if err := w.before.send(ctx, c); err != nil {
		return head{}, err
	}
	if len(w.after.rows) == 0 {
		return c.send(ctx, w.call, true, w.mean)
	}
	if _, err := c.send(ctx, w.call, false, w.mean); err != nil {
		return head{}, err
	}
	if err := w.after.send(ctx, c); err != nil {
		return head{}, err
	}
	return c.send(ctx, nil, true, nil)
}

func (w *written) mean() error {
	if w.meanwhile == nil {
		return nil
	}
	return w.meanwhile()
}

// send is one exchange with the server inside a transaction.
func (c lockedConn) send(ctx context.Context, call *arguments, commit bool, meanwhile func() error) (h head, err error) {
	p := c.PgConn().StartPipeline(ctx)
	defer func() {
		if e := p.Close(); err == nil && e != nil {
			err = fmt.Errorf("write the batch: %w", e)
		}
	}()
	if call != nil {
		p.SendQueryStatement(c.prepared.write, call.Values(), binary1, binary1)
	}
	if commit {
		p.SendQueryStatement(c.prepared.commit, nil, nil, nil)
		p.SendQueryStatement(c.prepared.head, nil, nil, binary1)
	}
	p.SendPipelineSync()
	if err := wire.Flush(c.PgConn(), p); err != nil {
		return h, fmt.Errorf("send the batch: %w", err)
	}
	afterSend()
	if meanwhile != nil {
		if err := meanwhile(); err != nil {
			return h, err
		}
	}
	if call != nil {
		if _, err := wire.Answer(p); err != nil {
			return h, fmt.Errorf("write the batch: %w", guarded(err))
		}
	}
	if !commit {
		return h, nil
	}
	done, err := wire.Answer(p)
	if err != nil {
		return h, fmt.Errorf("commit: %w", err)
	}
	if tag := done.CommandTag.String(); tag != "COMMIT" { // a transaction that had failed is rolled back instead
		return h, broken("commit was answered by %s", tag)
	}
	read, err := wire.Answer(p)
	if err == nil && len(read.Rows) != 1 {
		err = broken("head has %d rows", len(read.Rows))
	}
	if err == nil {
		h, err = headOf(read.Rows[0])
	}
	if err != nil {
		return h, fmt.Errorf("read head back: %w", err)
	}
	return h, nil
}

// afterSend is where a batch is with the server, and nothing is known of it.
func afterSend() { crash.Point("ledger/sequencer/after-send") }

// What write_batch says where something is not as it must be.
const (
	otherWriter = "CS001"
	missedGuard = "CS002"
)

func guarded(err error) error {
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr):
		return err
	case pgErr.Code == otherWriter:
		return fmt.Errorf("%s: %w", pgErr.Message, ErrSecondWriter)
	case pgErr.Code == missedGuard:
		return broken("%w", err)
	}
	return err
}
