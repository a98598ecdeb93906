package follow

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

// job is one event, or one repair, on its way from the stream to the Sink. A
// worker fills in the outcome and closes done; deliver acts on it in order.
type job struct {
	seq   int64
	did   syntax.DID
	ev    firehose.Event // nil: a repair
	n     uint64         // its place in the pipeline
	done  chan struct{}  // closed when out is final, unless out.fetch
	acted chan struct{}  // closed when the Sink was told
	out   outcome
	after chan repo.State // what is held once the delivered job was acted on
}

// outcome is what the Sink is to be told: exactly one field, or none to skip.
type outcome struct {
	commit   *repo.Verified
	full     *repo.Full
	fetch    bool // deliver fetches the repository itself; drop is the event's fault, if nothing new comes of it
	drop     string
	detail   error
	account  *firehose.Account
	identity bool
}

// submitter gives jobs their order.
type submitter struct {
	mu  sync.Mutex // held while a job is put into both queues
	seq int64      // of the last event
	n   uint64     // of the last job
}

var shardSeed = maphash.MakeSeed()

// push hands a job to its repository's worker and to deliver. One worker sees
// all jobs of a repository, in order. A repair takes the sequence of the event
// before it, and first a slot for the repository it may bring.
func (f *Follower) push(ctx context.Context, j *job) error {
	if j.ev == nil {
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	j.done, j.acted, j.after = make(chan struct{}), make(chan struct{}), make(chan repo.State, 1)
	f.submit.mu.Lock()
	defer f.submit.mu.Unlock()
	if j.ev == nil {
		j.seq = f.submit.seq
	} else {
		f.submit.seq = j.seq
	}
	f.submit.n++
	j.n = f.submit.n
	w := f.workers[maphash.String(shardSeed, string(j.did))%uint64(len(f.workers))]
	select {
	case f.order <- j:
	case <-ctx.Done():
		return ctx.Err()
	}
	w.in <- j // has room for all that order can hold
	return nil
}

// deliver calls the Sink, in order (W1).
func (f *Follower) deliver(ctx context.Context, saved int64) error {
	skipped := 0
	for {
		var j *job
		select {
		case j = <-f.order:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-j.done:
		case <-ctx.Done():
			return nil
		}
		told, err := f.act(ctx, j)
		if j.ev == nil {
			<-f.slots
		}
		if err != nil {
			return err
		}
		close(j.acted)
		f.metrics.delivered(j.seq)
		if told {
			saved, skipped = j.seq, 0
			continue
		}
		// Skipped events move the cursor now and then, and when nothing waits.
		skipped++
		if adv, ok := f.cfg.Sink.(Advancer); ok && j.seq > saved && (skipped >= maxInFlight || len(f.order) == 0) {
			if err := adv.Advance(ctx, f.cfg.Host, j.seq); err != nil {
				return fmt.Errorf("advance to %d: %w", j.seq, err)
			}
			saved, skipped = j.seq, 0
		}
	}
}

// act tells the Sink what became of a job.
func (f *Follower) act(ctx context.Context, j *job) (told bool, err error) {
	s, host, o := f.cfg.Sink, f.cfg.Host, &j.out
	if o.fetch {
		fault := outcome{drop: o.drop, detail: o.detail}
		*o = f.fetch(ctx, j.did)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		state, err := f.settle(ctx, j)
		if err != nil {
			return false, err
		}
		if *o == (outcome{}) {
			*o = fault // the host itself does not have what the event told
		}
		j.after <- state
	}
	switch {
	case o.commit != nil:
		err = s.Commit(ctx, host, j.seq, o.commit)
	case o.full != nil:
		f.metrics.snapshot()
		f.repair.done(j.did)
		err = s.Snapshot(ctx, host, j.seq, j.did, o.full, o.full.Proof)
	case o.account != nil:
		err = s.Account(ctx, host, j.seq, j.did, o.account.Active, o.account.Status)
	case o.identity:
		err = s.Identity(ctx, host, j.seq, j.did)
	case o.drop != "":
		f.metrics.drop(o.drop)
		if f.logs.allow(o.drop) {
			f.cfg.Log.Warn("event dropped", "host", host, "seq", j.seq, "did", j.did, "reason", o.drop, "error", fmt.Sprint(o.detail))
		}
		err = s.Drop(ctx, host, j.seq, j.did, o.drop)
	default:
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("save event %d of %s: %w", j.seq, j.did, err)
	}
	return true, nil
}

// settle judges a repository that deliver fetched, against what is held now.
func (f *Follower) settle(ctx context.Context, j *job) (repo.State, error) {
	have, err := f.cfg.Sink.Repo(ctx, j.did)
	if err != nil {
		return repo.State{}, fmt.Errorf("state of %s: %w", j.did, err)
	}
	return f.judge(j, have), nil
}

// judge compares a fetched repository with what is held and gives what is held
// afterwards.
func (f *Follower) judge(j *job, have repo.State) repo.State {
	o := &j.out
	if o.full == nil {
		if o.drop != "" {
			f.repair.failed(j.did)
		}
		return have
	}
	if o.full.Rev == have.Rev && o.full.Data == have.Data {
		*o = outcome{}
		f.repair.done(j.did)
		return have
	}
	if err := repo.CheckRev(o.full.Rev, have, f.cfg.Clock.Now()); err != nil {
		*o = dropped(err)
		f.repair.failed(j.did)
		return have
	}
	return repo.State{Rev: o.full.Rev, Data: o.full.Data}
}

// dropped makes an outcome of a refusal.
func dropped(err error) outcome {
	var r *repo.Reject
	if errors.As(err, &r) {
		return outcome{drop: string(r.Reason), detail: r.Err}
	}
	var h *hostError
	if errors.As(err, &h) {
		return outcome{drop: h.reason, detail: h.err}
	}
	return outcome{drop: FetchFailed, detail: err}
}
