package query

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
)

// Totals are the figures of one epoch of a book, in whole credits, summed from the ledger's log up to LogSize.
type Totals struct {
	Book           string
	Epoch          string
	Phase          string // launch | steady | event
	StartsAt       time.Time
	EndsAt         time.Time
	OpenSeq        int64 // of the epochOpen entry
	CapacityMonth  int64
	CapEpoch       int64
	CapUnallocated int64
	BoundBy        string
	Reserved       int64 // by accepted tasks when first published
	Minted         int64
	Votes          int64
	Burned         int64
	Held           int64 // put aside for a counter, neither burned nor given back; people still have it
	Expired        int64
	Supply         int64 // minted, neither burned nor expired
	Issuers        []IssuerTotals
	LogSize        int64
	LogRoot        string // base64
}

// IssuerTotals are one issuer's share of the figures.
type IssuerTotals struct {
	DID        string
	Name       string
	Allocation int64
	Reserved   int64
	Minted     int64
}

// Totals sums the epoch of a standard book that was opened last, or answers ErrNotFound before the first.
func (db *DB) Totals(ctx context.Context) (Totals, error) {
	return db.totals(ctx, "where kind = 'epochOpen' order by seq desc", "", "")
}

// EpochTotals sums one epoch of one book, or answers ErrNotFound where it never opened.
func (db *DB) EpochTotals(ctx context.Context, book, epoch string) (Totals, error) {
	return db.totals(ctx, "where kind = 'epochOpen' and book = @book and epoch = @epoch", book, epoch)
}

func (db *DB) totals(ctx context.Context, which, book, epoch string) (Totals, error) {
	var t Totals
	err := pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		open, err := opened(ctx, tx, which, book, epoch)
		if err != nil {
			return err
		}
		t, err = totals(ctx, tx, open)
		return err
	})
	return t, err
}

// maxOpened bounds the epochs looked at: some per year.
const maxOpened = 1000

// opened gives the first of the opening entries asked for; of an event only when it is asked for by name.
func opened(ctx context.Context, tx pgx.Tx, which, book, epoch string) (*entry.Entry, error) {
	rows, err := tx.Query(ctx, "select leaf from log_entry "+which+" limit @limit", pgx.NamedArgs{"book": book, "epoch": epoch, "limit": maxOpened})
	if err != nil {
		return nil, fmt.Errorf("open epoch: %w", err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("open epoch: %w", err)
	}
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		if err != nil {
			return nil, fmt.Errorf("open epoch: %w", err)
		}
		if book != "" || e.EpochOpen.Phase != entry.PhaseEvent {
			return e, nil
		}
	}
	return nil, fmt.Errorf("open epoch: %w", ErrNotFound)
}

// sumEpoch sums an epoch by organization. A capture burns what was held; what is reversed counts back where it was counted, and a void gives
// back what was held.
const sumEpoch = `
with epoch as (select * from log_entry where book = @book and epoch = @epoch),
	first as (select distinct on (task_uri) org, amount from epoch where kind = 'reserve' order by task_uri, seq),
	sums as (
		select org, amount as reserved, 0::bigint as minted, 0::bigint as votes, 0::bigint as burned, 0::bigint as held, 0::bigint as expired from first
		union all select org, 0, amount, votes, 0, 0, 0 from epoch where kind = 'mint'
		union all select t.org, 0, -r.amount, -r.votes, 0, 0, 0 from epoch t join log_entry r on r.refers = t.seq where r.kind = 'reverse' and t.kind = 'mint'
		union all select '', 0, 0, 0, amount, 0, 0 from epoch where kind in ('burn', 'capture')
		union all select '', 0, 0, 0, -r.amount, 0, 0 from epoch t join log_entry r on r.refers = t.seq where r.kind = 'reverse' and t.kind in ('burn', 'capture')
		union all select '', 0, 0, 0, 0, amount, 0 from epoch where kind = 'hold'
		union all select '', 0, 0, 0, 0, -r.amount, 0 from epoch t join log_entry r on r.refers = t.seq where r.kind in ('capture', 'void') and t.kind = 'hold'
		union all select '', 0, 0, 0, 0, 0, amount from epoch where kind = 'expire')
select org, sum(reserved)::bigint, sum(minted)::bigint, sum(votes)::bigint, sum(burned)::bigint, sum(held)::bigint, sum(expired)::bigint from sums group by org`

func totals(ctx context.Context, tx pgx.Tx, e *entry.Entry) (Totals, error) {
	open := e.EpochOpen
	t := Totals{Book: e.Book, Epoch: e.Epoch, OpenSeq: e.Seq, Phase: open.Phase, CapacityMonth: open.Capacity, CapEpoch: open.Cap,
		CapUnallocated: open.Unallocated, BoundBy: open.BoundBy}
	var err error
	if t.StartsAt, err = entry.ParseTime(open.StartsAt); err != nil {
		return t, fmt.Errorf("entry %d: %w", t.OpenSeq, err)
	}
	if t.EndsAt, err = entry.ParseTime(open.EndsAt); err != nil {
		return t, fmt.Errorf("entry %d: %w", t.OpenSeq, err)
	}
	var root []byte
	if err := tx.QueryRow(ctx, "select size, root from log_head").Scan(&t.LogSize, &root); err != nil {
		return t, fmt.Errorf("log head: %w", err)
	}
	t.LogRoot = base64.StdEncoding.EncodeToString(root)

	rows, err := tx.Query(ctx, sumEpoch, pgx.NamedArgs{"book": t.Book, "epoch": t.Epoch})
	if err != nil {
		return t, fmt.Errorf("sum epoch: %w", err)
	}
	shares := map[string]IssuerTotals{}
	var org string
	var reserved, minted, votes, burned, held, expired int64
	if _, err := pgx.ForEachRow(rows, []any{&org, &reserved, &minted, &votes, &burned, &held, &expired}, func() error {
		t.Reserved, t.Minted, t.Votes = t.Reserved+reserved, t.Minted+minted, t.Votes+votes
		t.Burned, t.Held, t.Expired = t.Burned+burned, t.Held+held, t.Expired+expired
		shares[org] = IssuerTotals{Reserved: reserved, Minted: minted}
		return nil
	}); err != nil {
		return t, fmt.Errorf("sum epoch: %w", err)
	}
	t.Supply = t.Minted - t.Burned - t.Expired

	names, err := organizationNames(ctx, tx, open.Allocations)
	if err != nil {
		return t, err
	}
	for _, a := range open.Allocations {
		s := shares[a.DID.String()]
		s.DID, s.Allocation, s.Name = a.DID.String(), a.Amount, names[a.DID.String()]
		t.Issuers = append(t.Issuers, s)
	}
	return t, nil
}

func organizationNames(ctx context.Context, tx pgx.Tx, allocations []entry.Allocation) (map[string]string, error) {
	dids := make([]string, len(allocations))
	for i, a := range allocations {
		dids[i] = a.DID.String()
	}
	rows, err := tx.Query(ctx, "select did, name from organization where rkey = 'self' and did = any(@dids)", pgx.NamedArgs{"dids": dids})
	if err != nil {
		return nil, fmt.Errorf("names: %w", err)
	}
	names := map[string]string{}
	var did, name string
	if _, err := pgx.ForEachRow(rows, []any{&did, &name}, func() error { names[did] = name; return nil }); err != nil {
		return nil, fmt.Errorf("names: %w", err)
	}
	return names, nil
}
