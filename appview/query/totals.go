package query

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
)

// Totals are the figures of the epoch opened last, in whole credits, summed from the ledger's log up to LogSize.
type Totals struct {
	Book           string
	Epoch          string
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
	Supply         int64
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

// Totals sums the epoch opened last, or answers ErrNotFound before the first.
func (db *DB) Totals(ctx context.Context) (Totals, error) {
	var t Totals
	err := pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var err error
		t, err = totals(ctx, tx)
		return err
	})
	return t, err
}

func totals(ctx context.Context, tx pgx.Tx) (Totals, error) {
	var t Totals
	var leaf, root []byte
	err := tx.QueryRow(ctx, "select seq, leaf from log_entry where kind = 'epochOpen' order by seq desc limit 1").Scan(&t.OpenSeq, &leaf)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, fmt.Errorf("open epoch: %w", ErrNotFound)
	}
	if err != nil {
		return t, fmt.Errorf("open epoch: %w", err)
	}
	e, err := entry.Decode(leaf)
	if err != nil {
		return t, fmt.Errorf("entry %d: %w", t.OpenSeq, err)
	}
	open := e.EpochOpen
	t.Book, t.Epoch, t.CapacityMonth, t.CapEpoch, t.CapUnallocated, t.BoundBy = e.Book, e.Epoch, open.Capacity, open.Cap, open.Unallocated, open.BoundBy
	if t.StartsAt, err = entry.ParseTime(open.StartsAt); err != nil {
		return t, fmt.Errorf("entry %d: %w", t.OpenSeq, err)
	}
	if t.EndsAt, err = entry.ParseTime(open.EndsAt); err != nil {
		return t, fmt.Errorf("entry %d: %w", t.OpenSeq, err)
	}
	if err := tx.QueryRow(ctx, "select size, root from log_head").Scan(&t.LogSize, &root); err != nil {
		return t, fmt.Errorf("log head: %w", err)
	}
	t.LogRoot = base64.StdEncoding.EncodeToString(root)

	rows, err := tx.Query(ctx, `
with epoch as (select * from log_entry where book = @book and epoch = @epoch),
	first as (select distinct on (task_uri) org, amount from epoch where kind = 'reserve' order by task_uri, seq),
	sums as (
		select org, amount as reserved, 0::bigint as minted, 0::bigint as votes, 0::bigint as burned from first
		union all select org, 0, amount, votes, 0 from epoch where kind = 'mint'
		union all select '', 0, 0, 0, amount from epoch where kind = 'burn')
select org, sum(reserved)::bigint, sum(minted)::bigint, sum(votes)::bigint, sum(burned)::bigint from sums group by org`,
		pgx.NamedArgs{"book": t.Book, "epoch": t.Epoch})
	if err != nil {
		return t, fmt.Errorf("sum epoch: %w", err)
	}
	shares := map[string]IssuerTotals{}
	var org string
	var reserved, minted, votes, burned int64
	if _, err := pgx.ForEachRow(rows, []any{&org, &reserved, &minted, &votes, &burned}, func() error {
		t.Reserved, t.Minted, t.Votes, t.Burned = t.Reserved+reserved, t.Minted+minted, t.Votes+votes, t.Burned+burned
		shares[org] = IssuerTotals{Reserved: reserved, Minted: minted}
		return nil
	}); err != nil {
		return t, fmt.Errorf("sum epoch: %w", err)
	}
	t.Supply = t.Minted - t.Burned

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
