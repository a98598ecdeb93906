//go:build interop

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/xrpc"
)

// Bluesky's relay and tap, built from the published module, read the stream of a PDS of ours from its beginning and while it is written.
// Neither goes through the other: each judges our stream itself.
func TestIndigosRelayAndTapReadOurStream(t *testing.T) {
	bin := buildIndigo(t)
	host := startPDS(t)
	relay := startRelay(t, bin, host)
	tap := startTap(t, bin, host)

	ours := collect(t, host.url, 0) // beside them from the beginning: what an account did is gone from the stream with the account
	h := newHistory(t, host)
	h.live(tap)
	ours.until(t, func(e firehose.Event) bool { return e.Sequence() == host.seq(t) })

	t.Run("relay: passes every event on and warns of none", func(t *testing.T) {
		theirs := collect(t, relay.url, 0)
		theirs.until(t, func(firehose.Event) bool { return len(theirs.all()) == len(ours.all()) })
		assert.Equal(t, perAccount(ours.all()), perAccount(theirs.all()))
		relay.awaitCursor(t, host)
		assert.Empty(t, relay.complaints(t), "warnings and errors in the relay's log")
	})
	t.Run("tap: holds every record as it is, and saw each operation once", func(t *testing.T) {
		tap.await(t, "every operation", func() bool { return assert.ObjectsAreEqual(h.ops(), tap.liveOps(h.accounts())) })
		tap.await(t, "the end of the deleted account", func() bool { return assert.ObjectsAreEqual(h.records(), tap.records()) })
		assert.Empty(t, tap.complaints(t), "warnings and errors in tap's log")
	})
}

// buildIndigo builds both programs from their own module, in which our program has no part.
func buildIndigo(t *testing.T) (folder string) {
	t.Helper()
	folder = filepath.Join(root(t), ".cache", "indigo")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	const commands = "github.com/bluesky-social/indigo/cmd/"
	build := exec.CommandContext(t.Context(), "go", "build", "-o", folder+string(filepath.Separator), commands+"relay", commands+"tap")
	build.Dir = filepath.Join(root(t), "internal", "e2e", "indigo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // both can use PostgreSQL; SQLite is what would need C
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return folder
}

// program is one of the two, running.
type program struct {
	url  string
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan error
}

type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs a program in a folder of its own and waits until it answers at path.
func start(t *testing.T, bin, url, path string, env []string, args ...string) *program {
	t.Helper()
	p := &program{url: url, cmd: exec.Command(bin, args...), log: &lockedBuffer{}, done: make(chan error, 1)}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{"HOME=" + p.cmd.Dir, "PATH=" + os.Getenv("PATH")}, env...) // nothing of ours sets a flag of theirs
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	require.NoError(t, p.cmd.Start())
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { p.stop(t) })
	p.await(t, "an answer at "+path, func() bool {
		resp, err := http.Get(url + path)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// await looks every so often whether something has become true of another process.
func (p *program) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	late := time.After(scriptLimit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-late:
			require.FailNow(t, what+" did not come", "%s", p.log)
		case <-tick.C:
		}
	}
}

func (p *program) stop(t *testing.T) {
	if p.done == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	assert.NoError(t, <-p.done, "%s", p.log)
	p.done = nil
}

// complaints are the lines of a log that are more than information. Both programs write JSON lines.
func (p *program) complaints(t *testing.T) (out []string) {
	t.Helper()
	lines := 0
	for line := range bytes.Lines([]byte(p.log.String())) {
		var l struct{ Level string }
		if json.Unmarshal(line, &l) != nil || l.Level == "" {
			continue // a request, as their web framework notes it
		}
		lines++
		if l.Level != "INFO" && l.Level != "DEBUG" {
			out = append(out, string(line))
		}
	}
	require.NotZero(t, lines, "a log without a line says nothing: %s", p.log)
	return out
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

type relay struct{ *program }

// startRelay runs the relay with our PDS as a host that it knows. Its public method takes no host of this machine, and its operator's
// method asks that host over a client that dials no loopback; a host that stands in its table is subscribed to when it starts, without
// TLS and the guard where the row says so. So it makes its tables first, and then starts again.
func startRelay(t *testing.T, bin string, host *pdsHost) relay {
	t.Helper()
	dsn := pgtest.DSN(t)
	persist := t.TempDir()
	run := func() relay {
		addr := freePort(t)
		return relay{start(t, filepath.Join(bin, "relay"), "http://"+addr, "/xrpc/_health", nil,
			"--plc-host", host.plc, "--admin-password", "interop", "--log-level", "info",
			"serve", "--db-url", dsn, "--bind", addr, "--metrics-listen", "127.0.0.1:0", "--persist-dir", persist)}
	}
	first := run()
	first.stop(t)
	const known = `insert into host (created_at, updated_at, hostname, no_ssl, account_limit, status, last_seq) values (now(), now(), $1, true, 100, 'active', 0)`
	_, err := pgtest.Open(t, dsn, "public").Exec(t.Context(), known, host.name)
	require.NoError(t, err)
	return run()
}

// awaitCursor waits until the relay has noted that it has read all we have.
func (r relay) awaitCursor(t *testing.T, host *pdsHost) {
	t.Helper()
	client := &xrpc.Client{Base: r.url}
	r.await(t, "the relay's cursor", func() bool {
		var out struct {
			Seq    int64
			Status string
		}
		err := client.Query(t.Context(), "com.atproto.sync.getHostStatus", map[string][]string{"hostname": {host.name}}, &out)
		return err == nil && out.Status == "active" && out.Seq == host.seq(t)
	})
}

// tap is the program with what it has told us.
type tap struct {
	*program
	mu   sync.Mutex // guards said
	said []tapEvent
}

type tapEvent struct {
	Type   string
	Record *struct {
		Live                               bool
		DID, Collection, RKey, CID, Action string
	}
	Identity *struct {
		DID      string
		IsActive bool `json:"is_active"`
		Status   string
	}
}

// startTap runs tap on the whole of our PDS, which takes the place of a relay.
func startTap(t *testing.T, bin string, host *pdsHost) *tap {
	t.Helper()
	tp := &tap{}
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var ev tapEvent
		if assert.NoError(t, json.NewDecoder(r.Body).Decode(&ev)) {
			tp.mu.Lock()
			defer tp.mu.Unlock()
			tp.said = append(tp.said, ev)
		}
	}))
	t.Cleanup(hook.Close)
	// tap resolves handles. What it would ask of the world beyond this machine ends here.
	nowhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(nowhere.Close)
	env := []string{"HTTPS_PROXY=" + nowhere.URL, "HTTP_PROXY=" + nowhere.URL, "NO_PROXY=localhost,127.0.0.1"}
	addr := freePort(t)
	tp.program = start(t, filepath.Join(bin, "tap"), "http://"+addr, "/health", env,
		"run", "--db-url", pgtest.DSN(t), "--bind", addr, "--plc-url", host.plc, "--relay-url", host.url,
		"--full-network", "--webhook-url", hook.URL, "--log-level", "info", "--max-db-conn", "8")
	return tp
}

// awaitActive waits until tap follows an account's stream instead of fetching its repository.
func (tp *tap) awaitActive(t *testing.T, did string) {
	t.Helper()
	tp.await(t, did+" in tap", func() bool {
		resp, err := http.Get(tp.url + "/info/" + did)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var info struct{ State string }
		return json.NewDecoder(resp.Body).Decode(&info) == nil && info.State == "active"
	})
}

func (tp *tap) each(fn func(ev tapEvent)) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, ev := range tp.said {
		fn(ev)
	}
}

// liveOps are the operations that tap took from the stream, by account and in its order.
func (tp *tap) liveOps(accounts []string) map[string][]string {
	out := map[string][]string{}
	for _, did := range accounts {
		out[did] = nil
	}
	tp.each(func(ev tapEvent) {
		if r := ev.Record; r != nil && r.Live {
			out[r.DID] = append(out[r.DID], fmt.Sprintf("%s %s/%s %s", r.Action, r.Collection, r.RKey, r.CID))
		}
	})
	return out
}

// records is what its events add up to.
func (tp *tap) records() map[string]string {
	out := map[string]string{}
	tp.each(func(ev tapEvent) {
		switch r := ev.Record; {
		case r == nil && ev.Identity != nil && ev.Identity.Status == "deleted":
			maps.DeleteFunc(out, func(path, _ string) bool { return strings.HasPrefix(path, ev.Identity.DID+"/") })
		case r == nil:
		case r.Action == "delete":
			delete(out, r.DID+"/"+r.Collection+"/"+r.RKey)
		default:
			out[r.DID+"/"+r.Collection+"/"+r.RKey] = r.CID
		}
	})
	return out
}

// collected are the events of a stream as they came.
type collected struct {
	mu     sync.Mutex // guards events
	events []firehose.Event
	moved  chan struct{} // holds a token after a change
}

func collect(t *testing.T, host string, cursor int64) *collected {
	t.Helper()
	c := &collected{moved: make(chan struct{}, 1)}
	client, err := firehose.NewClient(firehose.ClientConfig{Host: host, Cursor: cursor, MinBackoff: 50 * time.Millisecond}, c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = client.Run(ctx); close(done) }() // ends with ctx
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *collected) Connected(context.Context) error            { return nil }
func (c *collected) Garbage(_ context.Context, err error) error { return err }
func (c *collected) Event(_ context.Context, ev firehose.Event) error {
	c.mu.Lock()
	c.events = append(c.events, ev)
	c.mu.Unlock()
	select {
	case c.moved <- struct{}{}:
	default:
	}
	return nil
}

func (c *collected) all() []firehose.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]firehose.Event(nil), c.events...)
}

// until waits for an event after which something holds.
func (c *collected) until(t *testing.T, holds func(last firehose.Event) bool) {
	t.Helper()
	late := time.After(scriptLimit)
	for {
		if all := c.all(); len(all) > 0 && holds(all[len(all)-1]) {
			return
		}
		select {
		case <-c.moved:
		case <-late:
			require.FailNow(t, "the stream did not get there", "%d events", len(c.all()))
		}
	}
}

// perAccount tells a stream account by account: a relay keeps the order of each, and no other.
func perAccount(events []firehose.Event) map[string][]string {
	out := map[string][]string{}
	for _, ev := range events {
		line := ""
		switch e := ev.(type) {
		case *firehose.Commit:
			line = fmt.Sprintf("commit %s %s %d ops", e.Rev, e.Commit, len(e.Ops))
		case *firehose.Sync:
			line = "sync " + e.Rev
		case *firehose.Identity:
			line = "identity" // a relay does not resolve handles, and so passes none on
		case *firehose.Account:
			line = fmt.Sprintf("account %v %s", e.Active, e.Status)
		default:
			line = fmt.Sprintf("%T", ev)
		}
		out[ev.Subject().String()] = append(out[ev.Subject().String()], line)
	}
	return out
}
