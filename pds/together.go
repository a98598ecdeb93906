package pds

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"

	"city-sync.org/citysync/internal/repo"
)

// Most writes create records, and what such a write needs of the database this process knows since its last one to the same repository. So
// the commit is made first, and one round trip stores it. Those of several repositories that are ready at once share a transaction, and
// with it the wait for the disk under the lock of event_head, which is what bounds a server that many write to.
//
// What is taken for granted is checked in that transaction, under the locks of its repositories: another head, an account that is not active,
// has another key or somebody who acts for it, a session that is over, a record that exists. One that does not hold ends the transaction, and each of its writes goes the long way.

// standing is what this process knows of a repository.
type standing struct {
	head   repo.Head
	key    []byte              // the account's, sealed
	signer atcrypto.PrivateKey // the same, open: to open it costs as much as to sign with it
}

// made is a commit that waits to be stored.
type made struct {
	did     syntax.DID
	before  standing
	session string // that is to be open, if it was not asked for
	changes []change
	commit  *repo.Commit
	done    chan error // has room for the one result
}

func (m *made) size() int { return len(m.commit.CAR) }

// errStale says that what a write took for granted does not hold, or that a neighbour's did not. Nothing of it was stored.
var errStale = errors.New("not as it was known")

// errNotStored is told to those who shared a transaction with what ended in a panic.
var errNotStored = errors.New("storing the commit broke off")

// writeKnown makes and stores a commit of new records on the repository as it is known here. It answers nil without an error when the long
// way has to be gone, which also says what is wrong with a write. The caller has the repository's turn.
func (s *Server) writeKnown(ctx context.Context, a *authority, changes []change, swapCommit *cid.Cid) (*repo.Commit, error) {
	did := a.Account.DID
	known, ok := s.standings.get(did)
	if !ok || a.role != nil || (swapCommit != nil && !swapCommit.Equals(known.head.Commit)) {
		return nil, nil
	}
	writes := make([]repo.Write, len(changes))
	for i, ch := range changes {
		if ch.Intent != toCreate || ch.Swap != nil || len(ch.Record.Blobs) > 0 {
			return nil, nil
		}
		writes[i] = repo.Write{Action: repo.Create, Collection: ch.Collection, RKey: ch.RKey, Record: ch.Record.CBOR}
	}
	rev, err := s.tids.nextRev(known.head.Rev)
	if err != nil {
		return nil, err
	}
	m := &made{did: did, before: known, changes: changes, done: make(chan error, 1)}
	if a.confirm != nil {
		m.session = a.Session
	}
	if m.commit, err = repo.Apply(ctx, blocks{q: s.pool, did: did, cache: s.cache}, did, &known.head, writes, known.signer, rev); err != nil {
		return nil, nil
	}
	s.together.add(m)
	// Not given up with the request: the repository's turn lasts until it is known what became of the commit.
	if err := <-m.done; err != nil {
		s.standings.drop(did)
		if errors.Is(err, errStale) {
			return nil, nil
		}
		return nil, wrapUnlessShown(err, "commit %s of %s", rev, did)
	}
	s.standings.put(did, standing{head: m.commit.Head, key: known.key, signer: known.signer})
	return m.commit, nil
}

const (
	lanes        = 2       // transactions under way at once: one stores while the other waits for the disk
	groupCommits = 64      // of one transaction
	groupBytes   = 4 << 20 // of their blocks
	groupLimit   = 30 * time.Second
)

// together stores commits, those that wait at once in one transaction.
type together struct {
	store func(ctx context.Context, group []*made) error

	mu      sync.Mutex // guards waiting and busy
	waiting []*made
	busy    int // lanes that run
}

// add takes a commit. Where a lane is free the caller is the first to run it: that saves a write that comes alone two changes of goroutine.
func (t *together) add(m *made) {
	t.mu.Lock()
	t.waiting = append(t.waiting, m)
	free := t.busy < lanes
	if free {
		t.busy++
	}
	t.mu.Unlock()
	if free && t.serve() && t.more() {
		go t.run() // ends when nothing waits; each who added something waits for it
	}
}

func (t *together) run() {
	for t.serve() {
	}
}

// serve stores one group. With nothing left the lane is over.
func (t *together) serve() bool {
	group := t.next()
	if group == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupLimit)
	defer cancel()
	err, ended := errNotStored, false
	defer func() {
		for _, m := range group {
			m.done <- err
		}
		if !ended { // a panic, which goes on to whoever ran the lane; the lane goes on without
			go t.run()
		}
	}()
	err = t.store(ctx, group)
	ended = true
	return true
}

// more says whether something waits. With nothing left the lane is over.
func (t *together) more() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.busy--
		return false
	}
	return true
}

// next takes what waits, up to the limits of a group. With nothing left the lane is over.
func (t *together) next() []*made {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, bytes := 0, 0
	for n < min(len(t.waiting), groupCommits) && (n == 0 || bytes+t.waiting[n].size() <= groupBytes) {
		bytes += t.waiting[n].size()
		n++
	}
	if n == 0 {
		t.busy--
		return nil
	}
	group := slices.Clone(t.waiting[:n])
	t.waiting = slices.Delete(t.waiting, 0, n)
	return group
}
