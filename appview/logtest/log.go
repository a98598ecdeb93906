// Package logtest makes ledger logs for the AppView's tests: served over HTTP, signed, cosigned, with entries of every kind.
package logtest

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// Origin is the ledger's DID.
const Origin = "did:plc:llllllllllllllllllllllll"

// At is when the checkpoints are cosigned.
var At = time.Date(2027, 1, 12, 10, 0, 30, 0, time.UTC)

// Log is one published log.
type Log struct {
	t    *testing.T
	URL  string
	VKey string // of its first key

	mu        sync.Mutex // guards the rest
	leaves    [][]byte
	tree      tlog.Tree
	skeys     []string
	extra     []string // extension lines
	witnesses []*tlog.Cosigner
	policy    string
	cosigned  []byte
	signers   int // of cosigned
}

// New serves an empty log.
func New(t *testing.T) *Log {
	t.Helper()
	skey, vkey, err := tlog.GenerateKey(rand.Reader, Origin)
	require.NoError(t, err)
	l := &Log{t: t, VKey: vkey, skeys: []string{skey}}
	srv := httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(srv.Close)
	l.URL = srv.URL
	return l
}

// Add appends an entry and gives its index. Day is filled where there is none.
func (l *Log) Add(e entry.Entry) int64 {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq = int64(len(l.leaves))
	if e.Day == "" {
		e.Day = "2027-01-12"
	}
	leaf, err := e.Encode()
	require.NoError(l.t, err)
	l.leaves = append(l.leaves, leaf)
	require.NoError(l.t, l.tree.Append(leaf))
	return e.Seq
}

// AddLeaves appends entries that were made elsewhere.
func (l *Log) AddLeaves(leaves ...[]byte) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, leaf := range leaves {
		l.leaves = append(l.leaves, leaf)
		require.NoError(l.t, l.tree.Append(leaf))
	}
}

// Size is the number of entries.
func (l *Log) Size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leaves)
}

// Extend puts lines after the root of every later checkpoint.
func (l *Log) Extend(lines ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.extra = lines
}

// Rotate binds a new key and signs with both; Retire ends the overlap.
func (l *Log) Rotate() {
	l.t.Helper()
	skey, vkey, err := tlog.GenerateKey(rand.Reader, Origin)
	require.NoError(l.t, err)
	l.Add(entry.Entry{Kind: entry.KindBind, At: "2027-01-12T10:00:00Z", Bind: &entry.Bind{What: entry.BindLogKey, Key: vkey}})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.skeys = append(l.skeys, skey)
}

// Retire signs with the newest key alone, and gives the one before it.
func (l *Log) Retire() (old string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old = l.skeys[len(l.skeys)-2]
	l.skeys = l.skeys[len(l.skeys)-1:]
	return old
}

// Sign signs with one key from now on.
func (l *Log) Sign(skey string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.skeys = []string{skey}
}

// Steal signs with a key that nobody bound.
func (l *Log) Steal() {
	l.t.Helper()
	skey, _, err := tlog.GenerateKey(rand.Reader, Origin)
	require.NoError(l.t, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.skeys = []string{skey}
}

// Fork puts another entry in the place of the first one: what was cosigned before is of another history.
func (l *Log) Fork() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	e := entry.Entry{Kind: entry.KindRulesVersion, At: "2027-01-12T10:00:00Z", Day: "2027-01-12", RulesVersion: &entry.RulesVersion{Version: 2}}
	leaf, err := e.Encode()
	require.NoError(l.t, err)
	l.leaves[0] = leaf
	l.tree = tlog.Tree{}
	for _, leaf := range l.leaves {
		require.NoError(l.t, l.tree.Append(leaf))
	}
}

// BindWitnesses binds a witness for each organization and a policy that needs k of them.
func (l *Log) BindWitnesses(k int, orgs ...syntax.DID) {
	l.t.Helper()
	var text, names strings.Builder
	var all []*tlog.Cosigner
	for i, org := range orgs {
		c, err := tlog.NewCosigner(rand.Reader, fmt.Sprintf("w%d.example", i))
		require.NoError(l.t, err)
		all = append(all, c)
		l.Add(entry.Entry{Kind: entry.KindBind, At: "2027-01-12T10:00:00Z", Org: org,
			Bind: &entry.Bind{What: entry.BindWitness, Key: c.VerifierKey(), Class: "issuers"}})
		fmt.Fprintf(&text, "witness w%d %s\n", i, c.VerifierKey())
		fmt.Fprintf(&names, " w%d", i)
	}
	fmt.Fprintf(&text, "group issuers %d%s\nquorum issuers\n", k, &names)
	hash := sha256.Sum256([]byte(text.String()))
	l.Add(entry.Entry{Kind: entry.KindBind, At: "2027-01-12T10:00:00Z", Bind: &entry.Bind{What: entry.BindPolicy, Hash: hash[:]}})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.witnesses, l.policy = all, text.String()
}

// Policy is the text that was bound last.
func (l *Log) Policy() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.policy
}

// SwapPolicy serves another policy than the log binds.
func (l *Log) SwapPolicy(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.policy = text
}

// Cosign has the first n witnesses sign the log as it is, and gives their lines.
func (l *Log) Cosign(n int) []string {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	signed := l.checkpoint()
	text, err := tlog.NoteText(signed)
	require.NoError(l.t, err)
	var lines []string
	for _, w := range l.witnesses[:n] {
		line, err := w.Cosign(text, At)
		require.NoError(l.t, err)
		lines = append(lines, line)
	}
	l.signers = n
	l.cosigned, err = tlog.AddLines(signed, lines...)
	require.NoError(l.t, err)
	return lines
}

func (l *Log) cosignatures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signers
}

// Note is the signed checkpoint as it is served.
func (l *Log) Note() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checkpoint()
}

func (l *Log) checkpoint() []byte {
	size := int64(len(l.leaves))
	root, err := l.tree.Root(size)
	if !assert.NoError(l.t, err) {
		return nil
	}
	signed, err := tlog.SignAll(tlog.Checkpoint{Origin: Origin, Size: size, Root: root, Extensions: l.extra}, l.skeys...)
	assert.NoError(l.t, err)
	return signed
}

func (l *Log) serve(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []byte
	switch path := strings.TrimPrefix(r.URL.Path, "/"); path {
	case "checkpoint":
		if len(l.leaves) > 0 {
			out = l.checkpoint()
		}
	case "checkpoint/cosigned":
		out = l.cosigned
	case "policy":
		out = []byte(l.policy)
	default:
		if tile, err := tlog.ParseTilePath(path); err == nil && tile.Level == tlog.EntriesLevel {
			from, to := tile.Leaves()
			out, err = tlog.EncodeBundle(l.leaves[from:to])
			assert.NoError(l.t, err)
		}
	}
	if len(out) == 0 {
		http.NotFound(w, r)
		return
	}
	_, err := w.Write(out)
	assert.NoError(l.t, err)
}
