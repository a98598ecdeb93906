package ledger

import (
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// guardsOf repeats in SQL, with CHECKs, what the rules decided in memory: caps, allocations, balances, links. A failure here is never a
// refusal: the batch ends, and with it the process.
func guardsOf(all *statements, b *batch) (*guards, error) {
	g := &guards{all: all, now: b.now, issued: map[allotment]int64{}, caps: map[allotment]int64{}, balances: map[holding]moved{}}
	for _, s := range b.entries {
		if err := g.add(s.entry, s.holder); err != nil {
			return nil, err
		}
		for _, h := range s.expired {
			g.change(h.Account, s.entry.Book, moved{credits: -h.Credits})
		}
	}
	return g, nil
}

// guards are the statements of a batch. What many entries change alike is summed up first: hundreds of updates of one row in one
// transaction each walk over the versions before them. So a CHECK sees what a batch does to a balance, not what each entry does: that a
// burn stands before the mint that pays for it, only the rules see.
type guards struct {
	all          *statements
	now          time.Time
	accounts     many // whose the entries seqs are; written with the log
	seqs         []int64
	issued, caps map[allotment]int64
	balances     map[holding]moved
	tills        []tillEntry
}

// tillEntry says what happened at a till.
type tillEntry struct {
	till, day string
	seq       int64
}

type allotment struct{ book, epoch, issuer string }

type holding struct {
	account entry.Account
	book    string
}

// moved is what a batch adds to a balance.
type moved struct{ credits, votes, aside int64 }

func (g *guards) exec(rows int64, sql string, args ...any) { g.all.add("guard", rows, sql, args...) }

// change adds to a balance. Of one who was forgotten there is none.
func (g *guards) change(account entry.Account, book string, by moved) {
	if account == (entry.Account{}) {
		return
	}
	k := holding{account, book}
	m := g.balances[k]
	g.balances[k] = moved{m.credits + by.credits, m.votes + by.votes, m.aside + by.aside}
}

// flush queues the sums. Epochs and accounts that open in this batch are queued before.
func (g *guards) flush() {
	for k, n := range g.caps {
		g.exec(1, `update cap_guard set issued = issued + $3 where book = $1 and epoch = $2`, k.book, k.epoch, n)
	}
	for k, n := range g.issued {
		g.exec(1, `update allocation_guard set issued = issued + $4 where book = $1 and epoch = $2 and issuer = $3`, k.book, k.epoch, k.issuer, n)
	}
	g.flushBalances()
	if n := len(g.tills); n > 0 {
		tills, days, seqs := make([]string, n), make([]string, n), make([]int64, n)
		for i, t := range g.tills {
			tills[i], days[i], seqs[i] = t.till, t.day, t.seq
		}
		g.exec(int64(n), `insert into till_entry (till, day, seq) select * from unnest($1::text[], $2::text[], $3::bigint[])`, tills, days, seqs)
	}
}

// A CHECK looks at a row that is proposed before it looks for the one that stands, so what takes away is an update of its own.
func (g *guards) flushBalances() {
	var more, less columns
	for k, m := range g.balances {
		if m.credits >= 0 && m.votes >= 0 && m.aside >= 0 {
			more.add(k, m)
		} else {
			less.add(k, m)
		}
	}
	if n := len(more.books); n > 0 {
		g.exec(int64(n), `insert into balance (account, book, credits, votes, aside)
			select * from unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) on conflict (account, book)
			do update set credits = balance.credits + excluded.credits, votes = balance.votes + excluded.votes, aside = balance.aside + excluded.aside`,
			more.accounts, more.books, more.credits, more.votes, more.aside)
	}
	if n := len(less.books); n > 0 {
		g.exec(int64(n), `update balance b set credits = b.credits + m.credits, votes = b.votes + m.votes, aside = b.aside + m.aside
			from unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) as m (account, book, credits, votes, aside)
			where b.account = m.account and b.book = m.book`,
			less.accounts, less.books, less.credits, less.votes, less.aside)
	}
}

type columns struct {
	accounts              many
	books                 []string
	credits, votes, aside []int64
}

func (c *columns) add(k holding, m moved) {
	c.accounts, c.books = append(c.accounts, k.account[:]), append(c.books, k.book)
	c.credits, c.votes, c.aside = append(c.credits, m.credits), append(c.votes, m.votes), append(c.aside, m.aside)
}

// add takes one entry; whose it is, is none's or holder's, who may not stand in the entry itself.
func (g *guards) add(e *entry.Entry, holder entry.Account) error {
	if holder != (entry.Account{}) {
		g.accounts, g.seqs = append(g.accounts, holder[:]), append(g.seqs, e.Seq)
	}
	if till := atTill(e); till != "" {
		g.tills = append(g.tills, tillEntry{till, e.Day, e.Seq})
	}
	if e.Sealed != nil && e.Sealed.Erased { // taken from a copy: whose it was, no table may say
		if e.Kind == entry.KindMint {
			g.issue(e)
		}
		return nil
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
		g.issue(e)
		g.change(holder, e.Book, moved{credits: e.Amount, votes: e.Votes})
	case entry.KindBurn:
		if e.Sealed == nil {
			return broken("burn %d without its sealed part", e.Seq)
		}
		g.change(holder, e.Book, moved{credits: -e.Amount})
	case entry.KindHold:
		g.change(holder, e.Book, moved{credits: -e.Amount, aside: e.Amount})
		g.exec(1, `insert into hold (seq, account, till) values ($1, $2, $3)`, e.Seq, holder[:], e.Hold.Till)
	case entry.KindCapture:
		g.change(holder, e.Book, moved{aside: -e.Amount})
		g.endHold(e.Capture.Hold, "captured")
	case entry.KindVoid:
		g.change(holder, e.Book, moved{credits: e.Amount, aside: -e.Amount})
		g.endHold(e.Void.Hold, e.Void.Reason)
	case entry.KindReverse:
		if e.Reverse.What == entry.KindMint {
			g.correction(e, holder)
		} else {
			g.change(holder, e.Book, moved{credits: e.Amount})
		}
	}
	return nil
}

func (g *guards) issue(e *entry.Entry) {
	g.caps[allotment{e.Book, e.Epoch, ""}] += e.Amount
	g.issued[allotment{e.Book, e.Epoch, e.Org.String()}] += e.Amount
}

// correction takes back what a mint paid too much, and gives it back to the cap.
func (g *guards) correction(e *entry.Entry, holder entry.Account) {
	g.caps[allotment{e.Book, e.Epoch, ""}] -= e.Amount
	g.issued[allotment{e.Book, e.Epoch, e.Org.String()}] -= e.Amount
	g.change(holder, e.Book, moved{credits: -e.Amount, votes: -e.Votes})
}

// endHold keeps what became of a hold, for whoever asks. Of one who is forgotten in this batch nothing is left to ask for.
func (g *guards) endHold(seq int64, as string) {
	g.exec(-1, `update hold set ended_at = $2, ended_as = $3 where seq = $1 and ended_at is null`, seq, g.now, as)
}

// atTill is the till where something was redeemed or taken back.
func atTill(e *entry.Entry) string {
	switch e.Kind {
	case entry.KindBurn:
		return e.Burn.Till
	case entry.KindCapture:
		return e.Capture.Till
	case entry.KindReverse:
		return e.Reverse.Till
	}
	return ""
}
