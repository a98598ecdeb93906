package follow_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/follow"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/repo/repotest"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"
)

// host is a PDS as far as a follower sees one: authors, a firehose, listRepos,
// getRepo and getLatestCommit, over real HTTP.
type host struct {
	t      testing.TB
	url    string
	notify chan struct{}
	gate   chan struct{} // if set before start, the stream waits for its closing

	mu      sync.Mutex
	authors map[syntax.DID]*repotest.Author
	broken  map[syntax.DID]int // status that getRepo answers
	served  map[syntax.DID][]byte
	frames  []firehose.Frame
	head    int64
	fetched map[syntax.DID]int
	listErr int // answers of listRepos that fail first
	paged   int // repositories a page, 0: all
}

func newHost(t testing.TB, tune ...func(*host)) *host {
	h := &host{
		t: t, notify: make(chan struct{}, 1), authors: map[syntax.DID]*repotest.Author{},
		broken: map[syntax.DID]int{}, served: map[syntax.DID][]byte{}, fetched: map[syntax.DID]int{},
	}
	for _, f := range tune {
		f(h)
	}
	s := firehose.NewServer(h, h.notify, firehose.ServerConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	mux := http.NewServeMux()
	mux.Handle("/xrpc/com.atproto.sync.subscribeRepos", s)
	mux.HandleFunc("/xrpc/com.atproto.sync.listRepos", h.listRepos)
	mux.HandleFunc("/xrpc/com.atproto.sync.getRepo", h.getRepo)
	mux.HandleFunc("/xrpc/com.atproto.sync.getLatestCommit", h.getLatestCommit)
	hs := httptest.NewServer(mux)
	h.url = hs.URL
	t.Cleanup(func() { cancel(); <-done; hs.Close() })
	return h
}

func (h *host) Bounds(context.Context) (int64, int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.frames) == 0 {
		return 0, h.head, nil
	}
	return h.frames[0].Seq, h.head, nil
}

func (h *host) Page(ctx context.Context, after int64, limit int) ([]firehose.Frame, error) {
	if h.gate != nil {
		select {
		case <-h.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []firehose.Frame
	for _, f := range h.frames {
		if f.Seq > after && len(out) < limit {
			out = append(out, f)
		}
	}
	return out, nil
}

func (h *host) listRepos(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listErr > 0 {
		h.listErr--
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	type item struct {
		DID    syntax.DID `json:"did"`
		Head   string     `json:"head"`
		Rev    string     `json:"rev"`
		Active bool       `json:"active"`
	}
	out := struct {
		Cursor string `json:"cursor,omitempty"`
		Repos  []item `json:"repos"`
	}{}
	for _, did := range slices.Sorted(maps.Keys(h.authors)) {
		a := h.authors[did]
		if a.Head == nil || string(did) <= r.URL.Query().Get("cursor") {
			continue
		}
		if h.paged > 0 && len(out.Repos) == h.paged {
			out.Cursor = string(out.Repos[len(out.Repos)-1].DID)
			break
		}
		out.Repos = append(out.Repos, item{did, a.Head.Commit.String(), a.Head.Rev, true})
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (h *host) getRepo(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	did := syntax.DID(r.URL.Query().Get("did"))
	h.fetched[did]++
	a := h.authors[did]
	switch {
	case h.broken[did] != 0:
		w.WriteHeader(h.broken[did])
	case h.served[did] != nil:
		_, _ = w.Write(h.served[did])
	case a == nil || a.Head == nil:
		w.WriteHeader(http.StatusBadRequest)
	default:
		_, _ = w.Write(a.Repo())
	}
}

func (h *host) getLatestCommit(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.authors[syntax.DID(r.URL.Query().Get("did"))]
	if a == nil || a.Head == nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = fmt.Fprintf(w, `{"cid":%q,"rev":%q}`, a.Head.Commit, a.Head.Rev)
}

// author opens an account here.
func (h *host) author(d *directory, name string) *repotest.Author {
	a := repotest.NewAuthor(h.t, name)
	h.mu.Lock()
	h.authors[a.DID] = a
	h.mu.Unlock()
	d.set(a.DID, a.Public(), h.url)
	return a
}

// locked runs what touches an author's repository.
func (h *host) locked(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
}

// write commits and announces.
func (h *host) write(a *repotest.Author, writes ...repo.Write) int64 {
	h.mu.Lock()
	ev := a.Event(writes...)
	h.mu.Unlock()
	return h.send(ev)
}

// quiet commits without announcing.
func (h *host) quiet(a *repotest.Author, writes ...repo.Write) {
	h.locked(func() { a.Commit(writes...) })
}

// send announces an event under the next sequence.
func (h *host) send(ev firehose.Event) int64 {
	h.mu.Lock()
	h.head++
	seq := h.head
	switch e := ev.(type) {
	case *firehose.Commit:
		e.Seq = seq
	case *firehose.Sync:
		e.Seq = seq
	case *firehose.Identity:
		e.Seq = seq
	case *firehose.Account:
		e.Seq = seq
	}
	frame, err := firehose.Encode(ev)
	require.NoError(h.t, err)
	h.frames = append(h.frames, firehose.Frame{Seq: seq, Bytes: frame})
	h.mu.Unlock()
	h.wake()
	return seq
}

// raw announces bytes that are no event.
func (h *host) raw(frame []byte) {
	h.mu.Lock()
	h.head++
	h.frames = append(h.frames, firehose.Frame{Seq: h.head, Bytes: frame})
	h.mu.Unlock()
	h.wake()
}

func (h *host) wake() {
	select {
	case h.notify <- struct{}{}:
	default:
	}
}

func (h *host) prune() {
	h.locked(func() { h.frames = nil })
}

func (h *host) fetches(did syntax.DID) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fetched[did]
}

// directory knows what it is told; stale answers stay until a purge.
type directory struct {
	mu     sync.Mutex
	real   map[syntax.DID]*identity.Identity
	cached map[syntax.DID]*identity.Identity
	purges int
	down   bool
}

func newDirectory() *directory {
	return &directory{real: map[syntax.DID]*identity.Identity{}, cached: map[syntax.DID]*identity.Identity{}}
}

func (d *directory) set(did syntax.DID, key atcrypto.PublicKey, pds string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.real[did] = &identity.Identity{
		DID:      did,
		Keys:     map[string]identity.VerificationMethod{"atproto": {Type: "Multikey", PublicKeyMultibase: key.Multibase()}},
		Services: map[string]identity.ServiceEndpoint{"atproto_pds": {Type: "AtprotoPersonalDataServer", URL: pds}},
	}
}

func (d *directory) LookupDID(_ context.Context, did syntax.DID) (*identity.Identity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return nil, errors.New("directory down")
	}
	if id, ok := d.cached[did]; ok {
		return id, nil
	}
	id, ok := d.real[did]
	if !ok {
		return nil, identity.ErrDIDNotFound
	}
	d.cached[did] = id
	return id, nil
}

func (d *directory) LookupHandle(context.Context, syntax.Handle) (*identity.Identity, error) {
	return nil, identity.ErrHandleNotFound
}

func (d *directory) Lookup(ctx context.Context, at syntax.AtIdentifier) (*identity.Identity, error) {
	did, err := at.AsDID()
	if err != nil {
		return nil, err
	}
	return d.LookupDID(ctx, did)
}

func (d *directory) Purge(_ context.Context, at syntax.AtIdentifier) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.purges++
	if did, err := at.AsDID(); err == nil {
		delete(d.cached, did)
	}
	return nil
}

// sink keeps records in memory as an index would.
type sink struct {
	mu        sync.Mutex
	cursor    int64
	state     map[syntax.DID]repo.State
	records   map[syntax.DID]map[string]string // path to CID
	drops     map[string]int
	accounts  []string
	idents    []syntax.DID
	calls     []string
	snapshots int
	fail      error
	changed   chan struct{}
}

func newSink() *sink {
	return &sink{state: map[syntax.DID]repo.State{}, records: map[syntax.DID]map[string]string{}, drops: map[string]int{}, changed: make(chan struct{}, 1)}
}

// step is the transaction of every call.
func (s *sink) step(seq int64, call string, fn func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	fn()
	s.cursor = seq
	s.calls = append(s.calls, call)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

func (s *sink) Cursor(context.Context, string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor, nil
}

func (s *sink) Repo(_ context.Context, did syntax.DID) (repo.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state[did], nil
}

func (s *sink) Commit(_ context.Context, _ string, seq int64, v *repo.Verified) error {
	return s.step(seq, "commit", func() {
		if s.records[v.DID] == nil {
			s.records[v.DID] = map[string]string{}
		}
		for _, op := range v.Ops {
			path := op.Collection + "/" + op.RKey
			if op.Action == repo.Delete {
				delete(s.records[v.DID], path)
			} else {
				s.records[v.DID][path] = op.CID.String()
			}
		}
		s.state[v.DID] = repo.State{Rev: v.Rev, Data: v.Data}
	})
}

func (s *sink) Snapshot(_ context.Context, _ string, seq int64, did syntax.DID, full *repo.Full, proof func(string) ([]byte, error)) error {
	return s.step(seq, "snapshot", func() {
		s.snapshots++
		s.records[did] = map[string]string{}
		for r := range full.Records() {
			if _, err := proof(r.Path); err != nil {
				panic(err)
			}
			s.records[did][r.Path] = r.CID.String()
		}
		s.state[did] = repo.State{Rev: full.Rev, Data: full.Data}
	})
}

func (s *sink) Account(_ context.Context, _ string, seq int64, did syntax.DID, active bool, status string) error {
	return s.step(seq, "account", func() { s.accounts = append(s.accounts, fmt.Sprintf("%s %v %s", did, active, status)) })
}

func (s *sink) Identity(_ context.Context, _ string, seq int64, did syntax.DID) error {
	return s.step(seq, "identity", func() { s.idents = append(s.idents, did) })
}

func (s *sink) Drop(_ context.Context, _ string, seq int64, _ syntax.DID, reason string) error {
	return s.step(seq, "drop", func() { s.drops[reason]++ })
}

func (s *sink) Advance(_ context.Context, _ string, seq int64) error {
	return s.step(seq, "advance", func() {})
}

// await waits until cond holds of the sink.
func (s *sink) await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		ok := cond()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			s.mu.Lock()
			defer s.mu.Unlock()
			require.Fail(t, "never: "+what, "cursor %d, drops %v, calls %v", s.cursor, s.drops, s.calls)
		}
	}
}

// same says whether the sink holds exactly what the author has.
func (s *sink) same(a *repotest.Author) bool {
	want := map[string]string{}
	for p, c := range walk(a) {
		want[p] = c
	}
	return maps.Equal(want, s.records[a.DID]) && s.state[a.DID] == a.State()
}

func walk(a *repotest.Author) map[string]string {
	out := map[string]string{}
	for p, c := range a.Paths() {
		out[p] = c.String()
	}
	return out
}

type run struct {
	f    *follow.Follower
	stop func() error
}

func start(t testing.TB, h *host, d *directory, s follow.Sink, tune ...func(*follow.Config)) *run {
	t.Helper()
	cfg := follow.Config{
		Host: h.url, Sink: s, Directory: d, Clock: clock.New(repotest.Start.Add(24 * time.Hour)),
		RepairEvery: 5 * time.Millisecond, QuietFor: 20 * time.Millisecond, MinBackoff: time.Millisecond,
	}
	for _, f := range tune {
		f(&cfg)
	}
	f := follow.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	var once sync.Once
	var result error
	r := &run{f: f}
	r.stop = func() error { once.Do(func() { cancel(); result = <-done }); return result }
	t.Cleanup(func() { _ = r.stop() })
	return r
}

func (r *run) ready(t testing.TB) {
	t.Helper()
	select {
	case <-r.f.Ready():
	case <-time.After(10 * time.Second):
		require.Fail(t, "not ready")
	}
}
