//go:build crash

package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

const maxExport = 64 << 20

// replica is what a reader of the stream holds of one repository.
type replica struct {
	state   repo.State
	records map[string]string // CID by path
	fetched int               // how often the whole of it was asked for
}

// told is a commit as the stream told it.
type told struct {
	seq int64
	rev string
	cid string
	ops map[string]string // CID by path, empty for a delete
}

// reader follows the stream by a cursor of its own, checks every commit as an indexer does, and keeps what came of each repository.
type reader struct {
	h *host

	mu      sync.Mutex // guards what follows
	last    int64
	keys    map[syntax.DID][]atcrypto.PublicKey // newest first; forgotten when the identity changes
	repos   map[syntax.DID]*replica
	commits map[syntax.DID][]told
	status  map[syntax.DID]string
	syncs   map[syntax.DID]int
	wrong   []string
}

func newReader(h *host) *reader {
	return &reader{
		h: h, keys: map[syntax.DID][]atcrypto.PublicKey{}, repos: map[syntax.DID]*replica{}, commits: map[syntax.DID][]told{},
		status: map[syntax.DID]string{}, syncs: map[syntax.DID]int{},
	}
}

func (r *reader) run(ctx context.Context) error {
	client, err := firehose.NewClient(firehose.ClientConfig{Host: r.h.url, Cursor: 0, MinBackoff: 50 * time.Millisecond, MaxBackoff: 200 * time.Millisecond}, r)
	if err != nil {
		return err
	}
	return client.Run(ctx)
}

func (r *reader) Connected(context.Context) error { return nil }

func (r *reader) Garbage(_ context.Context, err error) error { return err }

func (r *reader) complain(format string, a ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, a...))
}

func (r *reader) Event(ctx context.Context, ev firehose.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq, did := ev.Sequence(), ev.Subject()
	if seq == 0 {
		r.complain("the stream said %#v", ev)
		return nil
	}
	if seq <= r.last {
		r.complain("event %d came after %d", seq, r.last)
	}
	var err error
	switch ev := ev.(type) {
	case *firehose.Identity:
		delete(r.keys, did)
	case *firehose.Account:
		if r.status[did] = ev.Status; ev.Status == "deleted" {
			delete(r.repos, did)
			delete(r.commits, did)
		}
	case *firehose.Commit:
		err = r.commit(ctx, ev)
	case *firehose.Sync:
		r.syncs[did]++
		if have := r.repos[did]; have == nil || have.state.Rev < ev.Rev {
			err = r.fetch(ctx, did)
		}
	default:
		r.complain("event %d is %T", seq, ev)
	}
	r.last = seq
	return err
}

func (r *reader) commit(ctx context.Context, ev *firehose.Commit) error {
	t := told{seq: ev.Seq, rev: ev.Rev, cid: ev.Commit.String(), ops: map[string]string{}}
	for _, op := range ev.Ops {
		t.ops[op.Path] = ""
		if op.CID != nil {
			t.ops[op.Path] = op.CID.String()
		}
	}
	if before := r.commits[ev.DID]; len(before) > 0 && before[len(before)-1].rev >= ev.Rev {
		r.complain("event %d of %s has rev %s after %s", ev.Seq, ev.DID, ev.Rev, before[len(before)-1].rev)
	}
	r.commits[ev.DID] = append(r.commits[ev.DID], t)
	have := r.repos[ev.DID]
	if have != nil && have.fetched > 0 && ev.Rev <= have.state.Rev {
		return nil // it was in what was fetched
	}
	if have == nil && ev.Since != "" {
		return r.fetch(ctx, ev.DID) // it lived elsewhere before
	}
	if have == nil {
		have = &replica{records: map[string]string{}}
	}
	if ev.Since != have.state.Rev {
		r.complain("event %d of %s goes on from %q, before it came %q", ev.Seq, ev.DID, ev.Since, have.state.Rev)
	}
	var v *repo.Verified
	err := r.withKeys(ctx, ev.DID, func(key atcrypto.PublicKey) (err error) {
		v, err = repo.VerifyCommit(ctx, ev, key, have.state, time.Now())
		return err
	})
	if err != nil {
		r.complain("event %d of %s: %v", ev.Seq, ev.DID, err)
		return nil
	}
	for path, c := range t.ops {
		if have.records[path] = c; c == "" {
			delete(have.records, path)
		}
	}
	have.state = repo.State{Rev: v.Rev, Data: v.Data}
	r.repos[ev.DID] = have
	return nil
}

// withKeys does what needs the key of an account with the one that is known, and with all that it ever had where that one does not fit: an
// event may be older than the document.
func (r *reader) withKeys(ctx context.Context, did syntax.DID, do func(atcrypto.PublicKey) error) error {
	known := r.keys[did]
	for _, again := range []bool{false, true} {
		if known == nil || again {
			var err error
			if known, err = r.h.keysOf(ctx, did); err != nil {
				return err
			}
			r.keys[did] = known
		}
		for i, key := range known {
			err := do(key)
			var bad *repo.Reject
			if errors.As(err, &bad) && bad.Reason == repo.BadSignature {
				continue
			}
			if i > 0 {
				r.keys[did] = append([]atcrypto.PublicKey{key}, slices.Delete(slices.Clone(known), i, i+1)...)
			}
			return err
		}
	}
	return fmt.Errorf("no key that %s ever had signed it", did)
}

// keysOf are the keys that an account's document named, the last first.
func (h *host) keysOf(ctx context.Context, did syntax.DID) ([]atcrypto.PublicKey, error) {
	entries, err := h.plc.Audit(ctx, did)
	if err != nil {
		return nil, err
	}
	var out []atcrypto.PublicKey
	seen := map[string]bool{}
	for _, e := range slices.Backward(entries) {
		text := e.Operation.VerificationMethods["atproto"]
		if seen[text] {
			continue
		}
		seen[text] = true
		key, err := atcrypto.ParsePublicDIDKey(text)
		if err != nil {
			return nil, err
		}
		out = append(out, key)
	}
	return out, nil
}

// fetch takes the whole repository. One that is closed now is taken when it opens.
func (r *reader) fetch(ctx context.Context, did syntax.DID) error {
	full, err := r.h.export(ctx, did, r.withKeys)
	var refused *xrpc.Error
	if errors.As(err, &refused) {
		delete(r.repos, did)
		return nil
	}
	if err != nil {
		return err
	}
	have := &replica{state: repo.State{Rev: full.Rev, Data: full.Data}, records: map[string]string{}, fetched: 1}
	if old := r.repos[did]; old != nil {
		have.fetched += old.fetched
	}
	for rec := range full.Records() {
		have.records[rec.Path] = rec.CID.String()
	}
	r.repos[did] = have
	return nil
}

// export asks for a repository until there is an answer, and verifies it.
func (h *host) export(ctx context.Context, did syntax.DID, withKeys func(context.Context, syntax.DID, func(atcrypto.PublicKey) error) error) (full *repo.Full, err error) {
	var car []byte
	if err := insist(ctx, func() error {
		car, err = h.client("").Bytes(ctx, "com.atproto.sync.getRepo", url.Values{"did": {did.String()}}, maxExport)
		return err
	}); err != nil {
		return nil, err
	}
	err = withKeys(ctx, did, func(key atcrypto.PublicKey) (err error) {
		full, err = repo.VerifyRepo(ctx, bytes.NewReader(car), did, key, repo.Limits{MaxBytes: maxExport, MaxBlocks: 1 << 20})
		return err
	})
	return full, err
}

// insist asks until there is an answer that says something.
func insist(ctx context.Context, ask func() error) error {
	for {
		if err := ask(); err == nil || !away(err) {
			return err
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

func (r *reader) sequence() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// waits lets so many more events come.
func (r *reader) waits(ctx context.Context, t *testing.T, n int64) {
	t.Helper()
	until := r.sequence() + n
	require.NoError(t, eventually(ctx, func(context.Context) error {
		if have := r.sequence(); have < until {
			return fmt.Errorf("the stream came to event %d of %d", have, until)
		}
		return nil
	}))
}

// at gives what the reader holds of a repository: nothing where it was never told of one.
func (r *reader) at(did syntax.DID) (state repo.State, records map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.repos[did]; have != nil {
		return have.state, maps.Clone(have.records)
	}
	return repo.State{Data: cid.Undef}, nil
}
