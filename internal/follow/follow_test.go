package follow_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/follow"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func rkey(i int) string { return fmt.Sprintf("r%d", i) }

// later is a rev of some time after the authors begin.
func later(d time.Duration) string {
	return string(syntax.NewTIDFromTime(repotest.Start.Add(d), 0))
}

func TestEveryRepositoryIsKnownAfterStartUp(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	h.paged = 2
	var authors []*repotest.Author
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		a := h.author(d, n)
		h.quiet(a, repotest.Create("old", n))
		h.write(a, repotest.Create("seen", n))
		authors = append(authors, a)
	}
	h.prune() // nothing of it is left in the stream
	r := start(t, h, d, s)
	r.ready(t)
	s.mu.Lock()
	for _, a := range authors {
		assert.True(t, s.same(a), a.DID)
	}
	s.mu.Unlock()
	for i, a := range authors {
		h.write(a, repotest.Create(rkey(i), "live"), repotest.Delete("old"))
	}
	s.await(t, "live commits", func() bool {
		for _, a := range authors {
			if !s.same(a) {
				return false
			}
		}
		return true
	})
	assert.Equal(t, 5, s.snapshots, "what follows comes by the stream")
	assert.Empty(t, s.drops)
	require.NoError(t, r.stop())
}

func TestTheStreamAloneFromItsBeginning(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h, d, s := newHost(t, func(h *host) { h.gate = gate }), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a)
	for i := range 30 {
		h.write(a, repotest.Create(rkey(i), "x"))
	}
	r := start(t, h, d, s, func(c *follow.Config) { c.QuietFor = time.Second })
	time.AfterFunc(100*time.Millisecond, func() { close(gate) }) // a slow stream: the listing must not be first
	s.await(t, "all commits", func() bool { return s.same(a) })
	r.ready(t)
	assert.Equal(t, 0, s.snapshots)
	assert.Equal(t, int64(31), s.cursor)
}

// W1: after a stop, or a crash that lost the last saved events, it goes on at
// its cursor.
func TestRestartGoesOnAtTheCursor(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a)
	r := start(t, h, d, s)
	r.ready(t)
	for i := range 10 {
		h.write(a, repotest.Create(rkey(i), "x"))
	}
	s.await(t, "first part", func() bool { return s.same(a) })
	require.NoError(t, r.stop())
	s.mu.Lock()
	s.calls = nil
	s.mu.Unlock()
	for i := range 10 {
		h.write(a, repotest.Update(rkey(i), "y"))
	}
	r = start(t, h, d, s)
	r.ready(t)
	s.await(t, "second part", func() bool { return s.same(a) })
	assert.NotContains(t, s.calls, "snapshot", "a snapshot would lose the versions between")
	s.await(t, "cursor", func() bool { return s.cursor == 21 })
	assert.Empty(t, s.drops)
}

func TestGapsAreFilledFromTheWholeRepository(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a, repotest.Create("goes", "1"), repotest.Create("stays", "1"))
	r := start(t, h, d, s)
	r.ready(t)
	h.quiet(a, repotest.Delete("goes"), repotest.Create("unseen", "1"))
	h.write(a, repotest.Create("seen", "1"))
	s.await(t, "the gap", func() bool { return s.same(a) })
	before := s.snapshots
	h.write(a, repotest.Create("after", "1"))
	s.await(t, "the chain goes on", func() bool { return s.same(a) })
	assert.Equal(t, before, s.snapshots)
	assert.Empty(t, s.drops)
}

func TestSyncAndTooBigFetchTheWhole(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a, repotest.Create("one", "1"))
	r := start(t, h, d, s)
	r.ready(t)
	s.await(t, "start", func() bool { return s.same(a) })
	n := s.snapshots
	h.send(&firehose.Sync{DID: a.DID, Rev: a.Head.Rev, Blocks: []byte{}, Time: "x"}) // tells nothing new
	h.quiet(a, repotest.Create("two", "2"))
	h.send(&firehose.Sync{DID: a.DID, Rev: a.Head.Rev, Blocks: []byte{}, Time: "x"})
	s.await(t, "sync", func() bool { return s.same(a) })
	assert.Equal(t, n+1, s.snapshots)
	h.locked(func() {})
	ev := &firehose.Commit{}
	h.locked(func() { ev = a.Event(repotest.Create("three", "3")) })
	ev.TooBig, ev.Blocks, ev.Ops = true, []byte{}, nil
	h.send(ev)
	s.await(t, "tooBig", func() bool { return s.same(a) })
	assert.Equal(t, n+2, s.snapshots)
}

// W3: whatever a host sends, the others' commits keep coming.
func TestGarbageIsDroppedWithItsReason(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	good, evil := h.author(d, "good"), h.author(d, "evil")
	h.write(good, repotest.Create("a", "1"))
	h.write(evil, repotest.Create("a", "1"))
	reg := prometheus.NewRegistry()
	r := start(t, h, d, s, func(c *follow.Config) { c.Metrics = reg })
	r.ready(t)

	thief := repotest.NewAuthor(t, "evil") // the same DID, another key
	apply := func(key atcrypto.PrivateKey, rev string, w repo.Write) *firehose.Commit {
		c, err := repo.Apply(t.Context(), evil.Blocks, evil.DID, evil.Head, []repo.Write{w}, key, rev)
		require.NoError(t, err)
		return repotest.Event(c)
	}
	soon := later(time.Hour)
	h.send(apply(thief.Key, soon, repotest.Create("forged", "1")))
	alone := thief.Event(repotest.Create("forged", "1")) // not even on the victim's chain
	alone.Rev = soon
	h.send(alone)
	other := repotest.NewAuthor(t, "evil") // signed by the author, but of a repository nobody serves
	other.Key = evil.Key
	other.Commit(repotest.Create("a", "2"))
	c, err := repo.Apply(t.Context(), other.Blocks, other.DID, other.Head, nil, other.Key, soon)
	require.NoError(t, err)
	h.send(repotest.Event(c))
	far := later(48 * time.Hour)
	h.send(apply(evil.Key, far, repotest.Create("far", "1")))
	moved := repotest.NewAuthor(t, "moved")
	d.set(moved.DID, moved.Public(), "http://elsewhere.test")
	h.send(moved.Event(repotest.Create("x", "1")))
	h.send(repotest.NewAuthor(t, "nobody").Event(repotest.Create("x", "1")))
	h.send(&firehose.Account{DID: moved.DID, Status: "deleted", Time: "x"})
	h.send(&firehose.Identity{DID: moved.DID, Time: "x"})
	h.raw([]byte("garbage"))
	torn := apply(evil.Key, later(3*time.Hour), repotest.Create("torn", "1"))
	torn.Blocks = torn.Blocks[:40]
	h.send(torn)
	h.write(good, repotest.Create("b", "1"))

	s.await(t, "good commits", func() bool { return s.same(good) })
	s.mu.Lock()
	assert.Equal(t, map[string]int{"BadSignature": 2, "BadChain": 1, "FutureRev": 1, "WrongHost": 3, "NoIdentity": 1, "BadStructure": 1}, s.drops)
	assert.NotContains(t, s.records[evil.DID], "org.example.note/forged")
	assert.Empty(t, s.accounts)
	assert.Empty(t, s.idents)
	s.mu.Unlock()
	h.write(evil, repotest.Create("honest", "1"))
	s.await(t, "the victim's own commits", func() bool { return s.same(evil) })
	families, err := reg.Gather()
	require.NoError(t, err)
	assert.NotEmpty(t, families)
}

// One author, one rev, two trees: the first one stands and the second is counted, however often either comes again.
func TestASecondTreeUnderOneRevIsAnEquivocation(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a, repotest.Create("a", "1"))
	before := a.Head
	r := start(t, h, d, s)
	r.ready(t)
	rev := later(time.Hour)
	apply := func(w repo.Write) *firehose.Commit {
		c, err := repo.Apply(t.Context(), a.Blocks, a.DID, before, []repo.Write{w}, a.Key, rev)
		require.NoError(t, err)
		return repotest.Event(c)
	}
	first, second := apply(repotest.Create("b", "kept")), apply(repotest.Create("b", "other"))
	thief := repotest.NewAuthor(t, "a") // the same DID, another key
	c, err := repo.Apply(t.Context(), a.Blocks, a.DID, before, []repo.Write{repotest.Create("b", "forged")}, thief.Key, rev)
	require.NoError(t, err)
	forged := repotest.Event(c)
	for _, ev := range []*firehose.Commit{first, first, second, first, second, forged} {
		copied := *ev
		h.send(&copied)
	}
	s.await(t, "all of it", func() bool { return s.cursor == 7 })
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Equal(t, map[string]int{follow.Equivocation: 2, string(repo.BadSignature): 1}, s.drops)
	assert.Equal(t, first.Ops[0].CID.String(), s.records[a.DID]["org.example.note/b"])
}

func TestANewKeyIsFetchedOnce(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a, repotest.Create("one", "1"))
	r := start(t, h, d, s)
	r.ready(t)
	fresh := repotest.NewAuthor(t, "a")
	h.locked(func() { a.Key = fresh.Key })
	d.set(a.DID, fresh.Public(), h.url)
	h.write(a, repotest.Create("two", "2"))
	s.await(t, "the commit under the new key", func() bool { return s.same(a) })
	assert.Equal(t, 1, d.purges)
	for range 20 { // forged events do not make us ask the directory each time
		c, err := repo.Apply(t.Context(), a.Blocks, a.DID, a.Head, nil, repotest.NewAuthor(t, "a").Key, later(time.Hour))
		require.NoError(t, err)
		h.send(repotest.Event(c))
	}
	h.write(a, repotest.Create("three", "3"))
	s.await(t, "the author's next commit", func() bool { return s.same(a) })
	assert.Equal(t, 20, s.drops["BadSignature"])
	assert.LessOrEqual(t, d.purges, 6)
}

func TestAccountsAndIdentitiesAreTold(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.send(&firehose.Identity{DID: a.DID, Handle: "a.test", Time: "x"})
	h.send(&firehose.Account{DID: a.DID, Active: true, Time: "x"})
	h.write(a)
	h.send(&firehose.Account{DID: a.DID, Active: false, Status: "deactivated", Time: "x"})
	start(t, h, d, s)
	s.await(t, "all told", func() bool { return len(s.accounts) == 2 && len(s.idents) == 1 })
	assert.Equal(t, []string{string(a.DID) + " true ", string(a.DID) + " false deactivated"}, s.accounts)
	s.await(t, "cursor", func() bool { return s.cursor == 4 })
}

// W3: our own failure stops us, and the event is not lost.
func TestAFailingSinkStopsTheFollower(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a, repotest.Create("one", "1"))
	s.fail = errors.New("disk full")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cfg := follow.Config{Host: h.url, Sink: s, Directory: d, Clock: clock.New(repotest.Start.Add(time.Hour)), RepairEvery: time.Millisecond}
	require.ErrorIs(t, follow.New(cfg).Run(ctx), s.fail)
	s.fail = nil
	start(t, h, d, s)
	s.await(t, "the event again", func() bool { return s.same(a) })
}

// W4: one broken repository costs the others nothing, and is fetched ever more rarely.
func TestABrokenRepositoryIsTriedAgainLater(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	good, bad := h.author(d, "good"), h.author(d, "bad")
	h.quiet(good, repotest.Create("x", "1"))
	h.quiet(bad, repotest.Create("x", "1"))
	h.served[bad.DID] = []byte("no CAR")
	now := clock.New(repotest.Start.Add(24 * time.Hour))
	r := start(t, h, d, s, func(c *follow.Config) { c.Clock = now })
	r.ready(t)
	s.await(t, "the good one", func() bool { return s.same(good) })
	s.await(t, "the refusal", func() bool { return s.drops["BadStructure"] == 1 })
	for i := range 5 { // its events do not fetch it again at once
		h.write(bad, repotest.Create(rkey(i), "1"))
	}
	s.await(t, "refused events", func() bool { return s.drops["BadChain"] == 5 })
	assert.Equal(t, 1, h.fetches(bad.DID))
	h.locked(func() { delete(h.served, bad.DID) })
	now.Advance(6 * time.Second)
	s.await(t, "the repair", func() bool { return s.same(bad) })
}

func TestADirectoryThatIsDownLosesNothing(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.write(a, repotest.Create("x", "1"))
	now := clock.New(repotest.Start.Add(24 * time.Hour))
	r := start(t, h, d, s, func(c *follow.Config) { c.Clock = now })
	r.ready(t)
	d.mu.Lock()
	d.down = true
	d.mu.Unlock()
	h.write(a, repotest.Create("y", "1"))
	s.await(t, "the drop", func() bool { return s.drops["NoIdentity"] >= 1 })
	d.mu.Lock()
	d.down = false
	d.mu.Unlock()
	now.Advance(time.Minute)
	s.await(t, "the repair", func() bool { return s.same(a) })
}

// What comes as a whole is held to the same clock and the same order.
func TestWholeRepositoriesOfTheFutureOrThePastAreRefused(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	ahead, back := h.author(d, "ahead"), h.author(d, "back")
	c, err := repo.Apply(t.Context(), ahead.Blocks, ahead.DID, nil, nil, ahead.Key, later(48*time.Hour))
	require.NoError(t, err)
	ahead.Take(c)
	h.quiet(back, repotest.Create("one", "1"))
	old := *back.Head
	h.quiet(back, repotest.Create("two", "2"))
	r := start(t, h, d, s)
	r.ready(t)
	s.mu.Lock()
	held := s.state[back.DID]
	assert.Equal(t, back.State(), held)
	assert.Equal(t, 1, s.drops["FutureRev"])
	s.mu.Unlock()
	h.locked(func() { back.Head = &old })
	h.send(&firehose.Sync{DID: back.DID, Rev: later(time.Hour), Blocks: []byte{}, Time: "x"})
	s.await(t, "the refusal", func() bool { return s.drops["StaleRev"] == 1 })
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.Equal(t, held, s.state[back.DID])
	assert.NotContains(t, s.state, ahead.DID)
}

func TestAListingThatFailsIsRepeated(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a := h.author(d, "a")
	h.quiet(a, repotest.Create("x", "1"))
	h.listErr = 2
	now := clock.New(repotest.Start.Add(24 * time.Hour))
	r := start(t, h, d, s, func(c *follow.Config) { c.Clock = now })
	for ready := false; !ready; {
		select {
		case <-r.f.Ready():
			ready = true
		case <-time.After(10 * time.Millisecond):
			now.Advance(6 * time.Second)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	assert.True(t, s.same(a))
}

// W5: a host that prunes its stream while we are away is listed again.
func TestAnOutdatedCursorIsMadeGood(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	a, b := h.author(d, "a"), h.author(d, "b")
	h.write(a, repotest.Create("one", "1"))
	h.write(b, repotest.Create("one", "1"))
	r := start(t, h, d, s)
	r.ready(t)
	s.await(t, "start", func() bool { return s.same(a) && s.same(b) })
	s.await(t, "cursor", func() bool { return s.cursor == 2 })
	require.NoError(t, r.stop())
	for i := range 5 {
		h.write(a, repotest.Create(rkey(i), "1"))
	}
	h.prune()
	h.write(b, repotest.Create("two", "2"))
	start(t, h, d, s)
	s.await(t, "what was pruned", func() bool { return s.same(a) && s.same(b) })
}

// A host restored from a backup gives out sequences we have passed already.
func TestAResetHostIsFollowedFromItsBeginning(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	s.cursor = 5000
	a := h.author(d, "a")
	h.write(a, repotest.Create("one", "1"))
	r := start(t, h, d, s)
	r.ready(t)
	s.await(t, "the start", func() bool { return s.same(a) })
	h.write(a, repotest.Create("two", "2"))
	s.await(t, "the stream", func() bool { return s.same(a) })
	s.await(t, "the cursor", func() bool { return s.cursor == 2 })
}

func TestManyRepositoriesInOrder(t *testing.T) {
	t.Parallel()
	h, d, s := newHost(t), newDirectory(), newSink()
	var authors []*repotest.Author
	for i := range 12 {
		authors = append(authors, h.author(d, string(rune('a'+i))))
	}
	start(t, h, d, s)
	for i := range 40 {
		for _, a := range authors {
			if i%7 == 3 {
				h.quiet(a, repotest.Create("q"+rkey(i), "1"))
			}
			h.write(a, repotest.Create(rkey(i), "1"))
		}
	}
	s.await(t, "all", func() bool {
		for _, a := range authors {
			if !s.same(a) {
				return false
			}
		}
		return true
	})
	assert.Empty(t, s.drops)
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	require.Error(t, follow.New(follow.Config{Host: "http://x.test"}).Run(t.Context()))
	require.Error(t, follow.New(follow.Config{Host: "x.test", Sink: newSink(), Directory: newDirectory()}).Run(t.Context()))
}
