package audit

import (
	"slices"
	"strings"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// book is the stock of one kind of credit at its last closing, and what flowed since.
type book struct {
	active, dormant         int64
	issued, burned, expired int64
	quiet, woken            int64                        // of those expired: what had not slept, and what an act had woken
	aside                   int64                        // held
	closed                  struct{ quiet, woken int64 } // of the month closed last
	epochs                  []*epoch                     // in the order of their time
	last                    *entry.Entry
}

func (a *Auditor) bookOf(e *entry.Entry) *book {
	b := a.books[e.Book]
	if b == nil {
		b = &book{}
		a.books[e.Book] = b
	}
	return b
}

func (b *book) supply() int64 { return b.active + b.dormant + b.issued - b.burned - b.expired }

// issue and burn keep the flows at or above zero: what is taken back after its month was closed counts as the other flow.
func (b *book) issue(n int64) {
	b.issued += n
	if b.issued < 0 {
		b.burned, b.issued = b.burned-b.issued, 0
	}
}

func (b *book) burn(n int64) {
	b.burned += n
	if b.burned < 0 {
		b.issued, b.burned = b.issued-b.burned, 0
	}
}

// opened puts an epoch among those of its book.
func (b *book) opened(ep *epoch) {
	b.epochs = append(b.epochs, ep)
	slices.SortStableFunc(b.epochs, func(x, y *epoch) int { return strings.Compare(x.open.StartsAt, y.open.StartsAt) })
}

// due gives the month that is to be closed next; nil where every month of every open epoch is.
func (b *book) due() (*epoch, int, *entry.Month) {
	for _, ep := range b.epochs {
		if n := len(ep.months); n < len(ep.open.Months) {
			return ep, n, &ep.open.Months[n]
		}
	}
	return nil, 0, nil
}

// lastDay is the last local day of a time that ends at an instant.
func (a *Auditor) lastDay(endsAt string) string {
	t, err := entry.ParseTime(endsAt)
	if err != nil {
		return ""
	}
	return entry.FormatDay(t.Add(-time.Second), a.loc)
}

// inMonth checks that what changes a book does so in a month that is open: no day comes before the months before it are
// closed.
func (a *Auditor) inMonth(e *entry.Entry, b *book) {
	ends := e.Kind == entry.KindVoid && e.Void.Reason == entry.VoidBookClosed // part of the closing
	if ep, n, m := b.due(); m != nil && a.version >= 2 && !ends {
		a.check(e, e.Day <= a.lastDay(m.EndsAt), "a %s on %s, before month %d of %s was closed", e.Kind, e.Day, n, ep.key)
	}
}

// closeMonth checks the closing of a month: its flows are those of the entries since the one before it.
func (a *Auditor) closeMonth(e *entry.Entry) {
	d, b := e.Dormant, a.bookOf(e)
	a.epochOf(e)
	ep, n, m := b.due()
	if !a.check(e, m != nil, "a month of %s is closed that no epoch has", e.Book) {
		return
	}
	a.check(e, ep.key == e.Epoch && int64(n) == d.Month, "month %d of %s is closed, month %d of %s is due", d.Month, e.Epoch, n, ep.key)
	a.check(e, d.StartsAt == m.StartsAt && d.EndsAt == m.EndsAt, "month %d is not as its epoch has it", d.Month)
	a.check(e, e.Day >= a.localDay(m.EndsAt), "month %d is closed on %s, before it ended", d.Month, e.Day)
	a.check(e, d.Issued == b.issued && d.Burned == b.burned && d.Expired == b.expired,
		"flows are %d issued, %d burned, %d expired, the entries give %d, %d, %d", d.Issued, d.Burned, d.Expired, b.issued, b.burned, b.expired)
	active := b.active + b.issued - b.burned - e.Amount + d.Reactivated
	dormant := b.dormant + e.Amount - b.expired - d.Reactivated
	a.check(e, d.Active == active && d.Dormant == dormant, "stock is %d active and %d dormant, the flows give %d and %d",
		d.Active, d.Dormant, active, dormant)
	a.check(e, active >= 0 && dormant >= 0 && d.Reactivated <= b.dormant, "more went dormant or woke than there was")
	a.check(e, e.Amount >= b.quiet && d.Reactivated >= b.woken, "%d went dormant and %d woke, of those expired alone it is %d and %d",
		e.Amount, d.Reactivated, b.quiet, b.woken)
	ep.months = append(ep.months, entry.MonthFlow{
		Issued: b.issued, Burned: b.burned, Quiet: e.Amount, Reactivated: d.Reactivated, Expired: b.expired, Active: active, Dormant: dormant,
	})
	ep.before = append(ep.before, b.active)
	b.active, b.dormant = active, dormant
	b.closed.quiet, b.closed.woken = b.quiet, b.woken
	b.issued, b.burned, b.expired, b.quiet, b.woken = 0, 0, 0, 0, 0
	b.last = e
	a.forgetSpends(e)
}

// expire checks the end of credits. Dormancy ends them right after a month was closed, and only what slept long enough can
// have been asleep; a book's end takes all of it.
func (a *Auditor) expire(e *entry.Entry) {
	b := a.bookOf(e)
	ep := a.epochOf(e)
	if ep == nil {
		return
	}
	switch x := e.Expire; x.Reason {
	case entry.ExpireDormancy:
		a.check(e, b.last != nil && b.last.Seq == e.Seq-1 && b.last.Epoch == e.Epoch && b.last.Dormant.Month == x.Month,
			"credits expire of dormancy, and month %d was not closed just before", x.Month)
		a.check(e, e.Amount <= b.dormant && x.Active == 0, "%d expire of dormancy, %d are dormant", e.Amount, b.dormant)
		a.check(e, e.Amount <= b.quietBefore(ep.params.DormancyMonths), "%d expire that did not sleep for %d months", e.Amount, ep.params.DormancyMonths)
	case entry.ExpireBookClosed:
		a.check(e, ep.open.Phase == entry.PhaseEvent, "the credits of %s end with an epoch, which is no event's", e.Book)
		a.check(e, len(ep.months) == len(ep.open.Months), "the credits of %s end before its last month is closed", e.Book)
		a.check(e, b.last != nil && b.last.Seq == e.Seq-1 && b.last.Dormant.Month == x.Month, "a book ends, and its month %d was not closed just before", x.Month)
		a.check(e, e.Amount == b.supply() && x.Active == b.active, "%d of %s expire, %d of it active: %d are held, %d active", e.Amount, e.Book, x.Active,
			b.supply(), b.active)
	case entry.ExpireErased:
		a.check(e, e.Amount <= b.supply(), "%d are erased, %d are held", e.Amount, b.supply())
	default:
		a.found(e.Seq, "credits expire for %q", x.Reason)
	}
	a.check(e, e.Expire.Active <= e.Amount && (e.Expire.Woken == 0 || e.Expire.Reason == entry.ExpireErased), "%d of %d expire while active, %d woke",
		e.Expire.Active, e.Amount, e.Expire.Woken)
	b.expired, b.quiet, b.woken = b.expired+e.Amount, b.quiet+e.Expire.Active, b.woken+e.Expire.Woken
	ep.sums.expired += e.Amount
	a.check(e, b.supply() >= 0, "more expired than was held in %s", e.Book)
}

// quietBefore is how much went dormant at least so many closings before the last one.
func (b *book) quietBefore(months int64) int64 {
	var all []int64
	for _, ep := range b.epochs {
		for _, m := range ep.months {
			all = append(all, m.Quiet)
		}
	}
	var sum int64
	for i := int64(0); i < int64(len(all))-months; i++ {
		sum += all[i]
	}
	return sum
}
