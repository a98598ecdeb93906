package follow_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/follow"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/stretchr/testify/require"
)

// endless answers one method with bytes that do not end, and counts those that were taken.
type endless struct {
	method string
	begin  []byte
	again  byte
	taken  atomic.Int64
	asked  atomic.Int64
}

func (e *endless) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, e.method) || e.asked.Add(1) > 1 { // once is enough
		return http.DefaultTransport.RoundTrip(r)
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{}, Request: r,
		Body: io.NopCloser(io.MultiReader(bytes.NewReader(e.begin), &stream{e})),
	}, nil
}

type stream struct{ e *endless }

func (s *stream) Read(p []byte) (int, error) {
	// A reader without a limit would read for ever: here its answer ends at last, far above every limit.
	if s.e.taken.Add(int64(len(p))) > 64<<20 {
		return 0, io.EOF
	}
	for i := range p {
		p[i] = s.e.again
	}
	return len(p), nil
}

// A host's listing is read to its limit and no further, whatever it promises; then the host is asked again.
func TestAnEndlessListingIsCutOff(t *testing.T) {
	t.Parallel()
	e := &endless{method: "listRepos", begin: []byte(`{"repos":[`), again: ' '}
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.quiet(a, repotest.Create("x", "1"))
	now := clock.New(repotest.Start.Add(24 * time.Hour))
	r := start(t, h, d, s, func(c *follow.Config) { c.HTTP, c.Clock = &http.Client{Transport: e}, now })
	for ready := false; !ready; {
		select {
		case <-r.f.Ready():
			ready = true
		case <-time.After(10 * time.Millisecond):
			now.Advance(6 * time.Second)
		}
	}
	require.Greater(t, e.asked.Load(), int64(1))
	require.Positive(t, e.taken.Load())
	require.Less(t, e.taken.Load(), int64(4<<20))
	s.mu.Lock()
	defer s.mu.Unlock()
	require.True(t, s.same(a))
}

// forgetful fails one Commit and nothing else: a follower that went on would save the cursor past it.
type forgetful struct {
	*sink
	failed atomic.Bool
}

var errForgot = errors.New("serialization failure")

func (f *forgetful) Commit(ctx context.Context, host string, seq int64, v *repo.Verified) error {
	if f.failed.CompareAndSwap(false, true) {
		return errForgot
	}
	return f.sink.Commit(ctx, host, seq, v)
}

func TestOneFailedEventIsNotPassed(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a, b := h.author(d, "a"), h.author(d, "b")
	h.write(a, repotest.Create("one", "1"))
	h.write(b, repotest.Create("one", "1"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cfg := follow.Config{Host: h.url, Sink: &forgetful{sink: s}, Directory: d, Clock: clock.New(repotest.Start.Add(time.Hour)), RepairEvery: time.Millisecond}
	require.ErrorIs(t, follow.New(cfg).Run(ctx), errForgot)
	s.mu.Lock()
	require.Zero(t, s.cursor)
	s.mu.Unlock()
	start(t, h, d, s)
	s.await(t, "both events", func() bool { return s.same(a) && s.same(b) && s.cursor == 2 })
}
