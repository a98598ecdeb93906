package query

import (
	"context"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
)

// Record is one version of a record as its author signed it.
type Record struct {
	DID     string
	Coll    string
	RKey    string
	CID     string
	Rev     string
	CBOR    []byte // the original bytes
	Seen    time.Time
	Current bool   // the author's repository still holds this version
	Invalid string // why it does not follow its schema, or ""
}

// URI is the record's at-uri.
func (r Record) URI() string { return "at://" + r.DID + "/" + r.Coll + "/" + r.RKey }

// Record gives the version cid of the record at uri, or its newest when cid is "". A withdrawn record still opens while its cid is known.
func (db *DB) Record(ctx context.Context, uri, cid string) (Record, error) {
	did, coll, rkey, err := splitURI(uri)
	if err != nil {
		return Record{}, err
	}
	return one[Record](ctx, db, "record "+uri, `
select v.did, v.coll, v.rkey as r_key, v.cid, v.rev, v.cbor, v.seen, coalesce(r.cid = v.cid, false) as current, coalesce(r.invalid, '') as invalid
from record_version v join record r using (did, coll, rkey)
where v.did = @did and v.coll = @coll and v.rkey = @rkey and (@cid = '' or v.cid = @cid)
order by v.rev desc limit 1`, pgx.NamedArgs{"did": did, "coll": coll, "rkey": rkey, "cid": cid})
}

func splitURI(uri string) (did, coll, rkey string, err error) {
	u, err := syntax.ParseATURI(uri)
	if err != nil || !u.Authority().IsDID() || u.RecordKey() == "" {
		return "", "", "", fmt.Errorf("%q is no record's at-uri: %w", uri, ErrNotFound)
	}
	return u.Authority().String(), u.Collection().String(), u.RecordKey().String(), nil
}
