package rules

import (
	"slices"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// CloseMonths closes every month that is over by now, of every book. Nothing due: no entry. What changes a book closes its months
// by itself; this is for when nobody acts.
type CloseMonths struct{ Now time.Time }

// pastMonth is a month of a book that was closed.
type pastMonth struct {
	Flow          Flow
	Before, After Stock
}

func (c CloseMonths) decide(s *State) ([]entry.Entry, error) {
	d := s.draft(c.Now)
	for _, name := range sortedKeys(s.books) {
		if err := d.closeMonths(name); err != nil {
			return nil, err
		}
	}
	return d.out, nil
}

// MonthDue says whether a month of any book is over and not closed.
func (s *State) MonthDue(now time.Time) bool {
	for _, b := range s.books {
		if b.due(now) {
			return true
		}
	}
	return false
}

// due says whether the book's open month is over.
func (b *book) due(now time.Time) bool {
	return b.epoch != nil && !now.Before(b.epoch.months[len(b.epoch.past)].to)
}

// epochsOf gives the epochs of a book by their start.
func (s *State) epochsOf(name string) []*epoch {
	var list []*epoch
	for _, ep := range s.epochs {
		if ep.book == name {
			list = append(list, ep)
		}
	}
	slices.SortFunc(list, func(a, b *epoch) int { return a.from.Compare(b.from) })
	return list
}

// openMonth gives the epoch whose month comes to be closed next, nil where none is open.
func (s *State) openMonth(name string) *epoch {
	for _, ep := range s.epochsOf(name) {
		if len(ep.past) < len(ep.months) {
			return ep
		}
	}
	return nil
}

// close is what the end of a month does to a holding: what was quiet goes dormant, what was asleep for too long is to expire.
func (h *holding) close(dormancyMonths int64) (quiet, expiring int64) {
	switch {
	case h.total() == 0:
		h.asleep = 0
	case h.asleep > 0:
		h.asleep++
	case !h.acted:
		h.asleep, quiet = 1, h.total()
	}
	h.woken, h.acted = 0, false
	return quiet, h.overdue(dormancyMonths)
}

// overdue are the credits that have been dormant for as many months as the parameters allow, or more.
func (h *holding) overdue(dormancyMonths int64) int64 {
	if dormancyMonths > 0 && h.asleep > dormancyMonths {
		return h.credits
	}
	return 0
}

// closing is one month that is due, and what expires with it.
type closing struct {
	ep              *epoch
	month           int
	quiet, expiring int64
	known           Stock // of those who were not forgotten, at the end
}

// settled adds to a month's flow what nobody who is known did: one who woke credits, spent them all and was then forgotten left
// nothing to expire. What everybody else holds says how much it must have been.
func (s Stock) settled(f Flow, known Stock) Flow {
	f.R += max(0, known.A-(s.A+f.I-f.B-f.Q+f.R))
	f.Q += max(0, known.D-(s.D+f.Q-f.X-f.R))
	return f
}

// ends says that the month is the last of an event, whose book ends with it.
func (c *closing) ends() bool {
	return c.ep.open.Phase == entry.PhaseEvent && c.month == len(c.ep.months)-1
}

// closings gives the months of a book that are due, in order, with what goes dormant and expires in each. Between two that are due
// nobody acted, or the first would have been closed by that act.
func (s *State) closings(name string, now time.Time) []closing {
	b := s.books[name]
	if b == nil || !b.due(now) {
		return nil
	}
	due := s.dueMonths(name, now)
	for id, a := range s.accounts {
		if have := a.has(name); have != nil && id != erased {
			h := *have
			for i := range due {
				h.through(&due[i])
			}
		} else if have != nil && due[len(due)-1].ends() {
			due[len(due)-1].expiring += have.total()
		}
	}
	return due
}

// through takes a holding through one closing, and adds what it had to that.
func (h *holding) through(c *closing) {
	quiet, expiring := h.close(c.ep.params.DormancyMonths)
	if h.asleep > 0 {
		c.known.D += h.total()
	} else {
		c.known.A += h.total()
	}
	if c.ends() {
		expiring = h.total() // what was held is given back before
		h.aside = 0
	}
	c.quiet += quiet
	c.expiring += expiring
	h.credits = max(0, h.credits-expiring)
}

// freeAt gives the credits that an account could spend at a time: those that expire with a month that is due are not among them.
func (s *State) freeAt(id entry.Account, name string, now time.Time) int64 {
	a := s.accounts[id]
	if a == nil {
		return 0
	}
	have := a.has(name)
	if have == nil {
		return 0
	}
	h := *have
	if b := s.books[name]; b != nil && b.due(now) && id != erased {
		for _, c := range s.dueMonths(name, now) {
			h.through(&c)
		}
	}
	return h.credits
}

// dueMonths gives the months of a book that are due, without what happens in them.
func (s *State) dueMonths(name string, now time.Time) []closing {
	var due []closing
	for _, ep := range s.epochsOf(name) {
		for m := len(ep.past); m < len(ep.months) && !now.Before(ep.months[m].to); m++ {
			due = append(due, closing{ep: ep, month: m})
		}
	}
	return due
}

// changesBook says whether entries of a kind change what people hold of a book. Months that are over are closed before them.
func changesBook(k entry.Kind) bool {
	switch k {
	case entry.KindMint, entry.KindBurn, entry.KindHold, entry.KindCapture, entry.KindVoid, entry.KindReverse:
		return true
	}
	return false
}

// closeMonths adds the closings of a book that are due, each followed by what expires with it.
func (d *draft) closeMonths(name string) error {
	due := d.s.closings(name, d.now)
	if len(due) == 0 {
		return nil
	}
	b := d.s.books[name]
	stock, flow := b.stock, b.flow
	for _, a := range d.s.accounts {
		if h := a.has(name); h != nil {
			flow.R += h.woken
		}
	}
	for i := range due {
		c := &due[i]
		if c.ends() {
			d.endHolds(c.ep.bookEpoch)
		}
		flow.Q += c.quiet
		flow = stock.settled(flow, c.known)
		next, err := stock.After(flow)
		if err != nil {
			return err
		}
		bounds := c.ep.open.Months[c.month]
		d.put(entry.Entry{
			Kind: entry.KindDormant, Epoch: c.ep.epoch, Book: name, Amount: flow.Q, Params: new(c.ep.params.ref),
			Dormant: &entry.Dormant{
				Month: int64(c.month), StartsAt: bounds.StartsAt, EndsAt: bounds.EndsAt, Issued: flow.I, Burned: flow.B,
				Reactivated: flow.R, Expired: flow.X, Active: next.A, Dormant: next.D,
			},
		})
		stock, flow = next, Flow{}
		if c.expiring == 0 {
			continue
		}
		x := &entry.Expire{Reason: entry.ExpireDormancy, Month: int64(c.month)}
		if c.ends() {
			x.Reason, x.Active = entry.ExpireBookClosed, stock.A
		}
		flow.X, flow.Q = c.expiring, x.Active
		d.put(entry.Entry{Kind: entry.KindExpire, Epoch: c.ep.epoch, Book: name, Amount: c.expiring, Expire: x})
	}
	d.closed = append(d.closed, name)
	return nil
}

// endHolds adds the ends of the holds that still stand when their book closes.
func (d *draft) endHolds(id bookEpoch) {
	var seqs []int64
	for seq, h := range d.s.aside {
		if h.epoch == id {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		h := d.s.aside[seq]
		d.put(entry.Entry{
			Kind: entry.KindVoid, Epoch: id.epoch, Book: id.book, Org: h.org, Amount: h.amount,
			Void: &entry.Void{Hold: seq, Reason: entry.VoidBookClosed},
		})
	}
}

// inMonth refuses an entry that changes a book whose open month was over before it, or in which something has yet to expire.
func (s *State) inMonth(e *entry.Entry) error {
	if !changesBook(e.Kind) || s.version < 2 || (e.Kind == entry.KindVoid && e.Void.Reason == entry.VoidBookClosed) {
		return nil
	}
	b := s.books[e.Book]
	if b == nil || b.epoch == nil {
		return nil
	}
	m := len(b.epoch.past)
	switch {
	case b.expiring > 0:
		return broken("%d of %s were to expire before it", b.expiring, e.Book)
	case e.Day > b.epoch.lastDays[m]:
		return broken("day %s is after month %d of %s, which is not closed", e.Day, m, b.epoch.epoch)
	case e.Sealed != nil && e.Sealed.At >= b.epoch.open.Months[m].EndsAt: // one layout, so text orders as time
		return broken("month %d of %s was over and not closed", m, b.epoch.epoch)
	}
	return nil
}

func (s *State) applyDormant(e *entry.Entry) error {
	d, b := e.Dormant, s.books[e.Book]
	if b == nil || b.epoch == nil || b.epoch.epoch != e.Epoch {
		return broken("no month of epoch %s of %s is open", e.Epoch, e.Book)
	}
	ep, m := b.epoch, len(b.epoch.past)
	switch bounds := ep.open.Months[m]; {
	case d.Month != int64(m) || d.StartsAt != bounds.StartsAt || d.EndsAt != bounds.EndsAt || *e.Params != ep.params.ref:
		return broken("month %d from %s, open is %d from %s", d.Month, d.StartsAt, m, bounds.StartsAt)
	case e.Day < s.day(ep.months[m].to):
		return broken("month %d is closed on %s, it ends at %s", m, e.Day, d.EndsAt)
	case b.expiring > 0:
		return broken("%d of %s were to expire before it", b.expiring, e.Book)
	case d.Issued != b.flow.I || d.Burned != b.flow.B || d.Expired != b.flow.X:
		return broken("flows %d, %d, %d, are %d, %d, %d", d.Issued, d.Burned, d.Expired, b.flow.I, b.flow.B, b.flow.X)
	}
	flow := Flow{I: d.Issued, B: d.Burned, Q: e.Amount, R: d.Reactivated, X: d.Expired}
	after, err := b.stock.After(flow)
	if err != nil {
		return err
	}
	if after != (Stock{A: d.Active, D: d.Dormant}) {
		return broken("stock %d and %d, the flows give %d and %d", d.Active, d.Dormant, after.A, after.D)
	}
	known := s.closeHoldings(e.Book, closing{ep: ep, month: m})
	if err := b.pooled(flow, after, &known); err != nil {
		return err
	}
	ep.past = append(ep.past, pastMonth{Flow: flow, Before: b.stock, After: after})
	b.stock, b.flow, b.expiring, b.closedAt = after, Flow{}, known.expiring, e.Seq
	b.epoch = s.openMonth(e.Book)
	return nil
}

// census is what a closing found in the accounts that can be known, and what all the forgotten have together.
type census struct {
	quiet, woken, expiring int64
	stock                  Stock
	pool                   int64
}

// closeHoldings ends the month for every account.
func (s *State) closeHoldings(name string, c closing) census {
	var n census
	for id, a := range s.accounts {
		h := a.has(name)
		switch {
		case h == nil:
			continue
		case id == erased:
			n.pool = h.total()
			continue
		}
		n.woken += h.woken
		quiet, expiring := h.close(c.ep.params.DormancyMonths)
		n.quiet += quiet
		if c.ends() {
			expiring = h.credits
		}
		n.expiring += expiring
		if h.asleep > 0 {
			n.stock.D += h.total()
		} else {
			n.stock.A += h.total()
		}
	}
	if c.ends() {
		if h := s.pool().has(name); h != nil {
			n.expiring += h.credits
		}
	}
	return n
}

// pooled holds a closing against what is known: what is not of any account must be of those who were forgotten, and can be no more
// than they have. Where nobody was, everything is known.
func (b *book) pooled(f Flow, after Stock, n *census) error {
	quiet, woken := f.Q-b.flow.Q-n.quiet, f.R-b.flow.R-n.woken
	if quiet < 0 || quiet > n.pool || woken < 0 || woken > b.poolDormant {
		return broken("%d went dormant and %d woke, known are %d and %d", f.Q, f.R, b.flow.Q+n.quiet, b.flow.R+n.woken)
	}
	rest := Stock{A: after.A - n.stock.A, D: after.D - n.stock.D}
	if rest.A < 0 || rest.D < 0 || rest.Supply() != n.pool {
		return broken("stock %d and %d, people hold %d and %d, the forgotten %d", after.A, after.D, n.stock.A, n.stock.D, n.pool)
	}
	b.poolDormant = rest.D
	return nil
}
