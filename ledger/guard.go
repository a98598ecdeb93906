package ledger

import (
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// guardsOf repeats in SQL, with CHECKs, what the rules decided in memory: caps, allocations, balances, links. A failure here is never a
// refusal: the batch ends, and with it the process. Epochs and accounts that open in the batch are queued at once.
func guardsOf(all *statements, b *batch) (*guards, error) {
	g := &guards{all: all, now: b.now, issued: map[allotment]int64{}, caps: map[allotment]int64{}, balances: make(map[holding]moved, len(b.entries))}
	g.accounts, g.seqs = make([]byte, 0, len(entry.Account{})*len(b.entries)), make([]int64, 0, len(b.entries))
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

// guards are what a batch changes beside the log. What many entries change alike is summed up first: hundreds of updates of one row in one
// transaction each walk over the versions before them. So a CHECK sees what a batch does to a balance, not what each entry does: that a
// burn stands before the mint that pays for it, only the rules see.
type guards struct {
	all          *statements
	now          time.Time
	accounts     []byte // whose the entries seqs are, one behind the other
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

// sums are write_batch's arguments of what is summed up.
func (g *guards) sums(a *arguments) {
	var books, epochs, issuers []string
	var issued []int64
	for k, n := range g.caps {
		books, epochs, issued = append(books, k.book), append(epochs, k.epoch), append(issued, n)
	}
	a.Texts(books)
	a.Texts(epochs)
	a.Int8s(issued)
	books, epochs, issued = books[:0], epochs[:0], issued[:0]
	for k, n := range g.issued {
		books, epochs, issuers, issued = append(books, k.book), append(epochs, k.epoch), append(issuers, k.issuer), append(issued, n)
	}
	a.Texts(books)
	a.Texts(epochs)
	a.Texts(issuers)
	a.Int8s(issued)
	books = books[:0]
	n := len(g.balances)
	credits, votes, aside := make([]int64, 0, n), make([]int64, 0, n), make([]int64, 0, n)
	accounts := make([]byte, 0, n*len(entry.Account{}))
	for k, m := range g.balances {
		books, accounts = append(books, k.book), append(accounts, k.account[:]...)
		credits, votes, aside = append(credits, m.credits), append(votes, m.votes), append(aside, m.aside)
	}
	a.Texts(books)
	a.Int8s(credits)
	a.Int8s(votes)
	a.Int8s(aside)
	n = len(g.tills)
	tills, days, seqs := make([]string, n), make([]string, n), make([]int64, n)
	for i, t := range g.tills {
		tills[i], days[i], seqs[i] = t.till, t.day, t.seq
	}
	a.Texts(tills)
	a.Texts(days)
	a.Int8s(seqs)
	a.Bytea(accounts)
}

// add takes one entry; whose it is, is none's or holder's, who may not stand in the entry itself.
func (g *guards) add(e *entry.Entry, holder entry.Account) error {
	if holder != (entry.Account{}) {
		g.accounts, g.seqs = append(g.accounts, holder[:]...), append(g.seqs, e.Seq)
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
