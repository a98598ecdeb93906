package pds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ownRatesLife is how long after an operator's word an account's rates may still be the former ones.
const ownRatesLife = time.Minute

const maxOwnPoints = 1_000_000_000

// ownRates remembers for a while what table account_limit says, so that a write does not ask each time.
type ownRates struct {
	mu    sync.Mutex // guards known
	known map[ownKey]ownEntry
}

type ownKey struct {
	did  syntax.DID
	name limitName
}

type ownEntry struct {
	rates []Rate
	until time.Time
}

func newOwnRates() *ownRates { return &ownRates{known: map[ownKey]ownEntry{}} }

func (o *ownRates) of(ctx context.Context, pool *pgxpool.Pool, did syntax.DID, name limitName, l *limits) ([]Rate, error) {
	key, now := ownKey{did, name}, l.clock.Now()
	o.mu.Lock()
	e, ok := o.known[key]
	o.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.rates, nil
	}
	rates := l.rates[name]
	var points int
	var seconds int64
	err := pool.QueryRow(ctx, `select points, seconds from account_limit where did = $1 and name = $2`, did, name).Scan(&points, &seconds)
	switch {
	case err == nil:
		rates = []Rate{{Points: points, Window: time.Duration(seconds) * time.Second}}
	case !errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("limit %s of %s: %w", name, did, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.known) >= limiterKeys {
		clear(o.known)
	}
	o.known[key] = ownEntry{rates, now.Add(ownRatesLife)}
	return rates, nil
}

// AccountLimit is a rate that an operator gave an account.
type AccountLimit struct {
	Name string
	Rate Rate
}

// SetAccountLimit gives an account a rate of its own; nil takes it back. Servers follow within a minute.
func SetAccountLimit(ctx context.Context, pool *pgxpool.Pool, did syntax.DID, name string, rate *Rate) error {
	if !slices.Contains(byAccount, limitName(name)) {
		return fmt.Errorf("limit %q is none that an account may have its own of; those are %v", name, byAccount)
	}
	if rate != nil {
		if err := rate.validate(name); err != nil {
			return err
		}
		if rate.Points > maxOwnPoints {
			return fmt.Errorf("limit %s: %d points; a rate has at most %d, and 0 are no limit", name, rate.Points, maxOwnPoints)
		}
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if rate == nil {
			if _, err := tx.Exec(ctx, `delete from account_limit where did = $1 and name = $2`, did, name); err != nil {
				return fmt.Errorf("take limit %s of %s back: %w", name, did, err)
			}
			return commanded(ctx, tx, "limit", name+" as all others", &did)
		}
		const set = `
			insert into account_limit (did, name, points, seconds)
			select did, @name, @points, @seconds from account where did = @did
			on conflict (did, name) do update set points = excluded.points, seconds = excluded.seconds`
		tag, err := tx.Exec(ctx, set, pgx.NamedArgs{
			"did": did, "name": name, "points": rate.Points, "seconds": max(1, int64(rate.Window/time.Second)),
		})
		if err != nil {
			return fmt.Errorf("set limit %s of %s: %w", name, did, err)
		}
		if tag.RowsAffected() == 0 {
			return errRepoNotFound(did.String())
		}
		return commanded(ctx, tx, "limit", fmt.Sprintf("%s %d/%s", name, rate.Points, rate.Window), &did)
	})
}

// AccountLimits lists what an account has of its own.
func AccountLimits(ctx context.Context, pool *pgxpool.Pool, did syntax.DID) ([]AccountLimit, error) {
	rows, err := pool.Query(ctx, `select name, points, seconds from account_limit where did = $1 order by name`, did)
	if err != nil {
		return nil, fmt.Errorf("limits of %s: %w", did, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l AccountLimit, err error) {
		var seconds int64
		err = row.Scan(&l.Name, &l.Rate.Points, &seconds)
		l.Rate.Window = time.Duration(seconds) * time.Second
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("limits of %s: %w", did, err)
	}
	return list, nil
}
