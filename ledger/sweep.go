package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

const (
	defaultSweep = 5 * time.Second
	sweepRows    = 200 // of each kind in one command, so that nobody at a counter waits for a sweep
)

// sweepLoop does what time alone decides. It asks the clock each time, so that a clock that was moved is followed.
func (in *intake) sweepLoop(ctx context.Context, every time.Duration) error {
	if every <= 0 {
		every = defaultSweep
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := in.sweep(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("sweep: %w", err)
		}
	}
}

// sweep runs until nothing is due. The months that are over were closed before it.
func (in *intake) sweep(ctx context.Context) error {
	for {
		done, err := in.seq.must(ctx, "sweep", func(ctx context.Context, b *batch) (any, error) {
			t := in.turn(b)
			var done int
			for _, step := range []func(context.Context) (int, error){
				t.expireHolds, t.enterDue, t.lapseDue, t.releaseDue, t.expireWaits, t.forgetCodes, t.forgetKeys,
				t.closeEpochs, t.writeReports, t.forgetSeeds, t.digestState,
			} {
				n, err := step(ctx)
				if err != nil {
					return nil, err
				}
				done += n
			}
			return done, t.wakeAll(ctx)
		})
		if err != nil {
			return err
		}
		if n, _ := done.(int); n < sweepRows {
			return nil
		}
	}
}

// enterDue enters the held claims of shifts whose claim window closed, one batch a shift.
func (t *turn) enterDue(ctx context.Context) (int, error) {
	due := t.b.state.HeldShifts(t.b.now)
	due = due[:min(len(due), sweepRows)]
	for _, cmd := range due {
		if _, err := t.decide(ctx, cmd); err != nil {
			return 0, fmt.Errorf("enter shift %s of %s: %w", cmd.Shift, cmd.First, ours(err))
		}
	}
	return len(due), nil
}

// lapseDue ends claims that were not proved in time.
func (t *turn) lapseDue(ctx context.Context) (int, error) {
	const due = `select ` + claimColumns + ` from claim where token = any($1) and status = 'entered' and proof is null order by ord limit $2`
	rows, err := t.b.tx.Query(ctx, due, t.b.state.Lapsing(t.b.now), sweepRows)
	if err != nil {
		return 0, fmt.Errorf("claims to lapse: %w", err)
	}
	claims, err := pgx.CollectRows(rows, pgx.RowToStructByName[claimRow])
	if err != nil {
		return 0, fmt.Errorf("claims to lapse: %w", err)
	}
	for i := range claims {
		if err := t.end(ctx, &claims[i], entry.UnclaimLapsed); err != nil {
			return 0, ours(err)
		}
	}
	return len(claims), nil
}

// releaseDue gives back the slots that nobody claimed before their shift was over.
func (t *turn) releaseDue(ctx context.Context) (int, error) {
	due := t.b.state.ExpiredSlots(t.b.now)
	due = due[:min(len(due), sweepRows)]
	for _, cmd := range due {
		if _, err := t.decide(ctx, cmd); err != nil {
			return 0, fmt.Errorf("release shifts of %s: %w", cmd.First, ours(err))
		}
	}
	return len(due), nil
}

// expireWaits refuses what waited too long, naming what did not come.
func (t *turn) expireWaits(ctx context.Context) (int, error) {
	const due = `select uri, cid, array_agg(wants order by wants) from waiting where until <= $1 group by uri, cid limit $2`
	rows, err := t.b.tx.Query(ctx, due, t.b.now, sweepRows)
	if err != nil {
		return 0, fmt.Errorf("waits that are over: %w", err)
	}
	type over struct {
		URI, CID string
		Wants    []string
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[over])
	if err != nil {
		return 0, fmt.Errorf("waits that are over: %w", err)
	}
	for _, o := range list {
		f, err := getFact(ctx, t.b.tx, o.URI, o.CID)
		if err != nil {
			return 0, err
		}
		if f == nil {
			return 0, broken("%s waits and was never seen", o.URI)
		}
		if isResume(o.Wants[0]) { // the pause is over
			if err := stopWaiting(ctx, t.b.tx, o.URI, o.CID); err != nil {
				return 0, err
			}
			if err := t.process(ctx, f); err != nil {
				return 0, err
			}
			continue
		}
		if err := t.parentMissing(ctx, f, o.Wants); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}

// forgetCodes deletes codes, and with them whose they were, when nobody can ask for their answer any more.
func (t *turn) forgetCodes(ctx context.Context) (int, error) {
	const old = `delete from code where hash in (select hash from code where expires_at <= $1 limit $2)`
	tag, err := t.b.tx.Exec(ctx, old, t.b.now.Add(-keepCodes), sweepRows)
	if err != nil {
		return 0, fmt.Errorf("forget codes: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// ours turns a refusal of what the ledger itself asked for into a broken invariant.
func ours(err error) error {
	var refusal *rules.Refusal
	if errors.As(err, &refusal) {
		return broken("the rules refuse what time decides: %w", err)
	}
	return err
}
