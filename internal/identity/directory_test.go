package identity_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/internal/xrpc"
)

func plcDID(name string) syntax.DID {
	return syntax.DID("did:plc:" + (name + strings.Repeat("a", 24))[:24])
}

// phonebook is a PLC that counts, and answers as it is told.
type phonebook struct {
	asked  atomic.Int64
	answer func(w http.ResponseWriter, did string)
}

func (p *phonebook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked.Add(1)
	did := strings.TrimPrefix(r.URL.Path, "/")
	if p.answer != nil {
		p.answer(w, did)
		return
	}
	_, _ = fmt.Fprintf(w, `{"id":%q,"alsoKnownAs":["at://alice.test"]}`, did)
}

func newDirectory(t *testing.T, p *phonebook, change func(*identity.Config)) (*identity.Directory, *clock.Manual) {
	t.Helper()
	srv := httptest.NewServer(p)
	t.Cleanup(srv.Close)
	now := clock.New(t0)
	cfg := identity.Config{PLCURL: srv.URL, HTTP: xrpc.GuardedClient(xrpc.GuardConfig{AllowLoopback: true}), Clock: now, TTL: time.Minute}
	if change != nil {
		change(&cfg)
	}
	return identity.NewDirectory(cfg), now
}

func TestIdentityIsKeptForItsTimeAndNoLonger(t *testing.T) {
	t.Parallel()
	p := new(phonebook)
	d, now := newDirectory(t, p, nil)
	look := func() {
		id, err := d.LookupDID(t.Context(), plcDID("alice"))
		require.NoError(t, err)
		assert.Equal(t, plcDID("alice"), id.DID)
		id.AlsoKnownAs[0] = "changed by a caller"
	}
	look()
	look()
	assert.EqualValues(t, 1, p.asked.Load())
	id, err := d.Lookup(t.Context(), plcDID("alice").AtIdentifier())
	require.NoError(t, err)
	assert.Equal(t, []string{"at://alice.test"}, id.AlsoKnownAs, "callers cannot change what is kept")
	now.Advance(time.Minute)
	look()
	assert.EqualValues(t, 2, p.asked.Load())
	now.Advance(-time.Hour)
	look()
	assert.EqualValues(t, 3, p.asked.Load(), "a clock set back does not make an entry live longer")
	require.NoError(t, d.Purge(t.Context(), plcDID("alice").AtIdentifier()))
	look()
	assert.EqualValues(t, 4, p.asked.Load())
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	p := new(phonebook)
	d, _ := newDirectory(t, p, func(c *identity.Config) { c.Capacity = 2 })
	for _, n := range []string{"a", "b", "a", "c", "a", "b"} { // b is the one not used for longest when c comes
		_, err := d.LookupDID(t.Context(), plcDID(n))
		require.NoError(t, err)
	}
	assert.EqualValues(t, 4, p.asked.Load())
}

func TestCrowdAsksOnce(t *testing.T) {
	t.Parallel()
	gate, entered := make(chan struct{}), make(chan struct{}, 100)
	p := &phonebook{answer: func(w http.ResponseWriter, did string) {
		entered <- struct{}{}
		<-gate
		_, _ = fmt.Fprintf(w, `{"id":%q}`, did)
	}}
	d, _ := newDirectory(t, p, nil)
	impatient, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := d.LookupDID(impatient, plcDID("a")); first <- err }()
	<-entered
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := d.LookupDID(t.Context(), plcDID("a"))
			assert.NoError(t, err, "one who gives up does not spoil it for the others")
		})
	}
	giveUp()
	require.ErrorIs(t, <-first, context.Canceled)
	close(gate)
	wg.Wait()
	assert.EqualValues(t, 1, p.asked.Load())
}

func TestPurgeDoesNotKeepAnAnswerThatWasUnderWay(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	gate, entered := make(chan struct{}), make(chan struct{})
	p := &phonebook{answer: func(w http.ResponseWriter, did string) {
		nth := n.Add(1)
		if nth == 1 {
			close(entered)
			<-gate
		}
		_, _ = fmt.Fprintf(w, `{"id":%q,"alsoKnownAs":["at://n%d.test"]}`, did, nth)
	}}
	d, _ := newDirectory(t, p, nil)
	old := make(chan *indigo.Identity, 1)
	go func() {
		id, _ := d.LookupDID(t.Context(), plcDID("a"))
		old <- id
	}()
	<-entered
	require.NoError(t, d.Purge(t.Context(), plcDID("a").AtIdentifier()))
	id, err := d.LookupDID(t.Context(), plcDID("a"))
	require.NoError(t, err)
	assert.Equal(t, "at://n2.test", id.AlsoKnownAs[0])
	close(gate)
	assert.Equal(t, "at://n1.test", (<-old).AlsoKnownAs[0])
	id, err = d.LookupDID(t.Context(), plcDID("a"))
	require.NoError(t, err)
	assert.Equal(t, "at://n2.test", id.AlsoKnownAs[0])
}

func TestFailuresAreKeptShortly(t *testing.T) {
	t.Parallel()
	status := atomic.Int64{}
	p := &phonebook{answer: func(w http.ResponseWriter, did string) {
		w.WriteHeader(int(status.Load()))
		_, _ = fmt.Fprintf(w, `{"id":%q}`, did)
	}}
	d, now := newDirectory(t, p, nil)
	status.Store(404)
	_, err := d.LookupDID(t.Context(), plcDID("a"))
	require.ErrorIs(t, err, indigo.ErrDIDNotFound)
	status.Store(200)
	now.Advance(9 * time.Second)
	_, err = d.LookupDID(t.Context(), plcDID("a"))
	require.ErrorIs(t, err, indigo.ErrDIDNotFound)
	now.Advance(time.Second)
	_, err = d.LookupDID(t.Context(), plcDID("a"))
	require.NoError(t, err)

	status.Store(500)
	_, err = d.LookupDID(t.Context(), plcDID("b"))
	require.ErrorIs(t, err, indigo.ErrDIDResolutionFailed)
	status.Store(200)
	now.Advance(2 * time.Second)
	_, err = d.LookupDID(t.Context(), plcDID("b"))
	require.NoError(t, err)
}

func TestAnswersThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"of another DID": `{"id":"` + plcDID("mallory").String() + `"}`,
		"endless":        `{"id":"` + plcDID("a").String() + `","x":"` + strings.Repeat("x", 200<<10) + `"}`,
	} {
		d, _ := newDirectory(t, &phonebook{answer: func(w http.ResponseWriter, _ string) { _, _ = io.WriteString(w, body) }}, nil)
		_, err := d.LookupDID(t.Context(), plcDID("a"))
		require.ErrorIs(t, err, indigo.ErrDIDResolutionFailed, name)
	}
	p := new(phonebook)
	d, _ := newDirectory(t, p, nil)
	for _, did := range []syntax.DID{"did:plc:x", "did:key:zabc", "did:web:localhost", "did:plc:aaaaaaaaaaaaaaaaaaaaaa.a"} {
		_, err := d.LookupDID(t.Context(), did)
		require.ErrorIs(t, err, indigo.ErrDIDNotFound, did)
	}
	assert.Zero(t, p.asked.Load(), "what cannot be a DID is not asked for")
}

func TestHandleCountsInBothDirections(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t, new(phonebook), nil)
	_, err := d.LookupHandle(t.Context(), "alice.test")
	require.ErrorIs(t, err, indigo.ErrHandleResolutionFailed, "without a resolver no handle is asked for anywhere")

	d, _ = newDirectory(t, new(phonebook), func(c *identity.Config) {
		c.ResolveHandle = func(context.Context, syntax.Handle) (syntax.DID, error) { return plcDID("alice"), nil }
	})
	id, err := d.LookupHandle(t.Context(), "Alice.TEST")
	require.NoError(t, err)
	assert.Equal(t, syntax.Handle("alice.test"), id.Handle)
	_, err = d.LookupHandle(t.Context(), "mallory.test")
	require.ErrorIs(t, err, indigo.ErrHandleMismatch)
}

func TestDIDWebIsAskedByHTTPSAtItsHost(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/did.json" {
			w.WriteHeader(404)
			return
		}
		_, _ = fmt.Fprintf(w, `{"id":"did:web:%s","service":[{"id":"#atproto_pds","type":"AtprotoPersonalDataServer","serviceEndpoint":"https://pds.example.com"}]}`, r.Host)
	}))
	t.Cleanup(srv.Close)
	dialed := make(chan string, 4)
	hc := srv.Client()
	hc.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed <- addr
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	d := identity.NewDirectory(identity.Config{HTTP: hc, Clock: clock.New(t0)})
	id, err := d.LookupDID(t.Context(), "did:web:example.com") // the test certificate is for that name
	require.NoError(t, err)
	assert.Equal(t, "https://pds.example.com", id.PDSEndpoint())
	assert.Equal(t, "example.com:443", <-dialed)

	guarded := identity.NewDirectory(identity.Config{Clock: clock.New(t0), PLCURL: srv.URL})
	_, err = guarded.LookupDID(t.Context(), plcDID("a"))
	require.ErrorIs(t, err, xrpc.ErrAddressRefused, "the default client does not reach this machine")
}
