package pds

import (
	"context"
	"sync"

	"github.com/bluesky-social/indigo/atproto/syntax"
)

// repoQueue lets the writers of one repository wait in memory. The row lock alone would
// be right, but each who waits for it holds a database connection, and one busy
// repository would take them all from everybody else.
type repoQueue struct {
	mu    sync.Mutex // guards turns and their waiting
	turns map[syntax.DID]*turn
}

type turn struct {
	token   chan struct{} // room for one: whoever put a token in may write
	waiting int           // writers that wait or write
}

func newRepoQueue() *repoQueue { return &repoQueue{turns: map[syntax.DID]*turn{}} }

// enter waits for the repository's turn. The caller calls leave when its write is over.
func (q *repoQueue) enter(ctx context.Context, did syntax.DID) (leave func(), err error) {
	q.mu.Lock()
	t, ok := q.turns[did]
	if !ok {
		t = &turn{token: make(chan struct{}, 1)}
		q.turns[did] = t
	}
	t.waiting++
	q.mu.Unlock()
	select {
	case t.token <- struct{}{}:
		return func() {
			<-t.token
			q.drop(did, t)
		}, nil
	case <-ctx.Done():
		q.drop(did, t)
		return nil, ctx.Err()
	}
}

func (q *repoQueue) drop(did syntax.DID, t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.waiting--; t.waiting == 0 {
		delete(q.turns, did)
	}
}
