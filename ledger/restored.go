package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/ledger/tlog"
)

// A restored log may be older than what the world has seen of it. Entries written on top of it would be a second history under one key,
// and every witness would rightly accuse the city. So a restored database is marked, and a marked ledger signs nothing until it has
// asked the world and knows all that the world knows.
const metaRestored = "restored"

// ErrRestoredFork means that the world has seen another log than the one restored: nothing here may be signed. Final.
var ErrRestoredFork = errors.New("RestoredFork: the restored log is not the one that the world has seen")

// ErrWorldUnknown means that somebody who must be asked what the world has seen did not answer. It may be retried.
var ErrWorldUnknown = errors.New("RestoredUnknown: a restored log is not continued before the world was asked how far it has seen it")

// RestoredBehind is the refusal to continue a restored log of which the world has seen more. Restore a newer backup, or catch up.
type RestoredBehind struct {
	Have, World int64
	Source      string // who has seen more
}

func (e *RestoredBehind) Error() string {
	return fmt.Sprintf("RestoredBehind: the restored log has %d entries, %s has seen %d; take the missing %d with ledger restore --catch-up, or restore a newer backup",
		e.Have, e.Source, e.World, e.World-e.Have)
}

// A Sighting is how much of the log somebody outside has seen. A nil root says the size alone.
type Sighting struct {
	Source string
	Size   int64
	Root   *tlog.Hash
}

type restoredMark struct {
	At   time.Time `json:"at"`
	Size int64     `json:"size"`
}

// MarkRestored marks a database that was restored by other means than Restore, such as a copy of its disk. The ledger must not run.
func MarkRestored(ctx context.Context, pool *pgxpool.Pool, now time.Time) error {
	st := &store{pool: pool}
	conn, _, err := st.becomeWriter(ctx, restoreWait)
	if err != nil {
		return fmt.Errorf("mark as restored: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // gives the lock back
	if err := pgx.BeginFunc(ctx, conn.Conn, func(tx pgx.Tx) error { return markRestored(ctx, tx, now) }); err != nil {
		return fmt.Errorf("mark as restored: %w", err)
	}
	return nil
}

func markRestored(ctx context.Context, tx pgx.Tx, now time.Time) error {
	var size int64
	const raise = `update head set term = greatest(term + $1, $2) returning size`
	if err := tx.QueryRow(ctx, raise, termJump, now.UnixMilli()).Scan(&size); err != nil {
		return fmt.Errorf("raise the term: %w", err)
	}
	raw, err := json.Marshal(restoredMark{At: now.UTC().Truncate(time.Second), Size: size})
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	const mark = `insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value`
	if _, err := tx.Exec(ctx, mark, metaRestored, string(raw)); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	return nil
}

// checkWorld lets a restored log go on if nobody has seen more or other than it holds. The mark is taken away only then, so that a
// crash here asks again.
func (s *sequencer) checkWorld(ctx context.Context) error {
	var mark string
	err := s.conn.QueryRow(ctx, `select value from meta where key = $1`, metaRestored).Scan(&mark)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the mark of a restored log: %w", err)
	}
	seen, err := s.world(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWorldUnknown, err)
	}
	if err := judge(s.log, seen); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, `delete from meta where key = $1 and value = $2`, metaRestored, mark); err != nil {
		return fmt.Errorf("take away the mark of a restored log: %w", err)
	}
	return nil
}

// judge compares a log with what others have seen of it.
func judge(log *treeLog, seen []Sighting) error {
	size := log.size()
	var ahead *RestoredBehind
	for _, w := range seen {
		switch {
		case w.Size > size:
			if ahead == nil || w.Size > ahead.World {
				ahead = &RestoredBehind{Have: size, World: w.Size, Source: w.Source}
			}
		case w.Root != nil && w.Size > 0:
			root, err := tlog.Root(w.Size, log)
			if err != nil {
				return err
			}
			if root != *w.Root {
				return fmt.Errorf("%w: %s has seen %s at size %d, here it is %s", ErrRestoredFork, w.Source, w.Root, w.Size, root)
			}
		}
	}
	if ahead != nil {
		return ahead
	}
	return nil
}
