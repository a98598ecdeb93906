package query

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
)

// Pause is one that stands: something is stopped, until a time or, for a task, until a ruling.
type Pause struct {
	Seq     int64
	What    string // task | offering | tasks | claims | mints | redemptions
	Subject string // first uri of a task, uri of an offering, or ""
	Org     string // DID, or "" for the whole city
	Until   time.Time
	Reason  string
	Causes  []Cause
}

// maxPauses bounds what is looked at for one page.
const maxPauses = 200

const pauseSelect = `
select leaf from (
	select distinct on (what, subject, org) kind, seq, leaf from log_entry
	where kind in ('pause', 'resume') and `
const pauseOrder = ` order by what, subject, org, seq desc) p where kind = 'pause' order by seq limit @limit`

// CityPauses gives the pauses of the whole city, or of one organization, that stand at a moment.
func (db *DB) CityPauses(ctx context.Context, at time.Time) ([]Pause, error) {
	return db.pauses(ctx, at, `what in ('tasks', 'claims', 'mints', 'redemptions')`, nil)
}

// PausesOf gives the pauses of tasks and offerings, by uri, that stand at a moment.
func (db *DB) PausesOf(ctx context.Context, at time.Time, uris ...string) (map[string]Pause, error) {
	rows, err := db.pauses(ctx, at, `what in ('task', 'offering') and subject = any(@subjects)`, uris)
	out := map[string]Pause{}
	for _, p := range rows {
		out[p.Subject] = p
	}
	return out, err
}

func (db *DB) pauses(ctx context.Context, at time.Time, where string, subjects []string) ([]Pause, error) {
	rows, err := db.pool.Query(ctx, pauseSelect+where+pauseOrder, pgx.NamedArgs{"subjects": subjects, "limit": maxPauses})
	if err != nil {
		return nil, fmt.Errorf("query pauses: %w", err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("query pauses: %w", err)
	}
	var out []Pause
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		if err != nil {
			return nil, fmt.Errorf("query pauses: %w", err)
		}
		p := Pause{Seq: e.Seq, What: e.Pause.What, Subject: e.Pause.Subject, Org: e.Org.String(), Reason: e.Pause.Reason}
		for _, c := range e.Causes {
			p.Causes = append(p.Causes, Cause{URI: c.URI, CID: c.CID})
		}
		if e.Pause.Until != "" {
			if p.Until, err = entry.ParseTime(e.Pause.Until); err != nil {
				return nil, fmt.Errorf("query pauses: entry %d: %w", e.Seq, err)
			}
			if !p.Until.After(at) {
				continue
			}
		}
		out = append(out, p)
	}
	return out, nil
}
