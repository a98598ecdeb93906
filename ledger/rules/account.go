package rules

import (
	"slices"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// account is one resident's account. A city has many, so it is kept small.
type account struct {
	resident syntax.DID
	books    []holding // few: the city's standard book and perhaps an event's
	open     int64     // claims that stand in the log, neither minted nor ended
	held     int64     // claims beside the log
}

// holding is what an account has in one book.
type holding struct {
	book    string
	credits int64 // free to spend
	aside   int64 // put aside by holds
	votes   int64
	woken   int64 // dormant credits that an act of this month made active again
	asleep  int64 // closings since the holder's last act, from the one that made the credits dormant; 0: active
	acted   bool  // earned or redeemed since the last closing
}

func (h *holding) total() int64 { return h.credits + h.aside }

// in gives the account's holding in a book, a new one where there is none. The pointer is good until the next new one.
func (a *account) in(book string) *holding {
	if h := a.has(book); h != nil {
		return h
	}
	a.books = append(a.books, holding{book: book})
	return &a.books[len(a.books)-1]
}

// has gives the account's holding in a book, nil where there is none.
func (a *account) has(book string) *holding {
	i := slices.IndexFunc(a.books, func(h holding) bool { return h.book == book })
	if i < 0 {
		return nil
	}
	return &a.books[i]
}

// erased is the account of all who were forgotten together. Its parts are not known apart: what was active and what was
// dormant in it is known only when a month closes, so neither limits of a person nor dormancy are checked for it.
var erased entry.Account

// book is the stock of one book and its flows since its last month was closed.
type book struct {
	stock Stock // at the last closing
	flow  Flow  // since; Q and R have only what expired while active or awake, the rest is known at the closing

	epoch    *epoch // the one whose month is open; nil: none
	expiring int64  // of those not forgotten: to expire with the next entry
	closedAt int64  // seq of the last closing

	poolDormant int64 // of what the forgotten had at the last closing; what of it expired or woke with one of them is taken off
}

// book gives a book's stock, a new one where there is none.
func (s *State) book(name string) *book {
	b := s.books[name]
	if b == nil {
		b = &book{}
		s.books[name] = b
	}
	return b
}

// pool is the account of all who were forgotten.
func (s *State) pool() *account { return s.accounts[erased] }

// acts is act for a holding of the account. Nothing is known of when the forgotten acted.
func (s *State) acts(a *account, h *holding) {
	if a != s.pool() {
		h.act()
	}
}

// supply is what all people hold of the book: active and dormant, holds included.
func (b *book) supply() int64 { return b.stock.Supply() + b.flow.I - b.flow.B - b.flow.X }

// act notes that the holder earned or redeemed: credits that slept wake.
func (h *holding) act() {
	if h.asleep > 0 {
		h.woken += h.total()
		h.asleep = 0
	}
	h.acted = true
}

// earn gives what a mint pays.
func (s *State) earn(a *account, name string, amount, votes int64) {
	h := a.in(name)
	s.acts(a, h)
	h.credits += amount
	h.votes += votes
	s.book(name).issued(amount)
}

// spend burns free credits.
func (s *State) spend(a *account, name string, amount int64) {
	h := a.in(name)
	s.acts(a, h)
	h.credits -= amount
	s.book(name).burned(amount)
}

// setAside takes free credits out of reach until the hold is captured or ends. It is an act of the holder: what is aside
// never sleeps for long.
func (s *State) setAside(a *account, name string, amount int64) {
	h := a.in(name)
	s.acts(a, h)
	h.credits -= amount
	h.aside += amount
}

// spendAside burns credits that a hold put aside.
func (s *State) spendAside(a *account, name string, amount int64) {
	h := a.in(name)
	s.acts(a, h)
	h.aside -= amount
	s.book(name).burned(amount)
}

// returnAside ends a hold without a burn.
func (s *State) returnAside(a *account, name string, amount int64) {
	h := a.in(name)
	h.aside -= amount
	h.credits += amount
}

// unspend gives burned credits back. They are awake, and so is what lies beside them.
func (s *State) unspend(a *account, name string, amount int64) {
	h := a.in(name)
	if h.asleep > 0 {
		s.acts(a, h)
	}
	h.credits += amount
	s.book(name).burned(-amount)
}

// issued and burned keep both flows at or above zero: what is reversed after its month was closed counts as the opposite flow.
func (b *book) issued(n int64) {
	if b.flow.I += n; b.flow.I < 0 {
		b.flow.B, b.flow.I = b.flow.B-b.flow.I, 0
	}
}

func (b *book) burned(n int64) {
	if b.flow.B += n; b.flow.B < 0 {
		b.flow.I, b.flow.B = b.flow.I-b.flow.B, 0
	}
}

// free gives the credits that an account can spend in a book.
func (a *account) free(name string) int64 {
	if h := a.has(name); h != nil {
		return h.credits
	}
	return 0
}
