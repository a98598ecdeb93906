package ledger

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/ledger/tlog"
)

// A flight is a batch on its way: what it adds to the log, as it was or will be sent.
type flight struct {
	*batch
	took  *prometheus.Timer
	call  *written
	size  int64       // of the log before it
	nodes []tlog.Hash // that it adds
	root  tlog.Hash   // with it
	sent  bool
	done  chan struct{} // closed when it is lasting and answered
	err   error         // it could not be sent
}

// ready works out what a batch writes. before is the batch before it, which may not be lasting yet; nil: there is none on its way.
func (s *sequencer) ready(b *batch, before *flight) (f *flight, err error) {
	f = &flight{batch: b, took: prometheus.NewTimer(s.metrics.commit), done: make(chan struct{})}
	if f.nodes, f.root, f.size, err = s.log.grow(b.entries, before); err != nil {
		return nil, err
	}
	f.call, err = writeBatch(b, s.term, f.size, f.nodes, f.root, &s.call)
	return f, err
}

// write makes a batch lasting while no other is on its way. An error is final for the process.
func (s *sequencer) write(ctx context.Context, b *batch) error {
	f, err := s.ready(b, nil)
	if err != nil {
		return err
	}
	return s.land(ctx, f)
}

// land makes a batch lasting: entries, nodes, guards and head, COMMIT, the head read back, its checkpoint released, the answers. It may
// run beside the sequencer's goroutine and must not look at the state, which may be two batches ahead. An error is final for the process.
//
// Where nothing outside this process can tell that something was signed, the checkpoint is signed while the database works. Released it is
// only when the head has come back with the same size and root: a COMMIT that fails, or of which nothing is heard, takes it along, since it
// stands nowhere but on this stack. A signer that remembers, or that others share, signs what the database has, and nothing else: it would
// hold the log to a batch that was never written.
func (s *sequencer) land(ctx context.Context, f *flight) error {
	b := f.batch
	var cp *Checkpoint // of what commits; until it has, nobody but this function has it
	f.call.meanwhile = func() (err error) {
		if len(b.entries) > 0 && s.ahead {
			if cp, err = s.signed(f.size+int64(len(b.entries)), f.root, b.digest); err != nil {
				return err
			}
		}
		return s.blanks.fill()
	}
	head, err := s.conn.write(ctx, f.call, b.tx.begun, f.sent)
	if err != nil {
		return err
	}
	crash.Point("ledger/sequencer/after-commit")
	b.paper.reuse()
	if len(b.entries) > 0 {
		if err := s.log.accept(int64(len(b.entries)), f.nodes); err != nil {
			return err
		}
		if head.size != s.log.size() || head.root != f.root {
			return broken("head reads back as %d %s, written was %d %s", head.size, head.root, s.log.size(), f.root)
		}
		s.totals.Store(&b.totals)
		s.said = b.digest
		if cp == nil {
			if cp, err = s.signed(head.size, head.root, s.said); err != nil {
				return err
			}
		}
		s.release(cp)
	}
	s.metrics.batch.Observe(float64(len(b.commands)))
	f.took.ObserveDuration()
	for i, c := range b.commands {
		c.done <- b.outcomes[i]
	}
	crash.Point("ledger/sequencer/after-answer")
	close(f.done)
	return nil
}

// publish signs a head that the database has, and gives it to readers.
func (s *sequencer) publish(h head) error {
	cp, err := s.signed(h.size, h.root, s.said)
	if err != nil {
		return err
	}
	s.release(cp)
	return nil
}

func (s *sequencer) signed(size int64, root tlog.Hash, said digested) (*Checkpoint, error) {
	crash.Point("ledger/checkpoint/before-sign")
	cp, err := s.sign(size, root, said.extensions())
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint %d: %w", size, err)
	}
	return cp, nil
}

// release gives a checkpoint to readers: one of a head that the database gave back after the COMMIT, never of one that only memory has.
func (s *sequencer) release(cp *Checkpoint) {
	s.latest.Store(cp)
	crash.Point("ledger/checkpoint/after-sign")
	select {
	case s.grown <- struct{}{}:
	default:
	}
}

// A head is the log's last row of itself: which term wrote how many entries under which root.
type head struct {
	term, size int64
	root       tlog.Hash
}
