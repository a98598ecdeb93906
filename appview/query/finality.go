package query

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Finality says how final the log is: committed is what the signed checkpoint holds, cosigned what one with a quorum of witnesses holds.
type Finality struct {
	Size     int64
	Root     string    // base64
	Policy   bool      // the log binds a policy, so that witnesses can count
	Cosigned *Cosigned // nil before a checkpoint had a quorum
}

// Cosigned is the newest checkpoint with a quorum.
type Cosigned struct {
	Size      int64
	At        time.Time // when the quorum was complete, by the witnesses' own clocks
	Witnesses []Witness // that signed it
	Members   int64     // witnesses that the policy knows
}

// Witness is an institution's key that the log names.
type Witness struct {
	Key  string // signed-note verifier key
	Org  string // DID, or "" for one that the log does not name
	Name string // of the organization, or ""
}

// Entry says how final the entry at seq is: cosigned | committed | unknown.
func (f Finality) Entry(seq int64) string {
	switch {
	case seq < 0 || seq >= f.Size:
		return "unknown"
	case f.Cosigned != nil && seq < f.Cosigned.Size:
		return "cosigned"
	}
	return "committed"
}

// Finality gives what the log reader checked last, or ErrNotFound before it read anything.
func (db *DB) Finality(ctx context.Context) (Finality, error) {
	var f Finality
	var root []byte
	err := db.pool.QueryRow(ctx, `
select size, root, exists (select from log_entry where kind = 'bind' and what = 'policy') from log_head`).Scan(&f.Size, &root, &f.Policy)
	if errors.Is(err, pgx.ErrNoRows) {
		return f, fmt.Errorf("log head: %w", ErrNotFound)
	}
	if err != nil {
		return f, fmt.Errorf("log head: %w", err)
	}
	f.Root = base64.StdEncoding.EncodeToString(root)
	var c Cosigned
	var keys []string
	err = db.pool.QueryRow(ctx, "select size, at, witnesses, members from log_cosigned").Scan(&c.Size, &c.At, &keys, &c.Members)
	if errors.Is(err, pgx.ErrNoRows) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("cosigned head: %w", err)
	}
	c.Witnesses, err = list[Witness](ctx, db, "witnesses", `
select k.key, coalesce(b.org, '') as org, coalesce(o.name, '') as name
from unnest(@keys::text[]) with ordinality k(key, place)
left join lateral (select org from log_entry where kind = 'bind' and what = 'witness' and subject = k.key order by seq desc limit 1) b on true
left join organization o on o.did = b.org and o.rkey = 'self'
order by k.place`, pgx.NamedArgs{"keys": keys})
	f.Cosigned = &c
	return f, err
}
