package index_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

type alarms struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (a *alarms) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buf.Write(p)
}

func (a *alarms) say(words string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Contains(a.buf.String(), words)
}

// Not to store an evil log is not enough: what is wrong with it is said, so that somebody looks.
func TestEvilLogIsNamed(t *testing.T) {
	t.Parallel()
	for _, evil := range []struct {
		does  func(*publisher)
		words string
	}{
		{func(p *publisher) { p.served = 3 }, "it went back from 5 to 3 entries"},
		{func(p *publisher) {
			p.tree = tlog.Tree{}
			for i := range p.leaves {
				assert.NoError(t, p.tree.Append(fmt.Appendf(nil, "other %d", i)))
			}
			p.served = 5
		}, "two roots at size 5"},
		{func(p *publisher) {
			p.spoil = func(path string, b []byte) []byte {
				if path != "checkpoint" {
					return b
				}
				return append(b, bytes.Repeat([]byte("\n"), tlog.MaxNote)...)
			}
		}, "is larger than"},
		{func(p *publisher) {
			p.tree = tlog.Tree{}
			for i := range p.leaves {
				assert.NoError(t, p.tree.Append(fmt.Appendf(nil, "other %d", i)))
			}
		}, "have another root than the checkpoint"},
	} {
		t.Run(evil.words, func(t *testing.T) {
			t.Parallel()
			w, p := newWorld(t), newPublisher(t)
			p.grow(5)
			_, cbor := example(t, lexicons.ActorCity)
			cbor = edited(t, cbor, "log", map[string]any{"origin": ledgerDID, "vkey": p.vkey, "url": p.url})
			w.author(city).put(repo.Create, lexicons.ActorCity, "self", cbor)
			said := &alarms{}
			reader := index.NewLogReader(w.x, city, http.DefaultClient, slog.New(slog.NewTextHandler(said, nil)))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- reader.Run(ctx) }()
			t.Cleanup(func() {
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					assert.NoError(t, err)
				}
			})
			w.eventually(5)
			p.grow(4, evil.does)
			assert.Eventually(t, func() bool { return said.say(evil.words) }, 20*time.Second, 20*time.Millisecond)
			assert.Equal(t, 5, w.count("select count(*) from log_entry"))
		})
	}
}
