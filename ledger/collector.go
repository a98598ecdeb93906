package ledger

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/ledger/tlog"
)

const (
	collectEvery  = time.Second      // between two looks at the newest checkpoint
	collectWait   = 4 * time.Second  // for one witness's answer
	roundLife     = 10 * time.Second // of a checkpoint without a quorum, while the log grows on
	quorumOverdue = 2 * time.Minute  // of a grown log without a quorum, before it is an alarm
	maxCosignBody = 32 << 10
	keptRounds    = 16 // checkpoints to which a late cosignature can still be added
	sizeMedia     = "text/x.tlog.size"
)

// A boundPolicy is the quorum policy in force: its text has the hash that the log names.
type boundPolicy struct {
	*tlog.Policy
	text []byte
	hash [32]byte
}

// cosignedState is the newest checkpoint with a quorum.
type cosignedState struct {
	Size  int64
	Root  tlog.Hash
	Note  []byte
	Names []string
	At    time.Time
}

// A round is one checkpoint on its way to a quorum.
type round struct {
	cp     *Checkpoint
	since  time.Time
	note   []byte
	by     map[string]bool // keys that cosigned it
	quorum bool
}

// The collector brings checkpoints to the witnesses of the policy and keeps the newest one that a quorum cosigned. The log never
// waits for it.
type collector struct {
	store   *store
	seq     *sequencer
	http    *http.Client
	clock   clock.Clock
	log     *slog.Logger
	metrics *metrics
	cosigns *cosignMetrics
	keys    func() []string // of the log

	policy atomic.Pointer[boundPolicy]
	newest atomic.Pointer[cosignedState]

	mu     sync.Mutex
	rounds []*round         // guarded by mu: the last is the one under way
	sizes  map[string]int64 // guarded by mu: by witness, how far it has cosigned
	behind time.Time        // guarded by mu: since when the log is ahead of its quorum; zero: it is not
}

// load takes up what stood before the process began.
func (k *collector) load(ctx context.Context) error {
	k.sizes = map[string]int64{}
	rows, err := k.store.pool.Query(ctx, `select key, size from witness`)
	if err != nil {
		return fmt.Errorf("witnesses: %w", err)
	}
	var key string
	var size int64
	if _, err := pgx.ForEachRow(rows, []any{&key, &size}, func() error { k.sizes[key] = size; return nil }); err != nil {
		return fmt.Errorf("witnesses: %w", err)
	}
	var s cosignedState
	var root []byte
	var note string
	err = k.store.pool.QueryRow(ctx, `select size, root, note, names, at from cosigned`).Scan(&s.Size, &root, &note, &s.Names, &s.At)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return fmt.Errorf("cosigned checkpoint: %w", err)
	default:
		copy(s.Root[:], root)
		s.Note = []byte(note)
		if have, err := tlog.Root(s.Size, k.seq.log); err != nil || have != s.Root {
			return broken("the log does not continue what its witnesses cosigned at %d: %w", s.Size, err)
		}
		k.newest.Store(&s)
	}
	return k.adopt(ctx)
}

// adopt puts the policy in force that the log names. A policy that is bound and not yet committed is adopted at the next look.
func (k *collector) adopt(ctx context.Context) error {
	want := k.seq.policy.Load()
	have := k.policy.Load()
	if want == nil || have != nil && have.hash == *want {
		return nil
	}
	var text string
	err := k.store.pool.QueryRow(ctx, `select text from policy where hash = $1`, want[:]).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	p, err := tlog.ParsePolicy([]byte(text))
	if err != nil {
		return broken("policy %x: %w", want[:], err)
	}
	k.mu.Lock()
	k.rounds = nil
	k.mu.Unlock()
	k.policy.Store(&boundPolicy{Policy: p, text: []byte(text), hash: *want})
	return nil
}

func (k *collector) run(ctx context.Context) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := k.step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, errBroken) {
				return fmt.Errorf("collector: %w", err)
			}
			k.log.WarnContext(ctx, "cosignatures wait", "err", err)
		}
	}
}

// step brings the round's checkpoint to every witness that has an address and has not cosigned it.
func (k *collector) step(ctx context.Context) error {
	if err := k.adopt(ctx); err != nil {
		return err
	}
	p := k.policy.Load()
	r := k.current(p)
	if r == nil {
		return nil
	}
	k.measure(r)
	var wait sync.WaitGroup
	for _, w := range p.Witnesses {
		k.mu.Lock()
		done := r.by[w.Key]
		k.mu.Unlock()
		if w.URL == "" || done {
			continue
		}
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, collectWait)
			defer cancel()
			outcome := "cosigned"
			if err := k.submit(ctx, r, w); err != nil {
				outcome = "refused"
				k.log.DebugContext(ctx, "no cosignature", "witness", w.Name, "size", r.cp.Size, "err", err)
			}
			k.cosigns.answers.WithLabelValues(w.Name, outcome).Inc()
		})
	}
	wait.Wait()
	return ctx.Err()
}

// current is the round under way: a new one where the log has grown and the last one is done, or has had its time.
func (k *collector) current(p *boundPolicy) *round {
	latest := k.seq.latest.Load()
	if p == nil || latest == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	if n := len(k.rounds); n > 0 {
		last := k.rounds[n-1]
		if last.cp.Size == latest.Size || !last.quorum && now.Sub(last.since) < roundLife && now.After(last.since.Add(-time.Minute)) {
			return last
		}
	}
	r := &round{cp: latest, since: now, note: latest.Note, by: map[string]bool{}}
	if k.rounds = append(k.rounds, r); len(k.rounds) > keptRounds {
		k.rounds = k.rounds[1:]
	}
	return r
}

func (k *collector) measure(r *round) {
	k.mu.Lock()
	defer k.mu.Unlock()
	size := int64(0)
	if s := k.newest.Load(); s != nil {
		size = s.Size
	}
	k.cosigns.size.Set(float64(size))
	now := k.clock.Now()
	switch {
	case size >= r.cp.Size:
		k.behind = time.Time{}
	case k.behind.IsZero():
		k.behind = now
	}
	age := time.Duration(0)
	if !k.behind.IsZero() {
		age = now.Sub(k.behind)
	}
	k.cosigns.age.Set(age.Seconds())
	if age > quorumOverdue {
		k.metrics.alarms.WithLabelValues("quorum_overdue").Inc()
		k.log.Error("the log has no quorum", "size", r.cp.Size, "cosigned", size, "since", k.behind)
		k.behind = now.Add(-quorumOverdue / 2) // said again, and not every second
	}
}

// submit is one add-checkpoint. A witness that is elsewhere than we thought says where, and is asked once more.
func (k *collector) submit(ctx context.Context, r *round, w tlog.PolicyWitness) error {
	k.mu.Lock()
	old := k.sizes[w.Key]
	k.mu.Unlock()
	for range 2 {
		if old > r.cp.Size {
			return fmt.Errorf("it has cosigned %d already", old)
		}
		body, err := addCheckpointBody(old, r.cp, k.seq.log)
		if err != nil {
			return err
		}
		status, media, answer, err := k.post(ctx, w.URL+"/add-checkpoint", body)
		if err != nil {
			return err
		}
		switch {
		case status == http.StatusOK:
			return k.take(ctx, r, w.Key, string(answer))
		case status == http.StatusConflict && media == sizeMedia:
			size, err := strconv.ParseInt(strings.TrimSuffix(string(answer), "\n"), 10, 64)
			if err != nil || size < 0 {
				return fmt.Errorf("size %q", answer)
			}
			old = size
			k.mu.Lock()
			k.sizes[w.Key] = size
			k.mu.Unlock()
		default:
			return fmt.Errorf("answered %d: %.200q", status, answer)
		}
	}
	return errors.New("it keeps moving")
}

// addCheckpointBody is the request of C2SP tlog-witness.
func addCheckpointBody(old int64, cp *Checkpoint, nodes tlog.Nodes) ([]byte, error) {
	proof, err := tlog.ProveConsistency(cp.Size, old, nodes)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range proof {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n")
	b.Write(cp.Note)
	return b.Bytes(), nil
}

func (k *collector) post(ctx context.Context, address string, body []byte) (status int, media string, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := k.http.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(io.LimitReader(resp.Body, maxCosignBody)); err != nil {
		return 0, "", nil, fmt.Errorf("answer of %s: %w", address, err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), answer, nil
}

// take adds the signature lines of a witness to a round, if one of them is its own and holds.
func (k *collector) take(ctx context.Context, r *round, key, lines string) error {
	text, err := tlog.NoteText(r.cp.Note)
	if err != nil {
		return broken("our checkpoint %d: %w", r.cp.Size, err)
	}
	var found *tlog.Cosignature
	for line := range strings.Lines(lines) {
		if c, err := tlog.CheckCosignature(line, text, key); err == nil {
			found = &c
			break
		}
	}
	if found == nil {
		return errors.New("it gave no cosignature of its own that holds")
	}
	crash.Point("ledger/cosign/before-keep")
	const size = `insert into witness (key, size) values ($1, $2) on conflict (key) do update set size = greatest(witness.size, excluded.size)`
	if _, err := k.store.pool.Exec(ctx, size, key, r.cp.Size); err != nil {
		return fmt.Errorf("note how far a witness is: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sizes[key] = max(k.sizes[key], r.cp.Size)
	if r.by[key] {
		return nil
	}
	signed, err := tlog.AddLines(r.note, found.Line)
	if err != nil {
		return err
	}
	r.note, r.by[key] = signed, true
	return k.settle(ctx, r)
}

// settle keeps the round's checkpoint where a quorum stands under it. Later cosignatures of the same checkpoint are kept too. The caller holds mu.
func (k *collector) settle(ctx context.Context, r *round) error {
	p := k.policy.Load()
	c, err := p.Check(r.note, k.keys()...)
	if errors.Is(err, tlog.ErrCosignature) {
		return nil // no quorum yet
	}
	if err != nil {
		return broken("our checkpoint %d with cosignatures: %w", r.cp.Size, err)
	}
	r.quorum = true
	if s := k.newest.Load(); s != nil && s.Size > c.Size {
		return nil
	}
	const keep = `insert into cosigned (size, root, note, names, at) values ($1, $2, $3, $4, $5)
		on conflict (one) do update set size = excluded.size, root = excluded.root, note = excluded.note, names = excluded.names, at = excluded.at
		where cosigned.size <= excluded.size`
	if _, err := k.store.pool.Exec(ctx, keep, c.Size, c.Root[:], string(r.note), c.Names, c.At); err != nil {
		return fmt.Errorf("keep cosigned checkpoint %d: %w", c.Size, err)
	}
	crash.Point("ledger/cosign/after-keep")
	k.newest.Store(&cosignedState{Size: c.Size, Root: c.Root, Note: r.note, Names: c.Names, At: c.At})
	return nil
}

// add takes a cosignature that a witness behind a wall brings itself, of a round that is under way or was.
func (k *collector) add(ctx context.Context, size int64, line string) (quorum bool, err error) {
	p := k.policy.Load()
	if p == nil {
		return false, notFound("the log names no policy")
	}
	k.mu.Lock()
	var r *round
	for _, one := range k.rounds {
		if one.cp.Size == size {
			r = one
		}
	}
	k.mu.Unlock()
	if r == nil {
		return false, notFound("no checkpoint of %d entries waits for cosignatures", size)
	}
	for _, w := range p.Witnesses {
		if k.take(ctx, r, w.Key, line) == nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			return r.quorum, nil
		}
	}
	return false, errNoWitness
}

var errNoWitness = errors.New("no witness of the policy signed this")

// open is the checkpoint of the round under way, for witnesses that come for it.
func (k *collector) open() *Checkpoint {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.rounds); n > 0 {
		return k.rounds[n-1].cp
	}
	return k.seq.latest.Load()
}

// cosignedSize is how far a quorum has cosigned the log; 0 where it never did. ok is false where no policy asks for it.
func (k *collector) cosignedSize() (size int64, ok bool) {
	if s := k.newest.Load(); s != nil {
		size = s.Size
	}
	return size, k.policy.Load() != nil
}

// view is what answers say of the second finality; nil where no policy asks for one.
func (k *collector) view() map[string]any {
	p := k.policy.Load()
	if p == nil {
		return nil
	}
	out := map[string]any{"size": int64(0), "quorum": false, "witnesses": []string{}, "policy": hex.EncodeToString(p.hash[:])}
	if s := k.newest.Load(); s != nil {
		out["size"], out["quorum"], out["witnesses"], out["at"] = s.Size, true, s.Names, stamp(s.At)
	}
	return out
}

// finality puts that into an answer.
func (l *Ledger) finality(out map[string]any) map[string]any {
	if v := l.collector.view(); v != nil {
		out["cosigned"] = v
	}
	return out
}
