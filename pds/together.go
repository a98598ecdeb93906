package pds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5/pgconn"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
)

// Most writes create records, and what such a write needs of the database this process knows since its last one to the same repository. So
// the commit is made first, and one round trip stores it. Those of several repositories that are ready at once share a transaction, and
// with it the wait for the disk under the lock of event_head, which is what bounds a server that many write to.
//
// What is taken for granted is checked in that transaction, under the locks of its repositories: another head, an account that is not active,
// has another key or somebody who acts for it, a record that exists. One that does not hold ends the transaction, and each of its writes goes the long way.

// standing is what this process knows of a repository.
type standing struct {
	head repo.Head
	key  []byte // the account's, sealed
}

// standings remember the repositories written to last. Forgetting one costs a round trip.
type standings struct {
	mu    sync.Mutex // guards known
	known map[syntax.DID]standing
}

const maxStandings = 20_000

func newStandings() *standings { return &standings{known: map[syntax.DID]standing{}} }

func (s *standings) get(did syntax.DID) (standing, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.known[did]
	return st, ok
}

func (s *standings) put(did syntax.DID, st standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[did]; !ok && len(s.known) >= maxStandings {
		for other := range s.known { // any
			delete(s.known, other)
			break
		}
	}
	s.known[did] = st
}

func (s *standings) drop(did syntax.DID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, did)
}

// made is a commit that waits to be stored.
type made struct {
	did     syntax.DID
	before  standing
	changes []change
	commit  *repo.Commit
	done    chan error // has room for the one result
}

func (m *made) size() int { return len(m.commit.CAR) }

// errStale says that what a write took for granted does not hold, or that a neighbour's did not. Nothing of it was stored.
var errStale = errors.New("not as it was known")

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
	key, err := s.signingKey(&account{DID: did, SigningKey: known.key})
	if err != nil {
		return nil, err
	}
	rev, err := s.tids.nextRev(known.head.Rev)
	if err != nil {
		return nil, err
	}
	m := &made{did: did, before: known, changes: changes, done: make(chan error, 1)}
	if m.commit, err = repo.Apply(ctx, blocks{q: s.pool, did: did, cache: s.cache}, did, &known.head, writes, key, rev); err != nil {
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
	s.standings.put(did, standing{head: m.commit.Head, key: known.key})
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

func (t *together) add(m *made) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = append(t.waiting, m)
	if t.busy < lanes {
		t.busy++
		go t.run() // ends when nothing waits; each who added something waits for it
	}
}

func (t *together) run() {
	for group := t.next(); group != nil; group = t.next() {
		ctx, cancel := context.WithTimeout(context.Background(), groupLimit)
		err := t.store(ctx, group)
		cancel()
		for _, m := range group {
			m.done <- err
		}
	}
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

// storeTogether stores the commits of different repositories in one call of the database, which is one transaction. errStale means that it
// refused them.
func (s *Server) storeTogether(ctx context.Context, group []*made) error {
	const store = `select store_commits($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)`
	// Every transaction locks repositories in this order.
	slices.SortFunc(group, func(a, b *made) int { return strings.Compare(string(a.did), string(b.did)) })
	now := s.clock.Now()
	var head struct {
		dids, revs                  []string
		commits, datas, known, keys [][]byte
		before, after               [][]byte
	}
	var rec struct {
		dids, collections, rkeys, revs []string
		cids                           [][]byte
	}
	var gone, fresh struct {
		dids, revs   []string
		cids, bodies [][]byte
	}
	for _, m := range group {
		did, c := m.did.String(), m.commit
		rev := c.Head.Rev
		before, after, err := firehose.Split(commitEvent(c, now))
		if err != nil {
			return fmt.Errorf("event of commit %s of %s: %w", rev, did, err)
		}
		head.dids, head.revs, head.keys = append(head.dids, did), append(head.revs, rev), append(head.keys, m.before.key)
		head.commits, head.datas = append(head.commits, c.Head.Commit.Bytes()), append(head.datas, c.Head.Data.Bytes())
		head.known = append(head.known, m.before.head.Commit.Bytes())
		head.before, head.after = append(head.before, before), append(head.after, after)
		for _, ch := range m.changes {
			rec.dids, rec.revs = append(rec.dids, did), append(rec.revs, rev)
			rec.collections, rec.rkeys = append(rec.collections, ch.Collection), append(rec.rkeys, ch.RKey)
			rec.cids = append(rec.cids, ch.Record.CID.Bytes())
		}
		for _, id := range c.Unreachable { // the former commit among them
			gone.dids, gone.cids = append(gone.dids, did), append(gone.cids, id.Bytes())
		}
		for _, b := range c.New {
			fresh.dids, fresh.revs = append(fresh.dids, did), append(fresh.revs, rev)
			fresh.cids, fresh.bodies = append(fresh.cids, b.CID.Bytes()), append(fresh.bodies, b.Data)
		}
	}
	crash.Point("pds/together/before-commit")
	_, err := s.pool.Exec(ctx, store,
		head.dids, head.commits, head.datas, head.revs, head.known, head.keys,
		rec.dids, rec.collections, rec.rkeys, rec.cids, rec.revs,
		gone.dids, gone.cids,
		fresh.dids, fresh.cids, fresh.revs, fresh.bodies,
		head.before, head.after, now)
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) && !strings.HasPrefix(refusal.Code, "57") { // 57…: the server goes down, and says nothing of the write
		return errStale
	}
	crash.Point("pds/together/after-commit")
	return err
}
