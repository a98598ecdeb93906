package service

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var quiet = slog.New(slog.DiscardHandler)

// diary records events in order.
type diary struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (d *diary) add(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

// worker runs until told to stop, and says so.
type worker struct {
	name  string
	diary *diary
	ready chan struct{}
}

func (w worker) Name() string           { return w.name }
func (w worker) Ready() <-chan struct{} { return w.ready }
func (w worker) Run(ctx context.Context) error {
	w.diary.add(w.name + " up")
	close(w.ready)
	<-ctx.Done()
	w.diary.add(w.name + " down")
	return ctx.Err()
}

func TestPartsStartInOrderAndStopInReverse(t *testing.T) { // S1
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var d diary
	parts := []Component{
		worker{"a", &d, make(chan struct{})},
		worker{"b", &d, make(chan struct{})},
		worker{"c", &d, make(chan struct{})},
		Func("last", func(context.Context) error { cancel(); return nil }),
	}
	require.NoError(t, Run(ctx, quiet, parts...))
	assert.Equal(t, []string{"a up", "b up", "c up", "c down", "b down", "a down"}, d.lines)
}

func TestNextPartWaitsForTheOneBefore(t *testing.T) { // S1
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		slow := worker{"slow", &diary{}, make(chan struct{})}
		started := false
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, quiet, unready{slow}, Func("next", func(context.Context) error { started = true; return nil }))
		}()
		synctest.Wait()
		assert.False(t, started)
		cancel()
		assert.NoError(t, <-done)
		assert.False(t, started, "a stop while starting starts nothing more")
	})
}

// unready never gets ready.
type unready struct{ worker }

func (u unready) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func TestFailureStopsTheOthersAndIsNamed(t *testing.T) { // S3
	t.Parallel()
	boom := errors.New("boom")
	var d diary
	first := worker{"first", &d, make(chan struct{})}
	err := Run(t.Context(), quiet, first, Func("second", func(context.Context) error { return boom }))
	require.ErrorIs(t, err, boom)
	assert.EqualError(t, err, "second: boom")
	assert.Equal(t, []string{"first up", "first down"}, d.lines)
}

func TestPanicBecomesANamedError(t *testing.T) { // S2
	t.Parallel()
	err := Run(t.Context(), quiet, Func("part", func(context.Context) error { panic("out of tea") }))
	require.ErrorContains(t, err, "part: panic: out of tea")
	assert.ErrorContains(t, err, "service_test.go", "the stack tells where")
}

func TestAllDoneEndsTheRun(t *testing.T) {
	t.Parallel()
	nop := func(context.Context) error { return nil }
	require.NoError(t, Run(t.Context(), quiet, Func("a", nop), Func("b", nop)))
	require.NoError(t, Run(t.Context(), quiet))
}

func TestStuckPartIsNamedAndLeftBehind(t *testing.T) { // S3
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var d diary
		first := worker{"first", &d, make(chan struct{})}
		stuck := Func("stuck", func(context.Context) error { cancel(); <-release; return nil })
		begun := time.Now()
		err := Run(ctx, quiet, first, stuck)
		require.ErrorIs(t, err, ErrStuck)
		require.ErrorContains(t, err, "stuck: ")
		assert.Equal(t, stopLimit, time.Since(begun))
		assert.Equal(t, []string{"first up", "first down"}, d.lines)
		close(release)
	})
}
