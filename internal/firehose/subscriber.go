package firehose

import (
	"context"
	"errors"
	"time"

	"github.com/coder/websocket"
)

var (
	errClosed       = errors.New("closed by the reader")
	errStopped      = errors.New("server stopped")
	errTooSlow      = errors.New("ConsumerTooSlow")
	errFutureCursor = errors.New("FutureCursor")
)

// subscriber is one connection. It keeps no frames of its own: it reads the
// server's window, or the store while it is behind the window.
type subscriber struct {
	server *Server
	conn   *websocket.Conn
}

// listen reads so that pings and closes are seen; a subscriber has nothing to say.
func (c *subscriber) listen(ctx context.Context, cancel context.CancelCauseFunc) {
	c.conn.SetReadLimit(1 << 10)
	for {
		if _, _, err := c.conn.Reader(ctx); err != nil {
			cancel(errClosed)
			return
		}
	}
}

func (c *subscriber) run(ctx context.Context, cursor int64, given bool) error {
	s := c.server
	select {
	case <-s.ready:
	case <-ctx.Done():
		return errClosed
	}
	after, err := c.start(ctx, cursor, given)
	if err != nil {
		return err
	}
	ping := time.NewTicker(s.cfg.PingEvery)
	defer ping.Stop()
	live := !given
	for {
		frames, newest, covered, wake, stop := s.next(after)
		if stop {
			_ = c.conn.Close(websocket.StatusGoingAway, "")
			return errStopped
		}
		if live && newest-after > s.cfg.MaxLag {
			return c.fail(ctx, errTooSlow, "fell behind the stream")
		}
		if !covered {
			if frames, err = s.store.Page(ctx, after, s.cfg.PageSize); err != nil {
				return err
			}
			if len(frames) == 0 || frames[0].Seq > after+1 {
				gone, err := c.pruned(ctx, after)
				if err != nil {
					return err
				}
				if gone > after {
					after = gone
					continue
				}
			}
			if len(frames) == 0 { // nothing of what was is left
				after = newest
				continue
			}
		}
		for _, f := range frames {
			if err := c.write(ctx, f.Bytes); err != nil {
				return err
			}
			after = f.Seq
		}
		if len(frames) > 0 {
			continue
		}
		live = true
		select {
		case <-ctx.Done():
			return errClosed
		case <-wake:
		case <-ping.C:
			if err := c.ping(ctx); err != nil {
				return err
			}
		}
	}
}

// start applies the cursor rules and gives the sequence after which to begin.
func (c *subscriber) start(ctx context.Context, cursor int64, given bool) (int64, error) {
	if !given {
		return cursor, nil // the newest as it was before the handshake
	}
	oldest, newest, err := c.server.store.Bounds(ctx)
	switch {
	case err != nil:
		return 0, err
	case cursor > newest:
		return 0, c.fail(ctx, errFutureCursor, "cursor is ahead of this host")
	case cursor == 0 && oldest == 0: // none is kept
		return newest, nil
	case cursor == 0:
		return oldest - 1, nil
	}
	gone, err := c.pruned(ctx, cursor)
	return max(cursor, gone), err
}

// pruned gives the last sequence that is no longer kept. If a reader who has come to after misses some by that, it is told so first: also
// one that reads the past more slowly than it is cleared away.
func (c *subscriber) pruned(ctx context.Context, after int64) (int64, error) {
	oldest, _, err := c.server.store.Bounds(ctx)
	if err != nil || oldest <= after+1 {
		return 0, err
	}
	info, err := Encode(&Info{Name: "OutdatedCursor", Message: "events after this cursor are gone; the stream goes on with the oldest"})
	if err != nil {
		return 0, err
	}
	return oldest - 1, c.write(ctx, info)
}

func (c *subscriber) write(ctx context.Context, frame []byte) error {
	wctx, cancel := context.WithTimeoutCause(ctx, c.server.cfg.WriteTimeout, errTooSlow)
	defer cancel()
	err := c.conn.Write(wctx, websocket.MessageBinary, frame)
	if err != nil && context.Cause(wctx) != nil {
		return context.Cause(wctx)
	}
	return err
}

// fail says why in a last frame and closes.
func (c *subscriber) fail(ctx context.Context, reason error, message string) error {
	if err := c.write(ctx, ErrorFrame(reason.Error(), message)); err == nil {
		_ = c.conn.Close(websocket.StatusPolicyViolation, reason.Error())
	}
	return reason
}

func (c *subscriber) ping(ctx context.Context) error {
	pctx, cancel := context.WithTimeout(ctx, c.server.cfg.WriteTimeout)
	defer cancel()
	return c.conn.Ping(pctx)
}
