package query

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Entry is a catalog entry: the city's copy, which counts, or an organization's draft.
type Entry struct {
	URI               string
	CID               string
	DID               string // whose repository
	Title             string
	Summary           string
	Tier              int
	CreditsPerHour    int64
	Sensitivity       string
	VerificationLevel int
	OriginURI         string // the draft behind the city's copy, or ""
	OriginCID         string
	DecisionURI       string
	Status            string // active | proposed | held | retired; draft for one in an organization's repository
}

const entrySelect = `
select 'at://' || e.did || '/org.city-sync.catalog.entry/' || e.rkey as uri, e.cid, e.did, e.title, e.summary, e.tier, e.credits_per_hour,
	e.sensitivity, e.verification_level, coalesce(e.origin_uri, '') as origin_uri, coalesce(e.origin_cid, '') as origin_cid,
	coalesce(e.decision_uri, '') as decision_uri,
	case when e.did <> @city then 'draft' else coalesce(s.status, 'active') end as status
from catalog_entry e
left join entry_status s on s.did = e.did and s.rkey = e.rkey`

// EntryFilter narrows a listing of entries; empty fields do not.
type EntryFilter struct {
	Author    string // a DID; "" means the city
	OriginURI string // the draft they were approved from
	Status    string
}

// Entries lists catalog entries by key, oldest first.
func (db *DB) Entries(ctx context.Context, f EntryFilter, page Page) ([]Entry, string, error) {
	keys, err := parseCursor(page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	author := f.Author
	if author == "" {
		author = db.city
	}
	rows, err := list[Entry](ctx, db, "entries", entrySelect+`
where e.did = @author and (@origin = '' or e.origin_uri = @origin)
	and (@status = '' or @status = case when e.did <> @city then 'draft' else coalesce(s.status, 'active') end)
	and 'at://' || e.did || '/org.city-sync.catalog.entry/' || e.rkey > @after
order by uri limit @limit`, pgx.NamedArgs{"city": db.city, "author": author, "origin": f.OriginURI, "status": f.Status,
		"after": keys[0], "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(e Entry) []string { return []string{e.URI} })
	return rows, next, nil
}

// Entry gives one entry by at-uri, or ErrNotFound.
func (db *DB) Entry(ctx context.Context, uri string) (Entry, error) {
	did, _, rkey, err := splitURI(uri)
	if err != nil {
		return Entry{}, err
	}
	return one[Entry](ctx, db, "entry", entrySelect+` where e.did = @did and e.rkey = @rkey`,
		pgx.NamedArgs{"city": db.city, "did": did, "rkey": rkey})
}
