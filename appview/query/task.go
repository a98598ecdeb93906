package query

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons/citysync"
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
	Minted      int64 // credits, less what was reversed
	// Standing is "" while the issuer's repository holds the task; otherwise what remains is what the log rests on.
	Standing string
}

// Why a task that the ledger accepted is not in its issuer's repository as far as the index knows.
const (
	TaskDeleted = "taskDeleted" // by its issuer; a signed copy may be kept
	TaskPurged  = "taskPurged"  // with the issuer's account
	TaskNotKept = "taskNotKept" // it was never seen here, or its account is not active at the moment
)

const taskSelect = `
select 'at://' || t.did || '/org.city-sync.work.task/' || t.rkey as uri, t.cid, t.did, coalesce(o.name, '') as issuer_name, t.title, t.summary,
	t.entry_uri, coalesce(e.title, '') as entry_title, coalesce(e.tier, 0) as tier, coalesce(e.verification_level, 0) as level,
	coalesce(e.sensitivity, '') as sensitivity, t.epoch, t.book, t.credits, t.slots, t.starts_at, t.ends_at,
	coalesce(s.status, 'open') as status,
	exists (select from log_cause c join log_entry l using (seq)
		where c.uri = 'at://' || t.did || '/org.city-sync.work.task/' || t.rkey and c.cid = t.cid and l.kind = 'reserve') as accepted,
	coalesce(n.claims, 0) as claims, coalesce(n.mints, 0) as mints, coalesce(n.minted, 0)::bigint as minted, '' as standing
from task t
left join organization o on o.did = t.did and o.rkey = 'self'
left join catalog_entry e on 'at://' || e.did || '/org.city-sync.catalog.entry/' || e.rkey = t.entry_uri
left join task_status s on s.did = t.did and s.rkey = t.rkey
left join lateral (
	select count(*) filter (where l.kind = 'claim') as claims, count(*) filter (where l.kind = 'mint') as mints,
		sum(l.amount) filter (where l.kind = 'mint')
		- coalesce(sum((select sum(r.amount) from log_entry r where r.refers = l.seq and r.kind = 'reverse')) filter (where l.kind = 'mint'), 0) as minted
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

// Task gives one task by at-uri, or ErrNotFound. One that the ledger accepted keeps standing after it left its issuer's repository.
func (db *DB) Task(ctx context.Context, uri string) (Task, error) {
	t, err := one[Task](ctx, db, "task", `select * from (`+taskSelect+`) t where uri = @uri`, pgx.NamedArgs{"uri": uri})
	if errors.Is(err, ErrNotFound) {
		return db.acceptedTask(ctx, uri)
	}
	return t, err
}

type acceptance struct {
	Leaf          []byte
	Claims, Mints int64
	Minted        int64
	IssuerName    string
}

// acceptedTask is a task as the log has it: its terms. Its words are those of the signed copy, if one is kept.
func (db *DB) acceptedTask(ctx context.Context, uri string) (Task, error) {
	did, _, _, err := splitURI(uri)
	if err != nil {
		return Task{}, err
	}
	a, err := one[acceptance](ctx, db, "task", `
select l.leaf, coalesce(o.name, '') as issuer_name,
	(select count(*) from log_entry m where m.task_uri = l.task_uri and m.kind = 'claim') as claims,
	(select count(*) from log_entry m where m.task_uri = l.task_uri and m.kind = 'mint') as mints,
	coalesce((select sum(m.amount - coalesce((select sum(r.amount) from log_entry r where r.refers = m.seq and r.kind = 'reverse'), 0))
		from log_entry m where m.task_uri = l.task_uri and m.kind = 'mint'), 0)::bigint as minted
from log_entry l join log_cause c using (seq)
left join organization o on o.did = l.org and o.rkey = 'self'
where l.kind = 'reserve' and c.uri = @uri order by l.seq desc limit 1`, pgx.NamedArgs{"uri": uri})
	if err != nil {
		return Task{}, err
	}
	e, err := entry.Decode(a.Leaf)
	if err != nil {
		return Task{}, fmt.Errorf("task %s: %w", uri, err)
	}
	r := e.Reserve
	t := Task{URI: uri, CID: r.Task.CID, DID: did, IssuerName: a.IssuerName, EntryURI: r.Entry.URI, Tier: int(r.Tier), Level: int(r.Level),
		Sensitivity: r.Sensitivity, Epoch: e.Epoch, Book: e.Book, Credits: r.Credits, Status: "cancelled", Accepted: true, Claims: a.Claims,
		Mints: a.Mints, Minted: a.Minted, Standing: TaskNotKept}
	for i, s := range r.Shifts {
		starts, err := entry.ParseTime(s.StartsAt)
		if err != nil {
			return Task{}, fmt.Errorf("task %s: %w", uri, err)
		}
		ends, err := entry.ParseTime(s.EndsAt)
		if err != nil {
			return Task{}, fmt.Errorf("task %s: %w", uri, err)
		}
		if i == 0 || starts.Before(t.StartsAt) {
			t.StartsAt = starts
		}
		if ends.After(t.EndsAt) {
			t.EndsAt = ends
		}
		t.Slots += s.Slots
	}
	return t, db.words(ctx, &t)
}

// words gives an accepted task the title of its kept copy, or of its catalog entry, and says why the record is gone.
func (db *DB) words(ctx context.Context, t *Task) error {
	if en, err := db.Entry(ctx, t.EntryURI); err == nil {
		t.EntryTitle, t.Title = en.Title, en.Title
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	rec, err := db.Record(ctx, t.URI, t.CID)
	switch {
	case errors.Is(err, ErrNotFound): // never seen, or hidden
		cited, err := db.Citations(ctx, t.URI, t.CID)
		if err == nil && len(cited) > 0 && cited[0].Withdrawn {
			t.Standing = TaskDeleted
		}
		return err
	case err != nil:
		return err
	case rec.CBOR == nil:
		t.Standing = TaskPurged
		return nil
	}
	if rec.Withdrawn {
		t.Standing = TaskDeleted
	}
	var w citysync.WorkTask
	if err := w.UnmarshalCBOR(bytes.NewReader(rec.CBOR)); err != nil {
		return fmt.Errorf("task %s: %w", t.URI, err)
	}
	t.Title = w.Title
	if w.Summary != nil {
		t.Summary = *w.Summary
	}
	return nil
}
