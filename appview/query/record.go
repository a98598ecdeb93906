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
	DID       string
	Coll      string
	RKey      string
	CID       string
	Rev       string
	CBOR      []byte // the original bytes; nil when the account was deleted
	Seen      time.Time
	Current   bool   // the author's repository still holds this version
	Withdrawn bool   // the author's repository holds no version of this record any more
	Invalid   string // why it does not follow its schema, or ""
}

// URI is the record's at-uri.
func (r Record) URI() string { return "at://" + r.DID + "/" + r.Coll + "/" + r.RKey }

// Record gives the version cid of the record at uri, or its newest when cid is "". A withdrawn record still opens while its cid is known;
// one of an account that is not active at the moment does not.
func (db *DB) Record(ctx context.Context, uri, cid string) (Record, error) {
	did, coll, rkey, err := splitURI(uri)
	if err != nil {
		return Record{}, err
	}
	return one[Record](ctx, db, "record "+uri, `
select v.did, v.coll, v.rkey as r_key, v.cid, v.rev, v.cbor, v.seen, coalesce(r.cid = v.cid, false) as current, r.cid is null as withdrawn,
	coalesce(r.invalid, '') as invalid
from record_version v join record r using (did, coll, rkey) left join repo p using (did)
where v.did = @did and v.coll = @coll and v.rkey = @rkey and (@cid = '' or v.cid = @cid) and coalesce(p.status, 'active') in ('active', 'deleted')
order by v.rev desc limit 1`, pgx.NamedArgs{"did": did, "coll": coll, "rkey": rkey, "cid": cid})
}

// Citation is an entry of the log that rests on a record.
type Citation struct {
	Seq  int64
	Kind string
	CID  string // the version
	// Withdrawn says that the author's repository was read at least as far as the cited commit and holds no version of the record.
	Withdrawn bool
}

// maxCitations bounds what one record's page lists. An offering is cited by every redemption of it.
const maxCitations = 50

// Citations lists the first entries of the log that rest on the record at uri, in the version cid or, when that is "", in any.
func (db *DB) Citations(ctx context.Context, uri, cid string) ([]Citation, error) {
	did, coll, rkey, err := splitURI(uri)
	if err != nil {
		return nil, err
	}
	return list[Citation](ctx, db, "citations", `
select distinct l.seq, l.kind, c.cid, `+withdrawn+` as withdrawn
from log_cause c join log_entry l using (seq)
left join record r on r.did = @did and r.coll = @coll and r.rkey = @rkey
left join repo p on p.did = @did
where c.uri = @uri and (@cid = '' or c.cid = @cid)
order by l.seq limit @limit`, pgx.NamedArgs{"uri": uri, "cid": cid, "did": did, "coll": coll, "rkey": rkey, "limit": maxCitations})
}

// withdrawn says of record r in repository p, cited by c, that its author took it back. An index that began after the deletion never saw the
// record: it knows by having read the repository beyond the commit that the log cites.
const withdrawn = `(case when r.did is not null then r.cid is null else coalesce(c.rev <> '' and p.rev >= c.rev, false) end)`

func splitURI(uri string) (did, coll, rkey string, err error) {
	u, err := syntax.ParseATURI(uri)
	if err != nil || !u.Authority().IsDID() || u.RecordKey() == "" {
		return "", "", "", fmt.Errorf("%q is no record's at-uri: %w", uri, ErrNotFound)
	}
	return u.Authority().String(), u.Collection().String(), u.RecordKey().String(), nil
}
