package query

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Task is an issuer's task with what the ledger's log says of it.
type Task struct {
	URI         string
	CID         string
	DID         string // the issuer
	IssuerName  string
	Title       string
	Summary     string
	EntryURI    string
	EntryTitle  string
	Tier        int
	Level       int // verification level 1..4; 0 while the entry is not known
	Sensitivity string
	Epoch       string
	Book        string
	Credits     int64 // per completion
	Slots       int64 // over all shifts
	StartsAt    time.Time
	EndsAt      time.Time
	Status      string // open | paused | full | completed | cancelled, as the issuer says
	Accepted    bool   // the ledger reserved it
	Claims      int64  // entered in the log
	Mints       int64
	Minted      int64 // credits
}

const taskSelect = `
select 'at://' || t.did || '/org.city-sync.work.task/' || t.rkey as uri, t.cid, t.did, coalesce(o.name, '') as issuer_name, t.title, t.summary,
	t.entry_uri, coalesce(e.title, '') as entry_title, coalesce(e.tier, 0) as tier, coalesce(e.verification_level, 0) as level,
	coalesce(e.sensitivity, '') as sensitivity, t.epoch, t.book, t.credits, t.slots, t.starts_at, t.ends_at,
	coalesce(s.status, 'open') as status,
	exists (select from log_cause c join log_entry l using (seq)
		where c.uri = 'at://' || t.did || '/org.city-sync.work.task/' || t.rkey and c.cid = t.cid and l.kind = 'reserve') as accepted,
	coalesce(n.claims, 0) as claims, coalesce(n.mints, 0) as mints, coalesce(n.minted, 0)::bigint as minted
from task t
left join organization o on o.did = t.did and o.rkey = 'self'
left join catalog_entry e on 'at://' || e.did || '/org.city-sync.catalog.entry/' || e.rkey = t.entry_uri
left join task_status s on s.did = t.did and s.rkey = t.rkey
left join lateral (
	select count(*) filter (where l.kind = 'claim') as claims, count(*) filter (where l.kind = 'mint') as mints,
		sum(l.amount) filter (where l.kind = 'mint') as minted
	from log_entry l where l.task_uri = 'at://' || t.did || '/org.city-sync.work.task/' || t.rkey
) n on true`

// TaskFilter narrows a listing of tasks; empty fields do not.
type TaskFilter struct {
	Issuer   string // a DID
	EntryURI string
	Epoch    string
	Accepted bool      // only those the ledger reserved
	Refused  bool      // only those it did not
	EndsFrom time.Time // only those whose last shift ends at or after
}

// Tasks lists tasks by the end of their last shift, soonest first.
func (db *DB) Tasks(ctx context.Context, f TaskFilter, page Page) ([]Task, string, error) {
	keys, err := parseCursor(page.Cursor, 2)
	if err != nil {
		return nil, "", err
	}
	after := time.Time{}
	if keys[0] != "" {
		if after, err = time.Parse(time.RFC3339Nano, keys[0]); err != nil {
			return nil, "", ErrBadCursor
		}
	}
	rows, err := list[Task](ctx, db, "tasks", `select * from (`+taskSelect+`) t
where (@issuer = '' or did = @issuer) and (@entry = '' or entry_uri = @entry) and (@epoch = '' or epoch = @epoch)
	and (not @accepted or accepted) and (not @refused or not accepted) and ends_at >= @ends_from and (ends_at, uri) > (@after, @after_uri)
order by ends_at, uri limit @limit`, pgx.NamedArgs{"issuer": f.Issuer, "entry": f.EntryURI, "epoch": f.Epoch, "accepted": f.Accepted, "refused": f.Refused,
		"ends_from": f.EndsFrom, "after": after, "after_uri": keys[1], "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(t Task) []string { return []string{t.EndsAt.UTC().Format(time.RFC3339Nano), t.URI} })
	return rows, next, nil
}

// Task gives one task by at-uri, or ErrNotFound.
func (db *DB) Task(ctx context.Context, uri string) (Task, error) {
	return one[Task](ctx, db, "task", `select * from (`+taskSelect+`) t where uri = @uri`, pgx.NamedArgs{"uri": uri})
}
