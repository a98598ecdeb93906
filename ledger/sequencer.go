package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

const (
	maxBatch = 500  // commands that share one transaction
	maxAlone = 64   // commands of a batch that its builder writes itself, where nothing waits meanwhile
	maxQueue = 2000 // commands that wait; one more is told to come back
	maxAhead = 1    // batches that are on their way when another is sent behind them
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

// The sequencer is the only writer of the log. One goroutine owns the state in memory and builds batches; it writes those itself that are
// small and behind which nothing waits. The rest are sent by another, and waited for by a third, in their order, so that one batch is built
// while the one before it commits. A full batch is sent before that one's answer is in: the database takes it up at once.
//
// Order of a batch: decide and apply in memory; move the head where the term is still ours, write entries, nodes, guards and side
// effects, COMMIT, read the head back, release its checkpoint, answer. Memory is ahead of the database by the batches that are on their way
// and the one that is built, and nobody is answered from there: when a COMMIT is not known to have happened, run returns an error and the
// process reloads from the log.
type sequencer struct {
	store   *store
	log     *treeLog
	state   *rules.State
	clock   clock.Clock
	sign    func(size int64, root tlog.Hash, more []string) (*Checkpoint, error)
	world   func(ctx context.Context) ([]Sighting, error) // what others have seen of the log
	queue   chan *command
	ended   chan struct{}
	latest  atomic.Pointer[Checkpoint]
	totals  atomic.Pointer[[]rules.Totals]
	grown   chan struct{} // one token: the tree grew since somebody looked
	term    int64
	conn    lockedConn
	call    arguments // of the batch that is sent; for whoever sends
	blanks  blanks
	signing *signing
	ahead   bool                     // a checkpoint may be signed while its batch commits
	policy  atomic.Pointer[[32]byte] // hash of the quorum policy as the log names it; nil: none
	keys    atomic.Pointer[witnessKeys]
	bound   map[syntax.DID]*entry.Bind // roles as the log has them; for the sequencer's goroutine alone

	digest  digested // the last; for the sequencer's goroutine alone, as the next is
	forgot  int64    // seq of the digest at which old seeds were last looked for
	keyless int      // epochs whose keys were destroyed
	said    digested // the last that is committed, for whoever has the connection alone: what checkpoints say

	past  time.Time // of the last command, or of the newest entry at the start; for the sequencer's goroutine alone
	atMax string    // while a log is read back: the newest time in it

	flying int           // batches handed to the writer that have not landed; for the sequencer's goroutine alone
	landed chan struct{} // one token for each that has
	failed chan struct{} // closed when the writer gave up

	metrics *metrics // nil where a log is only read back
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
	built, sent := make(chan *batch, 1), make(chan *flight, maxAhead)
	var writer errgroup.Group
	writer.Go(func() error { return s.landAll(ctx, sent) })
	writer.Go(func() error {
		defer close(sent)
		s.sendAll(ctx, built, sent)
		return nil
	})
	err := s.buildAll(ctx, built)
	close(built)
	// What the writer says comes first: it is why nothing more was built.
	if err := cmp.Or(writer.Wait(), err); err != nil && ctx.Err() == nil {
		return fmt.Errorf("sequencer: %w", err)
	}
	return nil
}

// buildAll makes batches of what waits, without lingering: a batch takes commands on for as long as the one before it commits.
func (s *sequencer) buildAll(ctx context.Context, built chan<- *batch) error {
	for {
		b := s.newBatch()
		select {
		case <-ctx.Done():
			return nil
		case <-s.failed:
			return nil
		case c := <-s.queue:
			crash.Point("ledger/sequencer/before-begin")
			if err := b.take(ctx, c); err != nil {
				return err
			}
		}
		if err := s.fill(ctx, b); err != nil {
			if errors.Is(err, errStopped) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		b.close()
		if b.tx.owns && len(b.commands) <= maxAlone && len(s.queue) == 0 {
			if err := s.write(ctx, b); err != nil {
				return err
			}
			runtime.Gosched() // whom it answered may have more to ask
			continue
		}
		s.flying++
		select {
		case built <- b:
		case <-s.failed:
			return nil
		}
		runtime.Gosched() // the writer first: it would wait until another processor looks here for work
	}
}

// fill lets b take what waits, and then what comes until the connection is b's. A full batch does not wait for that: it is sent behind the
// one before it.
func (s *sequencer) fill(ctx context.Context, b *batch) error {
	for len(b.commands) < maxBatch {
		select {
		case c := <-s.queue:
			if err := b.take(ctx, c); err != nil {
				return err
			}
			continue
		default:
		}
		if b.tx.owns {
			return nil
		}
		if s.flying == 0 {
			b.tx.owns = true
			continue
		}
		select {
		case <-s.landed:
			s.flying--
			runtime.Gosched() // whom the batch before answered may have more to ask
		case c := <-s.queue:
			if err := b.take(ctx, c); err != nil {
				return err
			}
		case <-s.failed:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.until(ctx, maxAhead)
}

// until waits until no more than so many batches are on their way.
func (s *sequencer) until(ctx context.Context, flying int) error {
	for s.flying > flying {
		select {
		case <-s.landed:
			s.flying--
		case <-s.failed:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// sendAll sends batches in their order. One that is more than a call needs the connection for itself: it is sent when its turn has come, and
// nothing behind it before it has landed. Of two calls the second is executed when the first is over: where that one was taken back, the
// second does not find the head where it was to be, and is taken back too.
func (s *sequencer) sendAll(ctx context.Context, built <-chan *batch, sent chan<- *flight) {
	var before *flight
	for b := range built {
		f, err := s.ready(b, before)
		if err != nil {
			f = &flight{err: err}
		} else if f.call.whole(b.tx.begun) {
			f.sent, f.err = true, s.conn.post(ctx, f.call.call)
		}
		alone := f.err == nil && !f.sent
		select {
		case sent <- f:
		case <-s.failed:
			return
		}
		if f.err != nil {
			return
		}
		if alone {
			select {
			case <-f.done:
			case <-s.failed:
				return
			}
		}
		before = f
	}
}

// landAll waits for batches in the order in which they were sent.
func (s *sequencer) landAll(ctx context.Context, sent <-chan *flight) error {
	for f := range sent {
		err := f.err
		if err == nil {
			err = s.land(ctx, f)
		}
		if err != nil {
			s.conn.hangUp() // whoever still sends
			close(s.failed)
			return err
		}
		s.landed <- struct{}{}
	}
	return nil
}
