//go:build crash

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity/plcdev"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/pg/pgdev"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

// services in the order in which they are started.
var services = []string{"pds", "ledger", "appview"}

// facts are what the city's founding left behind, as far as the services need it.
type facts struct {
	PortBase int    `json:"portBase"`
	PDS      string `json:"pds"`
	AppView  string `json:"appview"`
	Accounts []struct {
		ID       string `json:"id"`
		Handle   string `json:"handle"`
		DID      string `json:"did"`
		Password string `json:"password"`
	} `json:"accounts"`
}

func (f *facts) account(id string) (did, password string) {
	for _, a := range f.Accounts {
		if a.ID == id {
			return a.DID, a.Password
		}
	}
	return "", ""
}

func (f *facts) url(n int) string { return fmt.Sprintf("http://localhost:%d", f.PortBase+n) }

// Ports above the base.
const (
	portWeb = iota
	portPDS
	portLedger
	portPLC
	portPrivate
)

// build makes the program with its points in it.
func build(t *testing.T, dir string) (bin string) {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	require.NoError(t, err)
	bin = filepath.Join(dir, "citysync")
	output(t, root, "go", "build", "-tags", "crash", "-o", bin, "./cmd/citysync")
	return bin
}

// found founds Berkeley in a folder below dir and stops it: what stays is a city at rest. On the way the process dies at the given points.
func found(t *testing.T, bin, dir string, witnesses int, points ...string) (data, ready string) {
	t.Helper()
	data, ready = filepath.Join(dir, "data"), filepath.Join(dir, "founded.json")
	port := freePorts(t)
	// What is armed before the first start is not missed.
	dev := &process{name: "dev", dir: dir, ready: fmt.Sprintf("http://localhost:%d/readyz", port+portPrivate)}
	if len(points) > 0 {
		dev.load(t, points[0])
	}
	dev.supervise(t, bin, "--data", data, "--port-base", strconv.Itoa(port), "--witnesses", strconv.Itoa(witnesses), "--ready-file", ready)
	for i, point := range points {
		dev.diedAt(t.Context(), t, point)
		if i+1 < len(points) {
			dev.load(t, points[i+1])
		}
		t.Logf("founding: %s", point)
	}
	dev.serves(t.Context(), t)
	dev.end()
	return data, ready
}

// city is a city that runs: all of it in one process, or its services apart, each with a database of its own on one server.
type city struct {
	facts
	dir   string
	data  string
	procs []*process // in the order in which they were started

	// Of a city in one process these are nil: they are inside.
	postgres *pgdev.Server
	plc      func()
}

// opener starts the city that was founded in data.
type opener func(t *testing.T, bin, dir, data string) *city

func newCity(t *testing.T, dir, data string) *city {
	t.Helper()
	c := &city{dir: dir, data: data}
	raw, err := os.ReadFile(filepath.Join(data, "city.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &c.facts))
	return c
}

func (c *city) start(t *testing.T, bin, name, ready string, args ...string) {
	t.Helper()
	p := &process{name: name, dir: c.dir, ready: ready}
	c.procs = append(c.procs, p)
	p.supervise(t, bin, args...)
	p.serves(t.Context(), t)
}

// process is the one that a point or a service belongs to.
func (c *city) process(name string) *process {
	for _, p := range c.procs {
		if p.name == name {
			return p
		}
	}
	return c.procs[0]
}

func openWhole(t *testing.T, bin, dir, data string) *city {
	t.Helper()
	c := newCity(t, dir, data)
	c.start(t, bin, "dev", c.url(portPrivate)+"/readyz", "--data", data)
	return c
}

func openApart(t *testing.T, bin, dir, data string) *city {
	t.Helper()
	c := newCity(t, dir, data)
	c.startPostgres(t)
	t.Cleanup(func() { _ = c.postgres.Stop() })
	c.split(t)
	c.startPLC(t)

	secrets := filepath.Join(data, "secrets")
	cityDID, _ := c.account("CITY")
	ledgerDID, password := c.account("LEDGER")
	require.NotEmpty(t, cityDID)
	require.NotEmpty(t, ledgerDID)
	require.NoError(t, os.WriteFile(filepath.Join(secrets, "ledger-password"), []byte(password), 0o600))
	more := map[string][]string{
		"pds": {"--service-did", c.PDS, "--handle-domains", ".test", "--blobs", filepath.Join(data, "blobs"), "--secrets", secrets, "--limit-factor", "100"},
		"ledger": {"--city-did", cityDID, "--ledger-did", ledgerDID, "--tz", "America/Los_Angeles", "--pds-url", c.url(portPDS),
			"--web-url", c.url(portWeb), "--secrets", secrets, "--digest-every", "2s"}, // or each demonstration waits for one in vain
		"appview": {"--city-did", cityDID, "--hosts", c.url(portPDS), "--ledger-url", c.url(portLedger), "--demonstration"},
	}
	port := map[string]int{"pds": portPDS, "ledger": portLedger, "appview": portWeb}
	ready := map[string]string{"pds": "/xrpc/_health", "ledger": "/checkpoint", "appview": "/"}
	for _, name := range services {
		args := append([]string{
			"--port", strconv.Itoa(c.PortBase + port[name]), "--database-url", c.dsn(name), "--public-url", c.url(port[name]),
			"--plc-url", c.url(portPLC), "--allow-loopback",
		}, more[name]...)
		c.start(t, bin, name, c.url(port[name])+ready[name], args...)
	}
	return c
}

// close stops the city in good order.
func (c *city) close(t *testing.T) {
	t.Helper()
	for _, p := range slices.Backward(c.procs) {
		p.end()
	}
	if c.postgres != nil {
		c.plc()
		require.NoError(t, c.postgres.Stop())
	}
}

// startPostgres starts the server, again after it was killed.
func (c *city) startPostgres(t *testing.T) {
	t.Helper()
	server, err := pgdev.Start(t.Context(), pgdev.Config{DataDir: filepath.Join(c.data, "postgres"), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	c.postgres = server
	// Its socket is in another folder after each start; an address that an operator writes down stays.
	link := filepath.Join(c.dir, "socket")
	_ = os.Remove(link)
	require.NoError(t, os.Symlink(server.Socket(), link))
}

// dsn is the lasting address of a service's database.
func (c *city) dsn(name string) string {
	return "postgres:///" + name + "?host=" + filepath.Join(c.dir, "socket") + "&port=5432&user=citysync"
}

// killPostgres is kill -9 of the server. Its owner, this test or the city's one process, starts it again.
func (c *city) killPostgres(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.data, "postgres", "cluster", "postmaster.pid"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(string(raw), "\n", 2)[0]))
	require.NoError(t, err)
	c.procs[0].forget()
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	if c.postgres == nil {
		c.procs[0].dies(t.Context(), t, "the death of its database")
		return
	}
	<-c.postgres.Done()
	require.Error(t, c.postgres.Stop(), "it did not stop, it was killed")
	c.startPostgres(t)
}

// split gives each service a database of its own: a copy of the founded one without the others' schemas.
func (c *city) split(t *testing.T) {
	t.Helper()
	for _, name := range services {
		query(t, c.postgres.DSN("postgres"), "create database "+name+" template "+pgdev.Database)
		for _, other := range append(services, "citysync") {
			if other != name {
				query(t, c.postgres.DSN(name), "drop schema "+other+" cascade")
			}
		}
	}
	query(t, c.postgres.DSN("postgres"), "drop database "+pgdev.Database)
}

// rebuildAppView holds what the AppView knows, after it was killed so often, against what one learns that reads the network anew.
func (c *city) rebuildAppView(t *testing.T, read *consumer, log *watcher) {
	t.Helper()
	pool, err := pg.Open(t.Context(), c.dsn("appview"), "appview")
	require.NoError(t, err)
	defer pool.Close()
	caughtUp := func(ctx context.Context) error {
		var seq, size int64
		if err := pool.QueryRow(ctx, "select seq, (select size from log_head) from source").Scan(&seq, &size); err != nil {
			return err
		}
		if last, grown := read.sequence(), log.size.Load(); seq != last || size != grown {
			return fmt.Errorf("the AppView is at event %d of %d and entry %d of %d", seq, last, size, grown)
		}
		return nil
	}
	// The last thing that happens by itself is that the ledger publishes its last checkpoint.
	did, _ := c.account("LEDGER")
	last := url.Values{"repo": {did}, "collection": {lexicons.LedgerCheckpoint}, "rkey": {lexicons.SeqKey(log.size.Load())}}
	require.NoError(t, eventually(t.Context(), func(ctx context.Context) error {
		var rec struct {
			CID string `json:"cid"`
		}
		if err := (&xrpc.Client{Base: c.url(portPDS)}).Query(ctx, "com.atproto.repo.getRecord", last, &rec); err != nil {
			return err
		}
		if have := read.record(did, lexicons.LedgerCheckpoint+"/"+last.Get("rkey")); have != rec.CID {
			return fmt.Errorf("the last checkpoint was delivered as %q", have)
		}
		return nil
	}))
	require.NoError(t, eventually(t.Context(), caughtUp))
	want, err := index.StateHash(t.Context(), pool)
	require.NoError(t, err)
	p := c.process("appview")
	query(t, c.dsn("appview"), "alter schema appview rename to appview_that_was_killed") // and stays, for whoever asks why they differ
	p.forget()
	require.NoError(t, p.kill())
	require.Equal(t, killed, p.dies(t.Context(), t, "its rebuild"))
	require.NoError(t, eventually(t.Context(), func(ctx context.Context) error {
		if err := caughtUp(ctx); err != nil {
			return err
		}
		have, err := index.StateHash(ctx, pool)
		if err == nil && have != want {
			err = fmt.Errorf("the AppView that was killed has the state %s, the rebuilt one %s", want, have)
		}
		return err
	}))
	t.Logf("the AppView's state %s is that of one that read the network anew", want)
}

func query(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err, "%s", sql)
}

func (c *city) startPLC(t *testing.T) {
	t.Helper()
	directory, err := plcdev.New(filepath.Join(c.data, "plc.jsonl"), clock.System())
	require.NoError(t, err)
	l, err := net.Listen("tcp", net.JoinHostPort("localhost", strconv.Itoa(c.PortBase+portPLC)))
	require.NoError(t, err)
	server := &http.Server{Handler: directory.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	c.plc = func() {
		_ = server.Close()
		_ = directory.Close()
	}
	t.Cleanup(c.plc)
}

// figures are the end of a demonstration.
type figures struct {
	Tasks, Reserved, Claims, Verifications, Minted, Votes, Burned, Reviews int64
	Refused                                                                map[string]int
}

// demo runs the demonstration of one seed.
func demo(ctx context.Context, bin, ready string, seed int) (figures, error) {
	cmd := exec.CommandContext(ctx, bin, "demo", "--ready-file", ready, "--residents", "8", "--seed", strconv.Itoa(seed), "--json")
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return figures{}, fmt.Errorf("demo of seed %d: %w\n%s%s", seed, err, &out, &log)
	}
	var f figures
	err := json.Unmarshal(out.Bytes(), &f)
	return f, err
}

func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v:\n%s", name, args, out)
	return string(out)
}

// freePorts finds a base with nine free ports in a row. A city at rest must find them free again, so another run begins elsewhere.
func freePorts(t *testing.T) int {
	t.Helper()
	for base := 23000 + os.Getpid()%800*10; base < 60000; base += 10 {
		free := true
		for p := base; p < base+9 && free; p++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return base
		}
	}
	require.FailNow(t, "no nine free ports in a row")
	return 0
}
