package follow

import (
	"context"
	"sync"
	"time"

	"city-sync.org/citysync/internal/clock"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

const (
	firstRetry   = 5 * time.Second
	lastRetry    = time.Hour
	streamFirst  = 30 * time.Second // what a repository we know gets to catch up by the stream
	purgeWindow  = time.Minute
	maxPurges    = 6 // of one DID within the window
	maxRepairs   = 100_000
	maxRemembers = 10_000
)

// repairs remembers which repositories must be fetched, and when.
type repairs struct {
	clock clock.Clock
	wake  chan struct{} // has room for one

	mu     sync.Mutex // guards the fields below
	up     bool       // the stream was connected once
	urgent bool       // the stream cannot bring what is missing
	listAt time.Time  // when to list the host; zero: at once
	due    map[syntax.DID]retry
	purged map[syntax.DID]purges
}

type retry struct {
	at     time.Time
	pause  time.Duration // 0: never failed
	queued bool          // a job for it is under way
}

type purges struct {
	since time.Time
	n     int
}

func newRepairs(c clock.Clock) *repairs {
	return &repairs{clock: c, wake: make(chan struct{}, 1), due: map[syntax.DID]retry{}, purged: map[syntax.DID]purges{}}
}

func (r *repairs) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *repairs) connected() {
	r.mu.Lock()
	r.up = true
	r.mu.Unlock()
	r.poke()
}

// listNow asks for a listing at once: the stream has a gap.
func (r *repairs) listNow() {
	r.mu.Lock()
	r.listAt, r.urgent = time.Time{}, true
	r.mu.Unlock()
	r.poke()
}

// listDue says whether to list now, and whether for a gap's sake.
func (r *repairs) listDue() (due, urgent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up && !r.clock.Now().Before(r.listAt), r.urgent
}

func (r *repairs) listed(complete bool, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listAt = r.clock.Now().Add(next)
	if complete {
		r.urgent = false
	}
}

// want asks for a repository soon, unless it waits for its turn after a failure.
func (r *repairs) want(did syntax.DID) {
	r.mu.Lock()
	if _, ok := r.due[did]; !ok && len(r.due) < maxRepairs {
		r.due[did] = retry{at: r.clock.Now()}
	}
	r.mu.Unlock()
	r.poke()
}

// look asks for a look at a repository after a while, if there is no entry yet.
func (r *repairs) look(did syntax.DID, after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.due[did]; !ok && len(r.due) < maxRepairs {
		r.due[did] = retry{at: r.clock.Now().Add(after)}
	}
}

// failed puts a repository off, each time for longer.
func (r *repairs) failed(did syntax.DID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.due[did]
	if !ok && len(r.due) >= maxRepairs {
		return
	}
	e.pause = min(max(firstRetry, 2*e.pause), lastRetry)
	e.at, e.queued = r.clock.Now().Add(e.pause), false
	r.due[did] = e
}

func (r *repairs) done(did syntax.DID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.due, did)
}

// may says whether a repository may be fetched now for an event's sake.
func (r *repairs) may(did syntax.DID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.due[did]
	return !ok || e.pause == 0 || !r.clock.Now().Before(e.at)
}

func (r *repairs) mayPurge(did syntax.DID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	p := r.purged[did]
	if p.n == 0 || !now.Before(p.since.Add(purgeWindow)) {
		p = purges{since: now}
	}
	if p.n >= maxPurges {
		return false
	}
	if len(r.purged) >= maxRemembers {
		clear(r.purged)
	}
	p.n++
	r.purged[did] = p
	return true
}

// take gives the repositories that are due now and marks them as under way.
func (r *repairs) take() []syntax.DID {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	var out []syntax.DID
	for did, e := range r.due {
		if !e.queued && !now.Before(e.at) {
			e.queued = true
			r.due[did] = e
			out = append(out, did)
		}
	}
	return out
}

// repairLoop lists the host after the first connection, and again from time to
// time, and fetches what is due.
func (f *Follower) repairLoop(ctx context.Context) error {
	tick := time.NewTicker(f.cfg.RepairEvery)
	defer tick.Stop()
	quiet, ready := false, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.repair.wake:
		case <-tick.C:
		}
		complete := false
		if due, _ := f.repair.listDue(); due {
			if !quiet {
				f.awaitQuiet(ctx)
				quiet = true
			}
			var err error
			if complete, err = f.survey(ctx); err != nil {
				return err
			}
			next := f.cfg.ListEvery
			if !complete {
				next = firstRetry
			}
			f.repair.listed(complete, next)
		}
		jobs := f.fetchDue(ctx)
		if complete && !ready {
			for _, j := range jobs {
				select {
				case <-j.acted:
				case <-ctx.Done():
					return nil
				}
			}
			ready = true
			close(f.ready)
		}
	}
}

// awaitQuiet lets the stream bring what it has, before anything is fetched
// whole: commits keep the versions between, a snapshot has only the last.
func (f *Follower) awaitQuiet(ctx context.Context) {
	longest := time.NewTimer(40 * f.cfg.QuietFor)
	defer longest.Stop()
	quiet := time.NewTimer(f.cfg.QuietFor)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-longest.C:
			return
		case <-quiet.C:
			return
		case <-f.active:
			quiet.Reset(f.cfg.QuietFor)
		}
	}
}

// survey lists the host and asks for every repository that is unknown, and for
// a later look at those that are behind. It is not complete if the host did not
// answer. Its error is the Sink's.
func (f *Follower) survey(ctx context.Context) (complete bool, err error) {
	_, urgent := f.repair.listDue()
	var own error
	err = f.list(ctx, func(did syntax.DID, rev string, active bool) error {
		if !active {
			return nil
		}
		have, err := f.cfg.Sink.Repo(ctx, did)
		if err != nil {
			own = err
			return err
		}
		switch {
		case rev <= have.Rev:
		case have.Rev == "" || urgent:
			f.repair.want(did)
		default:
			f.repair.look(did, streamFirst)
		}
		return nil
	})
	if own != nil || ctx.Err() != nil {
		return false, own
	}
	if err != nil {
		f.cfg.Log.Warn("host not listed", "host", f.cfg.Host, "error", err.Error())
		return false, nil
	}
	return true, nil
}

// fetchDue sends due repositories down the pipeline.
func (f *Follower) fetchDue(ctx context.Context) []*job {
	var jobs []*job
	for _, did := range f.repair.take() {
		j := &job{did: did}
		if err := f.push(ctx, j); err != nil {
			return jobs // ctx ended
		}
		jobs = append(jobs, j)
	}
	return jobs
}
