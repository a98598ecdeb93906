package pds

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/follow"
	"city-sync.org/citysync/internal/repo"
)

// mirror is what the AppView and the ledger keep of a host, in memory.
type mirror struct {
	bed     *bed
	mu      sync.Mutex // guards the rest
	cursor  int64
	states  map[syntax.DID]repo.State
	records map[string]string // at-uri to CID
	dropped []string
	moved   chan struct{} // holds a token after a change
}

func newMirror() *mirror {
	return &mirror{states: map[syntax.DID]repo.State{}, records: map[string]string{}, moved: make(chan struct{}, 1)}
}

func (m *mirror) change(seq int64, fn func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cursor = max(m.cursor, seq)
	fn()
	select {
	case m.moved <- struct{}{}:
	default:
	}
	return nil
}

func (m *mirror) Cursor(context.Context, string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cursor, nil
}

func (m *mirror) Repo(_ context.Context, did syntax.DID) (repo.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.states[did], nil
}

func (m *mirror) Commit(_ context.Context, _ string, seq int64, v *repo.Verified) error {
	return m.change(seq, func() {
		for _, op := range v.Ops {
			uri := recordURI(v.DID, op.Collection, op.RKey)
			if op.Action == repo.Delete {
				delete(m.records, uri)
			} else {
				m.records[uri] = op.CID.String()
			}
		}
		m.states[v.DID] = repo.State{Rev: v.Rev, Data: v.Data}
	})
}

func (m *mirror) Snapshot(_ context.Context, _ string, seq int64, did syntax.DID, full *repo.Full, _ func(string) ([]byte, error)) error {
	return m.change(seq, func() {
		for uri := range m.records {
			if syntax.ATURI(uri).Authority().String() == did.String() {
				delete(m.records, uri)
			}
		}
		for r := range full.Records() {
			m.records["at://"+did.String()+"/"+r.Path] = r.CID.String()
		}
		m.states[did] = repo.State{Rev: full.Rev, Data: full.Data}
	})
}

func (m *mirror) Account(_ context.Context, _ string, seq int64, _ syntax.DID, _ bool, _ string) error {
	return m.change(seq, func() {})
}

func (m *mirror) Identity(_ context.Context, _ string, seq int64, _ syntax.DID) error {
	return m.change(seq, func() {})
}

func (m *mirror) Drop(_ context.Context, _ string, seq int64, did syntax.DID, reason string) error {
	return m.change(seq, func() { m.dropped = append(m.dropped, did.String()+" "+reason) })
}

func (m *mirror) Advance(_ context.Context, _ string, seq int64) error {
	return m.change(seq, func() {})
}

func TestFollowerHoldsWhatWasWrittenBeforeAndAfterItCame(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.run()
	early := b.account("early")
	for i := range 12 {
		early.ok(early.put(note, fmt.Sprint(i%7), m{"i": i}, nil))
	}
	early.ok(early.remove(note, "3", nil))

	sink := b.mirrored()

	late := b.account("late")
	for i := range 12 {
		late.ok(late.put(note, fmt.Sprint(i%5), m{"i": i}, nil))
		early.ok(early.put(note, fmt.Sprint(i%9), m{"late": i}, nil))
	}
	late.ok(late.remove(note, "0", nil))
	sink.holds(early, late)
	assert.Empty(t, sink.dropped)
}

// mirrored follows the bed's address until the test ends, through servers that come and go.
func (b *bed) mirrored() *mirror {
	b.t.Helper()
	sink := newMirror()
	sink.bed = b
	f := follow.New(follow.Config{Host: b.url, Sink: sink, Directory: b.dir, Clock: b.clock, MinBackoff: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
	return sink
}

// holds waits until the mirror has read all events and holds exactly the records of these accounts.
func (m *mirror) holds(users ...*user) {
	t := m.bed.t
	t.Helper()
	newest := int64(m.bed.count(`select seq from event_head`))
	want := map[string]string{}
	for _, u := range users {
		full := u.assertWhole()
		for r := range full.Records() {
			want["at://"+u.DID.String()+"/"+r.Path] = r.CID.String()
		}
	}
	deadline := time.After(20 * time.Second)
	for {
		m.mu.Lock()
		there := m.cursor >= newest && assert.ObjectsAreEqual(want, m.records)
		m.mu.Unlock()
		if there {
			return
		}
		select {
		case <-m.moved:
		case <-deadline:
			m.mu.Lock()
			defer m.mu.Unlock()
			require.Equal(t, want, m.records, "cursor %d of %d", m.cursor, newest)
			require.FailNow(t, "the cursor did not arrive", "%d of %d", m.cursor, newest)
		}
	}
}
