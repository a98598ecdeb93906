package query

import (
	"context"

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
