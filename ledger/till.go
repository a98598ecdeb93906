package ledger

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/rules"
)

// Names of refusals about tills.
const (
	tillClosed    = "TillClosed"
	tillLocked    = "TillLocked"
	tillWithdrawn = "TillWithdrawn"
	staleRequest  = "StaleRequest"
)

const (
	maxTillDay  = 24 * time.Hour   // a till that nobody closed is closed then
	maxTillSkew = 10 * time.Minute // between a till's clock and ours, when it opens or closes
)

// tillRow is a till as its redeemer and its people left it. What it may do is decided here and not in the log: whoever finds a till
// must be stopped at once, and a log that is restored without this table has tills that cannot open.
type tillRow struct {
	Org                       string
	Pin                       *string
	Wrong                     int
	SaidAt, OpenedAt, EndedAt *time.Time
}

func getTill(ctx context.Context, q querier, id string) (*tillRow, error) {
	rows, err := q.Query(ctx, `select org, pin, wrong, said_at, opened_at, ended_at from till where id = $1`, printable(id))
	if err != nil {
		return nil, fmt.Errorf("till: %w", err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[tillRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.TillUnknown, "the till is not bound")
	}
	if err != nil {
		return nil, fmt.Errorf("till: %w", err)
	}
	return t, nil
}

// usable says why a till can do nothing until its redeemer acts.
func (t *tillRow) usable() error {
	switch {
	case t.EndedAt != nil:
		return xrpc.Errorf(http.StatusForbidden, tillWithdrawn, "the till was withdrawn at %s", stamp(*t.EndedAt)).
			With(map[string]any{"at": stamp(*t.EndedAt)})
	case t.Pin == nil:
		return xrpc.Errorf(http.StatusForbidden, pinMissing, "the till has no PIN; its redeemer sets one with resetTill")
	case t.Wrong >= maxWrong:
		return xrpc.Errorf(http.StatusForbidden, tillLocked, "%d wrong PINs in a row; its redeemer opens it again with resetTill", t.Wrong).
			With(map[string]any{"wrong": int64(t.Wrong)})
	}
	return nil
}

// openTill gives a till whose day has begun.
func openTill(ctx context.Context, q querier, id string, now time.Time) (*tillRow, error) {
	t, err := getTill(ctx, q, id)
	if err != nil {
		return nil, err
	}
	if err := t.usable(); err != nil {
		return nil, err
	}
	if t.OpenedAt == nil || !now.Before(t.OpenedAt.Add(maxTillDay)) {
		return nil, xrpc.Errorf(http.StatusForbidden, tillClosed, "the till is closed; open it with its PIN")
	}
	return t, nil
}

// tryTillPIN compares a till's PIN. A try is counted before it is made: of a hundred at once five are made.
func (l *Ledger) tryTillPIN(ctx context.Context, id, pin string) error {
	return l.pins.with(func() error {
		const take = `update till set wrong = wrong + 1 where id = $1 and ended_at is null and pin is not null and wrong < $2 returning pin, wrong`
		var stored string
		var wrong int
		err := l.store.pool.QueryRow(ctx, take, id, maxWrong).Scan(&stored, &wrong)
		if errors.Is(err, pgx.ErrNoRows) {
			t, err := getTill(ctx, l.store.pool, id)
			if err != nil {
				return err
			}
			return t.usable()
		}
		if err != nil {
			return fmt.Errorf("try a PIN: %w", err)
		}
		same, err := l.pins.hasher.Matches(ctx, stored, pin)
		if err != nil {
			return fmt.Errorf("try a PIN: %w", err)
		}
		if !same {
			return xrpc.Errorf(http.StatusForbidden, wrongPIN, "the PIN is wrong; %d tries are left", maxWrong-wrong).
				With(map[string]any{"left": int64(maxWrong - wrong)})
		}
		if _, err := l.store.pool.Exec(ctx, `update till set wrong = 0 where id = $1 and ended_at is null`, id); err != nil {
			return fmt.Errorf("try a PIN: %w", err)
		}
		return nil
	})
}
