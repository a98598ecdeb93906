package query

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Dispute is an objection in public with what the city said to it and what the ledger's log made of that.
type Dispute struct {
	URI        string
	CID        string
	DID        string // who objects
	AuthorName string // of an organization; "" for anybody else
	Subject    string // at-uri of the record that it is about
	SubjectCID string
	Kind       string // a token
	Summary    string
	Remedy     string // as asked for
	Created    time.Time
	Status     string // open, or the result of the city's newest word: admitted | not-admitted | upheld | dismissed | partial | withdrawn
	Held       bool   // the mints of its task are held now
}

// held says that the newest word of the log on the task behind subject is a pause.
const disputeSelect = `
select 'at://' || d.did || '/org.city-sync.gov.dispute/' || d.rkey as uri, d.cid, d.did, coalesce(o.name, '') as author_name, d.subject, d.subject_cid,
	d.kind, d.summary, d.remedy, d.created, coalesce(n.result, 'open') as status,
	coalesce((select p.kind = 'pause' from log_entry p join log_cause c using (seq)
		where p.kind in ('pause', 'resume') and p.what = 'task'
			and c.uri in (select 'at://' || s.did || '/org.city-sync.gov.resolution/' || s.rkey from resolution s
				where s.did = @city and s.dispute_uri = 'at://' || d.did || '/org.city-sync.gov.dispute/' || d.rkey)
		order by p.seq desc limit 1), false) as held
from dispute d
left join organization o on o.did = d.did and o.rkey = 'self'
left join lateral (
	select r.result from resolution r
	where r.did = @city and r.dispute_uri = 'at://' || d.did || '/org.city-sync.gov.dispute/' || d.rkey
	order by r.rkey like '%-hold', r.rkey limit 1
) n on true`

// Disputes lists disputes, newest first. subject narrows to those about one record, status to one state; "" does not.
func (db *DB) Disputes(ctx context.Context, subject, status string, page Page) ([]Dispute, string, error) {
	keys, err := parseCursor(page.Cursor, 2)
	if err != nil {
		return nil, "", err
	}
	before := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	if keys[0] != "" {
		if before, err = time.Parse(time.RFC3339Nano, keys[0]); err != nil {
			return nil, "", ErrBadCursor
		}
	}
	rows, err := list[Dispute](ctx, db, "disputes", `select * from (`+disputeSelect+`) d
where (@subject = '' or subject = @subject) and (@status = '' or status = @status) and (created, uri) < (@before, @before_uri)
order by created desc, uri desc limit @limit`, pgx.NamedArgs{"city": db.city, "subject": subject, "status": status, "before": before,
		"before_uri": keys[1], "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(d Dispute) []string { return []string{d.Created.UTC().Format(time.RFC3339Nano), d.URI} })
	return rows, next, nil
}

// Dispute gives one dispute by at-uri, or ErrNotFound.
func (db *DB) Dispute(ctx context.Context, uri string) (Dispute, error) {
	did, _, rkey, err := splitURI(uri)
	if err != nil {
		return Dispute{}, err
	}
	return one[Dispute](ctx, db, "dispute", disputeSelect+` where d.did = @did and d.rkey = @rkey`,
		pgx.NamedArgs{"city": db.city, "did": did, "rkey": rkey})
}

// NotTheCity is why a resolution does not count: only the city, or its civic committee through it, answers a dispute.
const NotTheCity = "not-the-city"

// Resolution is an answer to a dispute.
type Resolution struct {
	URI     string
	CID     string
	DID     string
	Result  string
	Reasons string
	Created time.Time
	Ruling  bool      // it rules; the other kind says whether the dispute is heard
	Refused string    // why it does not count, or ""
	Entries []SeqKind `db:"-"` // of the log, that rest on it
}

// SeqKind names an entry of the log.
type SeqKind struct {
	Seq  int64
	Kind string
}

// maxResolutions bounds what one dispute's page lists. The city writes two; strangers may write any number, which do not count.
const maxResolutions = 20

// Resolutions lists the answers to a dispute: the city's admission, its ruling, then those of others, which do not count.
func (db *DB) Resolutions(ctx context.Context, dispute string) ([]Resolution, error) {
	rows, err := list[Resolution](ctx, db, "resolutions", `
select 'at://' || did || '/org.city-sync.gov.resolution/' || rkey as uri, cid, did, result, reasons, created, rkey not like '%-hold' as ruling,
	case when did = @city then '' else '`+NotTheCity+`' end as refused
from resolution where dispute_uri = @dispute order by did <> @city, rkey not like '%-hold', did, rkey limit @limit`,
		pgx.NamedArgs{"city": db.city, "dispute": dispute, "limit": maxResolutions})
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if rows[i].Refused != "" {
			continue
		}
		if rows[i].Entries, err = list[SeqKind](ctx, db, "entries of a resolution", `
select distinct l.seq, l.kind from log_cause c join log_entry l using (seq) where c.uri = @uri order by l.seq limit @limit`,
			pgx.NamedArgs{"uri": rows[i].URI, "limit": maxCitations}); err != nil {
			return nil, err
		}
	}
	return rows, nil
}
