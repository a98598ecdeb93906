package ledger

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

// A batch is what one transaction writes. The sequencer's goroutine builds it; the writer's has it from then on.
type batch struct {
	tx      *batchTx
	state   *rules.State
	now     time.Time // of the command that runs
	entries []staged
	paper   paper // for entries
	seq     *sequencer

	forgotten []forgotten // last of all: what this batch itself wrote about them is destroyed too

	commands []*command
	outcomes []outcome
	digest   digested
	totals   []rules.Totals // with the batch's entries; for readers, after its COMMIT
}

type staged struct {
	entry   *entry.Entry
	leaf    []byte
	hash    tlog.Hash // of the leaf
	opening []byte
	holder  entry.Account  // whose the entry is; zero: nobody's
	expired []entry.Holder // whose credits it ends
}

func (s *sequencer) newBatch() *batch {
	return &batch{tx: &batchTx{seq: s}, state: s.state, seq: s}
}

// take runs a command. Its outcome is answered after the batch's COMMIT. An error ends the batch, and with it the process.
func (b *batch) take(ctx context.Context, c *command) error {
	b.now = b.seq.instant()
	if err := b.closeMonths(); err != nil {
		return fmt.Errorf("close months: %w", err)
	}
	o, err := b.one(ctx, c)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	b.commands, b.outcomes = append(b.commands, c), append(b.outcomes, o)
	return nil
}

// instant is the time of a command: the clock's, but never before what the log already says. A clock that is set back holds the log's
// time until it has come up to it again, so that days and months stand in their order and nothing is closed twice.
func (s *sequencer) instant() time.Time {
	if now := s.clock.Now().UTC(); now.After(s.past) {
		s.past = now
	}
	return s.past
}

// close takes from the state what readers get with this batch: by the time of its COMMIT the state is ahead.
func (b *batch) close() {
	if len(b.entries) > 0 {
		b.totals, b.digest = b.state.Epochs(), b.seq.digest
	}
}

// decide asks the rules and, if they agree, stages and applies what they answer. A *rules.Refusal comes back unchanged.
func (b *batch) decide(cmd rules.Command) ([]*entry.Entry, error) {
	entries, err := rules.Decide(b.state, cmd)
	if err != nil {
		return nil, err
	}
	return pointers(entries), b.append(pointers(entries))
}

// closeMonths closes what is over before a command is run, so that nobody is promised credits that expire with it.
func (b *batch) closeMonths() error {
	if !b.state.MonthDue(b.now) {
		return nil
	}
	_, err := b.decide(rules.CloseMonths{Now: b.now})
	return err
}

func pointers(entries []entry.Entry) []*entry.Entry {
	out := make([]*entry.Entry, len(entries))
	for i := range entries {
		out[i] = &entries[i]
	}
	return out
}

// append seals and encodes all entries before it applies the first: what cannot be a leaf changes nothing.
func (b *batch) append(entries []*entry.Entry) error {
	add := make([]staged, len(entries))
	for i, e := range entries {
		if want := b.state.Size() + int64(i); e.Seq != want {
			return broken("entry says index %d, the log is at %d", e.Seq, want)
		}
		opening, err := b.seq.seal(e)
		if err != nil {
			return broken("%w", err)
		}
		if opening != nil {
			if add[i].opening, err = b.paper.write(opening.Append); err != nil {
				return broken("opening of entry %d: %w", e.Seq, err)
			}
		}
		if add[i].leaf, err = b.paper.write(e.AppendLeaf); err != nil {
			return xrpc.Errorf(http.StatusBadRequest, "InvalidRecord", "the record makes no entry of the log: %v", err)
		}
		add[i].entry, add[i].hash = e, tlog.LeafHash(add[i].leaf)
	}
	for i := range add {
		if err := b.apply(&add[i]); err != nil {
			return broken("%w", err)
		}
	}
	b.entries = append(b.entries, add...)
	return nil
}

func (b *batch) apply(s *staged) error {
	if s.entry.Sealed != nil {
		s.holder = s.entry.Sealed.Account
	} else {
		s.holder, _ = b.state.Holder(s.entry)
	}
	s.expired = b.state.Expiring(s.entry)
	if err := rules.Apply(b.state, *s.entry); err != nil {
		return fmt.Errorf("apply entry %d: %w", s.entry.Seq, err)
	}
	return b.seq.note(s.entry)
}

var errBroken = errors.New("broken invariant")

func broken(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errBroken}, a...)...)
}

// one runs a command. Answers for the caller (refusals, named errors) are outcomes; all else ends the batch.
func (b *batch) one(ctx context.Context, c *command) (o outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = broken("panic: %v\n%s", p, debug.Stack())
		}
	}()
	before := len(b.entries)
	answer, err := c.run(ctx, b)
	if err == nil {
		return outcome{answer: answer}, nil
	}
	if !isAnswer(err) {
		return outcome{}, err
	}
	if len(b.entries) != before {
		return outcome{}, broken("refused after %d entries were staged: %w", len(b.entries)-before, err)
	}
	b.seq.metrics.refusal(err)
	return outcome{err: err}, nil
}

// A batchTx is the batch's transaction, begun when a command first asks the database something. Until all earlier batches are
// committed that waits: a command sees in tables what it sees in memory. A batch whose commands ask nothing is built in memory while
// the one before it commits.
type batchTx struct {
	seq   *sequencer
	owns  bool // the connection, for this batch
	begun bool
}

// own waits for the connection.
func (t *batchTx) own(ctx context.Context) error {
	if t.owns {
		return nil
	}
	if err := t.seq.until(ctx, 0); err != nil {
		return err
	}
	t.owns = true
	return nil
}

func (t *batchTx) begin(ctx context.Context) error {
	if t.begun {
		return nil
	}
	if err := t.own(ctx); err != nil {
		return err
	}
	if _, err := t.seq.conn.Exec(ctx, "begin"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	t.begun = true
	return nil
}

// Query implements querier.
func (t *batchTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	return t.seq.conn.Query(ctx, sql, args...)
}

// QueryRow implements querier.
func (t *batchTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := t.begin(ctx); err != nil {
		return failedRow{err}
	}
	return t.seq.conn.QueryRow(ctx, sql, args...)
}

// Exec implements querier.
func (t *batchTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := t.begin(ctx); err != nil {
		return pgconn.CommandTag{}, err
	}
	return t.seq.conn.Exec(ctx, sql, args...)
}

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }
