package query

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/lexicons/citysync"
)

// Why a report does not count.
const (
	NotTheLedger   = "not-the-ledger"   // somebody else wrote it
	Superseded     = "superseded"       // a later one corrects it
	DiffersFromLog = "differs-from-log" // its months are not those that the log closed
)

// Report is a report on one epoch of a book, and whether it counts.
type Report struct {
	URI     string
	CID     string
	DID     string
	Refused string                      // why it does not count, or ""
	Record  *citysync.LedgerEpochReport `db:"-"`
	Book    string
	Epoch   string
	CBOR    []byte
}

const reportSelect = `
select 'at://' || p.did || '/org.city-sync.ledger.epochReport/' || p.rkey as uri, p.cid, p.did, p.book, p.epoch, v.cbor,
	case when p.did <> coalesce((select ledger from city where did = @city and rkey = 'self'), '') then '` + NotTheLedger + `'
		when exists (select from epoch_report n where n.did = p.did and n.supersedes = 'at://' || p.did || '/org.city-sync.ledger.epochReport/' || p.rkey)
		then '` + Superseded + `' else '' end as refused
from epoch_report p
join record_version v on v.did = p.did and v.coll = 'org.city-sync.ledger.epochReport' and v.rkey = p.rkey and v.cid = p.cid and v.cbor is not null`

// Reports lists the reports on epochs of a book, or of all books when it is "", by at-uri.
func (db *DB) Reports(ctx context.Context, book string, page Page) ([]Report, string, error) {
	keys, err := parseCursor(page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	rows, err := list[Report](ctx, db, "reports", `select * from (`+reportSelect+`) p
where (@book = '' or book = @book) and uri > @after order by uri limit @limit`,
		pgx.NamedArgs{"city": db.city, "book": book, "after": keys[0], "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(r Report) []string { return []string{r.URI} })
	for i := range rows {
		if err := db.judge(ctx, &rows[i]); err != nil {
			return nil, "", err
		}
	}
	return rows, next, nil
}

// maxReports bounds what one epoch's page lists. The ledger writes one and its corrections.
const maxReports = 20

// EpochReports lists the reports on one epoch: the one that counts first.
func (db *DB) EpochReports(ctx context.Context, book, epoch string) ([]Report, error) {
	rows, err := list[Report](ctx, db, "reports", `select * from (`+reportSelect+`) p
where book = @book and epoch = @epoch order by refused, uri limit @limit`,
		pgx.NamedArgs{"city": db.city, "book": book, "epoch": epoch, "limit": maxReports})
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if err := db.judge(ctx, &rows[i]); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// judge reads the record and holds its months against the log's.
func (db *DB) judge(ctx context.Context, r *Report) error {
	r.Record = new(citysync.LedgerEpochReport)
	if err := r.Record.UnmarshalCBOR(bytes.NewReader(r.CBOR)); err != nil {
		return fmt.Errorf("report %s: %w", r.URI, err)
	}
	if r.Refused != "" {
		return nil
	}
	same, err := db.sameMonths(ctx, r.Record)
	if err == nil && !same {
		r.Refused = DiffersFromLog
	}
	return err
}

func (db *DB) sameMonths(ctx context.Context, r *citysync.LedgerEpochReport) (bool, error) {
	d, err := db.EpochDetail(ctx, r.Book, r.Epoch)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case len(r.Months) > len(d.Months) || d.CapEpoch != r.Cap || d.CapacityMonth != r.Capacity:
		return false, nil
	}
	for i, p := range r.Months {
		m := d.Months[i]
		if m.Seq < 0 || m.Issued != p.Issued || m.Burned != p.Burned || m.Quiet != p.Quiet || m.Reactivated != p.Reactivated ||
			m.Expired != p.Expired || m.Active != p.Active || m.Dormant != p.Dormant {
			return false, nil
		}
	}
	return true, nil
}
