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
	queue := new(pgx.Batch)
	for _, s := range b.entries {
		if err := guard(queue, s.entry); err != nil {
			return err
		}
	}
	if queue.Len() == 0 {
		return nil
	}
	results := b.tx.SendBatch(ctx, queue)
	for range queue.Len() {
		tag, err := results.Exec()
		if err == nil && tag.RowsAffected() != 1 {
			err = broken("a guard touched %d rows", tag.RowsAffected())
		}
		if err != nil {
			_ = results.Close() // the first error counts
			return fmt.Errorf("guards: %w", err)
		}
	}
	return results.Close()
}

func guard(queue *pgx.Batch, e *entry.Entry) error {
	if e.Sealed != nil && e.Sealed.Account != (entry.Account{}) {
		queue.Queue(`insert into account_entry (account, seq) values ($1, $2)`, e.Sealed.Account[:], e.Seq)
	}
	switch e.Kind {
	case entry.KindActivate:
		if e.Sealed == nil {
			return broken("activation %d without its sealed part", e.Seq)
		}
		queue.Queue(`insert into account (id, seq) values ($1, $2)`, e.Sealed.Account[:], e.Seq)
		queue.Queue(`insert into account_link (did, account) values ($1, $2)`, e.Sealed.Resident.String(), e.Sealed.Account[:])
	case entry.KindEpochOpen:
		queue.Queue(`insert into cap_guard (book, epoch, cap) values ($1, $2, $3)`, e.Book, e.Epoch, e.EpochOpen.Cap)
		for _, a := range e.EpochOpen.Allocations {
			queue.Queue(`insert into allocation_guard (book, epoch, issuer, allocation) values ($1, $2, $3, $4)`,
				e.Book, e.Epoch, a.DID.String(), a.Amount)
		}
	case entry.KindMint:
		if e.Sealed == nil {
			return broken("mint %d without its sealed part", e.Seq)
		}
		queue.Queue(`update cap_guard set issued = issued + $3 where book = $1 and epoch = $2`, e.Book, e.Epoch, e.Amount)
		queue.Queue(`update allocation_guard set issued = issued + $4 where book = $1 and epoch = $2 and issuer = $3`,
			e.Book, e.Epoch, e.Org.String(), e.Amount)
		queue.Queue(`insert into balance (account, book, credits, votes) values ($1, $2, $3, $4) on conflict (account, book)
			do update set credits = balance.credits + excluded.credits, votes = balance.votes + excluded.votes`,
			e.Sealed.Account[:], e.Book, e.Amount, e.Votes)
	case entry.KindBurn:
		if e.Sealed == nil {
			return broken("burn %d without its sealed part", e.Seq)
		}
		queue.Queue(`update balance set credits = credits - $3 where account = $1 and book = $2`,
			e.Sealed.Account[:], e.Book, e.Amount)
	}
	return nil
}
