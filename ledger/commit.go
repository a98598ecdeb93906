package ledger

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/ledger/tlog"
)

// write makes a batch lasting: entries, nodes, guards and head, COMMIT, the head read back and signed, the answers. It runs beside the
// sequencer's goroutine and must not look at the state, which may be a batch ahead. An error is final for the process.
func (s *sequencer) write(ctx context.Context, b *batch) error {
	took := prometheus.NewTimer(s.metrics.commit)
	nodes, root, err := s.log.grow(b.entries)
	if err != nil {
		return err
	}
	size := s.log.size()
	all, err := writeBatch(b, s.term, size, nodes, root, &s.call)
	if err != nil {
		return err
	}
	all.meanwhile = s.blanks.fill
	head, err := s.conn.write(ctx, all, b.tx.begun)
	if err != nil {
		return err
	}
	crash.Point("ledger/sequencer/after-commit")
	b.paper.reuse()
	if len(b.entries) > 0 {
		if err := s.log.accept(int64(len(b.entries)), nodes); err != nil {
			return err
		}
		if head.size != s.log.size() || head.root != root {
			return broken("head reads back as %d %s, written was %d %s", head.size, head.root, s.log.size(), root)
		}
		s.totals.Store(&b.totals)
		s.said = b.digest
		if err := s.publish(head); err != nil {
			return err
		}
	}
	s.metrics.batch.Observe(float64(len(b.commands)))
	took.ObserveDuration()
	for i, c := range b.commands {
		c.done <- b.outcomes[i]
	}
	crash.Point("ledger/sequencer/after-answer")
	return nil
}

// publish signs a head as the database gave it back after the COMMIT, never one that only memory has.
func (s *sequencer) publish(h head) error {
	crash.Point("ledger/checkpoint/before-sign")
	cp, err := s.sign(h.size, h.root, s.said.extensions())
	if err != nil {
		return fmt.Errorf("sign checkpoint %d: %w", h.size, err)
	}
	s.latest.Store(cp)
	crash.Point("ledger/checkpoint/after-sign")
	select {
	case s.grown <- struct{}{}:
	default:
	}
	return nil
}

// A head is the log's last row of itself: which term wrote how many entries under which root.
type head struct {
	term, size int64
	root       tlog.Hash
}
