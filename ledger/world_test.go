package ledger

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/secret"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/signer"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

const (
	host  = "http://pds.test"
	epoch = "e2027-01"
	book  = "std"
)

// noon is a Wednesday noon of the city in the second week of its first epoch.
var noon = time.Date(2027, 1, 13, 20, 0, 0, 0, time.UTC)

type world struct {
	t      *testing.T
	ctx    context.Context
	pool   *pgxpool.Pool // of the schema's owner, for the tests
	served *pgxpool.Pool // of the ledger's own role, on pool's schema
	clock  *clock.Manual
	dir    *identity.MockDirectory
	cfg    Config
	logKey string

	nextKey string        // the key that the log is to change to
	signer  signer.Signer // in place of them
	reg     *prometheus.Registry
	l       *Ledger
	stop    func()
	fenced  bool // the sequencer is expected to fail
	seq     int64
	keys    int

	city, ledger *actor
}

// actor is an account with a repository of its own.
type actor struct {
	w     *world
	did   syntax.DID
	key   atcrypto.PrivateKey
	store repo.MapBlocks
	head  *repo.Head
	state repo.State
	paths map[string]bool
}

type strong struct {
	URI string `json:"uri"`
	CID string `json:"cid"`
}

// NewLogKey makes the keys of a ledger's log.
func NewLogKey(did syntax.DID, random io.Reader) (skey, vkey string, err error) {
	return tlog.GenerateKey(random, did.String())
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), pool: pgtest.Schema(t, Migrations()), clock: clock.New(noon), dir: identity.NewMockDirectory()}
	w.city, w.ledger = w.actor("city"), w.actor("ledger")
	var err error
	w.logKey, _, err = NewLogKey(w.ledger.did, rand.Reader)
	require.NoError(t, err)
	w.cfg = Config{
		City: w.city.did, DID: w.ledger.did, PDS: host, PublicURL: "http://ledger.test", Sources: []string{host},
		Identifier: "ledger.test", TZ: "America/Los_Angeles", WriterWait: 50 * time.Millisecond,
		PINCost: secret.Cost{MemoryKiB: 8, Passes: 1, Threads: 1},
	}
	w.start()
	return w
}

// role is the pool that the ledger works with: that of a role with a ledger's rights and no more.
func (w *world) role() *pgxpool.Pool {
	w.t.Helper()
	if w.served == nil || w.served.Config().ConnConfig.Database != w.pool.Config().ConnConfig.Database {
		w.served = pgtest.AsRole(w.t, w.pool, GrantTo)
	}
	return w.served
}

// start opens the ledger and runs its sequencer; records are handed to its intake directly.
func (w *world) start() {
	w.t.Helper()
	w.reg = prometheus.NewRegistry()
	l, err := New(w.ctx, w.cfg, Deps{
		Pool: w.role(), Directory: w.dir, HTTP: http.DefaultClient, Clock: w.clock, Log: slog.New(slog.DiscardHandler),
		Metrics: w.reg, LogKey: w.logKey, NextKey: w.nextKey, Signer: w.signer, Password: "x",
	})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.seq.run(ctx) }()
	w.l = l
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			err := <-done
			require.Equal(w.t, w.fenced, err != nil, "%v", err)
			l.seq.close()
		})
	}
	w.t.Cleanup(w.stop)
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func (w *world) actor(name string) *actor {
	w.t.Helper()
	w.keys++
	key, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(w.t, err)
	pub, err := key.PublicKey()
	require.NoError(w.t, err)
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '2' && r <= '7' {
			return r
		}
		return '7'
	}, fmt.Sprintf("%s%d%s", name, w.keys+20, strings.Repeat("a", 24)))[:24]
	did := syntax.DID("did:plc:" + id)
	w.dir.Insert(identity.Identity{
		DID: did, Handle: syntax.Handle(name + fmt.Sprint(w.keys) + ".test"),
		Keys: map[string]identity.VerificationMethod{"atproto": {Type: "Multikey", PublicKeyMultibase: pub.Multibase()}},
	})
	return &actor{w: w, did: did, key: key, store: repo.MapBlocks{}, paths: map[string]bool{}}
}

func (a *actor) uri(coll, rkey string) string {
	return "at://" + a.did.String() + "/" + coll + "/" + rkey
}

// prepare makes a signed commit and gives its event; nobody has seen it yet.
func (a *actor) prepare(writes ...repo.Write) *firehose.Commit {
	a.w.t.Helper()
	rev := syntax.NewTIDFromTime(a.w.clock.Now(), uint(len(a.store)%1000)).String()
	if a.head != nil && rev <= a.head.Rev {
		last, err := syntax.ParseTID(a.head.Rev)
		require.NoError(a.w.t, err)
		rev = syntax.NewTIDFromTime(last.Time().Add(time.Microsecond), last.ClockID()).String()
	}
	c, err := repo.Apply(a.w.ctx, a.store, a.did, a.head, writes, a.key, rev)
	require.NoError(a.w.t, err)
	for _, b := range c.New {
		a.store.Put(b)
	}
	a.head = &c.Head
	a.w.seq++
	ev := &firehose.Commit{Seq: a.w.seq, DID: a.did, Commit: c.Head.Commit, Rev: rev, Since: c.Since, PrevData: c.PrevData, Blocks: c.CAR}
	for _, op := range c.Ops {
		ev.Ops = append(ev.Ops, firehose.Op{Action: string(op.Action), Path: op.Path, CID: op.CID, Prev: op.Prev})
	}
	return ev
}

// deliver verifies an event as a follower does and hands it to the intake.
func (a *actor) deliver(ev *firehose.Commit) {
	a.w.t.Helper()
	require.NoError(a.w.t, a.try(ev))
}

func (a *actor) try(ev *firehose.Commit) error {
	pub, err := a.key.PublicKey()
	if err != nil {
		return err
	}
	v, err := repo.VerifyCommit(a.w.ctx, ev, pub, a.state, a.w.clock.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	a.state = repo.State{Rev: v.Rev, Data: v.Data}
	return a.w.l.intake.Commit(a.w.ctx, host, ev.Seq, v)
}

func (a *actor) write(coll, rkey string, record map[string]any) (repo.Write, strong) {
	a.w.t.Helper()
	record["$type"] = coll
	raw, err := json.Marshal(record)
	require.NoError(a.w.t, err)
	cbor, err := lexicons.EncodeJSONToCBOR(raw)
	require.NoError(a.w.t, err)
	action := repo.Create
	if a.paths[coll+"/"+rkey] {
		action = repo.Update
	}
	a.paths[coll+"/"+rkey] = true
	return repo.Write{Action: action, Collection: coll, RKey: rkey, Record: cbor},
		strong{a.uri(coll, rkey), repo.CIDForCBOR(cbor).String()}
}

// put publishes one record and lets the ledger see it.
func (a *actor) put(coll, rkey string, record map[string]any) strong {
	a.w.t.Helper()
	write, ref := a.write(coll, rkey, record)
	a.deliver(a.prepare(write))
	return ref
}

// hold publishes one record that the ledger does not see before the event is delivered.
func (a *actor) hold(coll, rkey string, record map[string]any) (*firehose.Commit, strong) {
	a.w.t.Helper()
	write, ref := a.write(coll, rkey, record)
	return a.prepare(write), ref
}

func (a *actor) del(coll, rkey string) {
	a.w.t.Helper()
	delete(a.paths, coll+"/"+rkey)
	a.deliver(a.prepare(repo.Write{Action: repo.Delete, Collection: coll, RKey: rkey}))
}

func (w *world) tid() string {
	w.keys++
	return syntax.NewTIDFromTime(noon.Add(time.Duration(w.keys)*time.Millisecond), 1).String()
}

// token is a service token of the actor for a method of the ledger.
func (a *actor) token(method string) string {
	a.w.t.Helper()
	tok, err := xrpc.SignServiceToken(a.key, a.did.String(), a.w.cfg.DID.String()+"#citysync_ledger", nsid+method, a.w.clock.Now(), time.Minute)
	require.NoError(a.w.t, err)
	return tok
}

type answer struct {
	Status int
	Body   map[string]any
}

func (r answer) name() string { s, _ := r.Body["error"].(string); return s }
func (r answer) str(k string) string {
	s, _ := r.Body[k].(string)
	return s
}
func (r answer) num(k string) int64 {
	f, _ := r.Body[k].(float64)
	return int64(f)
}

// call asks a method, as an account or, with a nil actor, as anybody. A nil body is a query.
func (w *world) call(a *actor, method, query string, body any) answer {
	w.t.Helper()
	verb, reader := http.MethodGet, io.Reader(http.NoBody)
	if body != nil {
		raw, err := json.Marshal(body)
		require.NoError(w.t, err)
		verb, reader = http.MethodPost, bytes.NewReader(raw)
	}
	req := httptest.NewRequestWithContext(w.ctx, verb, "/xrpc/"+nsid+method+query, reader)
	req.Header.Set("Content-Type", "application/json")
	if a != nil {
		req.Header.Set("Authorization", "Bearer "+a.token(method))
	}
	rec := httptest.NewRecorder()
	w.l.Handler().ServeHTTP(rec, req)
	out := answer{Status: rec.Code}
	_ = json.Unmarshal(rec.Body.Bytes(), &out.Body)
	if rec.Code == http.StatusOK && slices.Contains(counterMethods, method) {
		raw, err := json.Marshal(body)
		require.NoError(w.t, err)
		require.NoError(w.t, lexicons.CheckInput(nsid+method, raw), "%s", raw)
		require.NoError(w.t, lexicons.CheckOutput(nsid+method, rec.Body.Bytes()), "%s", rec.Body)
	}
	return out
}

// counterMethods are held against their schemas in every test that calls them.
var counterMethods = []string{
	"bindTill", "openTill", "closeTill", "resetTill", "getTillSlip", "createRedemption", "updateRedemption", "createHold", "captureHold",
	"endHold", "issueCard", "endCard", "createCardRedemption",
}

func (w *world) get(path string) *httptest.ResponseRecorder {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.l.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(w.ctx, http.MethodGet, path, http.NoBody))
	return rec
}

func (w *world) explain(ref strong) answer {
	w.t.Helper()
	return w.call(nil, "explain", "?uri="+ref.URI+"&cid="+ref.CID, nil)
}

// refused asserts the name under which a record does not count.
func (w *world) refused(ref strong, name string) answer {
	w.t.Helper()
	e := w.explain(ref)
	require.Equal(w.t, "refused", e.str("status"), "%v", e.Body)
	require.Equal(w.t, name, e.name(), "%v", e.Body)
	return e
}

func (w *world) status(ref strong, want string) answer {
	w.t.Helper()
	e := w.explain(ref)
	require.Equal(w.t, want, e.str("status"), "%v", e.Body)
	return e
}

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func receiptKeyless(n int64) string { return fmt.Sprint(n) }
