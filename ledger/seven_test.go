package ledger

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
)

// swap is a server whose handler can be changed while it runs; without one it is away.
type swap struct{ h atomic.Pointer[http.Handler] }

func (s *swap) set(h http.Handler) { s.h.Store(&h) }
func (s *swap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.h.Load(); h != nil && *h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	http.Error(w, "away", http.StatusBadGateway)
}

func served(t *testing.T) (*swap, string) {
	t.Helper()
	s := &swap{}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, srv.URL
}

// seven institutions run a witness each: three issuers, two redeemers, two civic.
type seven struct {
	c      *founded
	policy *tlog.Policy
	text   string
	named  []any
	list   []*institution
}

type institution struct {
	name   string
	key    *tlog.Cosigner
	log    *swap // where it reads the log
	logURL string
	door   *swap // where it is reached
	url    string
	folder string
	w      *witness.Witness
	stop   func()
}

var classes = []struct {
	name string
	need string
	n    int
}{{"issuers", "2", 3}, {"redeemers", "any", 2}, {"civic", "any", 2}}

func newSeven(c *founded, openings bool) *seven {
	c.t.Helper()
	s := &seven{c: c}
	var all []string
	for _, class := range classes {
		var members []string
		for i := range class.n {
			in := &institution{name: fmt.Sprintf("%s%d", class.name, i), folder: filepath.Join(c.t.TempDir(), "copy")}
			in.log, in.logURL = served(c.t)
			in.door, in.url = served(c.t)
			in.log.set(c.l.Handler())
			var err error
			in.key, err = tlog.NewCosigner(strings.NewReader(strings.Repeat(in.name, 32)), in.name+".test")
			require.NoError(c.t, err)
			org := c.actor(class.name + string(rune('a'+i)))
			c.accredit(org, "active", map[string]string{"issuers": "issuer", "redeemers": "redeemer", "civic": "witness"}[class.name])
			s.text += fmt.Sprintf("witness %s %s %s\n", in.name, in.key.VerifierKey(), in.url)
			s.named = append(s.named, map[string]any{"name": in.name, "did": org.did, "openings": openings})
			s.list = append(s.list, in)
			members = append(members, in.name)
		}
		s.text += fmt.Sprintf("group %s %s %s\n", class.name, class.need, strings.Join(members, " "))
		all = append(all, class.name)
	}
	s.text += "group city all " + strings.Join(all, " ") + "\nquorum city\n"
	var err error
	s.policy, err = tlog.ParsePolicy([]byte(s.text))
	require.NoError(c.t, err)
	res := c.call(c.city, "bindWitnesses", "", map[string]any{"policy": s.text, "witnesses": s.named})
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	return s
}

func (s *seven) config(in *institution) witness.Config {
	return witness.Config{
		Folder: in.folder, LogURL: in.logURL, Origin: s.c.cfg.DID.String(), LogKeys: []string{s.c.l.VerifierKey()}, Every: 50 * time.Millisecond,
	}
}

// up lets an institution's witness run.
func (s *seven) up(in *institution, change func(*witness.Config)) {
	s.c.t.Helper()
	cfg := s.config(in)
	if change != nil {
		change(&cfg)
	}
	w, err := witness.New(s.c.ctx, cfg, witness.Deps{
		Key: in.key, HTTP: http.DefaultClient, Clock: s.c.clock, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(s.c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	in.w = w
	in.door.set(w.Handler())
	in.stop = func() { cancel(); <-done; in.door.set(nil) }
	s.c.t.Cleanup(func() { cancel() })
}

func (s *seven) some(names ...string) []*institution {
	var out []*institution
	for _, in := range s.list {
		if slices.Contains(names, in.name) {
			out = append(out, in)
		}
	}
	return out
}

// collecting runs the ledger's collector.
func (c *founded) collecting() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.l.collector.run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		assert.NoError(c.t, <-done)
	})
}

func (c *founded) cosignedTo(size int64) func() bool {
	return func() bool {
		have, _ := c.l.collector.cosignedSize()
		return have >= size
	}
}

func TestFourOfSevenWitnessesCosignWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	s := newSeven(c, false)
	for _, in := range s.some("issuers0", "issuers2", "redeemers1", "civic0") {
		s.up(in, nil)
	}
	c.collecting()
	require.Eventually(t, c.cosignedTo(c.l.seq.log.size()), 10*time.Second, 10*time.Millisecond)

	ada := c.resident("ada")
	c.earn(ada, c.catalog(c.library, entryOptions{}))
	size := c.l.seq.log.size()
	began := time.Now()
	require.Eventually(t, c.cosignedTo(size), 5*time.Second, 5*time.Millisecond)
	t.Logf("%d entries were cosigned by 4 of 7 after %s", size, time.Since(began).Round(time.Millisecond))
	have := c.cosigned()
	require.Equal(t, []any{"issuers0", "issuers2", "redeemers1", "civic0"}, have["witnesses"])

	proof := c.proofFile(size - 1)
	_, err := proof.Verify(s.policy, c.l.VerifierKey())
	require.NoError(t, err)
	for _, in := range s.some("issuers0", "civic0") { // each copy is a log that any reader of tiles can read
		c.sameLog(in.url + "/copy")
	}
}

// proofFile is what a resident can carry away: the proof of an entry under the cosigned checkpoint.
func (c *founded) proofFile(seq int64) *tlog.ProofFile {
	c.t.Helper()
	note := c.get("/checkpoint/cosigned").Body.Bytes()
	cp, err := tlog.Open(note, c.l.VerifierKey())
	require.NoError(c.t, err)
	hashes, err := tlog.ProveInclusion(cp.Size, seq, c.l.seq.log)
	require.NoError(c.t, err)
	file := (&tlog.ProofFile{Leaf: c.leaf(seq), Index: seq, Hashes: hashes, Checkpoint: note}).Encode()
	p, err := tlog.ParseProofFile(file)
	require.NoError(c.t, err)
	return p
}

func (c *founded) leaf(seq int64) []byte {
	c.t.Helper()
	list, err := c.l.store.leaves(c.ctx, seq, 1)
	require.NoError(c.t, err)
	require.Len(c.t, list, 1)
	return list[0]
}

// sameLog reads the log at an address and finds the ledger's in it.
func (c *founded) sameLog(base string) {
	c.t.Helper()
	get := func(path string) []byte {
		resp, err := http.Get(base + "/" + path)
		require.NoError(c.t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(c.t, err)
		require.Equal(c.t, 200, resp.StatusCode, "%s: %s", path, body)
		return body
	}
	cp, err := tlog.Open(get("checkpoint"), c.l.VerifierKey())
	require.NoError(c.t, err)
	for _, tile := range tlog.Tiles(tlog.EntriesLevel, cp.Size) {
		list, err := tlog.DecodeBundle(get(tile.Path()), tile.Width)
		require.NoError(c.t, err)
		for i, leaf := range list {
			require.Equal(c.t, c.leaf(tile.N*tlog.TileWidth+int64(i)), leaf)
		}
	}
	for level := range tlog.Levels(cp.Size) {
		for _, tile := range tlog.Tiles(level, cp.Size) {
			want, err := tlog.ReadTile(tile, cp.Size, c.l.seq.log)
			require.NoError(c.t, err)
			require.Equal(c.t, want, get(tile.Path()))
		}
	}
}

// A liar has the log's key and serves whatever it wants.
type liar struct {
	c      *founded
	leaves [][]byte
	tree   *tlog.Tree
	size   int64    // of what it signs
	lines  []string // further ones of what it signs
}

func (c *founded) liar() *liar {
	c.t.Helper()
	leaves, err := c.l.store.leaves(c.ctx, 0, c.l.seq.log.size())
	require.NoError(c.t, err)
	l := &liar{c: c, tree: new(tlog.Tree)}
	for _, leaf := range leaves {
		l.add(leaf)
	}
	return l
}

func (l *liar) add(leaf []byte) {
	l.leaves = append(l.leaves, leaf)
	require.NoError(l.c.t, l.tree.Append(leaf))
	l.size = l.tree.Size()
}

// cut gives the log without its last entries.
func (l *liar) cut(n int) *liar {
	out := &liar{c: l.c, tree: new(tlog.Tree)}
	for _, leaf := range l.leaves[:len(l.leaves)-n] {
		out.add(leaf)
	}
	return out
}

func (l *liar) entry(e *entry.Entry) {
	l.c.t.Helper()
	e.Seq = l.tree.Size()
	leaf, err := e.Encode()
	require.NoError(l.c.t, err)
	l.add(leaf)
}

// till is an entry that breaks no rule: a till of the pool's.
func (l *liar) till(key string) {
	now := l.c.clock.Now()
	l.entry(&entry.Entry{
		Kind: entry.KindBind, Org: l.c.pool.did, Day: entry.FormatDay(now, l.c.l.seq.state.Location()), At: entry.FormatTime(now),
		Bind: &entry.Bind{What: entry.BindTill, Key: key, Till: entry.TillID(l.c.pool.did.String(), key)},
	})
}

func (l *liar) note() []byte {
	root, err := l.tree.Root(l.size)
	require.NoError(l.c.t, err)
	signed, err := tlog.Sign(tlog.Checkpoint{Origin: l.c.cfg.DID.String(), Size: l.size, Root: root, Extensions: l.lines}, l.c.logKey)
	require.NoError(l.c.t, err)
	return signed
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if strings.HasPrefix(path, "checkpoint") {
		_, _ = w.Write(l.note())
		return
	}
	t, err := tlog.ParseTilePath(path)
	if err != nil || !t.In(l.size) {
		http.NotFound(w, r)
		return
	}
	var data []byte
	if t.Level == tlog.EntriesLevel {
		from, to := t.Leaves()
		data, err = tlog.EncodeBundle(l.leaves[from:to])
	} else {
		data, err = tlog.ReadTile(t, l.size, l.tree)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(data)
}

// bring asks a witness for its cosignature, as a ledger does, and gives its key where it cosigned.
func (l *liar) bring(in *institution) (key string, status int) {
	l.c.t.Helper()
	old := int64(0)
	for range 3 {
		proof, err := tlog.ProveConsistency(l.size, min(old, l.size), l.tree)
		require.NoError(l.c.t, err)
		var b bytes.Buffer
		fmt.Fprintf(&b, "old %d\n", min(old, l.size))
		for _, h := range proof {
			b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
		}
		b.WriteString("\n")
		b.Write(l.note())
		resp, err := http.Post(in.url+"/add-checkpoint", "text/plain", &b)
		require.NoError(l.c.t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(l.c.t, err)
		if status = resp.StatusCode; status == 200 {
			text, err := tlog.NoteText(l.note())
			require.NoError(l.c.t, err)
			_, err = tlog.CheckCosignature(string(body), text, in.key.VerifierKey())
			require.NoError(l.c.t, err)
			return in.key.VerifierKey(), status
		}
		if status != http.StatusConflict {
			return "", status
		}
		_, err = fmt.Sscanf(string(body), "%d\n", &old)
		require.NoError(l.c.t, err)
	}
	return "", status
}

// lied lets all seven run on the true log until each has cosigned it, and gives the log's content to the liar.
func lied(t *testing.T) (*seven, *liar) {
	t.Helper()
	c := newCity(t)
	ada := c.resident("ada")
	c.earn(ada, c.catalog(c.library, entryOptions{}))
	s := newSeven(c, false)
	require.NoError(t, c.l.collector.adopt(c.ctx))
	for _, in := range s.list {
		s.up(in, nil)
	}
	honest := c.liar()
	for _, in := range s.list {
		key, status := honest.bring(in)
		require.Equal(t, in.key.VerifierKey(), key, "%d", status)
	}
	return s, honest
}

// everyoneKnows waits until each of the witnesses has a proof, and checks it with nothing but the log's key.
func (s *seven) everyoneKnows(kind string, entry int64, list ...*institution) {
	t := s.c.t
	t.Helper()
	for _, in := range list {
		require.Eventually(t, func() bool { return in.w.Dispute() != "" }, 10*time.Second, 10*time.Millisecond, "%s saw nothing", in.name)
		resp, err := http.Get(in.url + "/proofs")
		require.NoError(t, err)
		var out struct{ Proofs []string }
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&out))
		resp.Body.Close()
		require.NotEmpty(t, out.Proofs)
		resp, err = http.Get(in.url + "/proofs/" + out.Proofs[0])
		require.NoError(t, err)
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err)
		p, err := witness.ReadProof(raw)
		require.NoError(t, err)
		verdict, err := p.Check([]string{s.c.l.VerifierKey()}, nil)
		require.NoError(t, err)
		require.Equal(t, kind, verdict.Kind)
		require.Equal(t, entry, verdict.Entry)
		_, other, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("x", 32)), s.c.cfg.DID.String())
		require.NoError(t, err)
		_, err = p.Check([]string{other}, nil)
		require.ErrorIs(t, err, witness.ErrProof, "a proof is of a key")
		_, status := s.c.liar().bring(in) // even the true log is not cosigned after it
		require.Equal(t, http.StatusUnprocessableEntity, status)
	}
}

// W3
func TestSplitViewGetsNoQuorumAndEveryWitnessProvesIt(t *testing.T) {
	t.Parallel()
	s, one := lied(t)
	two := s.c.liar()
	one.till("did:key:zDnaOne")
	two.till("did:key:zDnaTwo")
	two.till("did:key:zDnaThree")
	halfOne := s.some("issuers0", "redeemers0", "civic0", "civic1")
	halfTwo := s.some("issuers1", "issuers2", "redeemers1")
	for _, in := range s.list { // nobody sees the other half before both have signed
		in.door.set(nil)
	}
	var got [2][]string
	for i, half := range [][]*institution{halfOne, halfTwo} {
		view := []*liar{one, two}[i]
		for _, in := range half {
			in.log.set(view)
			in.door.set(in.w.Handler())
			if key, _ := view.bring(in); key != "" {
				got[i] = append(got[i], key)
			}
			in.door.set(nil)
		}
	}
	require.Len(t, got[0], 4, "each half alone sees nothing wrong")
	require.Len(t, got[1], 3)
	require.False(t, s.policy.Holds(got[0]...))
	require.False(t, s.policy.Holds(got[1]...))
	for _, in := range s.list {
		in.door.set(in.w.Handler())
	}
	s.everyoneKnows(witness.ProofFork, -1, s.list...)
}

// However an operator parts seven witnesses, two histories never both get a quorum.
func TestNoTwoQuorumsAreApart(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	s := newSeven(c, false)
	for split := range 1 << len(s.list) {
		var a, b []string
		for i, in := range s.list {
			if split>>i&1 == 1 {
				a = append(a, in.key.VerifierKey())
			} else {
				b = append(b, in.key.VerifierKey())
			}
		}
		require.False(t, s.policy.Holds(a...) && s.policy.Holds(b...), "%b", split)
	}
}

// W2, W3
func TestRollbackGetsNoQuorumAndEveryWitnessProvesIt(t *testing.T) {
	t.Parallel()
	s, whole := lied(t)
	back := whole.cut(3)
	back.till("did:key:zDnaInstead")
	var got []string
	for _, in := range s.list {
		in.log.set(back)
		if key, _ := back.bring(in); key != "" {
			got = append(got, key)
		}
	}
	require.Empty(t, got)
	s.everyoneKnows(witness.ProofFork, -1, s.list...)
}

// W1, W3
func TestEntryOverTheCapGetsNoQuorumAndEveryWitnessProvesIt(t *testing.T) {
	t.Parallel()
	s, log := lied(t)
	var mint *entry.Entry
	for _, leaf := range log.leaves {
		if e, err := entry.Decode(leaf); err == nil && e.Kind == entry.KindMint {
			mint = e
		}
	}
	require.NotNil(t, mint)
	log.till("did:key:zDnaBefore")
	mint.Amount, mint.Cap.Before = mint.Cap.Cap, mint.Cap.Cap // all of the cap once more, on one claim
	log.entry(mint)
	bad := log.size - 1
	log.till("did:key:zDnaAfter")
	var got []string
	for _, in := range s.list {
		in.log.set(log)
		if key, _ := log.bring(in); key != "" {
			got = append(got, key)
		}
	}
	require.Empty(t, got)
	s.everyoneKnows(witness.ProofEntry, bad, s.list...)
}

// W4, W5
func TestWitnessReExecutesBalancesWithOpeningsAndStartsAgainFromItsCopy(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ada := c.resident("ada")
	c.earn(ada, c.catalog(c.library, entryOptions{}))
	s := newSeven(c, true)
	c.collecting()
	require.Eventually(t, func() bool { return c.l.collector.policy.Load() != nil }, 5*time.Second, 5*time.Millisecond)
	in := s.list[0]
	s.up(in, func(cfg *witness.Config) { cfg.Openings, cfg.Push = true, true })
	require.Eventually(t, func() bool { return in.w.Size() == c.l.seq.log.size() }, 10*time.Second, 10*time.Millisecond)
	in.stop()
	raw, err := os.ReadFile(filepath.Join(in.folder, "openings.jsonl"))
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(raw), `"sealed"`))

	s.up(in, func(cfg *witness.Config) { cfg.Openings, cfg.LogURL = true, "http://127.0.0.1:1" })
	require.Equal(t, c.l.seq.log.size(), in.w.Size())
	in.stop()
	path := filepath.Join(in.folder, "tile", "entries", "000.p", fmt.Sprint(c.l.seq.log.size()))
	bundle, err := os.ReadFile(path)
	require.NoError(t, err)
	bundle[len(bundle)-1] ^= 1
	require.NoError(t, os.WriteFile(path, bundle, 0o600))
	_, err = witness.New(c.ctx, s.config(in), witness.Deps{
		Key: in.key, HTTP: http.DefaultClient, Clock: c.clock, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.Error(t, err, "a copy that was changed is not taken up")
}
