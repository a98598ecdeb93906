package query

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Differing is a record of the ledger's that is not what its log says.
type Differing struct {
	DID, Coll, RKey, CID string
	What                 string // a line for each difference
}

// URI is the record's at-uri.
func (d Differing) URI() string { return "at://" + d.DID + "/" + d.Coll + "/" + d.RKey }

const differing = `
select d.did, d.coll, d.rkey as r_key, d.cid, d.what from log_differs d join record r using (did, coll, rkey) where r.cid = d.cid `

// DiffersFrom lists the published records that are about the entry at seq and differ from it.
func (db *DB) DiffersFrom(ctx context.Context, seq int64) ([]Differing, error) {
	return list[Differing](ctx, db, "records that differ", differing+"and d.seq = @seq order by d.did, d.coll, d.rkey limit @limit",
		pgx.NamedArgs{"seq": seq, "limit": maxCitations})
}

// Differs lists what the version cid of a record differs in from the log: nothing, or the one.
func (db *DB) Differs(ctx context.Context, r Record) ([]Differing, error) {
	return list[Differing](ctx, db, "record that differs", differing+"and d.did = @did and d.coll = @coll and d.rkey = @rkey and d.cid = @cid",
		pgx.NamedArgs{"did": r.DID, "coll": r.Coll, "rkey": r.RKey, "cid": r.CID})
}

// AllDiffering lists the records that differ from the log, the newest found first.
func (db *DB) AllDiffering(ctx context.Context) ([]Differing, error) {
	return list[Differing](ctx, db, "records that differ", differing+"order by d.at desc, d.did, d.coll, d.rkey limit @limit",
		pgx.NamedArgs{"limit": maxCitations})
}
