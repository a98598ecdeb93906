package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

const copyPolicy = "policy" // in a witness's folder

// ErrNoQuorum means that too few witnesses agree to a new operator. It may be tried again with more.
var ErrNoQuorum = errors.New("NoQuorum: the witnesses that agree to the new key are no quorum of the log's policy")

// Succession is what a new operator begins with, when the one before is gone with database and key.
type Succession struct {
	City, DID  syntax.DID
	TZ         string
	From       Copy         // of a witness
	OldKeys    []string     // verifier keys under which the copy is checked
	NewKey     string       // verifier key of the new operator's log key
	Agreed     []entry.Sign // each over tlog.SuccessionText of the copy's tree and the new key
	TilesAlone bool         // go on without openings that the copy has not: what they hid then counts as that of people who were forgotten
}

// Succeed fills an empty schema from a copy of the log, and lets the log name the new key by the witnesses' quorum. The entries are
// the same bytes; whoever had the log before can go on reading it.
func Succeed(ctx context.Context, pool *pgxpool.Pool, in Succession, c clock.Clock) (*CaughtUp, error) {
	out, err := succeed(ctx, &store{pool: pool}, in, c)
	if err != nil {
		return nil, fmt.Errorf("succeed: %w", err)
	}
	return out, nil
}

func succeed(ctx context.Context, st *store, in Succession, c clock.Clock) (*CaughtUp, error) {
	if k, err := tlog.ParseKey(in.NewKey); err != nil || k.Cosigns() || k.Name != in.DID.String() {
		return nil, fmt.Errorf("%q is no key of the log %s: %w", in.NewKey, in.DID, err)
	}
	var size int64
	if err := st.pool.QueryRow(ctx, `select size from head`).Scan(&size); err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	if size > 0 {
		return nil, fmt.Errorf("this database has a log of %d entries: a successor begins with an empty one", size)
	}
	r := &reading{from: in.From, alone: in.TilesAlone}
	cp, err := r.checkpoint(ctx, in.OldKeys)
	if err != nil {
		return nil, err
	}
	if cp.Origin != in.DID.String() {
		return nil, fmt.Errorf("%w: it is of %q", ErrCopy, cp.Origin)
	}
	if err := st.bind(ctx, Config{City: in.City, DID: in.DID, TZ: in.TZ}); err != nil {
		return nil, err
	}
	if err := MarkRestored(ctx, st.pool, c.Now()); err != nil { // until the new key is named, nobody starts on this
		return nil, err
	}
	out, err := catchUp(ctx, st, r, in.OldKeys)
	if err != nil {
		return nil, err
	}
	return out, st.succeedKey(ctx, r, in, out, c)
}

// succeedKey names the new key in the log, where a quorum of the policy in the log agrees to it.
func (s *store) succeedKey(ctx context.Context, r *reading, in Succession, copied *CaughtUp, c clock.Clock) error {
	conn, term, err := s.becomeWriter(ctx, restoreWait)
	if err != nil {
		return err
	}
	seq, err := reader(s, in.TZ)
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx)) // the first error counts
		return err
	}
	seq.conn, seq.term, seq.clock, seq.metrics = conn, term, c, newMetrics(prometheus.NewRegistry())
	seq.sign = func(size int64, root tlog.Hash, _ []string) (*Checkpoint, error) {
		return &Checkpoint{Size: size, Root: root}, nil
	} // it is signed at the start
	defer seq.close()
	if err := seq.reload(ctx); err != nil {
		return err
	}
	policy, err := agreed(ctx, r, seq.state, in, copied)
	if err != nil {
		return err
	}
	const keep = `insert into policy (hash, text, at) values ($1, $2, $3) on conflict do nothing`
	if _, err := s.pool.Exec(ctx, keep, seq.state.Policy(), string(policy), c.Now()); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	err = seq.alone(ctx, "name the successor's key", func(_ context.Context, b *batch) (any, error) {
		return b.decide(rules.BindLogKey{Now: b.now, Key: in.NewKey, Quorum: in.Agreed})
	})
	if err != nil {
		return err
	}
	if _, err := seq.conn.Exec(ctx, `delete from meta where key = $1`, metaRestored); err != nil { // the quorum is what the world says
		return fmt.Errorf("let the successor start: %w", err)
	}
	return nil
}

// agreed checks the witnesses' word under the policy whose hash the log has, and gives its text.
func agreed(ctx context.Context, r *reading, state *rules.State, in Succession, copied *CaughtUp) ([]byte, error) {
	text, err := r.read(ctx, copyPolicy, tlog.MaxPolicy)
	if err != nil {
		return nil, fmt.Errorf("the copy's policy: %w", err)
	}
	if h := sha256.Sum256(text); string(h[:]) != string(state.Policy()) {
		return nil, fmt.Errorf("%w: its policy is not the one that the log names", ErrCopy)
	}
	p, err := tlog.ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCopy, err)
	}
	said := tlog.SuccessionText(in.DID.String(), copied.To, copied.Root, in.NewKey)
	var by []string
	for _, a := range in.Agreed {
		k, err := tlog.ParseKey(a.Key)
		if err == nil {
			err = k.CheckData(said, a.Sig)
		}
		if err != nil {
			return nil, fmt.Errorf("agreement of %q to %d entries, root %s: %w", a.Key, copied.To, copied.Root, err)
		}
		by = append(by, a.Key)
	}
	if p.Quorum == "none" || !p.Holds(by...) {
		return nil, ErrNoQuorum
	}
	return text, nil
}
