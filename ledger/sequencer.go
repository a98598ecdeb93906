package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

const (
	maxBatch = 500  // commands that share one transaction
	maxQueue = 2000 // commands that wait; one more is told to come back
)

var (
	// errBusy is returned when the queue is full: nothing happened, the caller may retry.
	errBusy = errors.New("the sequencer's queue is full")
	// errStopped is returned when the sequencer ended before the command's commit was known. The caller may ask again
	// with the same idempotency key.
	errStopped = errors.New("the sequencer stopped")
)

// A command is one piece of work for the sequencer's goroutine. It sees the state that all earlier commands left and writes
// through the batch's transaction. It first decides, then appends: an error after an append is a broken invariant.
type command struct {
	name string
	run  func(ctx context.Context, b *batch) (any, error)
	done chan outcome
}

type outcome struct {
	answer any
	err    error
}

// A batch is what one transaction writes.
type batch struct {
	tx      pgx.Tx
	state   *rules.State
	now     time.Time
	entries []staged
	seq     *sequencer
}

type staged struct {
	entry   *entry.Entry
	leaf    []byte
	opening []byte
}

// decide asks the rules and, if they agree, stages and applies what they answer. A *rules.Refusal comes back unchanged.
func (b *batch) decide(cmd rules.Command) ([]*entry.Entry, error) {
	entries, err := rules.Decide(b.state, cmd)
	if err != nil {
		return nil, err
	}
	return pointers(entries), b.append(pointers(entries))
}

func pointers(entries []entry.Entry) []*entry.Entry {
	out := make([]*entry.Entry, len(entries))
	for i := range entries {
		out[i] = &entries[i]
	}
	return out
}

// append seals and encodes all entries before it applies the first: what cannot be a leaf changes nothing.
func (b *batch) append(entries []*entry.Entry) error {
	add := make([]staged, len(entries))
	for i, e := range entries {
		if want := b.seq.log.size() + int64(len(b.entries)+i); e.Seq != want {
			return broken("entry says index %d, the log is at %d", e.Seq, want)
		}
		opening, err := e.Seal(rand.Reader)
		if err != nil {
			return broken("%w", err)
		}
		if opening != nil {
			if add[i].opening, err = opening.Encode(); err != nil {
				return broken("opening of entry %d: %w", e.Seq, err)
			}
		}
		if add[i].leaf, err = e.Encode(); err != nil {
			return xrpc.Errorf(http.StatusBadRequest, "InvalidRecord", "the record makes no entry of the log: %v", err)
		}
		add[i].entry = e
	}
	for _, s := range add {
		if err := rules.Apply(b.state, *s.entry); err != nil {
			return broken("apply entry %d: %w", s.entry.Seq, err)
		}
		b.seq.note(s.entry)
	}
	b.entries = append(b.entries, add...)
	return nil
}

var errBroken = errors.New("broken invariant")

func broken(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errBroken}, a...)...)
}

// The sequencer is the only writer of the log: one goroutine that owns the state in memory.
//
// Order of a batch: decide and apply in memory, write entries, nodes, guards and side effects, move the head where the term is
// still ours, COMMIT, read the head back, sign it, answer. Memory runs ahead of the database only between the first and the COMMIT;
// when that is not known to have happened, Run returns an error and the process reloads from the log.
type sequencer struct {
	store  *store
	log    *treeLog
	state  *rules.State
	clock  clock.Clock
	sign   func(size int64, root tlog.Hash) (*Checkpoint, error)
	world  func(ctx context.Context) ([]Sighting, error) // what others have seen of the log
	queue  chan *command
	ended  chan struct{}
	latest atomic.Pointer[Checkpoint]
	totals atomic.Pointer[[]rules.Totals]
	grown  chan struct{} // one token: the tree grew since somebody looked
	term   int64
	conn   lockedConn
	bound  map[syntax.DID]*entry.Bind // roles as the log has them; for the sequencer's goroutine alone
}

// do hands a command over and waits for its COMMIT. A caller that leaves early does not undo the command.
func (s *sequencer) do(ctx context.Context, name string, run func(ctx context.Context, b *batch) (any, error)) (any, error) {
	c := &command{name: name, run: run, done: make(chan outcome, 1)}
	select {
	case <-s.ended:
		return nil, errStopped
	default:
	}
	select {
	case s.queue <- c:
	default:
		return nil, errBusy
	}
	return s.await(ctx, c)
}

// must is do for the ledger's own parts: it waits for room in the queue.
func (s *sequencer) must(ctx context.Context, name string, run func(ctx context.Context, b *batch) (any, error)) (any, error) {
	c := &command{name: name, run: run, done: make(chan outcome, 1)}
	select {
	case s.queue <- c:
	case <-s.ended:
		return nil, errStopped
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.await(ctx, c)
}

func (s *sequencer) await(ctx context.Context, c *command) (any, error) {
	select {
	case o := <-c.done:
		return o.answer, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ended:
		select {
		case o := <-c.done:
			return o.answer, o.err
		default:
			return nil, errStopped
		}
	}
}

// run works until ctx ends or a batch fails. A failed batch is final for this process.
func (s *sequencer) run(ctx context.Context) error {
	defer close(s.ended)
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-s.queue:
			if err := s.commit(ctx, s.gather(c)); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("sequencer: %w", err)
			}
		}
	}
}

// gather takes what waits, without lingering.
func (s *sequencer) gather(first *command) []*command {
	cmds := []*command{first}
	for len(cmds) < maxBatch {
		select {
		case c := <-s.queue:
			cmds = append(cmds, c)
		default:
			return cmds
		}
	}
	return cmds
}

func (s *sequencer) commit(ctx context.Context, cmds []*command) (err error) {
	crash.Point("ledger/sequencer/before-begin")
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx)) // the batch's own error is the one that counts
		}
	}()
	b := &batch{tx: tx, state: s.state, now: s.clock.Now().UTC(), seq: s}
	outcomes := make([]outcome, len(cmds))
	for i, c := range cmds {
		if outcomes[i], err = b.one(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	nodes, root, err := s.log.grow(b.entries)
	if err != nil {
		return err
	}
	if err := s.store.writeBatch(ctx, b, s.term, s.log.size(), nodes, root); err != nil {
		return err
	}
	crash.Point("ledger/sequencer/after-inserts")
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	crash.Point("ledger/sequencer/after-commit")
	if len(b.entries) > 0 {
		if err := s.log.accept(int64(len(b.entries)), nodes); err != nil {
			return err
		}
		s.totals.Store(new(s.state.Epochs()))
		if err := s.publish(ctx, root); err != nil {
			return err
		}
	}
	for i, c := range cmds {
		c.done <- outcomes[i]
	}
	crash.Point("ledger/sequencer/after-answer")
	return nil
}

// one runs a command. Answers for the caller (refusals, named errors) are outcomes; all else ends the batch.
func (b *batch) one(ctx context.Context, c *command) (o outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = broken("panic: %v\n%s", p, debug.Stack())
		}
	}()
	before := len(b.entries)
	answer, err := c.run(ctx, b)
	if err == nil {
		return outcome{answer: answer}, nil
	}
	if !isAnswer(err) {
		return outcome{}, err
	}
	if len(b.entries) != before {
		return outcome{}, broken("refused after %d entries were staged: %w", len(b.entries)-before, err)
	}
	return outcome{err: err}, nil
}

// publish signs the head as the database gives it back after the COMMIT, never as memory has it.
func (s *sequencer) publish(ctx context.Context, want tlog.Hash) error {
	_, size, root, err := s.store.head(ctx, s.conn)
	if err != nil {
		return fmt.Errorf("read head back: %w", err)
	}
	if size != s.log.size() || root != want {
		return broken("head reads back as %d %s, written was %d %s", size, root, s.log.size(), want)
	}
	crash.Point("ledger/checkpoint/before-sign")
	cp, err := s.sign(size, root)
	if err != nil {
		return fmt.Errorf("sign checkpoint %d: %w", size, err)
	}
	s.latest.Store(cp)
	crash.Point("ledger/checkpoint/after-sign")
	select {
	case s.grown <- struct{}{}:
	default:
	}
	return nil
}
