package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"city-sync.org/citysync/internal/firehose"
)

const (
	latencyWrites = 250 // of one round
	frameLimit    = 10 * time.Second
)

// arrivals notes when a commit's frame came.
type arrivals struct {
	mu        sync.Mutex // guards at
	at        map[string]time.Time
	moved     chan struct{} // holds a token after a change
	connected chan struct{}
	once      sync.Once
}

func (a *arrivals) Connected(context.Context) error {
	a.once.Do(func() { close(a.connected) })
	return nil
}

func (a *arrivals) Garbage(_ context.Context, err error) error { return err }

func (a *arrivals) Event(_ context.Context, ev firehose.Event) error {
	now := time.Now()
	c, ok := ev.(*firehose.Commit)
	if !ok {
		return nil
	}
	a.mu.Lock()
	a.at[c.Commit.String()] = now
	a.mu.Unlock()
	select {
	case a.moved <- struct{}{}:
	default:
	}
	return nil
}

// wait gives the moment a commit's frame came.
func (a *arrivals) wait(ctx context.Context, commit string) (time.Time, error) {
	for {
		a.mu.Lock()
		at, ok := a.at[commit]
		a.mu.Unlock()
		if ok {
			return at, nil
		}
		select {
		case <-a.moved:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("frame of commit %s: %w", commit, ctx.Err())
		}
	}
}

// begun writes until a frame comes: a reader without a cursor is told what is new from a moment that only the host knows.
func (a *arrivals) begun(ctx context.Context, h *host) error {
	for ctx.Err() == nil {
		if _, err := h.users[0].write(ctx); err != nil {
			return err
		}
		select {
		case <-a.moved:
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// latency measures our own frames beside the writes that caused them.
func (b *bench) latency(ctx context.Context, s *server) error {
	for range rounds {
		frames, writes, err := b.frames(ctx, s.host)
		if err != nil {
			return err
		}
		for _, q := range quantiles {
			b.add("write answered to frame received, "+q.name, "ms", quantile(frames, q.q), "the write itself, ms", quantile(writes, q.q))
		}
	}
	return nil
}

var quantiles = []struct {
	name string
	q    float64
}{{"p50", 0.50}, {"p99", 0.99}}

// frames measures from the answer to a write until a reader of the firehose holds its frame, in milliseconds. A frame may come before the
// answer: the figure is negative then. Beside it stands the write itself, from request to answer.
func (b *bench) frames(ctx context.Context, h *host) (frames, writes []float64, err error) {
	a := &arrivals{at: map[string]time.Time{}, moved: make(chan struct{}, 1), connected: make(chan struct{})}
	client, err := firehose.NewClient(firehose.ClientConfig{Host: h.url, Cursor: firehose.NoCursor, HTTP: b.http, Log: b.log}, a)
	if err != nil {
		return nil, nil, err
	}
	reading, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- client.Run(reading) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-done)
	}()
	select {
	case <-a.connected:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if err := a.begun(ctx, h); err != nil {
		return nil, nil, err
	}
	for i := range latencyWrites {
		sent := time.Now()
		commit, err := h.users[i%len(h.users)].write(ctx)
		if err != nil {
			return nil, nil, err
		}
		answered := time.Now()
		waiting, stop := context.WithTimeout(ctx, frameLimit)
		came, err := a.wait(waiting, commit)
		stop()
		if err != nil {
			return nil, nil, err
		}
		frames = append(frames, milliseconds(came.Sub(answered)))
		writes = append(writes, milliseconds(answered.Sub(sent)))
	}
	return frames, writes, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
