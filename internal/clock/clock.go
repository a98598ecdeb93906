// Package clock is the only source of time for service code.
//
// A service takes a Clock in its Deps and reads it once per transaction, so that
// one decision never sees two different moments and a test can choose the moment.
// Durations that only pace work (timeouts, tickers, backoff) stay with package time.
package clock

import (
	"sync"
	"time"
)

// Clock tells the present moment.
type Clock interface {
	// Now returns the present moment in UTC, without a monotonic reading, so that
	// two values compare, print and store alike.
	Now() time.Time
}

// System returns the machine's clock.
func System() Clock { return system{} }

type system struct{}

func (system) Now() time.Time { return time.Now().UTC().Round(0) }

// Manual is a clock that moves only when told to. It is safe for concurrent use.
type Manual struct {
	mu  sync.Mutex // guards now
	now time.Time
}

// New returns a manual clock that stands at t.
func New(t time.Time) *Manual { return &Manual{now: t.UTC().Round(0)} }

// Now returns the moment the clock stands at.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Set moves the clock to t, which may lie in its past.
func (m *Manual) Set(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = t.UTC().Round(0)
}

// Advance moves the clock by d and returns the new moment.
func (m *Manual) Advance(d time.Duration) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
	return m.now
}
