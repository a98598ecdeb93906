package query

import (
	"context"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/tlog"
)

// Why a published cosignature does not count.
const (
	NotAWitness      = "not-a-witness"      // the log names no witness of its author
	OtherLog         = "other-log"          // it is of another log
	NotTheCheckpoint = "not-the-checkpoint" // the ledger published no such checkpoint
	BadSignature     = "bad-signature"      // it is not the witness's signature of that checkpoint
)

// Cosignature is what an institution says that it signed, and whether it counts.
type Cosignature struct {
	URI       string
	CID       string
	DID       string
	Name      string // of the organization, or ""
	Size      int64
	Signature string
	Refused   string   // why it does not count, or ""
	Note      *string  // of the ledger's checkpoint record
	Keys      []string // that the log binds to its author
}

// maxCosignatures bounds what is listed for one checkpoint. Strangers may write any number, which come last.
const maxCosignatures = 100

// Cosignatures lists the records about the checkpoint of one size, those of witnesses first.
func (db *DB) Cosignatures(ctx context.Context, size int64) ([]Cosignature, error) {
	rows, err := list[Cosignature](ctx, db, "cosignatures", `
select 'at://' || s.did || '/org.city-sync.ledger.cosignature/' || s.rkey as uri, s.cid, s.did, coalesce(o.name, '') as name, s.size, s.signature, c.note,
	coalesce(b.keys, '{}') as keys,
	case when b.keys is null then '`+NotAWitness+`' when s.origin <> coalesce(i.log_origin, '') then '`+OtherLog+`'
		when c.note is null then '`+NotTheCheckpoint+`' else '' end as refused
from cosignature s
left join city i on i.did = @city and i.rkey = 'self'
left join organization o on o.did = s.did and o.rkey = 'self'
left join checkpoint c on c.did = i.ledger and c.size = s.size and 'at://' || c.did || '/org.city-sync.ledger.checkpoint/' || c.rkey = s.checkpoint_uri
left join lateral (select array_agg(distinct subject) as keys from log_entry where kind = 'bind' and what = 'witness' and org = s.did) b on true
where s.size = @size order by b.keys is null, s.did limit @limit`, pgx.NamedArgs{"city": db.city, "size": size, "limit": maxCosignatures})
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if rows[i].Refused == "" && !rows[i].holds() {
			rows[i].Refused = BadSignature
		}
	}
	return rows, nil
}

func (c *Cosignature) holds() bool {
	text, err := tlog.NoteText([]byte(*c.Note))
	if err != nil {
		return false
	}
	for _, key := range c.Keys {
		if _, err := tlog.CheckCosignature(c.Signature, text, key); err == nil {
			return true
		}
	}
	return false
}
