package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	// drainLimit is how long requests under way may go on after a stop, and then again how
	// long streams may take to say good-bye.
	drainLimit = 5 * time.Second
	// portTries bounds the search for a free port that both address families can have.
	portTries = 20
)

// Listen opens port on 127.0.0.1 and, where this machine has it, on [::1], so that
// http://localhost:PORT is reached whichever a client tries first. Port 0 takes a free
// port, the same on both.
func Listen(port int) ([]net.Listener, error) {
	for try := 1; ; try++ {
		ls, err := listenBoth(port)
		if err == nil {
			return ls, nil
		}
		// Another process may hold the chosen number on the other family alone.
		if port != 0 || try == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}

func listenBoth(port int) ([]net.Listener, error) {
	var lc net.ListenConfig
	v4, err := lc.Listen(context.Background(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	chosen := Port(v4)
	v6, err := lc.Listen(context.Background(), "tcp6", net.JoinHostPort("::1", strconv.Itoa(chosen)))
	switch {
	case err == nil:
		return []net.Listener{v4, v6}, nil
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EPROTONOSUPPORT):
		return []net.Listener{v4}, nil // no IPv6 loopback here
	default:
		return nil, errors.Join(fmt.Errorf("listen on port %d: %w", chosen, err), v4.Close())
	}
}

// Port is the port number of a TCP listener.
func Port(l net.Listener) int {
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// Server is an HTTP server as a Component. It owns its listeners.
type Server struct {
	name      string
	listeners []net.Listener
	handler   http.Handler
	ready     chan struct{}
	drain     time.Duration
}

// HTTP serves handler on the listeners, which it closes at the end. Every request's
// context ends when the server stops: ordinary requests get drainLimit to finish before
// that, hijacked ones (WebSockets) learn by it that they must end, and are waited for.
func HTTP(name string, listeners []net.Listener, handler http.Handler) *Server {
	return &Server{name: name, listeners: listeners, handler: handler, ready: make(chan struct{}), drain: drainLimit}
}

// Name returns the server's name.
func (s *Server) Name() string { return s.name }

// Ready is closed when connections are accepted.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, then stops gracefully. It can run once.
func (s *Server) Run(ctx context.Context) error {
	base, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()

	active := newGate()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !active.enter() {
				http.Error(w, "shutting down", http.StatusServiceUnavailable)
				return
			}
			defer active.leave()
			s.handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return base },
	}

	served := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		go func() { served <- srv.Serve(l) }()
	}
	close(s.ready) // the kernel queues connections from Listen on

	running := len(s.listeners)
	var errs []error
	select {
	case <-ctx.Done():
	case err := <-served:
		running--
		errs = append(errs, fmt.Errorf("serve: %w", err))
	}
	errs = append(errs, s.stop(ctx, srv, endStreams, active))
	for range running {
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, fmt.Errorf("serve: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (s *Server) stop(ctx context.Context, srv *http.Server, endStreams func(), active *gate) error {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	err := srv.Shutdown(grace)
	endStreams()
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close() // the slow ones have had their time; that is no failure of ours
	}

	timer := time.NewTimer(s.drain)
	defer timer.Stop()
	select {
	case <-active.close():
		return err
	case <-timer.C:
		return errors.Join(err, fmt.Errorf("open requests: %w", ErrStuck))
	}
}

// gate counts the handlers under way, hijacked ones included, and lets none in once closed.
type gate struct {
	mu     sync.Mutex // guards the fields below
	n      int
	closed bool
	empty  chan struct{} // closed when closed is set and n is 0
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.n++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.closed && g.n == 0 {
		close(g.empty)
	}
}

// close is called once.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.n == 0 {
		close(g.empty)
	}
	return g.empty
}
