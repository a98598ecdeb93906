package follow

import (
	"context"
	"errors"
	"fmt"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

// maxCached bounds the states a worker remembers.
const maxCached = 20_000

// worker verifies the events of its share of the repositories. It runs ahead of
// the Sink, so it remembers what the Sink will hold once it has caught up.
type worker struct {
	f    *Follower
	in   chan *job
	held map[syntax.DID]held
}

type held struct {
	state repo.State
	by    uint64 // number of the last job that touched it
}

func newWorker(f *Follower) *worker {
	// Room for all of order and the job deliver holds, so that push never waits
	// here while it holds its lock.
	return &worker{f: f, in: make(chan *job, maxInFlight+2), held: map[syntax.DID]held{}}
}

func (w *worker) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-w.in:
			if err := w.handle(ctx, j); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		}
	}
}

// handle fills in the job's outcome. Its errors are our own.
func (w *worker) handle(ctx context.Context, j *job) error {
	have, err := w.have(ctx, j.did)
	if err != nil {
		return err
	}
	next := have
	switch e := j.ev.(type) {
	case nil:
		next = w.fix(ctx, j, have)
	case *firehose.Commit:
		next = w.commit(ctx, j, e, have)
	case *firehose.Sync:
		j.out = outcome{fetch: e.Rev > have.Rev}
	case *firehose.Account:
		w.account(ctx, j, e, have)
	case *firehose.Identity:
		w.f.purge(ctx, j.did)
		if _, err := w.f.author(ctx, j.did); err != nil {
			j.out = dropped(err)
		} else {
			j.out.identity = true
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if j.out.fetch && !w.f.repair.may(j.did) {
		j.out = outcome{drop: string(repo.BadChain), detail: errors.New("the repository could not be fetched lately")}
	}
	fetch := j.out.fetch
	close(j.done)
	if fetch { // deliver does it, in order, and says what it got
		select {
		case next = <-j.after:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.remember(j, have, next)
	return nil
}

func (w *worker) have(ctx context.Context, did syntax.DID) (repo.State, error) {
	if h, ok := w.held[did]; ok {
		return h.state, nil
	}
	s, err := w.f.cfg.Sink.Repo(ctx, did)
	if err != nil {
		return repo.State{}, fmt.Errorf("state of %s: %w", did, err)
	}
	return s, nil
}

func (w *worker) remember(j *job, have, next repo.State) {
	if len(w.held) >= maxCached {
		// Only what the Sink has surely saved may be forgotten: a job that is at
		// least a whole queue old.
		for did, h := range w.held {
			if h.by+2*maxInFlight < j.n {
				delete(w.held, did)
			}
		}
	}
	if next == have && next.Rev == "" {
		return // strangers without a repository are not worth memory
	}
	w.held[j.did] = held{state: next, by: j.n}
}

func (w *worker) commit(ctx context.Context, j *job, e *firehose.Commit, have repo.State) repo.State {
	switch {
	case e.Rev < have.Rev, e.Rev == have.Rev && e.TooBig:
		return have // seen: the listing was ahead of the stream
	case e.Rev == have.Rev:
		j.out = w.again(ctx, e, have)
		return have
	}
	v, err := w.f.verify(ctx, e, have)
	if err == nil {
		j.out.commit = v
		return repo.State{Rev: v.Rev, Data: v.Data}
	}
	j.out = dropped(err)
	switch repo.Reason(j.out.drop) {
	case repo.BadChain, repo.TooBig:
		j.out.fetch = true
	case NoIdentity, repo.BadSignature:
		w.f.repair.look(j.did, firstRetry) // our copy of the DID document may be the wrong one
	}
	return have
}

// again tells an event seen before from another tree that its author signed under the same rev. The first one stands, whatever the
// second would change: two readers of one stream must not come to hold different repositories without a trace.
func (w *worker) again(ctx context.Context, e *firehose.Commit, have repo.State) outcome {
	root, err := w.f.signedRoot(ctx, e)
	switch {
	case err != nil:
		return dropped(err)
	case root != have.Data:
		return outcome{drop: Equivocation, detail: fmt.Errorf("rev %s signed for %s, we hold %s", e.Rev, root, have.Data)}
	}
	return outcome{}
}

func (w *worker) account(ctx context.Context, j *job, e *firehose.Account, have repo.State) {
	if _, err := w.f.author(ctx, j.did); err != nil {
		j.out = dropped(err)
		return
	}
	j.out.account = e
	switch {
	case !e.Active:
		w.f.repair.done(j.did) // there is nothing to fetch any more
	case have.Rev != "":
		w.f.repair.want(j.did) // it may have gone on while it was away
	}
}

// fix fetches a repository that is unknown, or was left behind.
func (w *worker) fix(ctx context.Context, j *job, have repo.State) repo.State {
	if have.Rev != "" {
		rev, err := w.f.latest(ctx, j.did)
		if err == nil && rev <= have.Rev {
			w.f.repair.done(j.did)
			return have
		}
	}
	j.out = w.f.fetch(ctx, j.did)
	return w.f.judge(j, have)
}
