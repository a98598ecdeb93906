package firehose

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Frame is one stored event: its sequence and its bytes as made by [Encode].
type Frame struct {
	Seq   int64
	Bytes []byte
	// Erases says that events before this one are gone from the store, since somebody was deleted: no copy of them is kept either.
	Erases bool
}

// Store is where a host keeps its events. Sequences rise strictly and become
// visible in their order.
type Store interface {
	// Bounds gives the oldest and the newest sequence kept. oldest is 0, or above
	// newest, where none is kept; newest is the highest ever given out, even if
	// the events are pruned, and 0 before the first.
	Bounds(ctx context.Context) (oldest, newest int64, err error)
	// Page gives up to limit events with a sequence above after, in order.
	Page(ctx context.Context, after int64, limit int) ([]Frame, error)
}

// ServerConfig tunes a [Server]; zero fields take the defaults.
type ServerConfig struct {
	Window         int           // newest frames kept in memory for all subscribers; default 2,000
	WindowBytes    int           // and their bytes; default 64 MiB
	PageSize       int           // events read from the store at once; default 200
	MaxLag         int64         // events a live subscriber may fall behind; default 2,000
	WriteTimeout   time.Duration // for one frame; default 30 s
	MaxSubscribers int           // default 500
	PingEvery      time.Duration // default 30 s
	Log            *slog.Logger  // default: discard
}

func (c ServerConfig) withDefaults() ServerConfig {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.Window, 2000)
	def(&c.WindowBytes, 64<<20)
	def(&c.PageSize, 200)
	def(&c.MaxSubscribers, 500)
	if c.MaxLag <= 0 {
		c.MaxLag = 2000
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 30 * time.Second
	}
	if c.PingEvery <= 0 {
		c.PingEvery = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Server serves com.atproto.sync.subscribeRepos. [Server.Run] must be running
// for subscribers to receive anything beyond what the store already holds.
type Server struct {
	store  Store
	notify <-chan struct{}
	cfg    ServerConfig

	mu     sync.Mutex // guards the fields below
	window []Frame    // the newest frames, rising
	bytes  int
	newest int64         // highest sequence known, in the window or before it
	wake   chan struct{} // closed when newest rises or the server stops
	stop   bool
	subs   int
	ready  chan struct{} // closed once newest is known
}

// NewServer makes a server. A receive from notify says that the store may have
// new events: send to it without blocking after each commit, on a channel with
// room for one.
func NewServer(store Store, notify <-chan struct{}, cfg ServerConfig) *Server {
	return &Server{store: store, notify: notify, cfg: cfg.withDefaults(), wake: make(chan struct{}), ready: make(chan struct{})}
}

// Name implements service.Component.
func (*Server) Name() string { return "firehose server" }

// Run follows the store's tail until ctx ends or the store fails. Then every
// subscriber is closed.
func (s *Server) Run(ctx context.Context) error {
	defer s.shut()
	_, newest, err := s.store.Bounds(ctx)
	if err != nil {
		return fmt.Errorf("firehose bounds: %w", err)
	}
	s.mu.Lock()
	s.newest = newest
	s.mu.Unlock()
	close(s.ready)
	for {
		if err := s.pull(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.notify:
		}
	}
}

// pull moves all new events into the window.
func (s *Server) pull(ctx context.Context) error {
	for {
		s.mu.Lock()
		after := s.newest
		s.mu.Unlock()
		page, err := s.store.Page(ctx, after, s.cfg.PageSize)
		if err != nil {
			return fmt.Errorf("firehose page after %d: %w", after, err)
		}
		if len(page) == 0 {
			return nil
		}
		if err := rising(after, page); err != nil {
			return err
		}
		s.push(page)
	}
}

func rising(after int64, page []Frame) error {
	for _, f := range page {
		if f.Seq <= after {
			return fmt.Errorf("firehose: store gave %d after %d", f.Seq, after)
		}
		after = f.Seq
	}
	return nil
}

// Offer hands over frames that the store holds, by who has just put them there: the next ones need not be read back. Others are ignored,
// and come from the store with the next notice: the answer is false then.
func (s *Server) Offer(frames []Frame) bool {
	select {
	case <-s.ready:
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(frames) == 0 || frames[0].Seq != s.newest+1 {
		return false
	}
	s.take(frames)
	return true
}

// Newest is the highest sequence that subscribers can have.
func (s *Server) Newest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

func (s *Server) push(page []Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(page) > 0 && page[0].Seq <= s.newest { // was offered meanwhile
		page = page[1:]
	}
	s.take(page)
}

// take moves the next frames into the window. The caller has the lock.
func (s *Server) take(page []Frame) {
	for _, f := range page {
		if f.Erases {
			s.window, s.bytes = nil, 0 // who is still reading them asks the store from here on
		}
		s.window = append(s.window, f)
		s.bytes += len(f.Bytes)
		s.newest = f.Seq
	}
	drop := 0
	for len(s.window)-drop > s.cfg.Window || s.bytes > s.cfg.WindowBytes {
		s.bytes -= len(s.window[drop].Bytes)
		drop++
	}
	clear(s.window[:drop]) // the array is left with the next growth, the frames are now
	s.window = s.window[drop:]
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *Server) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = true
	close(s.wake)
	s.wake = make(chan struct{})
}

// next gives frames above after from memory. If they are no longer, or not yet,
// there, frames is nil: covered says whether the store must be asked.
func (s *Server) next(after int64) (frames []Frame, newest int64, covered bool, wake <-chan struct{}, stop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after >= s.newest {
		return nil, s.newest, true, s.wake, s.stop
	}
	if len(s.window) == 0 || s.window[0].Seq > after+1 {
		return nil, s.newest, false, s.wake, s.stop
	}
	lo, hi := 0, len(s.window)
	for lo < hi {
		mid := (lo + hi) / 2
		if s.window[mid].Seq <= after {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	end := min(len(s.window), lo+s.cfg.PageSize)
	return slices.Clone(s.window[lo:end]), s.newest, true, s.wake, s.stop
}

// ServeHTTP implements the subscription: `cursor` gives events with a greater
// sequence, 0 all that are kept, none only what is new.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cursor, given, err := parseCursor(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidRequest", "cursor must be a whole number")
		return
	}
	if !s.join() {
		refuse(w, http.StatusServiceUnavailable, "TooManySubscribers", "try again later")
		return
	}
	defer s.leave()
	if !given { // before the handshake: what is written after it must not be missed
		if _, cursor, err = s.store.Bounds(r.Context()); err != nil {
			s.cfg.Log.Warn("firehose subscriber not served", "error", err)
			refuse(w, http.StatusServiceUnavailable, "InternalServerError", "try again later")
			return
		}
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // public data: any origin may read
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	sub := &subscriber{server: s, conn: conn}
	go sub.listen(ctx, cancel)
	if err := sub.run(ctx, cursor, given); err != nil && ctx.Err() == nil {
		s.cfg.Log.Info("firehose subscriber ended", "reason", err.Error())
	}
}

func refuse(w http.ResponseWriter, status int, name, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"error":%q,"message":%q}`, name, message)
}

func parseCursor(r *http.Request) (int64, bool, error) {
	raw := r.URL.Query().Get("cursor")
	if raw == "" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err == nil && n < 0 {
		err = errors.New("negative")
	}
	return n, true, err
}

func (s *Server) join() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs >= s.cfg.MaxSubscribers || s.stop {
		return false
	}
	s.subs++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs--
}
