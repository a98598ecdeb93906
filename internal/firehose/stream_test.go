package firehose_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// memory is a store of events in memory.
type memory struct {
	mu     sync.Mutex
	frames []firehose.Frame
	head   int64
	pages  int
	notify chan struct{}
	before func() // is called by Bounds before it looks; nil: nothing
	after  func() // is called by Page when it has looked; nil: nothing
}

func newMemory() *memory { return &memory{notify: make(chan struct{}, 1)} }

func (m *memory) Bounds(context.Context) (int64, int64, error) {
	if m.before != nil {
		m.before()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.frames) == 0 {
		return 0, m.head, nil
	}
	return m.frames[0].Seq, m.head, nil
}

func (m *memory) Page(_ context.Context, after int64, limit int) ([]firehose.Frame, error) {
	m.mu.Lock()
	if m.after != nil {
		defer m.after()
	}
	defer m.mu.Unlock()
	m.pages++
	var out []firehose.Frame
	for _, f := range m.frames {
		if f.Seq > after && len(out) < limit {
			out = append(out, f)
		}
	}
	return out, nil
}

func (m *memory) add(t testing.TB, n int) {
	m.mu.Lock()
	for range n {
		m.head++
		frame, err := firehose.Encode(&firehose.Identity{Seq: m.head, DID: repotest.DID("a"), Time: when})
		require.NoError(t, err)
		m.frames = append(m.frames, firehose.Frame{Seq: m.head, Bytes: frame})
	}
	m.mu.Unlock()
	select {
	case m.notify <- struct{}{}:
	default:
	}
}

func (m *memory) prune(below int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.frames) > 0 && m.frames[0].Seq < below {
		m.frames = m.frames[1:]
	}
}

// serve runs a server on a real port until the test ends.
func serve(t testing.TB, m *memory, cfg firehose.ServerConfig) (url string, stop func()) {
	t.Helper()
	s := firehose.NewServer(m, m.notify, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	hs := httptest.NewServer(s)
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
			hs.Close()
		})
	}
	t.Cleanup(stop)
	return hs.URL, stop
}

func dial(t testing.TB, url, cursor string) *websocket.Conn {
	t.Helper()
	if cursor != "" {
		url += "?cursor=" + cursor
	}
	c, _, err := websocket.Dial(t.Context(), url, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

func next(t testing.TB, c *websocket.Conn) firehose.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, frame, err := c.Read(ctx)
	require.NoError(t, err)
	ev, err := firehose.Decode(frame)
	require.NoError(t, err)
	return ev
}

func requireSeqs(t testing.TB, c *websocket.Conn, from, to int64) {
	t.Helper()
	for seq := from; seq <= to; seq++ {
		require.Equal(t, seq, next(t, c).Sequence())
	}
}

func TestCursorRules(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 950) // several pages
	m.prune(11)
	url, _ := serve(t, m, firehose.ServerConfig{})

	t.Run("greater than the cursor", func(t *testing.T) {
		c := dial(t, url, "947")
		requireSeqs(t, c, 948, 950)
	})
	t.Run("zero is the oldest kept", func(t *testing.T) {
		c := dial(t, url, "0")
		requireSeqs(t, c, 11, 950)
	})
	t.Run("just before the oldest is not outdated", func(t *testing.T) {
		require.Equal(t, int64(11), next(t, dial(t, url, "10")).Sequence())
	})
	t.Run("older than what is kept", func(t *testing.T) {
		c := dial(t, url, "5")
		info, ok := next(t, c).(*firehose.Info)
		require.True(t, ok)
		assert.Equal(t, "OutdatedCursor", info.Name)
		require.Equal(t, int64(11), next(t, c).Sequence())
	})
	t.Run("of the future", func(t *testing.T) {
		c := dial(t, url, "951")
		f, ok := next(t, c).(*firehose.Failure)
		require.True(t, ok)
		assert.Equal(t, "FutureCursor", f.Name)
		_, _, err := c.Read(t.Context())
		require.Error(t, err, "and the connection is closed")
	})
	t.Run("not a number", func(t *testing.T) {
		for _, bad := range []string{"x", "-1", "1e3", "99999999999999999999"} {
			_, res, err := websocket.Dial(t.Context(), url+"?cursor="+bad, nil)
			require.Error(t, err)
			assert.Equal(t, http.StatusBadRequest, res.StatusCode)
		}
	})
	t.Run("none gives only what is new", func(t *testing.T) {
		live := dial(t, url, "")
		first := make(chan int64, 1)
		go func() {
			_, frame, err := live.Read(t.Context())
			if ev, derr := firehose.Decode(frame); err == nil && derr == nil {
				first <- ev.Sequence()
			}
		}()
		for {
			m.add(t, 1) // until the server has begun
			select {
			case seq := <-first:
				assert.Greater(t, seq, int64(950))
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
}

// clearing prunes once a reader has come so far.
type clearing struct {
	*memory
	at, below int64
}

func (c clearing) Page(ctx context.Context, after int64, limit int) ([]firehose.Frame, error) {
	if after == c.at {
		c.prune(c.below)
	}
	return c.memory.Page(ctx, after, limit)
}

func TestAReaderOfThePastIsToldWhatWasClearedAwayBeforeIt(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 100)
	s := firehose.NewServer(clearing{m, 21, 51}, m.notify, firehose.ServerConfig{PageSize: 10})
	go func() { _ = s.Run(t.Context()) }()
	hs := httptest.NewServer(s)
	t.Cleanup(hs.Close)
	c := dial(t, hs.URL, "1")
	requireSeqs(t, c, 2, 21)
	info, ok := next(t, c).(*firehose.Info)
	require.True(t, ok)
	assert.Equal(t, "OutdatedCursor", info.Name)
	requireSeqs(t, c, 51, 100)
}

// F3, F4: many subscribers, the store is read once.
func TestOneReaderServesAllSubscribers(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 1)
	url, _ := serve(t, m, firehose.ServerConfig{})
	var conns []*websocket.Conn
	for range 20 {
		c := dial(t, url, "0")
		requireSeqs(t, c, 1, 1)
		conns = append(conns, c)
	}
	m.mu.Lock()
	before := m.pages
	m.mu.Unlock()
	for i := range int64(30) {
		m.add(t, 1)
		for _, c := range conns {
			requireSeqs(t, c, i+2, i+2)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	assert.LessOrEqual(t, m.pages-before, 3*30, "20 subscribers must not mean 20 reads an event")
}

func TestEventsComeOnceAndInOrderWhileTheyAreWritten(t *testing.T) {
	t.Parallel()
	m := newMemory()
	url, _ := serve(t, m, firehose.ServerConfig{Window: 10, PageSize: 7})
	const total = 1500
	go func() {
		for range total / 5 {
			m.add(t, 5)
		}
	}()
	var wg sync.WaitGroup
	for range 4 {
		c := dial(t, url, "0")
		wg.Go(func() { requireSeqs(t, c, 1, total) })
	}
	wg.Wait()
}

func TestASlowReaderIsToldAndClosed(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 1)
	url, _ := serve(t, m, firehose.ServerConfig{MaxLag: 100, Window: 50})
	c := dial(t, url, "0")
	requireSeqs(t, c, 1, 1)
	big, err := firehose.Encode(&firehose.Sync{Seq: 2, DID: repotest.DID("a"), Rev: "x", Time: when, Blocks: make([]byte, 1<<20)})
	require.NoError(t, err)
	m.mu.Lock() // frames that fill the socket, so that writing stalls
	for i := range int64(200) {
		m.head = 2 + i
		m.frames = append(m.frames, firehose.Frame{Seq: m.head, Bytes: big})
	}
	m.mu.Unlock()
	m.notify <- struct{}{}
	c.SetReadLimit(firehose.MaxFrame)
	var last firehose.Event
	for {
		_, frame, err := c.Read(t.Context())
		if err != nil {
			break
		}
		last, err = firehose.Decode(frame)
		require.NoError(t, err)
	}
	assert.Equal(t, &firehose.Failure{Name: "ConsumerTooSlow", Message: "fell behind the stream"}, last)
}

func TestSubscribersAreCounted(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 1)
	url, _ := serve(t, m, firehose.ServerConfig{MaxSubscribers: 1})
	requireSeqs(t, dial(t, url, "0"), 1, 1)
	_, res, err := websocket.Dial(t.Context(), url, nil)
	require.Error(t, err)
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
}

// collector is a client's handler that records.
type collector struct {
	mu        sync.Mutex
	seqs      []int64
	garbage   int
	connected int
	got       chan struct{}
	fail      error
}

func newCollector() *collector { return &collector{got: make(chan struct{}, 10_000)} }

func (c *collector) Connected(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connected++
	return nil
}

func (c *collector) Event(_ context.Context, ev firehose.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	c.seqs = append(c.seqs, ev.Sequence())
	c.got <- struct{}{}
	return nil
}

func (c *collector) Garbage(context.Context, error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.garbage++
	c.got <- struct{}{}
	return nil
}

func (c *collector) wait(t testing.TB, n int) {
	t.Helper()
	for range n {
		select {
		case <-c.got:
		case <-time.After(10 * time.Second):
			require.Fail(t, "no event", "have %v", c.seqs)
		}
	}
}

func startClient(t testing.TB, host string, cursor int64, h firehose.Handler) (stop func() error) {
	t.Helper()
	cl, err := firehose.NewClient(firehose.ClientConfig{Host: host, Cursor: cursor, MinBackoff: time.Millisecond}, h)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cl.Run(ctx) }()
	var once sync.Once
	var result error
	stop = func() error { once.Do(func() { cancel(); result = <-done }); return result }
	t.Cleanup(func() { _ = stop() })
	return stop
}

// F2: over broken connections, every event once and in order.
func TestClientGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 5)
	s := firehose.NewServer(m, m.notify, firehose.ServerConfig{})
	go func() { _ = s.Run(t.Context()) }()
	var mu sync.Mutex
	var breakIt context.CancelFunc
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "/xrpc/com.atproto.sync.subscribeRepos", r.URL.Path)
		ctx, cancel := context.WithCancel(r.Context())
		mu.Lock()
		breakIt = cancel
		mu.Unlock()
		s.ServeHTTP(w, r.WithContext(ctx))
	}))
	t.Cleanup(hs.Close)
	h := newCollector()
	stop := startClient(t, hs.URL, 2, h)
	h.wait(t, 3)
	for range 3 {
		mu.Lock()
		breakIt()
		mu.Unlock()
		m.add(t, 4)
		h.wait(t, 4)
	}
	require.NoError(t, stop())
	assert.Equal(t, []int64{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, h.seqs)
	assert.GreaterOrEqual(t, h.connected, 4)
}

func TestGarbageDoesNotEndTheClient(t *testing.T) {
	t.Parallel()
	good, err := firehose.Encode(&firehose.Identity{Seq: 3, DID: repotest.DID("a"), Time: when})
	require.NoError(t, err)
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		_ = c.Write(r.Context(), websocket.MessageBinary, []byte("garbage"))
		_ = c.Write(r.Context(), websocket.MessageText, good)
		_ = c.Write(r.Context(), websocket.MessageBinary, good)
		_, _, _ = c.Read(r.Context())
	}))
	t.Cleanup(hs.Close)
	h := newCollector()
	stop := startClient(t, hs.URL, 0, h)
	h.wait(t, 3)
	require.NoError(t, stop())
	assert.Equal(t, 2, h.garbage)
	assert.Equal(t, []int64{3}, h.seqs)
}

func TestOversizedFramesEndTheConnectionOnly(t *testing.T) {
	t.Parallel()
	good, err := firehose.Encode(&firehose.Identity{Seq: 3, DID: repotest.DID("a"), Time: when})
	require.NoError(t, err)
	var n int
	var mu sync.Mutex
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		mu.Lock()
		n++
		first := n == 1
		mu.Unlock()
		frame := good
		if first {
			frame = make([]byte, firehose.MaxFrame+1)
		}
		_ = c.Write(r.Context(), websocket.MessageBinary, frame)
		_, _, _ = c.Read(r.Context())
	}))
	t.Cleanup(hs.Close)
	h := newCollector()
	stop := startClient(t, hs.URL, 0, h)
	h.wait(t, 1)
	require.NoError(t, stop())
	assert.Equal(t, []int64{3}, h.seqs)
	assert.Zero(t, h.garbage, "it is not even read")
}

// backwards is a store that breaks its promise.
type backwards struct{ *memory }

func (b backwards) Page(ctx context.Context, after int64, limit int) ([]firehose.Frame, error) {
	page, err := b.memory.Page(ctx, after, limit)
	slices.Reverse(page)
	return page, err
}

func TestAStoreOutOfOrderStopsTheServer(t *testing.T) {
	t.Parallel()
	m := newMemory()
	notified := make(chan struct{}, 1)
	b := backwards{m}
	m.head = 1
	s := firehose.NewServer(b, notified, firehose.ServerConfig{})
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	for { // the server reads where the stream stands once, at its start
		m.add(t, 3)
		select {
		case notified <- struct{}{}:
		default:
		}
		select {
		case err := <-done:
			require.ErrorContains(t, err, "after")
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestAHandlersErrorEndsTheClient(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 1)
	url, _ := serve(t, m, firehose.ServerConfig{})
	h := newCollector()
	h.fail = errors.New("disk full")
	cl, err := firehose.NewClient(firehose.ClientConfig{Host: url}, h)
	require.NoError(t, err)
	require.ErrorIs(t, cl.Run(t.Context()), h.fail)
}

func TestStoppingTheServerClosesItsSubscribers(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 1)
	url, stop := serve(t, m, firehose.ServerConfig{})
	c := dial(t, url, "0")
	requireSeqs(t, c, 1, 1)
	stop()
	_, _, err := c.Read(t.Context())
	require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), fmt.Sprint(err))
}

func TestAddressesOfHosts(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "example.test", "ftp://example.test", "http://"} {
		_, err := firehose.NewClient(firehose.ClientConfig{Host: bad}, newCollector())
		require.Error(t, err, bad)
	}
}

func TestOfferedFramesAreNotReadBack(t *testing.T) {
	t.Parallel()
	m := newMemory()
	s := firehose.NewServer(m, m.notify, firehose.ServerConfig{})
	frame := func(seq int64) []firehose.Frame {
		b, err := firehose.Encode(&firehose.Identity{Seq: seq, DID: repotest.DID("a"), Time: when})
		require.NoError(t, err)
		return []firehose.Frame{{Seq: seq, Bytes: b}}
	}
	assert.False(t, s.Offer(frame(1)), "nothing is known yet of what the store holds")
	m.add(t, 3)
	<-m.notify
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	hs := httptest.NewServer(s)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		hs.Close()
	})
	c := dial(t, hs.URL, "3")
	m.add(t, 1)
	requireSeqs(t, c, 4, 4)
	m.mu.Lock()
	read := m.pages
	m.mu.Unlock()
	assert.True(t, s.Offer(frame(5)))
	assert.False(t, s.Offer(frame(5)), "it was taken already")
	assert.False(t, s.Offer(frame(7)), "one is missing before it")
	assert.False(t, s.Offer(nil))
	requireSeqs(t, c, 5, 5)
	assert.EqualValues(t, 5, s.Newest())
	m.mu.Lock()
	assert.Equal(t, read, m.pages)
	m.mu.Unlock()
	m.add(t, 3) // 5 to 7: the store has the offered one, too
	requireSeqs(t, c, 6, 7)
	m.mu.Lock()
	m.after = func() { s.Offer(frame(8)) } // while the store's page with it is on its way
	m.mu.Unlock()
	m.add(t, 2)
	requireSeqs(t, c, 8, 9)
	requireSeqs(t, dial(t, hs.URL, "6"), 7, 9)
}

func TestWhatIsWrittenAfterTheHandshakeIsNotMissed(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.add(t, 3)
	written, calls := make(chan struct{}), 0
	m.before = func() {
		if calls++; calls == 2 { // the first is the server's own
			select {
			case <-written: // too late: the reader was told that it is connected
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	url, _ := serve(t, m, firehose.ServerConfig{})
	c := dial(t, url, "")
	m.add(t, 1)
	close(written)
	requireSeqs(t, c, 4, 4)
}
