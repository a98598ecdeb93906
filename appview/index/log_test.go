package index_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

const (
	city      = "did:plc:cccccccccccccccccccccccc"
	ledgerDID = "did:plc:llllllllllllllllllllllll"
)

// publisher is a ledger's public side: a signed log over HTTP.
type publisher struct {
	t    *testing.T
	url  string
	skey string
	vkey string

	mu     sync.Mutex
	leaves [][]byte  // guarded by mu
	tree   tlog.Tree // guarded by mu
	served int64     // guarded by mu: size of the checkpoint served
	spoil  func(path string, data []byte) []byte
	asked  chan struct{} // a checkpoint was asked for
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	p := &publisher{t: t, asked: make(chan struct{}, 1), spoil: func(_ string, b []byte) []byte { return b }}
	var err error
	p.skey, p.vkey, err = tlog.GenerateKey(rand.Reader, ledgerDID)
	require.NoError(t, err)
	srv := httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

func (p *publisher) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == "checkpoint" {
		select {
		case p.asked <- struct{}{}:
		default:
		}
		root, err := p.tree.Root(p.served)
		if err != nil || p.served == 0 {
			http.NotFound(w, r)
			return
		}
		signed, err := tlog.Sign(tlog.Checkpoint{Origin: ledgerDID, Size: p.served, Root: root}, p.skey)
		if err == nil {
			_, err = w.Write(p.spoil(path, signed))
		}
		assert.NoError(p.t, err)
		return
	}
	tile, err := tlog.ParseTilePath(path)
	if err != nil || tile.Level != tlog.EntriesLevel {
		http.NotFound(w, r)
		return
	}
	from, to := tile.Leaves()
	bundle, err := tlog.EncodeBundle(p.leaves[from:to])
	assert.NoError(p.t, err)
	_, err = w.Write(p.spoil(path, bundle))
	assert.NoError(p.t, err)
}

// grow adds n entries and serves them, spoiled from now on by spoil if that is given.
func (p *publisher) grow(n int, spoil ...func(*publisher)) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for range n {
		seq := int64(len(p.leaves))
		e := entry.Entry{Seq: seq, Kind: entry.KindRulesVersion, At: "2027-01-12T10:00:00Z", Day: "2027-01-12", RulesVersion: &entry.RulesVersion{Version: seq + 1}}
		leaf, err := e.Encode()
		require.NoError(p.t, err)
		p.leaves = append(p.leaves, leaf)
		require.NoError(p.t, p.tree.Append(leaf))
	}
	p.served = int64(len(p.leaves))
	for _, fn := range spoil {
		fn(p)
	}
}

// follow publishes the city's record and starts a reader.
func (w *world) follow(p *publisher) {
	w.t.Helper()
	_, cbor := example(w.t, lexicons.ActorCity)
	cbor = edited(w.t, cbor, "ledger", ledgerDID)
	cbor = edited(w.t, cbor, "log", map[string]any{"origin": ledgerDID, "vkey": p.vkey, "url": p.url})
	w.author(city).put(repo.Create, lexicons.ActorCity, "self", cbor)
	reader := index.NewLogReader(w.x, city, http.DefaultClient, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- reader.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			assert.NoError(w.t, err)
		}
	})
}

func (w *world) eventually(n int) {
	w.t.Helper()
	assert.Eventually(w.t, func() bool { return w.count("select count(*) from log_entry") == n }, 20*time.Second, 20*time.Millisecond, "%d entries", n)
}

// looks waits until the reader has looked at the checkpoint twice more: what it will make of it, it has made.
func (p *publisher) looks() {
	p.t.Helper()
	for range 3 {
		select {
		case <-p.asked:
		case <-time.After(20 * time.Second):
			require.FailNow(p.t, "the reader stopped looking")
		}
	}
}

func TestLogIsCopiedAndFollowedAcrossBundles(t *testing.T) {
	t.Parallel()
	w, p := newWorld(t), newPublisher(t)
	p.grow(300)
	w.follow(p)
	w.eventually(300)
	p.grow(1)
	w.eventually(301)
	p.grow(400)
	w.eventually(701)
	assert.Equal(t, int(tlog.NodeCount(701)), w.count("select count(*) from log_node"))
}

func TestLogThatDoesNotHoldIsNotStored(t *testing.T) {
	t.Parallel()
	otherKey, _, err := tlog.GenerateKey(rand.Reader, ledgerDID)
	require.NoError(t, err)
	for name, spoil := range map[string]func(p *publisher){
		"flipped byte in an entry": func(p *publisher) {
			p.spoil = func(path string, b []byte) []byte {
				if path == "checkpoint" {
					return b
				}
				b = append([]byte(nil), b...)
				b[len(b)-1] ^= 1
				return b
			}
		},
		"entry left out": func(p *publisher) {
			p.spoil = func(path string, b []byte) []byte {
				if path == "checkpoint" {
					return b
				}
				short, err := tlog.EncodeBundle(p.leaves[5 : len(p.leaves)-1])
				assert.NoError(t, err)
				return short
			}
		},
		"another key": func(p *publisher) { p.skey = otherKey },
		"rollback":    func(p *publisher) { p.served = 3 },
		"two roots at one size": func(p *publisher) {
			p.tree = tlog.Tree{}
			for i := range p.leaves {
				assert.NoError(t, p.tree.Append(fmt.Appendf(nil, "other %d", i)))
			}
			p.served = 5
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, p := newWorld(t), newPublisher(t)
			p.grow(5)
			w.follow(p)
			w.eventually(5)
			p.grow(4, spoil)
			p.looks()
			assert.Equal(t, 5, w.count("select size from log_head"))
			assert.Equal(t, 5, w.count("select count(*) from log_entry"))
		})
	}
}
