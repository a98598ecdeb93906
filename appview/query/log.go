package query

import (
	"context"
	"math"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// LogEntry is one entry of the ledger's log as the index checked it.
type LogEntry struct {
	Seq    int64
	Leaf   []byte // the canonical bytes
	Kind   string
	Day    string
	Org    string
	Amount int64
	Causes []Cause `db:"-"`
}

// Cause is a record that an entry rests on.
type Cause struct {
	URI string
	CID string
}

// LogEntry gives the entry at seq, or ErrNotFound.
func (db *DB) LogEntry(ctx context.Context, seq int64) (LogEntry, error) {
	e, err := one[LogEntry](ctx, db, "log entry", "select seq, leaf, kind, day, org, amount from log_entry where seq = @seq", pgx.NamedArgs{"seq": seq})
	if err != nil {
		return e, err
	}
	e.Causes, err = list[Cause](ctx, db, "causes", "select uri, cid from log_cause where seq = @seq order by pos", pgx.NamedArgs{"seq": seq})
	return e, err
}

// LogEntries lists the entries of one kind, newest first, without their causes.
func (db *DB) LogEntries(ctx context.Context, kind string, page Page) ([]LogEntry, string, error) {
	keys, err := parseCursor(page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	before := int64(math.MaxInt64)
	if keys[0] != "" {
		if before, err = strconv.ParseInt(keys[0], 10, 64); err != nil {
			return nil, "", ErrBadCursor
		}
	}
	rows, err := list[LogEntry](ctx, db, "log entries", `
select l.seq, l.leaf, l.kind, l.day, coalesce(o.name, l.org) as org, l.amount
from log_entry l left join organization o on o.did = l.org and o.rkey = 'self'
where l.kind = @kind and l.seq < @before order by l.seq desc limit @limit`,
		pgx.NamedArgs{"kind": kind, "before": before, "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(e LogEntry) []string { return []string{strconv.FormatInt(e.Seq, 10)} })
	return rows, next, nil
}
