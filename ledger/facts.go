package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A fact is one version of a record as its author signed it.
type fact struct {
	Ord            int64
	URI, CID       string
	DID            string
	Coll, RKey     string
	Rev, Key       string
	CBOR, Evidence []byte
	Seen           time.Time
}

const factColumns = `ord, uri, cid, did, coll, rkey, rev, key, cbor, evidence, seen`

// putFact keeps a version and makes it the current one of its path.
func putFact(ctx context.Context, q querier, f *fact) error {
	const insert = `insert into fact (uri, cid, did, coll, rkey, rev, key, cbor, evidence, seen)
		values (@uri, @cid, @did, @coll, @rkey, @rev, @key, @cbor, @evidence, @seen) on conflict (uri, cid) do nothing`
	if _, err := q.Exec(ctx, insert, pgx.NamedArgs{
		"uri": f.URI, "cid": f.CID, "did": f.DID, "coll": f.Coll, "rkey": f.RKey, "rev": f.Rev, "key": f.Key,
		"cbor": f.CBOR, "evidence": f.Evidence, "seen": f.Seen,
	}); err != nil {
		return fmt.Errorf("keep fact %s: %w", f.URI, err)
	}
	return setCurrent(ctx, q, f.DID, f.Coll, f.RKey, &f.CID, f.Rev)
}

// setCurrent points a path at a version, or at nothing when cid is nil.
func setCurrent(ctx context.Context, q querier, did, coll, rkey string, cid *string, rev string) error {
	const upsert = `insert into current (did, coll, rkey, cid, rev) values ($1, $2, $3, $4, $5)
		on conflict (did, coll, rkey) do update set cid = excluded.cid, rev = excluded.rev where current.rev <= excluded.rev`
	if _, err := q.Exec(ctx, upsert, did, coll, rkey, cid, rev); err != nil {
		return fmt.Errorf("current version of %s/%s/%s: %w", did, coll, rkey, err)
	}
	return nil
}

// getFact returns nil when the version was never seen.
func getFact(ctx context.Context, q querier, uri, cid string) (*fact, error) {
	return oneFact(ctx, q, `select `+factColumns+` from fact where uri = $1 and cid = $2`, uri, cid)
}

// currentFact returns the version that stands at a path, nil when there is none.
func currentFact(ctx context.Context, q querier, did, coll, rkey string) (*fact, error) {
	return oneFact(ctx, q, `select `+factColumns+` from fact
		where (uri, cid) = (select 'at://' || did || '/' || coll || '/' || rkey, cid from current where did = $1 and coll = $2 and rkey = $3)`,
		did, coll, rkey)
}

func oneFact(ctx context.Context, q querier, sql string, args ...any) (*fact, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("fact %v: %w", args, err)
	}
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[fact])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fact %v: %w", args, err)
	}
	return &f, nil
}

// currentIn lists the versions that stand in a collection, of one author or (did empty) of all, in the order they were seen.
func currentIn(ctx context.Context, q querier, did, coll string) ([]fact, error) {
	const list = `select ` + factColumns + ` from fact f
		where f.coll = $2 and ($1 = '' or f.did = $1)
		  and exists (select from current c where c.did = f.did and c.coll = f.coll and c.rkey = f.rkey and c.cid = f.cid)
		order by ord`
	rows, err := q.Query(ctx, list, did, coll)
	if err != nil {
		return nil, fmt.Errorf("current records of %s: %w", coll, err)
	}
	facts, err := pgx.CollectRows(rows, pgx.RowToStructByName[fact])
	if err != nil {
		return nil, fmt.Errorf("current records of %s: %w", coll, err)
	}
	return facts, nil
}

// Statuses of a record, as ledger.explain answers them.
const (
	statusWaiting  = "waiting"
	statusAccepted = "accepted"
	statusClaimed  = "claimed"
	statusMinted   = "minted"
	statusRefused  = "refused"
)

// status is what the ledger says about one version of a record.
type status struct {
	URI, CID string
	Status   string
	Name     string
	Message  string
	Figures  string // JSON, empty when there are none
	Wants    []string
	Seq      *int64
	At       time.Time
}

const statusColumns = `uri, cid, status, name, message, figures, wants, seq, at`

func putStatus(ctx context.Context, q querier, s *status) error {
	const upsert = `insert into status (` + statusColumns + `)
		values (@uri, @cid, @status, @name, @message, @figures, @wants, @seq, @at)
		on conflict (uri, cid) do update set status = excluded.status, name = excluded.name, message = excluded.message,
		figures = excluded.figures, wants = excluded.wants, seq = excluded.seq, at = excluded.at`
	wants := s.Wants
	if wants == nil {
		wants = []string{}
	}
	if _, err := q.Exec(ctx, upsert, pgx.NamedArgs{
		"uri": s.URI, "cid": s.CID, "status": s.Status, "name": s.Name, "message": s.Message, "figures": s.Figures,
		"wants": wants, "seq": s.Seq, "at": s.At,
	}); err != nil {
		return fmt.Errorf("status of %s: %w", s.URI, err)
	}
	return nil
}

// getStatus returns nil when nothing is known. Without a CID it is the version seen last.
func getStatus(ctx context.Context, q querier, uri, cid string) (*status, error) {
	const sql = `select s.uri, s.cid, s.status, s.name, s.message, s.figures, s.wants, s.seq, s.at
		from status s left join fact f using (uri, cid)
		where s.uri = $1 and ($2 = '' or s.cid = $2) order by f.ord desc nulls last limit 1`
	rows, err := q.Query(ctx, sql, uri, cid)
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", uri, err)
	}
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[status])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", uri, err)
	}
	return &s, nil
}

// figuresJSON writes a refusal's figures. Strangers' text in them is escaped by JSON, so that it is always storable.
func figuresJSON(figures map[string]any) (string, error) {
	if len(figures) == 0 {
		return "", nil
	}
	b, err := json.Marshal(figures)
	if err != nil {
		return "", fmt.Errorf("figures: %w", err)
	}
	return string(b), nil
}

// Bounds on what waits for its parents. Beyond them a record is refused ParentMissing at once, or when its time is over.
const (
	maxWaitingPerWant   = 1000 // for one record of a stranger
	maxWaitingPerAuthor = 500
	maxWaiting          = 100_000
	maxWant             = 512 // bytes; no leaf cites a longer uri
	waitingFor          = 72 * time.Hour
)

type waiter struct{ URI, CID string }

// wait notes that a version waits for others, and tells whether there was room for it. What waits for ours, the city's records or the
// opening of an epoch, is bounded in all only: a city's whole history may arrive before its first record.
func wait(ctx context.Context, q querier, f *fact, wants []string, ours func(want string) bool) (bool, error) {
	type bound struct {
		sql  string
		arg  any
		most int64
	}
	bounds := []bound{{`select count(*) from (select from waiting limit $1) w`, maxWaiting, maxWaiting}}
	for _, want := range wants {
		if len(want) > maxWant {
			return false, nil
		}
		if !ours(want) {
			bounds = append(bounds,
				bound{`select count(*) from waiting where wants = $1`, want, maxWaitingPerWant},
				bound{`select count(*) from waiting where did = $1`, f.DID, maxWaitingPerAuthor})
		}
	}
	for _, c := range bounds {
		var n int64
		if err := q.QueryRow(ctx, c.sql, c.arg).Scan(&n); err != nil {
			return false, fmt.Errorf("count what waits: %w", err)
		}
		if n >= c.most {
			return false, nil
		}
	}
	for _, want := range wants {
		const insert = `insert into waiting (wants, uri, cid, did, ord, until) values ($1, $2, $3, $4, $5, $6) on conflict do nothing`
		if _, err := q.Exec(ctx, insert, want, f.URI, f.CID, f.DID, f.Ord, f.Seen.Add(waitingFor)); err != nil {
			return false, fmt.Errorf("wait of %s: %w", f.URI, err)
		}
	}
	return true, nil
}

// wake takes out who waited for any of these, in the order they were seen.
func wake(ctx context.Context, q querier, arrived []string) ([]waiter, error) {
	const sql = `select uri, cid from waiting where wants = any($1) group by uri, cid order by min(ord)`
	rows, err := q.Query(ctx, sql, arrived)
	if err != nil {
		return nil, fmt.Errorf("wake: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[waiter])
	if err != nil {
		return nil, fmt.Errorf("wake: %w", err)
	}
	for _, w := range found {
		if err := stopWaiting(ctx, q, w.URI, w.CID); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func stopWaiting(ctx context.Context, q querier, uri, cid string) error {
	if _, err := q.Exec(ctx, `delete from waiting where uri = $1 and cid = $2`, uri, cid); err != nil {
		return fmt.Errorf("end the wait of %s: %w", uri, err)
	}
	return nil
}
