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

// Referring lists the entries that end or reverse the one at seq.
func (db *DB) Referring(ctx context.Context, seq int64) ([]SeqKind, error) {
	return list[SeqKind](ctx, db, "referring entries", "select seq, kind from log_entry where refers = @seq order by seq limit @limit",
		pgx.NamedArgs{"seq": seq, "limit": maxCitations})
}

// Figures of an epoch that open to their entries, each with the kinds that add to it.
var figures = map[string][]string{
	"reserve": {"reserve"}, "mint": {"mint"}, "burn": {"burn", "capture"}, "hold": {"hold"}, "expire": {"expire"},
}

// Listed is an entry behind a figure.
type Listed struct {
	Seq      int64
	Kind     string
	Day      string
	Org      string // its name, if it has one
	Amount   int64  // below zero where it takes from the figure
	Reversed bool   // a later entry took from what this one gave
}

// LogEntries lists the entries behind a figure (reserve, mint, burn, hold or expire), newest first, those that take from it with them.
func (db *DB) LogEntries(ctx context.Context, figure string, page Page) ([]Listed, string, error) {
	kinds, ok := figures[figure]
	if !ok {
		return nil, "", ErrNotFound
	}
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
	rows, err := list[Listed](ctx, db, "log entries", `
select l.seq, l.kind, l.day, coalesce(o.name, l.org) as org, case when l.kind = any(@kinds) then l.amount else -l.amount end as amount,
	exists (select from log_entry r where r.refers = l.seq and r.kind = 'reverse') as reversed
from log_entry l left join organization o on o.did = l.org and o.rkey = 'self'
where (l.kind = any(@kinds) or (l.kind = 'reverse' and l.what = any(@kinds)) or (@holds and l.kind in ('capture', 'void')))
	and l.seq < @before order by l.seq desc limit @limit`,
		pgx.NamedArgs{"kinds": kinds, "holds": figure == "hold", "before": before, "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(e Listed) []string { return []string{strconv.FormatInt(e.Seq, 10)} })
	return rows, next, nil
}
