package query

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
)

// Epoch is one epoch of a book that was opened.
type Epoch struct {
	Book     string
	Epoch    string
	Phase    string
	StartsAt time.Time
	EndsAt   time.Time
	OpenSeq  int64
	Closed   bool
}

// Epochs lists the epochs that were opened, newest first.
func (db *DB) Epochs(ctx context.Context) ([]Epoch, error) {
	rows, err := db.pool.Query(ctx, `
select o.leaf, exists (select from log_entry c where c.kind = 'epochClose' and c.book = o.book and c.epoch = o.epoch) as closed
from log_entry o where o.kind = 'epochOpen' order by o.seq desc limit @limit`, pgx.NamedArgs{"limit": maxOpened})
	if err != nil {
		return nil, fmt.Errorf("query epochs: %w", err)
	}
	var out []Epoch
	var leaf []byte
	var closed bool
	_, err = pgx.ForEachRow(rows, []any{&leaf, &closed}, func() error {
		e, err := entry.Decode(leaf)
		if err != nil {
			return err
		}
		ep := Epoch{Book: e.Book, Epoch: e.Epoch, Phase: e.EpochOpen.Phase, OpenSeq: e.Seq, Closed: closed}
		if ep.StartsAt, err = entry.ParseTime(e.EpochOpen.StartsAt); err != nil {
			return err
		}
		if ep.EndsAt, err = entry.ParseTime(e.EpochOpen.EndsAt); err != nil {
			return err
		}
		out = append(out, ep)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("query epochs: %w", err)
	}
	return out, nil
}

// Month is one month of a book's epoch: flows, and the stock at its end.
type Month struct {
	entry.MonthFlow
	StartsAt time.Time
	EndsAt   time.Time
	Seq      int64 // of the entry that closed it; -1 while it is open, and then there is no stock yet
}

// EpochDetail is all that the log says of one epoch of a book.
type EpochDetail struct {
	Totals
	Open   *entry.EpochOpen
	Months []Month // closed ones, then the open one with its flows so far
	Close  *entry.EpochClose
	// CloseSeq is the entry that closed it; -1 while it is open.
	CloseSeq int64
}

// EpochDetail gives one epoch of a book, or ErrNotFound where it never opened.
func (db *DB) EpochDetail(ctx context.Context, book, epoch string) (EpochDetail, error) {
	d := EpochDetail{CloseSeq: -1}
	err := pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		open, err := opened(ctx, tx, "where kind = 'epochOpen' and book = @book and epoch = @epoch", book, epoch)
		if err != nil {
			return err
		}
		d.Open = open.EpochOpen
		if d.Totals, err = totals(ctx, tx, open); err != nil {
			return err
		}
		return d.months(ctx, tx)
	})
	return d, err
}

func (d *EpochDetail) months(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `
select leaf from log_entry where kind in ('dormant', 'epochClose') and book = @book and epoch = @epoch order by seq limit @limit`,
		pgx.NamedArgs{"book": d.Book, "epoch": d.Epoch, "limit": maxOpened})
	if err != nil {
		return fmt.Errorf("months: %w", err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return fmt.Errorf("months: %w", err)
	}
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		if err != nil {
			return fmt.Errorf("months: %w", err)
		}
		if e.EpochClose != nil {
			d.Close, d.CloseSeq = e.EpochClose, e.Seq
			continue
		}
		m := e.Dormant
		month := Month{Seq: e.Seq, MonthFlow: entry.MonthFlow{Issued: m.Issued, Burned: m.Burned, Quiet: e.Amount, Reactivated: m.Reactivated,
			Expired: m.Expired, Active: m.Active, Dormant: m.Dormant}}
		if month.StartsAt, err = entry.ParseTime(m.StartsAt); err != nil {
			return fmt.Errorf("entry %d: %w", e.Seq, err)
		}
		if month.EndsAt, err = entry.ParseTime(m.EndsAt); err != nil {
			return fmt.Errorf("entry %d: %w", e.Seq, err)
		}
		d.Months = append(d.Months, month)
	}
	if d.Close != nil && len(d.Close.Months) == len(d.Months) { // what was erased later is in the closing's months only
		for i := range d.Months {
			d.Months[i].MonthFlow = d.Close.Months[i]
		}
	}
	if d.Close != nil || len(d.Months) >= len(d.Open.Months) {
		return nil
	}
	return d.openMonth(ctx, tx)
}

// openMonth adds the flows since the book's last month was closed. Who went dormant and who came back is told when it closes.
func (d *EpochDetail) openMonth(ctx context.Context, tx pgx.Tx) error {
	bounds := d.Open.Months[len(d.Months)]
	m := Month{Seq: -1}
	var err error
	if m.StartsAt, err = entry.ParseTime(bounds.StartsAt); err != nil {
		return fmt.Errorf("entry %d: %w", d.OpenSeq, err)
	}
	if m.EndsAt, err = entry.ParseTime(bounds.EndsAt); err != nil {
		return fmt.Errorf("entry %d: %w", d.OpenSeq, err)
	}
	err = tx.QueryRow(ctx, `
with month as (select kind, what, amount from log_entry where book = @book
	and seq > coalesce((select max(seq) from log_entry where kind = 'dormant' and book = @book), -1))
select coalesce(sum(case when kind = 'mint' then amount when kind = 'reverse' and what = 'mint' then -amount end), 0)::bigint,
	coalesce(sum(case when kind in ('burn', 'capture') then amount when kind = 'reverse' and what in ('burn', 'capture') then -amount end), 0)::bigint,
	coalesce(sum(amount) filter (where kind = 'expire'), 0)::bigint
from month`, pgx.NamedArgs{"book": d.Book}).Scan(&m.Issued, &m.Burned, &m.Expired)
	if err != nil {
		return fmt.Errorf("open month: %w", err)
	}
	// What is reversed after its month was closed counts as the opposite flow, as in the ledger's own rules.
	if m.Issued < 0 {
		m.Burned, m.Issued = m.Burned-m.Issued, 0
	}
	if m.Burned < 0 {
		m.Issued, m.Burned = m.Issued-m.Burned, 0
	}
	d.Months = append(d.Months, m)
	return nil
}
