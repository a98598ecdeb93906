//go:build bench

package ledger

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// replayRates reads the log as a restart does, from the database and from memory, and as an auditor does.
func (c *rated) replayRates() {
	c.t.Helper()
	var log []logRow
	require.NoError(c.t, readLog(c.ctx, c.l.store.pool, func(rows []logRow) error {
		log = append(log, rows[:min(len(rows), benchLog-len(log))]...)
		return nil
	}))
	loc, err := time.LoadLocation(c.cfg.TZ)
	require.NoError(c.t, err)
	perSecond := func(n int64, fn func() error) float64 {
		start := time.Now()
		require.NoError(c.t, fn())
		return float64(n) / time.Since(start).Seconds()
	}
	for range benchRounds {
		n := int64(len(log))
		decode := perSecond(n, func() error {
			for i := range log {
				if _, err := entry.Decode(log[i].Leaf); err != nil {
					return err
				}
			}
			return nil
		})
		into := &sequencer{store: c.l.store, log: &treeLog{}, state: rules.NewState(loc), bound: map[syntax.DID]*entry.Bind{}}
		measured("replay", perSecond(n, func() error {
			return replay(c.ctx, func(_ context.Context, give func([]logRow) error) error { return give(log) }, into.replayed)
		}), decode)
		size := c.l.seq.log.size()
		again := &sequencer{store: c.l.store, log: &treeLog{}, state: rules.NewState(loc), bound: map[syntax.DID]*entry.Bind{}}
		measured("load", perSecond(size, func() error { return c.l.store.replay(c.ctx, c.l.store.pool, again.replayed) }), decode)
		require.Equal(c.t, size, again.log.size())
		auditor := audit.New(c.cfg.DID.String())
		measured("audit", perSecond(n, func() error {
			for i := range log {
				if err := auditor.Add(log[i].Seq, log[i].Leaf); err != nil {
					return err
				}
			}
			return nil
		}), decode)
	}
}

const (
	million   = 1_000_000
	perShift  = 1000
	perTask   = 100 // shifts
	gigabyte  = 1_000_000_000
	onAverage = 24 // credits that each holds
)

// memory is what the state and the tree of a city take where a million people have an account, and each earned something once.
func (c *rated) memory(founding int64) {
	c.t.Helper()
	loc, err := time.LoadLocation(c.cfg.TZ)
	require.NoError(c.t, err)
	before := heap()
	s := &sequencer{store: c.l.store, log: &treeLog{}, state: rules.NewState(loc), bound: map[syntax.DID]*entry.Bind{}}
	sealed := make(chan *entry.Sealed, partsMax*partRows*2)
	require.NoError(c.t, replay(c.ctx, func(ctx context.Context, give func([]logRow) error) error {
		var first []logRow
		enough := errors.New("enough")
		err := readLog(ctx, c.l.store.pool, func(page []logRow) error { first = page[:founding]; return enough })
		if !errors.Is(err, enough) {
			return fmt.Errorf("the founding: %w", err)
		}
		if err := give(first); err != nil {
			return err
		}
		return (&bigCity{rated: c, give: give, sealed: sealed, seq: founding}).live(first)
	}, func(e *entry.Entry, leaf tlog.Hash) error {
		if e.Commitment != nil { // what the opening would give
			e.Sealed = <-sealed
		}
		return s.replayed(e, leaf)
	}))
	require.EqualValues(c.t, million*onAverage, s.state.Epochs()[0].Minted)
	measured("memory", float64(heap()-before)/gigabyte, 1)
	runtime.KeepAlive(s)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A bigCity writes the log of a million residents, without the openings.
type bigCity struct {
	*rated
	give   func([]logRow) error
	rows   []logRow
	sealed chan<- *entry.Sealed
	seq    int64
}

func (b *bigCity) live(founding []logRow) error {
	decoder := entry.NewDecoder()
	deciding := rules.NewState(b.l.seq.state.Location())
	for i := range founding {
		e, _, err := founding[i].read(decoder)
		if err != nil {
			return err
		}
		if err := rules.Apply(deciding, *e); err != nil {
			return err
		}
	}
	day := entry.FormatDay(noon, b.l.seq.state.Location())
	at := entry.FormatTime(noon)
	for i := range million {
		e := entry.Entry{Kind: entry.KindActivate, Day: day, Org: b.library.did}
		if err := b.add(&e, &entry.Sealed{Account: bigAccount(i), Resident: bigResident(i), At: at}); err != nil {
			return err
		}
	}
	var tasks []entry.Entry
	for i := range million / perShift / perTask {
		list, err := rules.Decide(deciding, b.bigTask(fmt.Sprint("big", i), perTask, perShift))
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := rules.Apply(deciding, e); err != nil {
				return err
			}
			if err := b.add(&e, nil); err != nil {
				return err
			}
			tasks = append(tasks, e)
		}
	}
	open, _ := deciding.Totals(book, epoch)
	for i := range million {
		task := tasks[i/perShift/perTask]
		shift := task.Reserve.Shifts[i/perShift%perTask].ID
		token := entry.Token([32]byte{1}, task.Reserve.First, shift, bigAccount(i))
		claim := entry.Entry{
			Kind: entry.KindClaim, Day: day, Epoch: epoch, Book: book, Org: task.Org, Nullifier: token,
			Claim: &entry.Claim{Task: task.Reserve.Task, First: task.Reserve.First, Shift: shift},
		}
		who := entry.Sealed{Account: bigAccount(i), At: at}
		if err := b.add(&claim, &who); err != nil {
			return err
		}
		mint := entry.Entry{
			Kind: entry.KindMint, Day: day, Epoch: epoch, Book: book, Org: task.Org, Nullifier: token, Amount: onAverage, Votes: onAverage,
			Causes: []entry.Cause{{URI: b.library.uri(lexicons.WorkVerification, fmt.Sprint("big", i)), CID: someCID}}, Params: &open.Params,
			Cap: &entry.CapState{Cap: open.Cap, Before: int64(i) * onAverage},
			Mint: &entry.Mint{
				Task: task.Reserve.Task, First: task.Reserve.First, Shift: shift, Verifier: task.Org, Outcome: entry.OutcomeApproved,
				Frozen: onAverage, Level: 1, Methods: []string{rules.MethodAttestation},
			},
		}
		again := who
		if err := b.add(&mint, &again); err != nil {
			return err
		}
	}
	return b.give(b.rows)
}

// add writes an entry as the log has it: what comes back from it is what a start would read.
func (b *bigCity) add(e *entry.Entry, s *entry.Sealed) error {
	e.Seq = b.seq
	b.seq++
	if s != nil {
		e.Commitment = &entry.Commitment{Value: make([]byte, 32), Padded: 8}
		s.Resident = syntax.DID(strings.Clone(string(s.Resident)))
	}
	leaf, err := e.Encode()
	if err != nil {
		return err
	}
	hash := tlog.LeafHash(leaf)
	b.rows = append(b.rows, logRow{Seq: e.Seq, Leaf: leaf, Hash: hash[:]})
	if s != nil {
		b.sealed <- s
	}
	if len(b.rows) < partRows {
		return nil
	}
	rows := b.rows
	b.rows = nil
	return b.give(rows)
}

func bigAccount(i int) entry.Account { return entry.Account{2, byte(i >> 16), byte(i >> 8), byte(i)} }

func bigResident(i int) syntax.DID { return syntax.DID(fmt.Sprintf("did:plc:million%017d", i)) }
