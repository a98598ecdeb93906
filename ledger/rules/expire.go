package rules

import (
	"bytes"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// ExpireErased ends what one who was forgotten had of a book. Forget gives it.
type ExpireErased struct {
	Now    time.Time
	Book   string
	Amount int64
	Active int64 // of Amount: not dormant
	Woken  int64 // made active again in the open month
}

func (c ExpireErased) decide(s *State) ([]entry.Entry, error) {
	if c.Amount == 0 {
		return nil, nil
	}
	ep := s.lastEpoch(c.Book)
	if ep == nil {
		return nil, broken("no epoch of %s was opened", c.Book)
	}
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindExpire, Epoch: ep.epoch, Book: c.Book, Amount: c.Amount,
		Expire: &entry.Expire{Reason: entry.ExpireErased, Active: c.Active, Woken: c.Woken},
	})
	return d.out, nil
}

// lastEpoch gives the epoch whose month is open, or the last one.
func (s *State) lastEpoch(name string) *epoch {
	if b := s.books[name]; b != nil && b.epoch != nil {
		return b.epoch
	}
	if list := s.epochsOf(name); len(list) > 0 {
		return list[len(list)-1]
	}
	return nil
}

// Forget makes an account part of that of all who were forgotten, and gives what must expire at once. Its openings are destroyed
// by the caller in the same transaction, so that the state is what a replay without them gives. Its holds must be voided and its
// claims ended before, and every month that is over closed (CloseMonths): what cannot be known any more must be settled.
func Forget(s *State, id entry.Account, now time.Time) ([]ExpireErased, error) {
	a := s.accounts[id]
	switch {
	case a == nil || id == erased:
		return nil, refuse(NotActivated, nil)
	case s.MonthDue(now):
		return nil, broken("a month is over and not closed")
	case a.held > 0:
		return nil, broken("the account still holds %d slots beside the log", a.held)
	}
	pool := s.pool()
	var gone []ExpireErased
	for i := range a.books {
		h := &a.books[i]
		if h.aside > 0 {
			return nil, broken("%d of %s are still put aside", h.aside, h.book)
		}
		p, b := pool.in(h.book), s.book(h.book)
		p.credits += h.credits
		p.votes += h.votes
		x := ExpireErased{Now: now, Book: h.book, Amount: h.credits, Woken: h.woken}
		if h.asleep == 0 {
			x.Active = h.credits
			b.poolDormant += h.woken
		} else {
			b.poolDormant += h.credits + h.woken // a correction takes of what sleeps as if it had woken
		}
		if x.Amount > 0 || x.Woken > 0 {
			gone = append(gone, x)
		}
	}
	pool.open += a.open
	s.forgetPerson(id, a.resident)
	return gone, nil
}

func (s *State) forgetPerson(id entry.Account, resident syntax.DID) {
	for _, c := range s.claims {
		if c.account != id {
			continue
		}
		c.account = erased
		if people := c.task.claimants(c.shift); people[id] {
			delete(people, id)
			people[erased] = true
		}
	}
	for k := range s.personal {
		if k.account == id {
			delete(s.personal, k)
		}
	}
	s.forgetBurns(id)
	delete(s.staff, resident)
	delete(s.residents, resident)
	delete(s.accounts, id)
	s.trees, s.built = nil, nil
}

func (s *State) applyExpire(e *entry.Entry) error {
	x, b, ep := e.Expire, s.books[e.Book], s.epochs[bookEpoch{e.Book, e.Epoch}]
	if b == nil || ep == nil {
		return broken("nothing of %s could expire in %s", e.Book, e.Epoch)
	}
	var err error
	switch x.Reason {
	case entry.ExpireErased:
		err = s.expireErased(e, b)
	case entry.ExpireDormancy:
		err = s.expireDormant(e, b, ep)
	case entry.ExpireBookClosed:
		err = s.expireBook(e, b, ep)
	default:
		err = broken("nothing expires as %q", x.Reason)
	}
	if err != nil {
		return err
	}
	b.flow.X += e.Amount
	b.flow.Q += x.Active
	b.flow.R += x.Woken
	b.expiring = 0
	ep.expired += e.Amount
	return nil
}

// Expiring gives whose credits an entry ends, by account, asked before it is applied. Those of the forgotten are nobody's.
func (s *State) Expiring(e *entry.Entry) []entry.Holder {
	ep := s.epochs[bookEpoch{e.Book, e.Epoch}]
	if e.Kind != entry.KindExpire || ep == nil || e.Expire.Reason == entry.ExpireErased {
		return nil
	}
	var list []entry.Holder
	for id, a := range s.accounts {
		h := a.has(e.Book)
		if h == nil || id == erased {
			continue
		}
		n := h.credits
		if e.Expire.Reason == entry.ExpireDormancy {
			n = h.overdue(ep.params.DormancyMonths)
		}
		if n > 0 {
			list = append(list, entry.Holder{Account: id, Credits: n})
		}
	}
	slices.SortFunc(list, func(a, b entry.Holder) int { return bytes.Compare(a.Account[:], b.Account[:]) })
	return list
}

func (s *State) expireErased(e *entry.Entry, b *book) error {
	x, pool := e.Expire, s.pool().in(e.Book)
	slept := e.Amount - x.Active
	switch {
	case e.Amount > pool.credits || slept < 0:
		return broken("%d expire, %d of them active, the forgotten have %d", e.Amount, x.Active, pool.credits)
	case slept+x.Woken > b.poolDormant:
		return broken("%d were dormant and %d woke, of the forgotten were %d", slept, x.Woken, b.poolDormant)
	case b.expiring > 0:
		return broken("%d of %s were to expire before it", b.expiring, e.Book)
	}
	pool.credits -= e.Amount
	b.poolDormant -= slept + x.Woken
	return nil
}

// justClosed says that the entry follows the closing of the month that it names.
func (b *book) justClosed(e *entry.Entry, ep *epoch) bool {
	return e.Seq == b.closedAt+1 && e.Expire.Month == int64(len(ep.past)-1) && e.Expire.Woken == 0
}

func (s *State) expireDormant(e *entry.Entry, b *book, ep *epoch) error {
	if !b.justClosed(e, ep) || e.Expire.Active != 0 || e.Amount < b.expiring {
		return broken("%d expire for dormancy, known are %d, or no month was closed just before", e.Amount, b.expiring)
	}
	for id, a := range s.accounts {
		if h := a.has(e.Book); h != nil && id != erased {
			h.credits -= h.overdue(ep.params.DormancyMonths)
		}
	}
	if rest := e.Amount - b.expiring; rest > 0 {
		pool := s.pool().in(e.Book)
		if rest > pool.credits || rest > b.poolDormant {
			return broken("%d more expire than is known, the forgotten have %d, %d of it dormant", rest, pool.credits, b.poolDormant)
		}
		pool.credits -= rest
		b.poolDormant -= rest
	}
	return nil
}

// expireBook ends a whole book with its event.
func (s *State) expireBook(e *entry.Entry, b *book, ep *epoch) error {
	last := closing{ep: ep, month: len(ep.past) - 1}
	if !b.justClosed(e, ep) || !last.ends() || e.Amount != b.supply() || e.Amount != b.expiring || e.Expire.Active != b.stock.A {
		return broken("%d of %s expire with it, people hold %d", e.Amount, e.Book, b.supply())
	}
	for _, a := range s.accounts {
		if h := a.has(e.Book); h != nil {
			h.credits, h.asleep = 0, 0
		}
	}
	b.poolDormant = 0
	return nil
}

// Expiry is when credits that sleep, or are of an event, come to their end.
type Expiry struct {
	Amount    int64
	Asleep    time.Time // since the end of the month in which nothing was done; zero: awake
	ExpiresAt time.Time // zero: not planned yet
	Warning   int       // days before the end that a warning is due for: 60, 30 or 7; 0: none
}

// warnings are the days before an expiry at which its holder is told.
var warnings = []int{7, 30, 60}

// Expiry says what is known of the end of an account's credits in a book. Nothing that ends: a zero value.
func (s *State) Expiry(id entry.Account, name string, now time.Time) Expiry {
	a := s.accounts[id]
	ep := s.lastEpoch(name)
	if a == nil || id == erased || ep == nil {
		return Expiry{}
	}
	h := a.has(name)
	if h == nil || h.credits == 0 {
		return Expiry{}
	}
	x := Expiry{Amount: h.credits}
	past, planned := s.monthEnds(name)
	if n := int64(len(past)); h.asleep > 0 && h.asleep <= n {
		x.Asleep = past[n-h.asleep]
	}
	left := ep.params.DormancyMonths + 1 - h.asleep // closings, the one of the expiry among them
	switch {
	case ep.open.Phase == entry.PhaseEvent:
		x.ExpiresAt = ep.to
	case h.asleep == 0 || ep.params.DormancyMonths == 0:
		return Expiry{}
	case left >= 1 && left <= int64(len(planned)):
		x.ExpiresAt = planned[left-1]
	}
	if x.ExpiresAt.IsZero() {
		return x
	}
	for _, days := range warnings {
		if !now.Before(s.daysBefore(x.ExpiresAt, days)) {
			x.Warning = days
			break
		}
	}
	return x
}

func (s *State) daysBefore(t time.Time, days int) time.Time { return t.In(s.loc).AddDate(0, 0, -days) }

// monthEnds gives the ends of a book's months: of those closed, and of those open or planned, in order.
func (s *State) monthEnds(name string) (past, planned []time.Time) {
	var last time.Time
	for _, ep := range s.epochsOf(name) {
		for m, span := range ep.months {
			if m < len(ep.past) {
				past = append(past, span.to)
			} else {
				planned = append(planned, span.to)
			}
		}
		last = ep.to
	}
	for _, plan := range s.plansAfter(name, last) {
		for _, m := range plan.Months {
			if end, err := entry.ParseTime(m.EndsAt); err == nil {
				planned = append(planned, end)
			}
		}
	}
	return past, planned
}

// plansAfter gives the epochs that are planned for a book from a time on, by their start.
func (s *State) plansAfter(name string, from time.Time) []*entry.EpochPlan {
	var list []*entry.EpochPlan
	seen := map[string]bool{}
	for i := range s.params {
		for _, e := range s.params[i].Epochs {
			p := s.paramsFor(e.Key)
			if seen[e.Key] || p == nil {
				continue
			}
			seen[e.Key] = true
			plan := p.plan(e.Key)
			start, err := entry.ParseTime(plan.StartsAt)
			if err == nil && !start.Before(from) && s.bookOf(p, plan, name) == name {
				list = append(list, plan)
			}
		}
	}
	slices.SortFunc(list, func(a, b *entry.EpochPlan) int {
		if a.StartsAt != b.StartsAt {
			if a.StartsAt < b.StartsAt {
				return -1
			}
			return 1
		}
		return 0
	})
	return list
}
