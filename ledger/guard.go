package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
)

// writeGuards repeats in SQL, with CHECKs, what the rules decided in memory: caps, allocations, balances, links. A failure here is
// never a refusal: the batch ends, and with it the process.
func writeGuards(ctx context.Context, b *batch) error {
	g := guards{queue: new(pgx.Batch), issued: map[allotment]int64{}, caps: map[allotment]int64{}}
	for _, s := range b.entries {
		if err := g.add(s.entry); err != nil {
			return err
		}
	}
	g.flush()
	if g.queue.Len() == 0 {
		return nil
	}
	results := b.tx.SendBatch(ctx, g.queue)
	for _, want := range g.rows {
		tag, err := results.Exec()
		if err == nil && tag.RowsAffected() != want {
			err = broken("a guard touched %d rows, not %d", tag.RowsAffected(), want)
		}
		if err != nil {
			_ = results.Close() // the first error counts
			return fmt.Errorf("guards: %w", err)
		}
	}
	return results.Close()
}

// guards are the statements of a batch. What all mints of a batch change alike is summed up first: hundreds of updates of one row in
// one transaction each walk over the versions before them.
type guards struct {
	queue        *pgx.Batch
	rows         []int64 // that each statement must touch
	accounts     [][]byte
	seqs         []int64
	issued, caps map[allotment]int64
}

type allotment struct{ book, epoch, issuer string }

func (g *guards) exec(rows int64, sql string, args ...any) {
	g.queue.Queue(sql, args...)
	g.rows = append(g.rows, rows)
}

// flush queues the sums. Epochs that open in this batch are queued before.
func (g *guards) flush() {
	if len(g.seqs) > 0 {
		g.exec(int64(len(g.seqs)), `insert into account_entry (account, seq) select * from unnest($1::bytea[], $2::bigint[])`, g.accounts, g.seqs)
	}
	for k, n := range g.caps {
		g.exec(1, `update cap_guard set issued = issued + $3 where book = $1 and epoch = $2`, k.book, k.epoch, n)
	}
	for k, n := range g.issued {
		g.exec(1, `update allocation_guard set issued = issued + $4 where book = $1 and epoch = $2 and issuer = $3`, k.book, k.epoch, k.issuer, n)
	}
}

func (g *guards) add(e *entry.Entry) error {
	if e.Sealed != nil && e.Sealed.Account != (entry.Account{}) {
		g.accounts, g.seqs = append(g.accounts, e.Sealed.Account[:]), append(g.seqs, e.Seq)
	}
	switch e.Kind {
	case entry.KindActivate:
		if e.Sealed == nil {
			return broken("activation %d without its sealed part", e.Seq)
		}
		g.exec(1, `insert into account (id, seq) values ($1, $2)`, e.Sealed.Account[:], e.Seq)
		g.exec(1, `insert into account_link (did, account) values ($1, $2)`, e.Sealed.Resident.String(), e.Sealed.Account[:])
	case entry.KindEpochOpen:
		g.exec(1, `insert into cap_guard (book, epoch, cap) values ($1, $2, $3)`, e.Book, e.Epoch, e.EpochOpen.Cap)
		for _, a := range e.EpochOpen.Allocations {
			g.exec(1, `insert into allocation_guard (book, epoch, issuer, allocation) values ($1, $2, $3, $4)`,
				e.Book, e.Epoch, a.DID.String(), a.Amount)
		}
	case entry.KindMint:
		if e.Sealed == nil {
			return broken("mint %d without its sealed part", e.Seq)
		}
		g.caps[allotment{e.Book, e.Epoch, ""}] += e.Amount
		g.issued[allotment{e.Book, e.Epoch, e.Org.String()}] += e.Amount
		g.exec(1, `insert into balance (account, book, credits, votes) values ($1, $2, $3, $4) on conflict (account, book)
			do update set credits = balance.credits + excluded.credits, votes = balance.votes + excluded.votes`,
			e.Sealed.Account[:], e.Book, e.Amount, e.Votes)
	case entry.KindBurn:
		if e.Sealed == nil {
			return broken("burn %d without its sealed part", e.Seq)
		}
		g.exec(1, `update balance set credits = credits - $3 where account = $1 and book = $2`,
			e.Sealed.Account[:], e.Book, e.Amount)
	}
	return nil
}
