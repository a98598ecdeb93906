package pds

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeRelay stands for a relay at the socket.
type fakeRelay struct {
	url    string
	asked  chan string // hostnames of requestCrawl
	refuse atomic.Bool
	seq    atomic.Int64
}

func newFakeRelay(t *testing.T) *fakeRelay {
	t.Helper()
	f := &fakeRelay{asked: make(chan string, 100)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /xrpc/com.atproto.sync.requestCrawl", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Hostname string }
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&in))
		if f.refuse.Load() {
			http.Error(w, `{"error":"HostBanned","message":"this host is banned"}`, http.StatusBadRequest)
		}
		f.asked <- in.Hostname
	})
	mux.HandleFunc("GET /xrpc/com.atproto.sync.getHostStatus", func(w http.ResponseWriter, r *http.Request) {
		if f.seq.Load() == 0 {
			http.Error(w, `{"error":"HostNotFound","message":"host not found"}`, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(m{"hostname": r.FormValue("hostname"), "seq": f.seq.Load(), "accountCount": 7, "status": "active"})
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func (f *fakeRelay) next(t *testing.T) string {
	t.Helper()
	select {
	case host := <-f.asked:
		return host
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the relay was not asked")
		return ""
	}
}

func TestRelaysAreAskedOnAWriteAndAtMostEveryTwentyMinutes(t *testing.T) {
	t.Parallel()
	first, second := newFakeRelay(t), newFakeRelay(t)
	b := newBed(t, func(c *Config) { c.Relays = []string{first.url, second.url} })
	stop := b.run()
	u := b.account("user")
	host := strings.TrimPrefix(b.url, "http://")
	assert.Equal(t, host, first.next(t))
	assert.Equal(t, host, second.next(t))

	follow := b.follow(4)
	for i := range 5 {
		u.ok(u.put(note, "a", m{"i": i}, nil))
		follow.next() // the process has heard of the write
	}
	b.clock.Advance(announceEvery - time.Second)
	u.ok(u.create(note, "", m{}))
	follow.next()
	stop() // a restart forgets nothing: the table remembers
	b.restart()
	b.run()
	resumed := b.follow(10)
	u.ok(u.create(note, "", m{}))
	resumed.next()
	b.clock.Advance(time.Second)
	u.ok(u.create(note, "", m{}))
	first.next(t)
	second.next(t)
	assert.Empty(t, first.asked, "asked once for all these writes")
	assert.Empty(t, second.asked)
}

func TestOperatorAsksARelayAtOnceAndSeesItsAnswer(t *testing.T) {
	t.Parallel()
	relay := newFakeRelay(t)
	b := newBed(t, func(c *Config) { c.Relays = []string{relay.url} })
	s := b.server.Load()
	views, err := s.relayViews(t.Context())
	require.NoError(t, err)
	require.Equal(t, []relayView{{URL: relay.url}}, views, "never asked, and the relay knows nothing")

	require.NoError(t, s.announceTo(t.Context(), relay.url))
	relay.next(t)
	relay.refuse.Store(true)
	require.ErrorContains(t, s.announceTo(t.Context(), relay.url), "HostBanned")
	relay.next(t)
	views, err = s.relayViews(t.Context())
	require.NoError(t, err)
	assert.Contains(t, views[0].Answer, "this host is banned")
	assert.Equal(t, b.clock.Now(), views[0].Asked.UTC())
	require.Error(t, s.announceTo(t.Context(), "http://127.0.0.1:1"), "no other address is asked")
}

func TestARelayThatIsAheadOfUsIsSeen(t *testing.T) {
	t.Parallel()
	relay := newFakeRelay(t)
	b := newBed(t, func(c *Config) { c.Relays = []string{relay.url, "http://127.0.0.1:1"} })
	b.account("user") // four events
	for seq, want := range map[int64]relayView{1: {Ours: 4, Seq: 1}, 4: {Ours: 4, Seq: 4}, 9: {Ours: 4, Seq: 9}} {
		relay.seq.Store(seq)
		views, err := b.server.Load().relayViews(t.Context())
		require.NoError(t, err)
		want.URL, want.Known, want.Status, want.Accounts = relay.url, true, "active", 7
		assert.Equal(t, want, views[0])
		assert.Equal(t, max(0, 4-seq), views[0].Behind())
		assert.Equal(t, seq > 4, views[0].Ahead())
		assert.NotEmpty(t, views[1].Error, "one relay that is away hides no other")
	}
}

func TestHostnameHasAPortOnlyWhereItMust(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://pds.example.com": "pds.example.com", "https://pds.example.com:443": "pds.example.com",
		"http://localhost:2583": "localhost:2583", "http://pds.test:80": "pds.test", "https://pds.test:8443": "pds.test:8443",
	} {
		u, err := url.Parse(raw)
		require.NoError(t, err)
		assert.Equal(t, want, hostname(u))
	}
	for _, bad := range [][]string{{"relay.example"}, {"https://relay.example/"}, {"ftp://relay.example"}, {"https://a:b@relay.example"}, {"https://r.example", "https://r.example"}} {
		require.Error(t, validateRelays(bad), bad)
	}
}
