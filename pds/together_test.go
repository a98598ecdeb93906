package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
)

// owner is what the account's own requests come with.
func (u *user) owner() *authority {
	u.t.Helper()
	acc, err := u.server.Load().findAccount(u.t.Context(), u.DID.String())
	require.NoError(u.t, err)
	return &authority{Account: acc, Actor: acc.DID, Kind: bySession}
}

// known makes a change of one new record, and checks that the server knows the repository.
func (u *user) known(rkey string) []change { return u.knownValue(rkey, `{"n":1}`) }

func (u *user) knownValue(rkey, value string) []change {
	u.t.Helper()
	_, ok := u.server.Load().standings.get(u.DID)
	require.True(u.t, ok, "the repository is known after a write")
	rec, err := newRecord(note, rkey, []byte(value), nil)
	require.NoError(u.t, err)
	return []change{{Intent: toCreate, Collection: note, RKey: rkey, Record: rec}}
}

// Whatever a write took for granted, the database says that it is otherwise: nothing is stored, and the long way is gone.
func TestWriteOfAKnownRepositoryTakesNothingForGrantedThatIsNot(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"another head":      `update repo set commit_cid = data_cid where did = $1`,
		"a later rev":       `update repo set rev = '3zzzzzzzzzzzz' where did = $1`,
		"another key":       `update account set signing_key = '\x00' where did = $1`,
		"somebody acts":     `insert into controller (did, controller, role, scope, mark, invited) values ($1, 'did:plc:x', 'x', '', 'x', now())`,
		"not active":        `update account set status = 'deactivated' where did = $1`,
		"the record exists": `insert into record (did, collection, rkey, cid, rev) select did, 'com.example.note', 'b', data_cid, rev from repo where did = $1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			u := b.account("user")
			u.ok(u.create(note, "a", m{}))
			changes := u.known("b")
			_, err := b.pool.Exec(t.Context(), sql, u.DID)
			require.NoError(t, err)
			state := func() []int {
				return []int{b.count(`select count(*) from block`), b.count(`select count(*) from record`), b.count(`select seq from event_head`), b.count(`select count(*) from event`)}
			}
			before := state()
			commit, err := b.server.Load().writeKnown(t.Context(), u.owner(), changes, nil)
			require.NoError(t, err)
			assert.Nil(t, commit)
			assert.Equal(t, before, state())
			_, ok := b.server.Load().standings.get(u.DID)
			assert.False(t, ok, "what was wrong is forgotten")
		})
	}
}

func TestWriteOfAKnownRepositoryIsOneCommitLikeAnyOther(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.ok(u.create(note, "a", m{"n": 1}))
	for i := range 40 { // the tree grows and splits
		commit, err := b.server.Load().writeKnown(t.Context(), u.owner(), u.knownValue(fmt.Sprint("k", i*37%40), fmt.Sprintf(`{"n":%d}`, i+2)), nil)
		require.NoError(t, err)
		require.NotNil(t, commit)
		b.server.Load().cacheNodes(commit)
	}
	u.assertWhole()
	assert.Equal(t, b.count(`select seq from event_head`), b.count(`select count(*) from event`))
}

// A session that wrote before is taken to be open, and the transaction asks: whoever ends one elsewhere ends it at once.
func TestWriteOnASessionThatIsOverIsRefusedThoughItWroteBefore(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ sql, want string }{
		"ended":          {`delete from session where did = $1`, "ExpiredToken"},
		"run out":        {`update session set expires = 'epoch' where did = $1`, "ExpiredToken"},
		"taken down":     {`update account set status = 'takendown' where did = $1`, "AccountTakedown"},
		"deactivated":    {`update account set status = 'deactivated' where did = $1`, "RepoDeactivated"},
		"of a neighbour": {`update session set did = (select did from account where did <> $1) where did = $1`, "ExpiredToken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.account("other")
			u := b.account("user")
			u.ok(u.create(note, "a", m{"n": 1}))
			u.ok(u.create(note, "b", m{"n": 2}))
			_, ok := b.server.Load().standings.get(u.DID)
			require.True(t, ok)
			_, err := b.pool.Exec(t.Context(), tc.sql, u.DID)
			require.NoError(t, err)
			for i, rkey := range []string{"c", "d"} {
				assert.Equal(t, tc.want, u.create(note, rkey, m{"n": 3 + i}).name())
			}
			assert.Equal(t, 2, b.count(`select count(*) from record`))
		})
	}
}

// Two servers write the same repositories in turn, so that what one knows is what the other has changed.
func TestServersThatKnowTheSameRepositoriesLoseNoWrite(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	var users []*user
	for i := range 4 {
		users = append(users, b.account(fmt.Sprintf("user%d", i)))
	}
	first := b.server.Load()
	b.restart()
	b.run()
	second := b.server.Load()
	var g errgroup.Group
	for i, u := range users {
		for n, s := range []*Server{first, second} {
			owner := u.owner()
			g.Go(func() error {
				for j := range 15 {
					rec, err := newRecord(note, fmt.Sprintf("%d-%d-%d", i, n, j), []byte(`{"n":1}`), nil)
					if err != nil {
						return err
					}
					head, err := s.write(context.Background(), owner, []change{{Intent: toCreate, Collection: note, RKey: fmt.Sprintf("%d-%d-%d", i, n, j), Record: rec}}, nil)
					if err != nil || head == nil {
						return fmt.Errorf("write %d of server %d: %w", j, n, err)
					}
				}
				return nil
			})
		}
	}
	require.NoError(t, g.Wait())
	c := newChain(b, users...)
	f := b.follow(0)
	for c.last < 4*4+4*2*15 {
		c.take(f.next())
	}
	for _, u := range users {
		u.assertWhole()
		assert.Equal(t, 30, b.count(`select count(*) from record where did = $1`, u.DID))
	}
}

// Two records of one value share a block, which the short way would have to store twice.
func TestRecordOfAValueThatIsThereGoesTheLongWay(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.ok(u.create(note, "a", m{"n": 1}))
	u.ok(u.create(note, "c", m{"n": 2}))
	commit, err := b.server.Load().writeKnown(t.Context(), u.owner(), u.knownValue("b", `{"n":1}`), nil)
	require.NoError(t, err)
	assert.Nil(t, commit)
	u.ok(u.create(note, "b", m{"n": 1}))
	u.assertWhole()
}

func TestServersTellEachOtherOfWhatTheyStoredTheShortWay(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	u := b.account("user")
	u.ok(u.create(note, "a", m{"n": 0}))
	var writes [][]change
	for i := range 3 {
		writes = append(writes, u.knownValue(fmt.Sprint("b", i), fmt.Sprintf(`{"n":%d}`, i+1)))
	}
	first, owner := b.server.Load(), u.owner()
	b.restart()
	b.run()
	f := b.follow(0) // the second's stream
	for _, changes := range writes {
		commit, err := first.writeKnown(t.Context(), owner, changes, nil)
		require.NoError(t, err)
		require.NotNil(t, commit)
		for told := false; !told; {
			ev, ok := f.next().(*firehose.Commit)
			told = ok && ev.Commit == commit.Head.Commit
		}
	}
}

func TestCreateOverARecordIsRefusedThoughTheRepositoryIsKnown(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	u.ok(u.create(note, "a", m{}))
	a := u.create(note, "a", m{"n": 2})
	assert.Equal(t, http.StatusConflict, a.Status)
	assert.Equal(t, "RecordAlreadyExists", a.name())
	commit, _ := u.head()
	u.ok(u.create(note, "b", m{}, "swapCommit", commit))
	assert.Equal(t, "InvalidSwap", u.create(note, "c", m{}, "swapCommit", commit).name())
}

func TestCommitsThatWaitTogetherAreStoredTogether(t *testing.T) {
	t.Parallel()
	entered, release := make(chan int), make(chan error)
	tg := &together{store: func(_ context.Context, group []*made) error {
		entered <- len(group)
		return <-release
	}}
	add := func(bytes int) *made {
		m := &made{did: syntax.DID("did:plc:x"), commit: &repo.Commit{CAR: make([]byte, bytes)}, done: make(chan error, 1)}
		tg.add(m)
		return m
	}
	var first []*made
	for range lanes {
		m := &made{did: syntax.DID("did:plc:x"), commit: &repo.Commit{CAR: make([]byte, 1)}, done: make(chan error, 1)}
		first = append(first, m)
		go tg.add(m) // stores it
		assert.Equal(t, 1, <-entered, "nobody waits while a lane is free")
	}
	var rest []*made
	for range groupCommits + 3 {
		rest = append(rest, add(1))
	}
	big := []*made{add(groupBytes), add(groupBytes)}
	why := errors.New("why")
	release <- why
	assert.Equal(t, groupCommits, <-entered)
	release <- nil
	assert.Equal(t, 3, <-entered, "what is over the limit of bytes comes later")
	for range lanes {
		release <- nil
		assert.Equal(t, 1, <-entered)
	}
	for range lanes {
		release <- nil
	}
	got := []error{<-first[0].done, <-first[1].done}
	assert.ElementsMatch(t, []error{why, nil}, got)
	for _, m := range append(rest, big...) {
		require.NoError(t, <-m.done)
	}
}

func TestLaneGoesOnAfterAPanic(t *testing.T) {
	t.Parallel()
	calls := 0
	tg := &together{}
	one := func() *made {
		return &made{did: syntax.DID("did:plc:x"), commit: &repo.Commit{}, done: make(chan error, 1)}
	}
	neighbour, later := one(), one()
	tg.store = func(context.Context, []*made) error {
		if calls++; calls == 1 {
			tg.mu.Lock()
			tg.waiting = append(tg.waiting, later) // comes meanwhile, and finds all lanes taken
			tg.mu.Unlock()
			panic("broken")
		}
		return nil
	}
	tg.waiting = []*made{neighbour}
	first := one()
	require.Panics(t, func() { tg.add(first) })
	require.ErrorIs(t, <-first.done, errNotStored)
	require.ErrorIs(t, <-neighbour.done, errNotStored)
	require.NoError(t, <-later.done)
	for range 2 * lanes { // no lane was lost
		m := one()
		tg.add(m)
		require.NoError(t, <-m.done)
	}
}
