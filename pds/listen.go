package pds

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/firehose"
)

// waker tells the stream, or who announces it, that the table of events may have grown. A wake that nobody
// waits for is kept, and several are one: what counts is the table.
type waker struct{ c chan struct{} }

func newWaker() *waker { return &waker{c: make(chan struct{}, 1)} }

func (w *waker) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

const (
	listenRetryMin = 100 * time.Millisecond
	listenRetryMax = 10 * time.Second
	listenQuiet    = 30 * time.Second
	listenPing     = 10 * time.Second
)

// listen holds one connection that the database wakes. After a break it wakes the
// stream once, since notifications of the meantime are lost.
func (s *Server) listen(ctx context.Context) error {
	wait := listenRetryMin
	for {
		err := s.listenOnce(ctx, func() { wait = listenRetryMin })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.log.Warn("event listener lost its connection", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, listenRetryMax)
	}
}

func (s *Server) listenOnce(ctx context.Context, listening func()) error {
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("listen for events: %w", err)
	}
	conn := pooled.Hijack() // held for good: it must not count against the pool
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var schema string
	if err := conn.QueryRow(ctx, `select current_schema()`).Scan(&schema); err != nil {
		return fmt.Errorf("listen for events: %w", err)
	}
	if _, err := conn.Exec(ctx, "listen "+notifyChannel); err != nil {
		return fmt.Errorf("listen for events: %w", err)
	}
	listening()
	s.wake.wake()
	for {
		payload, err := awaitNotice(ctx, conn)
		if err != nil {
			return fmt.Errorf("wait for events: %w", err)
		}
		if payload == "" {
			s.wake.wake()
			continue
		}
		if last, ok := strings.CutPrefix(payload, schema+" "); ok {
			if seq, err := strconv.ParseInt(last, 10, 64); err != nil || seq > s.stream.Newest() {
				s.wake.wake()
			}
			s.written.wake()
		}
	}
}

// spread hands the frames of a transaction that is over to the stream, which need not read them back, and has other processes told.
func (s *Server) spread(frames []firehose.Frame) {
	if !s.stream.Offer(frames) {
		s.wake.wake()
	}
	s.written.wake()
	s.notices.wake()
}

// noticePause is the least time between two notices. Each costs as much as a small write, and one is enough for all that was written before it:
// with one every few milliseconds a client that writes alone wrote a twentieth less.
const noticePause = 20 * time.Millisecond

// notify tells the other processes of the same database what spread gave to the stream of this one. A process that ends before it told leaves
// them to the next notice, or to the look at the table that each of them takes after a silence.
func (s *Server) notify(ctx context.Context) error {
	// There is nothing in a notice that would have to be on disk before it is sent.
	const tell = `
		select set_config('synchronous_commit', 'off', true), pg_notify($1, current_schema() || ' ' || seq) from event_head`
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.notices.c:
		}
		err := patiently(ctx, func() error {
			_, err := s.pool.Exec(ctx, tell, notifyChannel)
			return err
		})
		if err != nil && ctx.Err() == nil {
			s.log.Error("other processes not told of events", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(noticePause):
		}
	}
}

// awaitNotice answers with a notification's payload, or with none after a silence in
// which the connection proved to be alive: a peer that vanished without a word would
// otherwise be waited for for ever.
func awaitNotice(ctx context.Context, conn *pgx.Conn) (payload string, err error) {
	quiet, cancel := context.WithTimeout(ctx, listenQuiet)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	if err == nil {
		return n.Payload, nil
	}
	if ctx.Err() != nil || quiet.Err() == nil {
		return "", err
	}
	alive, cancel := context.WithTimeout(ctx, listenPing)
	defer cancel()
	return "", conn.Ping(alive)
}
