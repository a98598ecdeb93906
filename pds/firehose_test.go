package pds

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
)

// follower reads the firehose from a cursor and hands events over one by one.
type follower struct {
	t      testing.TB
	events chan firehose.Event
}

func (f *follower) Connected(context.Context) error          { return nil }
func (f *follower) Garbage(_ context.Context, e error) error { return e }
func (f *follower) Event(ctx context.Context, ev firehose.Event) error {
	select {
	case f.events <- ev:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *bed) follow(cursor int64) *follower {
	b.t.Helper()
	f := &follower{t: b.t, events: make(chan firehose.Event)}
	c, err := firehose.NewClient(firehose.ClientConfig{Host: b.url, Cursor: cursor, MinBackoff: 10 * time.Millisecond}, f)
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = c.Run(ctx); close(done) }() // ends with ctx; what the handler saw is what counts
	b.t.Cleanup(func() { cancel(); <-done })
	return f
}

func (f *follower) next() firehose.Event {
	f.t.Helper()
	select {
	case ev := <-f.events:
		return ev
	case <-time.After(10 * time.Second):
		require.FailNow(f.t, "no event came")
		return nil
	}
}

func TestCreationTellsIdentityAccountCommitSync(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	u := b.account("user")
	f := b.follow(0)
	id, ok := f.next().(*firehose.Identity)
	require.True(t, ok)
	assert.Equal(t, "user.test", id.Handle)
	acc, ok := f.next().(*firehose.Account)
	require.True(t, ok)
	assert.True(t, acc.Active)
	commit, ok := f.next().(*firehose.Commit)
	require.True(t, ok)
	assert.Empty(t, commit.Ops)
	assert.Nil(t, commit.PrevData)
	_, err := repo.VerifyCommit(t.Context(), commit, u.key(), repo.State{}, b.clock.Now())
	require.NoError(t, err)
	sync, ok := f.next().(*firehose.Sync)
	require.True(t, ok)
	assert.Equal(t, commit.Rev, sync.Rev)
	assert.Equal(t, []int64{1, 2, 3, 4}, []int64{id.Seq, acc.Seq, commit.Seq, sync.Seq})
	for _, ev := range []firehose.Event{id, acc, commit, sync} {
		assert.Equal(t, u.DID, ev.Subject())
	}
}

// chain verifies every commit of every account against the one before it.
type chain struct {
	b     *bed
	users map[syntax.DID]*user
	state map[syntax.DID]repo.State
	last  int64
	ops   int
}

func newChain(b *bed, users ...*user) *chain {
	c := &chain{b: b, users: map[syntax.DID]*user{}, state: map[syntax.DID]repo.State{}}
	for _, u := range users {
		c.users[u.DID] = u
	}
	return c
}

func (c *chain) take(ev firehose.Event) {
	t := c.b.t
	t.Helper()
	require.Greater(t, ev.Sequence(), c.last, "sequence must rise")
	c.last = ev.Sequence()
	commit, ok := ev.(*firehose.Commit)
	if !ok {
		return
	}
	v, err := repo.VerifyCommit(context.Background(), commit, c.users[commit.DID].key(), c.state[commit.DID], c.b.clock.Now())
	require.NoError(t, err, "commit %d", commit.Seq)
	c.state[commit.DID] = repo.State{Rev: v.Rev, Data: v.Data}
	c.ops += len(v.Ops)
}

func TestParallelWritersMakeOneGaplessVerifiableStream(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	stop := b.run()
	const accounts, writers, writes = 4, 3, 12
	var users []*user
	for i := range accounts {
		users = append(users, b.account(fmt.Sprintf("user%d", i)))
	}
	live := b.follow(0)
	var g errgroup.Group
	for _, u := range users {
		for w := range writers {
			g.Go(func() error {
				for i := range writes {
					key := fmt.Sprintf("w%d-%d", w, i%5)
					var a answer
					switch i % 4 {
					case 3:
						a = u.remove(note, key, nil)
					default:
						a = u.put(note, key, m{"w": w, "i": i}, nil)
					}
					if a.Status != http.StatusOK {
						return fmt.Errorf("write %s: %d %s", key, a.Status, a.Raw)
					}
				}
				return nil
			})
		}
	}
	c := newChain(b, users...)
	written := make(chan error, 1)
	go func() { written <- g.Wait() }()
	for range accounts * 4 {
		c.take(live.next())
	}
	require.NoError(t, <-drain(live, c, written))
	newest := int64(b.count(`select seq from event_head`))
	for c.last < newest {
		c.take(live.next())
	}
	assert.Equal(t, int(newest), b.count(`select count(*) from event`), "numbers are used without a gap")
	assert.Equal(t, int(newest), b.count(`select max(seq) from event`))
	for _, u := range users {
		_, rev := u.head()
		assert.Equal(t, rev, c.state[u.DID].Rev)
		u.assertWhole()
	}

	// A new process on the same database: from any cursor the same stream.
	stop()
	b.restart()
	b.run()
	resumed := b.follow(newest - 5)
	for want := newest - 4; want <= newest; want++ {
		assert.Equal(t, want, resumed.next().Sequence())
	}
	users[0].ok(users[0].create(note, "after", m{}))
	c.take(resumed.next())
}

// drain takes events while the writers work, so that the stream is read under load.
func drain(f *follower, c *chain, written <-chan error) <-chan error {
	out := make(chan error, 1)
	for {
		select {
		case ev := <-f.events:
			c.take(ev)
		case err := <-written:
			out <- err
			return out
		}
	}
}

func TestParallelCreatesOfOneKeyLetOneThrough(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	var mu sync.Mutex
	got := map[int]int{}
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			a := u.create(note, "one", m{"i": i})
			mu.Lock()
			defer mu.Unlock()
			got[a.Status]++
			return nil
		})
	}
	require.NoError(t, g.Wait())
	assert.Equal(t, map[int]int{http.StatusOK: 1, http.StatusConflict: 7}, got)
	u.assertWhole()
}

// A trigger stands for the crash: the transaction dies at its very last statement.
func TestWriteThatDiesAtItsEventLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	ref := u.ok(u.upload("text/plain", []byte("blob"))).JSON["blob"]
	u.ok(u.create(note, "a", m{"n": 1}))
	counts := func() (n [5]int) {
		for i, sql := range []string{
			`select count(*) from block`, `select count(*) from record`, `select count(*) from record_blob`,
			`select count(*) from event`, `select seq from event_head`,
		} {
			n[i] = b.count(sql)
		}
		return n
	}
	before := counts()
	commit, _ := u.head()
	_, err := b.pool.Exec(t.Context(), `
		create function die() returns trigger language plpgsql as $$ begin raise exception 'crash'; end $$;
		create trigger die after insert on event for each row execute function die()`)
	require.NoError(t, err)
	for what, a := range map[string]answer{
		"create": u.create(note, "b", m{"blob": ref}),
		"update": u.put(note, "a", m{"n": 2}, nil),
		"delete": u.remove(note, "a", nil),
	} {
		assert.Equal(t, http.StatusInternalServerError, a.Status, what)
		assert.NotContains(t, string(a.Raw), "crash", "our faults are not shown")
	}
	in := m{"handle": "new.test", "password": password, "inviteCode": b.invite()}
	assert.Equal(t, http.StatusInternalServerError, b.post("", "com.atproto.server.createAccount", in).Status)
	assert.Equal(t, 1, b.count(`select count(*) from account`))
	assert.Equal(t, before, counts())
	after, _ := u.head()
	assert.Equal(t, commit, after)

	_, err = b.pool.Exec(t.Context(), `drop trigger die on event`)
	require.NoError(t, err)
	u.ok(u.create(note, "b", m{"blob": ref}))
	b.ok(b.post("", "com.atproto.server.createAccount", in))
	u.assertWhole()
}

func TestCursorRules(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.AccessTTL = 100 * time.Hour })
	u := b.account("user")
	b.clock.Advance(73 * time.Hour)
	u.ok(u.create(note, "a", m{}))
	require.NoError(t, b.server.Load().sweep(t.Context()))
	assert.Equal(t, 1, b.count(`select count(*) from event`), "older events are pruned")
	b.run()

	info, ok := b.follow(2).next().(*firehose.Info)
	require.True(t, ok)
	assert.Equal(t, "OutdatedCursor", info.Name)
	failure, ok := b.follow(99).next().(*firehose.Failure)
	require.True(t, ok)
	assert.Equal(t, "FutureCursor", failure.Name)
	assert.Equal(t, int64(5), b.follow(0).next().Sequence())
	assert.Equal(t, int64(5), b.follow(4).next().Sequence())
}

func TestRevRisesThoughTheClockStandsOrStepsBack(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	last := ""
	for i := range 5 {
		if i == 3 {
			b.clock.Set(b.clock.Now().Add(-time.Minute))
		}
		u.ok(u.put(note, "a", m{"i": i}, nil))
		_, rev := u.head()
		assert.Greater(t, rev, last)
		last = rev
	}
}

func TestStreamGoesOnWhenTheListenerIsCutOff(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	u := b.account("user")
	f := b.follow(4)
	u.ok(u.create(note, "a", m{}))
	assert.Equal(t, int64(5), f.next().Sequence())
	const cut = `select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and query = 'listen ' || $1`
	assert.Equal(t, 1, b.count(cut, notifyChannel))
	u.ok(u.create(note, "b", m{}))
	assert.Equal(t, int64(6), f.next().Sequence())
	u.ok(u.create(note, "c", m{}))
	assert.Equal(t, int64(7), f.next().Sequence())
}

func TestServersOnOneDatabaseTellOneStream(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	u := b.account("user")
	f := b.follow(3)
	assert.Equal(t, int64(4), f.next().Sequence(), "the first server holds the reader")
	b.restart() // the second answers from now on, and runs nothing
	u.ok(u.create(note, "a", m{}))
	assert.Equal(t, int64(5), f.next().Sequence())
}

// Somebody who opens as many streams as there may be keeps no relay from its own.
func TestOneAddressHoldsAFewStreamsOnly(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.LimitFactor = 1 })
	b.run()
	open := func() (*websocket.Conn, int) {
		conn, res, err := websocket.Dial(t.Context(), b.url+"/xrpc/com.atproto.sync.subscribeRepos", nil)
		if err != nil {
			require.NotNil(t, res, "%v", err)
			return nil, res.StatusCode
		}
		t.Cleanup(func() { _ = conn.CloseNow() })
		return conn, res.StatusCode
	}
	var first *websocket.Conn
	for range streamsAddress {
		conn, status := open()
		require.Equal(t, http.StatusSwitchingProtocols, status)
		first = conn
	}
	_, status := open()
	assert.Equal(t, http.StatusServiceUnavailable, status)
	require.NoError(t, first.CloseNow())
	require.Eventually(t, func() bool { _, status := open(); return status == http.StatusSwitchingProtocols }, 10*time.Second, 5*time.Millisecond)
}

// A database that restarts ends neither the stream nor, with it, the server.
func TestStreamWaitsForADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.account("user")
	cfg := b.deps.Pool.Config()
	var away atomic.Bool
	away.Store(true)
	asked := make(chan struct{}, 100)
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked <- struct{}{}
		if away.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return dial(ctx, network, addr)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	type answer struct {
		frames []firehose.Frame
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		_, _, err := eventStore{pool}.Bounds(context.Background())
		if err != nil {
			done <- answer{nil, err}
			return
		}
		frames, err := eventStore{pool}.Page(context.Background(), 0, 10)
		done <- answer{frames, err}
	}()
	<-asked
	<-asked // and again
	away.Store(false)
	got := <-done
	require.NoError(t, got.err)
	assert.Len(t, got.frames, 4)
}
