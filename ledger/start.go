package ledger

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

// What a schema is bound to stands in meta under these keys.
const (
	metaCity   = "city"
	metaLedger = "ledger"
	metaTZ     = "tz"
)

var boundMeta = []string{metaCity, metaLedger, metaTZ}

// bind ties the schema to one city, one ledger and one time zone: a log is never continued under another.
func (s *store) bind(ctx context.Context, cfg Config) error {
	for key, value := range map[string]string{metaCity: cfg.City.String(), metaLedger: cfg.DID.String(), metaTZ: cfg.TZ} {
		var have string
		const put = `insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = meta.value returning value`
		if err := s.pool.QueryRow(ctx, put, key, value).Scan(&have); err != nil {
			return fmt.Errorf("ledger: bind %s: %w", key, err)
		}
		if have != value {
			return fmt.Errorf("ledger: this database is the log of %s %s, not %s", key, have, value)
		}
	}
	return nil
}

// newSequencer takes the writer's place and reloads the state from the log.
func newSequencer(ctx context.Context, st *store, cfg Config, deps Deps, loc *time.Location, m *metrics) (*sequencer, error) {
	patience := cfg.WriterWait
	if patience <= 0 {
		patience = defaultWriterWait
	}
	conn, term, err := st.becomeWriter(ctx, patience)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	s := &sequencer{
		store: st, metrics: m, conn: conn, term: term, clock: deps.Clock, log: &treeLog{}, state: rules.NewState(loc),
		bound: map[syntax.DID]*entry.Bind{}, queue: make(chan *command, maxQueue), ended: make(chan struct{}), grown: make(chan struct{}, 1),
		landed: make(chan struct{}, maxAhead+1), failed: make(chan struct{}), blanks: make(blanks, maxBatch),
		ahead:   forgets(deps.Signer),
		signing: &signing{origin: cfg.DID.String(), signer: deps.Signer, clock: deps.Clock},
	}
	s.sign = func(size int64, root tlog.Hash, more []string) (*Checkpoint, error) {
		return s.signing.sign(tlog.Checkpoint{Origin: cfg.DID.String(), Size: size, Root: root, Extensions: more}, s.log)
	}
	s.world = func(ctx context.Context) ([]Sighting, error) { // once the log was read, which names its keys
		return (&outside{store: st, http: deps.HTTP, cfg: cfg, vkeys: s.signing.known()}).seen(ctx)
	}
	if err := s.load(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return s, nil
}

// load replays the log through the rules and refuses one that is not what its head says.
func (s *sequencer) load(ctx context.Context) error {
	h, err := s.store.head(ctx, s.conn)
	if err != nil {
		return err
	}
	err = s.store.replay(ctx, s.store.pool, s.replayed)
	if err != nil {
		return err
	}
	if err := s.checkTree(ctx, s.store.pool, h.size, h.root); err != nil {
		return err
	}
	if s.atMax != "" {
		if s.past, err = entry.ParseTime(s.atMax); err != nil {
			return broken("the log's newest time: %w", err)
		}
	}
	if err := s.checkWorld(ctx); err != nil { // before anything is signed
		return err
	}
	if err := s.loadHeld(ctx); err != nil {
		return err
	}
	if err := s.signing.check(); err != nil {
		return err
	}
	s.totals.Store(new(s.state.Epochs()))
	s.said = s.digest
	switch {
	case h.size == 0 || s.state.RulesVersion() < rules.Version: // of the rules that this program has; it publishes
		err = s.begin(ctx)
	default:
		err = s.publish(h)
	}
	if err != nil {
		return err
	}
	return s.changeKey(ctx)
}

// replayed takes one stored entry back into the tree and the state.
func (s *sequencer) replayed(e *entry.Entry, leaf tlog.Hash) error {
	if err := rules.Apply(s.state, *e); err != nil {
		return broken("entry %d: %w", e.Seq, err)
	}
	if err := s.note(e); err != nil {
		return err
	}
	s.atMax = max(s.atMax, e.At) // of one length, so text has their order
	if e.Sealed != nil {
		s.atMax = max(s.atMax, e.Sealed.At)
	}
	return s.log.replayed(leaf)
}

// checkTree compares the stored head and nodes with the tree of the leaves.
func (s *sequencer) checkTree(ctx context.Context, q querier, size int64, root tlog.Hash) error {
	if s.log.size() != size {
		return broken("the log has %d entries, its head says %d", s.log.size(), size)
	}
	if size > 0 {
		have, err := tlog.Root(size, s.log)
		if err != nil {
			return err
		}
		if have != root {
			return broken("the log's root is %s, its head says %s", have, root)
		}
	}
	var stray int64
	const outside = `select count(*) from opening where seq < 0 or seq >= $1`
	if err := q.QueryRow(ctx, outside, size).Scan(&stray); err != nil {
		return fmt.Errorf("openings outside the log: %w", err)
	}
	if stray > 0 {
		return broken("%d openings are of entries that the log does not have", stray)
	}
	stored, err := s.store.nodes(ctx, q)
	if err != nil {
		return err
	}
	want := s.log.tree.Hashes() // nobody else has the log yet
	if len(stored) != len(want) {
		return broken("the tree has %d stored hashes, should have %d", len(stored), len(want))
	}
	for i := range stored {
		if stored[i] != want[i] {
			return broken("stored hash %d of the tree is wrong", i)
		}
	}
	return nil
}

// loadHeld takes up the claims that were held beside the log, in the order in which they came.
func (s *sequencer) loadHeld(ctx context.Context) error {
	rows, err := s.store.pool.Query(ctx, `select `+claimColumns+` from claim where status = 'held' order by ord`)
	if err != nil {
		return fmt.Errorf("held claims: %w", err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowToStructByName[claimRow])
	if err != nil {
		return fmt.Errorf("held claims: %w", err)
	}
	for i := range held {
		c := &held[i]
		h := &rules.HeldClaim{
			Token: c.Token, First: c.Task, Task: entry.Ref{URI: c.TaskURI, CID: c.TaskCID}, Shift: c.Shift,
			Account: entry.Account(c.Account), At: c.ClaimedAt,
		}
		if err := rules.HoldClaim(s.state, h); err != nil {
			return broken("held claim: %w", err)
		}
	}
	return nil
}

// begin writes the first entry of a new log, or the one by which an old log goes on under newer rules: their version.
func (s *sequencer) begin(ctx context.Context) error {
	return s.alone(ctx, "begin", func(_ context.Context, b *batch) (any, error) {
		return b.decide(rules.RulesVersion{Now: b.now, Version: rules.Version})
	})
}

// alone writes a batch of one command while nobody else asks for anything.
func (s *sequencer) alone(ctx context.Context, name string, run func(ctx context.Context, b *batch) (any, error)) error {
	c := &command{name: name, done: make(chan outcome, 1), run: run}
	b := s.newBatch()
	if err := b.take(ctx, c); err != nil {
		return err
	}
	b.close()
	if err := s.write(ctx, b); err != nil {
		return err
	}
	return (<-c.done).err
}

// note keeps what the intake asks of the log beside the rules' state.
func (s *sequencer) note(e *entry.Entry) error {
	if err := s.noteDigest(e); err != nil {
		return err
	}
	if e.Kind == entry.KindStateDigest && s.metrics != nil {
		s.metrics.digested(e)
	}
	if e.Kind != entry.KindBind {
		return nil
	}
	switch e.Bind.What {
	case entry.BindRole:
		s.bound[e.Org] = e.Bind
	case entry.BindWitness:
		next := witnessKeys{}
		if have := s.keys.Load(); have != nil {
			next = maps.Clone(*have)
		}
		next[e.Bind.Key] = *e.Bind
		s.keys.Store(&next)
	case entry.BindLogKey:
		if s.signing != nil { // a catch-up signs nothing
			s.signing.named(e)
		}
	case entry.BindPolicy:
		s.policy.Store((*[32]byte)(e.Bind.Hash))
	}
	return nil
}

// close lets go of the writer's place.
func (s *sequencer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // the server frees the lock in any case
}
