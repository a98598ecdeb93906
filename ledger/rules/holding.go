package rules

import (
	"slices"
	"strings"
	"time"

	"city-sync.org/citysync/ledger/entry"
)

// Holding is what an account has of a book.
type Holding struct {
	Book    string
	Credits int64 // free to spend
	Aside   int64 // held
	Votes   int64
	Expiry  Expiry
}

// Holdings gives what an account has of every book, by book.
func (s *State) Holdings(id entry.Account, now time.Time) []Holding {
	a := s.accounts[id]
	if a == nil {
		return nil
	}
	var list []Holding
	for _, h := range a.books {
		list = append(list, Holding{
			Book: h.book, Credits: s.freeAt(id, h.book, now), Aside: h.aside, Votes: h.votes, Expiry: s.Expiry(id, h.book, now),
		})
	}
	slices.SortFunc(list, func(a, b Holding) int { return strings.Compare(a.Book, b.Book) })
	return list
}
