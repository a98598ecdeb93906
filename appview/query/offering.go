package query

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Offering is a redeemer's offering with what the ledger's log says of it.
type Offering struct {
	URI              string
	CID              string
	DID              string // the redeemer
	RedeemerName     string
	Title            string
	Summary          string
	Epoch            string
	Book             string
	CreditsPerUnit   int64
	UnitLabel        string
	CommittedMonth   int64  // units
	PublicPriceMinor *int64 // nil when the redeemer stated none
	Currency         string
	Status           string // live | paused | ended, as the redeemer says
	Counted          bool   // its capacity is in the open epoch's C
	Burns            int64
	Burned           int64 // credits
}

const offeringSelect = `
select 'at://' || f.did || '/org.city-sync.offer.offering/' || f.rkey as uri, f.cid, f.did, coalesce(o.name, '') as redeemer_name, f.title, f.summary,
	f.epoch, f.book, f.credits_per_unit, f.unit_label, f.committed_month, f.public_price_minor, f.currency, coalesce(s.status, 'live') as status,
	coalesce(n.counted, false) as counted, coalesce(n.burns, 0) as burns, coalesce(n.burned, 0)::bigint as burned
from offering f
left join organization o on o.did = f.did and o.rkey = 'self'
left join offering_status s on s.did = f.did and s.rkey = f.rkey
left join lateral (
	select bool_or(l.kind = 'epochOpen') as counted,
		count(*) filter (where b.amount > 0) as burns, sum(b.amount) as burned
	from log_cause c join log_entry l using (seq)
	left join lateral (
		select l.amount - coalesce((select sum(r.amount) from log_entry r where r.refers = l.seq and r.kind = 'reverse'), 0) as amount
		where l.kind in ('burn', 'capture')
	) b on true
	where c.uri = 'at://' || f.did || '/org.city-sync.offer.offering/' || f.rkey
) n on true`

// Offerings lists offerings by at-uri. redeemer narrows to one DID, or is "".
func (db *DB) Offerings(ctx context.Context, redeemer string, page Page) ([]Offering, string, error) {
	keys, err := parseCursor(page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	rows, err := list[Offering](ctx, db, "offerings", `select * from (`+offeringSelect+`) f
where (@redeemer = '' or did = @redeemer) and uri > @after order by uri limit @limit`,
		pgx.NamedArgs{"redeemer": redeemer, "after": keys[0], "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(o Offering) []string { return []string{o.URI} })
	return rows, next, nil
}

// Offering gives one offering by at-uri, or ErrNotFound.
func (db *DB) Offering(ctx context.Context, uri string) (Offering, error) {
	return one[Offering](ctx, db, "offering", `select * from (`+offeringSelect+`) f where uri = @uri`, pgx.NamedArgs{"uri": uri})
}
