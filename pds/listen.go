package pds

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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
		if payload == schema || payload == "" {
			s.wake.wake()
		}
		if payload == schema {
			s.written.wake()
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
