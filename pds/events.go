package pds

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/firehose"
)

// errBroken marks an invariant of ours that does not hold. The transaction rolls back.
var errBroken = errors.New("broken invariant")

// notifyChannel is shared by all schemas of a database; the payload is the schema and, after a space, the number of the last event.
const notifyChannel = "pds_event"

func eventTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// queueEvents ends a transaction's batch: the events take the numbers that are next, with the
// frames that name them, and whoever listens is told. Nothing may come after it but the
// commit: the row of event_head stays locked until then, which is what makes numbers visible
// in their order (P2). That it travels in one piece with the commit keeps the lock short.
func queueEvents(batch *pgx.Batch, now time.Time, events ...firehose.Event) error {
	var dids, kinds []string
	var before, after [][]byte
	for _, ev := range events {
		kind, err := kindOf(ev)
		if err != nil {
			return err
		}
		b, a, err := firehose.Split(ev)
		if err != nil {
			return fmt.Errorf("event of %s: %w", ev.Subject(), err)
		}
		dids, kinds = append(dids, ev.Subject().String()), append(kinds, kind)
		before, after = append(before, b), append(after, a)
	}
	batch.Queue(`select tell_events($1, $2, $3, $4, $5)`, dids, kinds, before, after, now)
	return nil
}

// tell sends the events as the last of a transaction that has no other batch.
func tell(ctx context.Context, tx pgx.Tx, now time.Time, events ...firehose.Event) error {
	var batch pgx.Batch
	if err := queueEvents(&batch, now, events...); err != nil {
		return err
	}
	return tx.SendBatch(ctx, &batch).Close()
}

// kindOf names an event's kind as table event does.
func kindOf(ev firehose.Event) (string, error) {
	switch ev.(type) {
	case *firehose.Commit:
		return "commit", nil
	case *firehose.Sync:
		return "sync", nil
	case *firehose.Identity:
		return "identity", nil
	case *firehose.Account:
		return "account", nil
	}
	return "", fmt.Errorf("%w: %T has no place in the stream", errBroken, ev)
}
