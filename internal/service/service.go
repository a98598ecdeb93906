// Package service runs the long-lived parts of one process.
//
// What holds:
//
//   - S1: parts start in the order given, each after the one before it is ready, and stop
//     in reverse order, so that nothing outlives what it needs.
//   - S2: each part runs in one goroutine that Run waits for. A panic in it becomes an
//     error that names the part; it never takes the process down half way.
//   - S3: the first part to fail stops all others. Stopping is bounded: a part that does
//     not return is named, and Run returns without it.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// stopLimit bounds the stop of one part. It is longer than the time a Server gives to
// requests that are under way.
const stopLimit = 20 * time.Second

// ErrStuck is wrapped by Run's error when a part did not return in time after its stop.
var ErrStuck = errors.New("did not stop in time")

// Component is one long-lived part.
type Component interface {
	// Name is short and stable: it stands in logs and errors.
	Name() string
	// Run works until ctx ends and then returns nil or ctx's error. Returning nil before
	// that means that this part's work is done; any other error stops the process.
	Run(ctx context.Context) error
}

// Readier is a Component that tells when the next one may start.
type Readier interface {
	// Ready is closed once, when the part can serve those that start after it.
	Ready() <-chan struct{}
}

// Func makes a component of a function.
func Func(name string, run func(context.Context) error) Component { return funcComponent{name, run} }

type funcComponent struct {
	name string
	run  func(context.Context) error
}

func (f funcComponent) Name() string                  { return f.name }
func (f funcComponent) Run(ctx context.Context) error { return f.run(ctx) }

// Run starts the components in order, waits until ctx ends, one fails or all are done,
// and stops them in reverse order. It returns nil after an orderly end, else every
// failure, each with the name of its part.
func Run(ctx context.Context, log *slog.Logger, components ...Component) error {
	return run(ctx, log, stopLimit, components)
}

// part is one running component.
type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{} // closed when the component has returned
	err    error         // read after done
}

func run(ctx context.Context, log *slog.Logger, limit time.Duration, components []Component) error {
	ended := make(chan *part, len(components)) // every part reports once, so none blocks here
	var parts []*part
	var failed error

	for _, c := range components {
		p := start(ctx, c, ended)
		parts = append(parts, p)
		log.Debug("started", "part", p.name)
		if r, ok := c.(Readier); ok {
			select {
			case <-r.Ready():
			case <-p.done:
			case <-ctx.Done():
			}
		}
		if failed = firstFailure(parts); failed != nil || ctx.Err() != nil {
			break
		}
	}

	for running := len(parts); failed == nil && running > 0 && ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case p := <-ended:
			running--
			failed = p.failure()
		}
	}
	if failed != nil {
		log.Error("stopping after a failure", "error", failed)
	}

	// failed is reported by stopAll too, as its part has ended.
	return stopAll(log, limit, parts)
}

// start runs c apart from ctx's cancellation: stopAll alone decides the order.
func start(ctx context.Context, c Component, ended chan<- *part) *part {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: c.Name(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer func() {
			if v := recover(); v != nil {
				p.err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
			close(p.done)
			ended <- p
		}()
		p.err = c.Run(ctx)
	}()
	return p
}

// failure is the error of a part that has ended, or nil after an orderly end.
func (p *part) failure() error {
	if p.err == nil || errors.Is(p.err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", p.name, p.err)
}

func firstFailure(parts []*part) error {
	for _, p := range parts {
		select {
		case <-p.done:
			if err := p.failure(); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

func stopAll(log *slog.Logger, limit time.Duration, parts []*part) error {
	var errs []error
	for i := len(parts) - 1; i >= 0; i-- {
		p := parts[i]
		p.cancel()
		timer := time.NewTimer(limit)
		select {
		case <-p.done:
			timer.Stop()
			log.Debug("stopped", "part", p.name)
			if err := p.failure(); err != nil {
				errs = append(errs, err)
			}
		case <-timer.C:
			errs = append(errs, fmt.Errorf("%s: %w (%s)", p.name, ErrStuck, limit))
		}
	}
	return errors.Join(errs...)
}
