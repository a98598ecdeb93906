package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// Config is what the institution decides.
type Config struct {
	Folder   string
	LogURL   string   // where the ledger is
	Origin   string   // the ledger's DID
	LogKeys  []string // verifier keys of the log, as the city publishes them; those that the log itself names are added
	Openings bool     // the institution has an agreement: balances and limits are re-executed too
	Push     bool     // nobody reaches us: bring cosignatures to the ledger ourselves
	Peers    []string // addresses of other witnesses; by default those of the policy
	Every    time.Duration

	PDS        string // of the institution's account, where cosignatures are published as records; none without it
	Identifier string // handle or DID of that account
}

// Validate says what is missing.
func (c *Config) Validate() error {
	if c.Folder == "" || c.Origin == "" {
		return errors.New("witness: a folder for the copy and the log's origin are needed")
	}
	for _, s := range append([]string{c.LogURL}, c.Peers...) {
		if u, err := url.Parse(s); err != nil || u.Host == "" {
			return fmt.Errorf("witness: %q is no address", s)
		}
	}
	if len(c.LogKeys) == 0 {
		return errors.New("witness: no key of the log")
	}
	for _, k := range c.LogKeys {
		key, err := tlog.ParseKey(k)
		if err != nil || key.Cosigns() || key.Name != c.Origin {
			return fmt.Errorf("witness: %q is no key of the log %s: %w", k, c.Origin, err)
		}
	}
	return nil
}

// Deps are what a witness works with; all are required.
type Deps struct {
	Key     *tlog.Cosigner
	HTTP    *http.Client // outbound, guarded
	Clock   clock.Clock
	Log     *slog.Logger
	Metrics prometheus.Registerer

	Password string // of the institution's account, where there is one
}

// held is a checkpoint of the log whose entries are all in the copy.
type held struct {
	tlog.Checkpoint
	note []byte
}

// Witness is one institution's copy of one log.
type Witness struct {
	cfg     Config
	key     *tlog.Cosigner
	log     *slog.Logger
	clock   clock.Clock
	folder  *folder
	source  *source
	metrics *metrics
	handler http.Handler
	publish *publisher // nil: no records

	turn chan struct{} // holds one token: whoever has it owns what follows
	replayed
	state state
	held  *held // the newest; nil before the first

	dispute atomic.Pointer[string] // what the log did; nil while it keeps its word
	newest  atomic.Pointer[[]byte] // the note that is given out: cosigned
	size    atomic.Int64           // cosigned
}

// replayed is what the entries in the copy come to.
type replayed struct {
	auditor  *audit.Auditor
	keys     []logKey
	policy   []byte // hash of the policy that the log names
	openings map[int64][]byte
	text     func() ([]byte, error) // of the policy, as the copy has it
}

// New takes up the copy in the folder and re-executes it. What the copy says and its entries do not bear out is an error.
func New(ctx context.Context, cfg Config, deps Deps) (*Witness, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	f, err := openFolder(cfg.Folder)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	w := &Witness{
		cfg: cfg, key: deps.Key, log: deps.Log, clock: deps.Clock, folder: f, metrics: newMetrics(deps.Metrics),
		source: &source{base: cfg.LogURL, http: deps.HTTP}, turn: make(chan struct{}, 1),
		state: state{Origin: cfg.Origin, Witness: deps.Key.VerifierKey()},
	}
	if cfg.PDS != "" {
		w.publish = &publisher{
			w: w, base: cfg.PDS, identifier: cfg.Identifier, password: deps.Password, http: deps.HTTP, lines: map[int64]cosigned{},
		}
	}
	have, err := f.readState()
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	if have != nil {
		if have.Origin != w.state.Origin || have.Witness != w.state.Witness {
			return nil, fmt.Errorf("witness: the copy in this folder is of %s by %s", have.Origin, have.Witness)
		}
		w.state = *have
	}
	if err := w.reload(ctx, w.state.Audited); err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	names, err := f.proofs()
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	if len(names) > 0 {
		w.disputed(names[0])
	}
	w.handler = w.routes()
	w.turn <- struct{}{}
	return w, nil
}

// Handler serves add-checkpoint, the copy and the proofs.
func (w *Witness) Handler() http.Handler { return w.handler }

// VerifierKey is the key that the witness cosigns with.
func (w *Witness) VerifierKey() string { return w.key.VerifierKey() }

// Size is how much of the log is cosigned.
func (w *Witness) Size() int64 { return w.size.Load() }

// Dispute says what the log did against its word, "" while it did nothing.
func (w *Witness) Dispute() string {
	if d := w.dispute.Load(); d != nil {
		return *d
	}
	return ""
}

func (w *Witness) disputed(what string) {
	w.dispute.Store(&what)
	w.metrics.disputed.Set(1)
}

// take gets the turn; the caller gives it back.
func (w *Witness) take(ctx context.Context) error {
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *Witness) give() { w.turn <- struct{}{} }

// reload re-executes the first size entries of the copy. W1, W2
func (w *Witness) reload(ctx context.Context, size int64) error {
	r := replayed{
		auditor: audit.New(w.cfg.Origin),
		text:    func() ([]byte, error) { return w.folder.get(filePolicy, tlog.MaxPolicy) },
	}
	for _, k := range w.cfg.LogKeys {
		r.keys = append(r.keys, logKey{Key: k})
	}
	var err error
	if w.cfg.Openings {
		if r.openings, err = w.folder.openings(); err != nil {
			return err
		}
	}
	err = w.folder.leaves(size, func(seq int64, leaf []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.add(seq, leaf); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if w.state.Size > 0 {
		root, err := r.auditor.Tree().Root(w.state.Size)
		if err != nil || string(root[:]) != string(w.state.Root) {
			return fmt.Errorf("copy: its first %d entries are not what was cosigned: %w", w.state.Size, err)
		}
		note := []byte(w.state.Note)
		text, err := tlog.NoteText(note)
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		c, err := tlog.ParseCheckpoint(text)
		if err != nil || c.Size != w.state.Size || c.Root != root {
			return fmt.Errorf("copy: the cosigned checkpoint is not of its %d entries: %w", w.state.Size, err)
		}
		w.held = &held{Checkpoint: c, note: note}
		w.newest.Store(&note)
		w.size.Store(w.state.Size)
	}
	w.replayed, w.state.Audited = r, size
	w.metrics.audited.Set(float64(size))
	w.metrics.cosigned.Set(float64(w.state.Size))
	return nil
}

// add re-executes the next entry. An error is a finding: the entry breaks a rule.
func (r *replayed) add(seq int64, leaf []byte) error {
	var err error
	if r.openings == nil {
		err = r.auditor.Add(seq, leaf)
	} else {
		sealed, ok := r.openings[seq]
		err = r.auditor.AddSealed(seq, leaf, sealed, ok && sealed == nil)
	}
	if err != nil {
		return err
	}
	e, err := entry.Decode(leaf)
	if err != nil {
		return err
	}
	if e.Kind != entry.KindBind {
		return nil
	}
	switch e.Bind.What {
	case entry.BindPolicy:
		r.policy = e.Bind.Hash
	case entry.BindLogKey:
		if err := r.agreed(e); err != nil {
			return err
		}
		r.rotate(e)
	}
	return nil
}

// agreed says whether the witnesses that name a new operator's key are a quorum. That each of them signed, the auditor has seen.
func (r *replayed) agreed(e *entry.Entry) error {
	if len(e.Bind.Quorum) == 0 {
		return nil
	}
	text, err := r.text()
	if h := sha256.Sum256(text); err != nil || !bytes.Equal(h[:], r.policy) {
		return fmt.Errorf("the policy that the log names is not in the copy: %w", errors.Join(err, errServed))
	}
	p, err := tlog.ParsePolicy(text)
	if err != nil {
		return err
	}
	var by []string
	for _, q := range e.Bind.Quorum {
		by = append(by, q.Key)
	}
	if !p.Holds(by...) {
		return audit.Finding{Entry: e.Seq, What: "the witnesses that let a new key continue the log are no quorum"}
	}
	return nil
}

// rotate lets the log's new key in, and the older ones end: after the overlap, or at once where the operator was replaced.
func (r *replayed) rotate(e *entry.Entry) {
	at, err := entry.ParseTime(e.At)
	if err != nil {
		return // the auditor has said so
	}
	if len(e.Bind.Quorum) == 0 {
		at = at.Add(tlog.KeyOverlap)
	}
	known := false
	for i := range r.keys {
		if r.keys[i].Key == e.Bind.Key {
			known = true
		} else if r.keys[i].Until == "" {
			r.keys[i].Until = entry.FormatTime(at)
		}
	}
	if !known {
		r.keys = append(r.keys, logKey{Key: e.Bind.Key})
	}
}

// openNote checks a note under the keys that the log has now.
func (w *Witness) openNote(note []byte) (tlog.Checkpoint, error) {
	now := w.clock.Now()
	var keys []string
	for _, k := range w.keys {
		until, err := entry.ParseTime(k.Until)
		if k.Until == "" || err == nil && now.Before(until) {
			keys = append(keys, k.Key)
		}
	}
	c, _, err := tlog.OpenAny(note, keys...)
	if err == nil && c.Origin != w.cfg.Origin {
		err = fmt.Errorf("%w: of %q", tlog.ErrCheckpoint, c.Origin)
	}
	return c, err
}

func (w *Witness) logKeys() []string {
	out := make([]string, len(w.keys))
	for i, k := range w.keys {
		out[i] = k.Key
	}
	return out
}

// cosign signs a checkpoint whose entries are all in the copy. What it says stands on the disk first. The caller has the turn. W1, W2
func (w *Witness) cosign(c tlog.Checkpoint, note []byte) (string, error) {
	switch {
	case w.Dispute() != "":
		return "", errDisputed
	case c.Size > w.state.Audited || c.Size < w.state.Size || c.Size == 0:
		return "", fmt.Errorf("cosign %d: %d are re-executed, %d cosigned", c.Size, w.state.Audited, w.state.Size)
	}
	if _, err := w.auditor.CheckCheckpoint(c); err != nil {
		return "", fmt.Errorf("cosign: %w", err)
	}
	now := w.clock.Now()
	line, err := w.key.Cosign(c.Text(), now)
	if err != nil {
		return "", err
	}
	signed, err := tlog.AddLines(note, line)
	if err != nil {
		return "", err
	}
	old := w.state.Size
	if err := w.folder.writeTiles(old, c.Size, w.auditor.Tree()); err != nil {
		return "", err
	}
	if err := w.folder.putBundle(c.Size, w.state.Audited); err != nil {
		return "", err
	}
	next := w.state
	next.Size, next.Root, next.Note = c.Size, c.Root[:], string(signed)
	if err := w.folder.writeState(&next); err != nil {
		return "", err
	}
	w.state = next
	if err := w.folder.put(fileCheckpoint, signed, 0o644); err != nil {
		return "", err
	}
	w.newest.Store(&signed)
	w.size.Store(c.Size)
	w.metrics.cosigned.Set(float64(c.Size))
	w.publish.cosigned(c.Size, cosigned{c.Text(), line, now})
	if old > 0 && old != c.Size {
		if err := w.folder.tidy(old, c.Size, w.state.Audited); err != nil {
			w.log.Warn("earlier partial tiles stay", "err", err)
		}
	}
	return line, nil
}

// originHash is how C2SP tlog-witness names a log in an address.
func (w *Witness) originHash() string {
	h := sha256.Sum256([]byte(w.cfg.Origin))
	return hex.EncodeToString(h[:])
}
