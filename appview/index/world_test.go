package index_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

const host = "http://localhost:2581"

var start = time.Date(2027, 1, 12, 10, 0, 0, 0, time.UTC)

// world is an index and the repositories that it sees, signed and verified for real.
type world struct {
	t     *testing.T
	pool  *pgxpool.Pool // of the schema's owner, for the tests
	role  *pgxpool.Pool // of the AppView's own role
	clock *clock.Manual
	x     *index.Index
	seq   int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pool: pgtest.Schema(t, index.Migrations()), clock: clock.New(start)}
	w.role = pgtest.AsRole(t, w.pool, index.GrantTo)
	w.x = w.open()
	return w
}

func (w *world) open() *index.Index {
	w.t.Helper()
	x, err := index.New(w.role, w.clock, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(w.t, err)
	return x
}

// author is one account with its repository.
type author struct {
	w      *world
	did    syntax.DID
	key    atcrypto.PrivateKey
	blocks repo.MapBlocks
	head   *repo.Head
	state  repo.State
	tid    *syntax.TIDClock
	rev    string // of the next commit, when the clock is not to give it
}

func (w *world) author(did string) *author {
	w.t.Helper()
	key, err := atcrypto.GeneratePrivateKeyK256()
	require.NoError(w.t, err)
	clk := syntax.NewTIDClock(0)
	a := &author{w: w, did: syntax.DID(did), key: key, blocks: repo.MapBlocks{}, tid: clk}
	a.save(a.commit())
	return a
}

// commit signs writes and gives them as a verifier would take them off the wire.
func (a *author) commit(writes ...repo.Write) *repo.Verified {
	a.w.t.Helper()
	rev := a.rev
	if rev == "" {
		rev = a.tid.Next().String()
	}
	c, err := repo.Apply(a.w.t.Context(), a.blocks, a.did, a.head, writes, a.key, rev)
	require.NoError(a.w.t, err)
	for _, b := range c.New {
		a.blocks.Put(b)
	}
	head := c.Head
	a.head = &head
	pub, err := a.key.PublicKey()
	require.NoError(a.w.t, err)
	ev := &firehose.Commit{Seq: a.w.seq + 1, DID: a.did, Commit: c.Head.Commit, Rev: c.Head.Rev, Since: c.Since, PrevData: c.PrevData, Blocks: c.CAR,
		Time: start.Format(time.RFC3339)}
	for _, op := range c.Ops {
		ev.Ops = append(ev.Ops, firehose.Op{Action: string(op.Action), Path: op.Path, CID: op.CID, Prev: op.Prev})
	}
	v, err := repo.VerifyCommit(a.w.t.Context(), ev, pub, a.state, time.Now())
	require.NoError(a.w.t, err)
	a.state = repo.State{Rev: v.Rev, Data: v.Data}
	return v
}

// fork is the author as it is now, to sign another history.
func (a *author) fork() *author {
	twin := *a
	twin.blocks = maps.Clone(a.blocks)
	return &twin
}

// account is what the host says of it.
func (w *world) account(a *author, active bool, status string) {
	w.t.Helper()
	w.seq++
	require.NoError(w.t, w.x.Account(w.t.Context(), host, w.seq, a.did, active, status))
}

func (a *author) save(v *repo.Verified) {
	a.w.t.Helper()
	a.w.seq++
	require.NoError(a.w.t, a.w.x.Commit(a.w.t.Context(), host, a.w.seq, v))
}

func (a *author) put(action repo.Action, nsid, rkey string, cbor []byte) {
	a.w.t.Helper()
	a.save(a.commit(repo.Write{Action: action, Collection: nsid, RKey: rkey, Record: cbor}))
}

// full is the whole repository as a host would send it.
func (a *author) full() *repo.Full {
	a.w.t.Helper()
	var car bytes.Buffer
	require.NoError(a.w.t, repo.WriteCAR(&car, a.head.Commit, func(yield func(repo.Block) bool) {
		for c, data := range a.blocks {
			if !yield(repo.Block{CID: c, Data: data}) {
				return
			}
		}
	}))
	pub, err := a.key.PublicKey()
	require.NoError(a.w.t, err)
	f, err := repo.VerifyRepo(a.w.t.Context(), &car, a.did, pub, repo.Limits{})
	require.NoError(a.w.t, err)
	return f
}

// example is a valid record of the schemas' own examples, canonical, with its key.
func example(t *testing.T, nsid string) (rkey string, cbor []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "lexicons", "testdata", "valid", nsid, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, nsid)
	raw, err := os.ReadFile(files[0])
	require.NoError(t, err)
	var ex struct {
		RKey   string          `json:"rkey"`
		Record json.RawMessage `json:"record"`
	}
	require.NoError(t, json.Unmarshal(raw, &ex))
	cbor, err = lexicons.EncodeJSONToCBOR(ex.Record)
	require.NoError(t, err)
	return ex.RKey, cbor
}

// edited is an example with one field changed.
func edited(t *testing.T, cbor []byte, field string, value any) []byte {
	t.Helper()
	m, err := lexicons.DecodeCBOR(cbor)
	require.NoError(t, err)
	m[field] = value
	out, err := lexicons.EncodeCBOR(m)
	require.NoError(t, err)
	return out
}

func (w *world) hash() string {
	w.t.Helper()
	h, err := w.x.StateHash(w.t.Context())
	require.NoError(w.t, err)
	return h
}

func (w *world) count(sql string, args ...any) int {
	w.t.Helper()
	var n int
	require.NoError(w.t, w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n))
	return n
}
