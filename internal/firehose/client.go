package firehose

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// NoCursor asks for nothing but new events.
const NoCursor int64 = -1

// Handler receives the stream. All calls come from one goroutine, in the order
// of the wire.
type Handler interface {
	// Connected is called after each dial, before the first event of that
	// connection.
	Connected(ctx context.Context) error
	// Event receives every event, also those without a sequence. After it returns
	// nil the client remembers the event's sequence. Its error ends [Client.Run].
	Event(ctx context.Context, ev Event) error
	// Garbage receives a frame that could not be read; it is skipped.
	Garbage(ctx context.Context, err error) error
}

// Disconnecter is implemented by a Handler that also wants to know when a connection that was told as Connected is over.
type Disconnecter interface {
	Disconnected()
}

// ClientConfig says what to read and how patiently; zero fields take defaults.
type ClientConfig struct {
	Host       string       // http(s) URL of the host
	Cursor     int64        // events with a greater sequence; 0 the oldest; NoCursor only new ones
	HTTP       *http.Client // for the dial
	Log        *slog.Logger
	MinBackoff time.Duration // first pause after a failure, doubled each time; default 500 ms
	MaxBackoff time.Duration // default 30 s
	PingEvery  time.Duration // default 30 s; a ping unanswered that long ends the connection
}

// Client reads one host's stream and dials again whenever it breaks.
type Client struct {
	cfg    ClientConfig
	url    *url.URL
	cursor int64
	h      Handler
}

// NewClient checks the address and makes a client.
func NewClient(cfg ClientConfig, h Handler) (*Client, error) {
	u, err := url.Parse(cfg.Host)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("firehose host %q: not an http address", cfg.Host)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/xrpc/com.atproto.sync.subscribeRepos"
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{}
	}
	// The dial's timeout would otherwise end the whole subscription.
	hc := *cfg.HTTP
	hc.Timeout = 0
	cfg.HTTP = &hc
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MinBackoff <= 0 {
		cfg.MinBackoff = 500 * time.Millisecond
	}
	if cfg.MaxBackoff <= 0 {
		cfg.MaxBackoff = 30 * time.Second
	}
	if cfg.PingEvery <= 0 {
		cfg.PingEvery = 30 * time.Second
	}
	return &Client{cfg: cfg, url: u, cursor: cfg.Cursor, h: h}, nil
}

// SetCursor changes where the next connection begins. Only a [Handler] method
// may call it, while it runs.
func (c *Client) SetCursor(seq int64) { c.cursor = seq }

// handlerError is an error of our own side: it ends Run instead of a dial.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }
func (e *handlerError) Unwrap() error { return e.err }

// Run reads until ctx ends (nil) or the handler fails (its error). What the
// host does or sends never ends it.
func (c *Client) Run(ctx context.Context) error {
	pause := c.cfg.MinBackoff
	for {
		events, err := c.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var own *handlerError
		if errors.As(err, &own) {
			return own.err
		}
		if events > 0 {
			pause = c.cfg.MinBackoff
		}
		c.cfg.Log.Info("firehose connection ended", "host", c.url.Host, "cursor", c.cursor, "reason", fmt.Sprint(err), "pause", pause)
		// Full jitter, so that many clients do not return together.
		t := time.NewTimer(pause/2 + rand.N(pause/2+1)) //nolint:gosec // it only spreads load
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		pause = min(2*pause, c.cfg.MaxBackoff)
	}
}

// session reads one connection. The handler gets the outer context: a broken
// connection must not abort what it is saving.
func (c *Client) session(outer context.Context) (events int, err error) {
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	u := *c.url
	if c.cursor != NoCursor {
		u.RawQuery = url.Values{"cursor": {strconv.FormatInt(c.cursor, 10)}}.Encode()
	}
	dctx, done := context.WithTimeout(ctx, c.cfg.PingEvery)
	conn, _, err := websocket.Dial(dctx, //nolint:bodyclose // the connection owns the answer's body
		u.String(), &websocket.DialOptions{HTTPClient: c.cfg.HTTP})
	done()
	if err != nil {
		return 0, fmt.Errorf("dial: %w", err)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(MaxFrame)
	if d, ok := c.h.(Disconnecter); ok {
		defer d.Disconnected()
	}
	if err := c.h.Connected(outer); err != nil {
		return 0, &handlerError{err}
	}
	var reading atomic.Bool
	go c.ping(ctx, conn, &reading, cancel)
	for {
		reading.Store(true)
		kind, frame, err := conn.Read(ctx)
		reading.Store(false)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return events, err
		}
		if kind != websocket.MessageBinary {
			err = fmt.Errorf("%w: text message", ErrFrame)
		}
		var ev Event
		if err == nil {
			ev, err = Decode(frame)
		}
		if err != nil {
			if err := c.h.Garbage(outer, err); err != nil {
				return events, &handlerError{err}
			}
			continue
		}
		if err := c.h.Event(outer, ev); err != nil {
			return events, &handlerError{err}
		}
		events++
		if seq := ev.Sequence(); seq > 0 {
			c.cursor = seq
		}
		if f, ok := ev.(*Failure); ok {
			return 0, fmt.Errorf("host says %s: %s", clip(f.Name), clip(f.Message))
		}
	}
}

// ping ends the session when the host stops answering while we wait for it. A
// pong is seen by the reader only, so a busy handler says nothing about the host.
func (c *Client) ping(ctx context.Context, conn *websocket.Conn, reading *atomic.Bool, cancel context.CancelCauseFunc) {
	t := time.NewTicker(c.cfg.PingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !reading.Load() {
			continue
		}
		pctx, done := context.WithTimeout(ctx, c.cfg.PingEvery)
		err := conn.Ping(pctx)
		done()
		if err != nil && reading.Load() {
			cancel(fmt.Errorf("ping: %w", err))
			return
		}
	}
}

// clip shortens a stranger's text for a log line.
func clip(s string) string { return strconv.Quote(s[:min(len(s), 100)]) }
