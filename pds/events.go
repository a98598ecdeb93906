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

// notifyChannel is shared by all schemas of a database; the payload is the schema.
const notifyChannel = "pds_event"

func eventTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// emit sends what batch holds, then takes sequence numbers for the events. The batch it
// answers with stores the events and must be the last of the transaction: the row of
// event_head stays locked until the commit, which is what makes numbers visible in their
// order (P2).
func (s *Server) emit(ctx context.Context, tx sender, batch *pgx.Batch, now time.Time, events ...firehose.Event) (*pgx.Batch, error) {
	var last int64
	const take = `update event_head set seq = seq + $1 returning seq`
	batch.Queue(take, len(events)).QueryRow(func(row pgx.Row) error { return row.Scan(&last) })
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, wrapUnlessShown(err, "store commit of %s", events[0].Subject())
	}
	const insert = `insert into event (seq, did, kind, frame, at) values ($1, $2, $3, $4, $5)`
	var rows pgx.Batch
	for i, ev := range events {
		seq := last - int64(len(events)-1-i)
		kind, err := number(ev, seq)
		if err != nil {
			return nil, err
		}
		frame, err := firehose.Encode(ev)
		if err != nil {
			return nil, fmt.Errorf("event %d of %s: %w", seq, ev.Subject(), err)
		}
		rows.Queue(insert, seq, ev.Subject(), kind, frame, now)
	}
	// Delivered at commit, with the rows it speaks of, or not at all.
	rows.Queue(`select pg_notify($1, current_schema())`, notifyChannel)
	return &rows, nil
}

// number sets the sequence of an event and names its kind as table event does.
func number(ev firehose.Event, seq int64) (kind string, err error) {
	switch e := ev.(type) {
	case *firehose.Commit:
		e.Seq = seq
		return "commit", nil
	case *firehose.Sync:
		e.Seq = seq
		return "sync", nil
	case *firehose.Identity:
		e.Seq = seq
		return "identity", nil
	case *firehose.Account:
		e.Seq = seq
		return "account", nil
	}
	return "", fmt.Errorf("%w: %T has no place in the stream", errBroken, ev)
}
