package audit

import (
	"slices"

	"city-sync.org/citysync/ledger/entry"
)

// due is what slept for too long at a closing: it expires with the entry that follows.
type due struct {
	seq    int64 // of the closing
	book   *book
	amount int64
}

// forgotten is what the pool of the forgotten has of a book, and whether anything of it was ever there.
func (p *private) forgotten(b *book) (total int64, any bool) {
	for _, purse := range p.pool.purses {
		if purse.book == b {
			return purse.total(), true
		}
	}
	return 0, false
}

// closeMonth recomputes who went dormant and who woke. What the forgotten add is not known, but never more than they hold: all
// stock that is nobody else's is theirs.
func (p *private) closeMonth(a *Auditor, e *entry.Entry) {
	b, d := a.bookOf(e), e.Dormant
	ep := a.epochs[epochID(e.Book, e.Epoch)]
	if b.last == nil || b.last.Seq != e.Seq || ep == nil {
		return // found already
	}
	quiet, woken, tired := b.closed.quiet, b.closed.woken, int64(0)
	var active, dormant int64
	for _, who := range p.people {
		for i := range who.purses {
			x := &who.purses[i]
			if x.book != b {
				continue
			}
			q, w, over := x.close(ep.params.DormancyMonths)
			quiet, woken, tired = quiet+q, woken+w, tired+over
			if x.asleep > 0 {
				dormant += x.total()
			} else {
				active += x.total()
			}
		}
	}
	p.due = &due{seq: e.Seq, book: b, amount: tired}
	pool, any := p.forgotten(b)
	if !any {
		a.check(e, e.Amount == quiet, "%d went dormant, the openings give %d", e.Amount, quiet)
		a.check(e, d.Reactivated == woken, "%d woke, the openings give %d", d.Reactivated, woken)
	}
	a.check(e, quiet <= e.Amount && e.Amount-quiet <= pool, "%d went dormant, the openings give %d and the forgotten have %d", e.Amount, quiet, pool)
	a.check(e, woken <= d.Reactivated, "%d woke, the openings give %d", d.Reactivated, woken)
	a.check(e, active <= d.Active && dormant <= d.Dormant && d.Active-active+d.Dormant-dormant == pool,
		"stock is %d active and %d dormant, people hold %d and %d, the forgotten %d", d.Active, d.Dormant, active, dormant, pool)
}

// close ends a month for one purse: what went dormant, what woke, and what slept for too long.
func (p *purse) close(months int64) (quiet, woken, tired int64) {
	woken, p.woken = p.woken, 0
	switch {
	case p.total() == 0:
		p.asleep = 0
	case p.asleep > 0:
		p.asleep++
	case !p.acted:
		p.asleep, quiet = 1, p.total()
	}
	p.acted = false
	return quiet, woken, p.tired(months)
}

// tired is what slept for longer than credits may.
func (p *purse) tired(months int64) int64 {
	if months > 0 && int64(p.asleep) > months {
		return p.free
	}
	return 0
}

// overdue checks, at the entry after a closing, that what slept for too long expires with it.
func (p *private) overdue(a *Auditor, e *entry.Entry) {
	d := p.due
	if d == nil || d.seq != e.Seq-1 {
		return
	}
	ends := e.Kind == entry.KindExpire && e.Expire.Reason == entry.ExpireDormancy && a.books[e.Book] == d.book
	a.check(e, ends || d.amount == 0, "%d credits slept for too long and do not expire", d.amount)
}

func (p *private) expire(a *Auditor, e *entry.Entry) {
	b := a.bookOf(e)
	pool, any := p.forgotten(b)
	switch e.Expire.Reason {
	case entry.ExpireDormancy:
		if d := p.due; d == nil || d.seq != e.Seq-1 || d.book != b {
			return // found already
		}
		months := int64(1)
		if ep := a.epochs[epochID(e.Book, e.Epoch)]; ep != nil {
			months = ep.params.DormancyMonths
		}
		known := p.clear(b, func(x *purse) int64 { return x.tired(months) })
		p.fromPool(a, e, b, known, pool, any)
	case entry.ExpireBookClosed:
		known := p.clear(b, func(x *purse) int64 { return x.free })
		p.fromPool(a, e, b, known, pool, any)
	case entry.ExpireErased:
		p.fromPool(a, e, b, 0, pool, any)
	}
}

// clear takes from the purses of a book what is to end, and says how much it was.
func (p *private) clear(b *book, ending func(*purse) int64) (sum int64) {
	for _, who := range p.people {
		for i := range who.purses {
			if x := &who.purses[i]; x.book == b {
				n := ending(x)
				sum += n
				x.free -= n
			}
		}
	}
	return sum
}

// fromPool takes what expired of nobody known from the forgotten.
func (p *private) fromPool(a *Auditor, e *entry.Entry, b *book, known, pool int64, any bool) {
	rest := e.Amount - known
	if !any {
		a.check(e, rest == 0, "%d expire, the openings give %d", e.Amount, known)
		return
	}
	a.check(e, rest >= 0 && rest <= pool, "%d expire, the openings give %d and the forgotten have %d", e.Amount, known, pool)
	p.pool.in(b).free -= rest
}

// closeEpoch lets go of the shifts and units of an epoch: its claims are over, and nothing of it is redeemed any more.
func (p *private) closeEpoch(a *Auditor, e *entry.Entry) {
	ep := a.epochs[epochID(e.Book, e.Epoch)]
	for _, who := range p.people {
		kept := who.acts[:0]
		for _, s := range who.acts {
			if s.task.epoch != ep {
				kept = append(kept, s)
			}
		}
		who.acts = kept
		who.units = slices.DeleteFunc(who.units, func(h had) bool { return h.epoch == ep })
	}
}
