package audit

import "city-sync.org/citysync/ledger/entry"

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

// closeMonth recomputes who went dormant and who woke. What the forgotten add is known up to what they hold.
func (p *private) closeMonth(a *Auditor, e *entry.Entry) {
	b, d := a.bookOf(e), e.Dormant
	ep := a.epochs[epochID(e.Book, e.Epoch)]
	if b.last == nil || b.last.Seq != e.Seq || ep == nil {
		return // found already
	}
	months := ep.params.DormancyMonths
	quiet, woken, tired := b.closed.quiet, b.closed.woken, int64(0)
	for _, who := range p.people {
		for i := range who.purses {
			if who.purses[i].book != b {
				continue
			}
			q, w, over := who.purses[i].close(months)
			quiet, woken, tired = quiet+q, woken+w, tired+over
		}
	}
	pool, any := p.forgotten(b)
	a.within(e, "went dormant", e.Amount, quiet, pool, any)
	a.within(e, "woke", d.Reactivated, woken, pool, any)
	p.due = &due{seq: e.Seq, book: b, amount: tired}
}

// within checks a figure of a closing against what is known of it, and what the forgotten can add at most.
func (a *Auditor) within(e *entry.Entry, what string, said, known, pool int64, any bool) {
	if !any {
		a.check(e, said == known, "%d %s, the openings give %d", said, what, known)
		return
	}
	a.check(e, known <= said, "%d %s, the openings give at least %d", said, what, known)
	_ = pool // what the forgotten held then may have expired since: no bound from above
}

// close ends a month for one purse: what went dormant, what woke, and what slept for too long.
func (p *purse) close(months int64) (quiet, woken, tired int64) {
	woken, p.woken = p.woken, 0
	switch {
	case p.asleep > 0:
		p.asleep++
	case !p.acted && p.total() > 0:
		p.asleep, quiet = 1, p.total()
	}
	p.acted = false
	if months > 0 && int64(p.asleep)-1 >= months {
		tired = p.total()
	}
	return quiet, woken, tired
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
		known := p.clear(b, func(x *purse) bool { return months > 0 && int64(x.asleep)-1 >= months })
		p.fromPool(a, e, b, known, pool, any)
	case entry.ExpireBookClosed:
		known := p.clear(b, func(*purse) bool { return true })
		p.fromPool(a, e, b, known, pool, any)
	case entry.ExpireErased:
		p.fromPool(a, e, b, 0, pool, any)
	}
}

// clear ends what is in the purses of a book that are meant, and says how much it was.
func (p *private) clear(b *book, meant func(*purse) bool) (sum int64) {
	for _, who := range p.people {
		for i := range who.purses {
			if x := &who.purses[i]; x.book == b && meant(x) {
				sum += x.total()
				x.free, x.aside, x.woken, x.asleep = 0, 0, 0, 0
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

// closeEpoch lets go of the shifts of an epoch: its claims are over.
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
	}
}
