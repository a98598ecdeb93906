package ledger

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// A willing witness cosigns all that is consistent, and checks nothing else.
type willing struct {
	t    *testing.T
	key  *tlog.Cosigner
	vkey string // of the log
	size int64
	srv  *httptest.Server
	down atomic.Bool
	c    *founded
}

func (w *willing) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	require.NoError(w.t, err)
	head, signed, _ := strings.Cut(string(body), "\n\n")
	old, _, _ := strings.Cut(head, "\n")
	cp, err := tlog.Open([]byte(signed), w.vkey)
	require.NoError(w.t, err)
	switch {
	case w.down.Load():
		http.Error(rw, "catching up", http.StatusServiceUnavailable)
	case old != fmt.Sprintf("old %d", w.size):
		rw.Header().Set("Content-Type", sizeMedia)
		rw.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintf(rw, "%d\n", w.size)
	default:
		line, err := w.key.Cosign(cp.Text(), noon)
		require.NoError(w.t, err)
		w.size = cp.Size
		_, _ = io.WriteString(rw, line)
	}
}

type witnesses struct {
	c    *founded
	list []*willing
	text string
	in   map[string]any
}

func newWitnesses(c *founded, openings bool) *witnesses {
	c.t.Helper()
	out := &witnesses{c: c}
	var named []any
	for i, org := range []*actor{c.library, c.parks, c.pool} {
		key, err := tlog.NewCosigner(strings.NewReader(strings.Repeat(string(rune('a'+i)), 32)), fmt.Sprintf("witness.test/%d", i))
		require.NoError(c.t, err)
		w := &willing{t: c.t, key: key, vkey: c.l.VerifierKey(), c: c}
		w.srv = httptest.NewServer(w)
		c.t.Cleanup(w.srv.Close)
		out.list = append(out.list, w)
		out.text += fmt.Sprintf("witness w%d %s %s\n", i, key.VerifierKey(), w.srv.URL)
		named = append(named, map[string]any{"name": fmt.Sprintf("w%d", i), "did": org.did, "openings": openings})
	}
	out.text += "group all 2 w0 w1 w2\nquorum all\n"
	out.in = map[string]any{"policy": out.text, "witnesses": named}
	return out
}

func (c *founded) collect() {
	c.t.Helper()
	require.NoError(c.t, c.l.collector.step(c.ctx))
}

func (c *founded) cosigned() map[string]any {
	c.t.Helper()
	res := c.call(nil, "getCheckpoint", "", nil)
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	require.NoError(c.t, lexicons.CheckOutput(lexicons.LedgerGetCheckpoint, jsonOf(c.t, res.Body)))
	out, _ := res.Body["cosigned"].(map[string]any)
	return out
}

func TestCheckpointIsFinalWhenAQuorumCosigned(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	require.Nil(t, c.cosigned(), "without a policy nothing is said")
	ws := newWitnesses(c, false)
	res := c.call(c.city, "bindWitnesses", "", ws.in)
	require.Equal(t, 200, res.Status, "%v", res.Body)
	require.EqualValues(t, 4, res.num("entries"))
	again := c.call(c.city, "bindWitnesses", "", ws.in)
	require.EqualValues(t, 0, again.num("entries"), "what stands makes no entry")

	ws.list[0].down.Store(true)
	ws.list[1].down.Store(true)
	c.collect()
	have := c.cosigned()
	require.Equal(t, false, have["quorum"])
	require.Equal(t, http.StatusNotFound, c.get("/checkpoint/cosigned").Code)
	require.Equal(t, ws.text, c.get("/policy").Body.String())

	ws.list[1].down.Store(false)
	ws.list[1].size = 3 // it was a witness before: asked with the size that it says
	c.collect()
	have = c.cosigned()
	require.Equal(t, true, have["quorum"])
	require.EqualValues(t, c.l.seq.log.size(), have["size"])
	require.Equal(t, []any{"w1", "w2"}, have["witnesses"])
	p, err := tlog.ParsePolicy([]byte(ws.text))
	require.NoError(t, err)
	_, err = p.Check(c.get("/checkpoint/cosigned").Body.Bytes(), c.l.VerifierKey())
	require.NoError(t, err)

	c.restart()
	require.Equal(t, have, c.cosigned(), "it is kept")
	size, ok := c.l.collector.cosignedSize()
	require.True(t, ok)
	require.EqualValues(t, have["size"], size)
}

func TestWitnessBehindAWallBringsItsCosignature(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ws := newWitnesses(c, false)
	for _, w := range ws.list {
		w.down.Store(true)
	}
	require.Equal(t, 200, c.call(c.city, "bindWitnesses", "", ws.in).Status)
	c.collect()
	note := c.get("/checkpoint/open").Body.Bytes()
	cp, err := tlog.Open(note, c.l.VerifierKey())
	require.NoError(t, err)
	push := func(key *tlog.Cosigner, text string) answer {
		line, err := key.Cosign(text, noon)
		require.NoError(t, err)
		body := map[string]any{"treeSize": cp.Size, "signature": line}
		require.NoError(t, lexicons.CheckInput(lexicons.LedgerAddCosignature, jsonOf(t, body)))
		return c.call(nil, "addCosignature", "", body)
	}
	stranger, err := tlog.NewCosigner(strings.NewReader(strings.Repeat("z", 32)), "stranger.test")
	require.NoError(t, err)
	require.Equal(t, "BadSignature", push(stranger, cp.Text()).name())
	other := cp
	other.Size++
	require.Equal(t, "BadSignature", push(ws.list[0].key, other.Text()).name(), "of another checkpoint")
	require.Equal(t, false, push(ws.list[0].key, cp.Text()).Body["quorum"])
	require.Equal(t, false, push(ws.list[0].key, cp.Text()).Body["quorum"], "one witness twice is one")
	require.Equal(t, true, push(ws.list[2].key, cp.Text()).Body["quorum"])
	require.Equal(t, true, c.cosigned()["quorum"])
}

func TestOnlyTheCityNamesWitnesses(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ws := newWitnesses(c, false)
	require.Equal(t, "NotAuthorized", c.call(c.library, "bindWitnesses", "", ws.in).name())
	for name, change := range map[string]func(map[string]any){
		"no policy":       func(in map[string]any) { in["policy"] = "quorum\n" },
		"no quorum":       func(in map[string]any) { in["policy"] = strings.Replace(ws.text, "quorum all", "quorum none", 1) },
		"no group":        func(in map[string]any) { in["policy"] = strings.Replace(ws.text, "2 w0 w1 w2", "1 w0 w1", 1) },
		"one not named":   func(in map[string]any) { in["witnesses"] = ws.in["witnesses"].([]any)[:2] },
		"too long":        func(in map[string]any) { in["policy"] = ws.text + strings.Repeat("#\n", 9000) },
		"of another log":  func(in map[string]any) { in["policy"] = "log x+12345678+AAAA\n" + ws.text },
		"one named twice": func(in map[string]any) { l := ws.in["witnesses"].([]any); in["witnesses"] = []any{l[0], l[1], l[1]} },
	} {
		in := map[string]any{"policy": ws.in["policy"], "witnesses": ws.in["witnesses"]}
		change(in)
		assert.Equal(t, "InvalidPolicy", c.call(c.city, "bindWitnesses", "", in).name(), name)
	}
	stranger := c.actor("stranger")
	list := append([]any{map[string]any{"name": "w0", "did": stranger.did}}, ws.in["witnesses"].([]any)[1:]...)
	in := map[string]any{"policy": ws.text, "witnesses": list}
	require.Equal(t, "NotAccredited", c.call(c.city, "bindWitnesses", "", in).name())
}

func TestOpeningsAreForWitnessesWithAnAgreement(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ada := c.resident("ada")
	c.earn(ada, c.catalog(c.library, entryOptions{}))
	ask := func(key *tlog.Cosigner, at time.Time, from int64, spoil bool) answer {
		body := map[string]any{"witness": key.VerifierKey(), "from": from, "limit": int64(2), "at": at.UTC().Format(time.RFC3339)}
		signed, err := atdata.MarshalCBOR(body)
		require.NoError(t, err)
		sig, err := key.SignData(signed)
		require.NoError(t, err)
		if spoil {
			sig[0] ^= 1
		}
		body["sig"] = map[string]any{"$bytes": base64.RawStdEncoding.EncodeToString(sig)}
		return c.call(nil, "listOpenings", "", body)
	}
	ws := newWitnesses(c, false)
	require.Equal(t, 200, c.call(c.city, "bindWitnesses", "", ws.in).Status)
	c.collect()
	key := ws.list[0].key
	require.Equal(t, "NotAuthorized", ask(key, noon, 0, false).name(), "it has no agreement")

	with := newWitnesses(c, true)
	res := c.call(c.city, "bindWitnesses", "", with.in)
	require.Equal(t, 200, res.Status, "%v", res.Body)
	c.collect()
	require.Equal(t, "BadSignature", ask(key, noon, 0, true).name())
	require.Equal(t, "BadSignature", ask(key, noon.Add(-3*time.Minute), 0, false).name())
	got := ask(key, noon, 0, false)
	require.Equal(t, 200, got.Status, "%v", got.Body)
	require.NoError(t, lexicons.CheckOutput(lexicons.LedgerListOpenings, jsonOf(t, got.Body)))
	require.Equal(t, "BadSignature", ask(key, noon, 0, false).name(), "the same words a second time")

	seen := 0
	for from := int64(0); ; {
		page := ask(key, noon.Add(time.Duration(seen+1)*time.Second), from, false)
		require.Equal(t, 200, page.Status, "%v", page.Body)
		list, _ := page.Body["openings"].([]any)
		for _, one := range list {
			v, _ := one.(map[string]any)
			raw, err := base64.RawStdEncoding.DecodeString(v["sealed"].(map[string]any)["$bytes"].(string))
			require.NoError(t, err)
			_, err = entry.DecodeOpening(raw)
			require.NoError(t, err)
			seen++
		}
		if from = page.num("next"); from >= c.l.seq.log.size() {
			break
		}
	}
	require.Equal(t, 3, seen, "of an activation, a claim and a mint")
}

func TestLogWithoutAQuorumIsAnAlarm(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ws := newWitnesses(c, false)
	for _, w := range ws.list {
		w.down.Store(true)
	}
	require.Equal(t, 200, c.call(c.city, "bindWitnesses", "", ws.in).Status)
	c.collect()
	require.Zero(t, c.alarm("quorum_overdue"))
	c.clock.Advance(quorumOverdue + time.Second)
	c.collect()
	require.EqualValues(t, 1, c.alarm("quorum_overdue"))
	for _, w := range ws.list {
		w.down.Store(false)
	}
	c.collect()
	c.clock.Advance(time.Hour)
	c.collect()
	require.EqualValues(t, 1, c.alarm("quorum_overdue"))
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return raw
}

func (c *founded) alarm(what string) float64 {
	c.t.Helper()
	families, err := c.reg.Gather()
	require.NoError(c.t, err)
	for _, f := range families {
		if f.GetName() != "citysync_ledger_alarms_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == what {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
