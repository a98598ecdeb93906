package audit

import (
	"maps"
	"slices"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// Totals are the sums of one epoch of a book, from the log alone.
type Totals struct {
	Book, Epoch      string
	StartsAt, EndsAt string
	Params           entry.Ref

	CapacityMonth, Cap, Unallocated int64
	BoundBy                         string

	Reserved    int64 // by first versions
	Outstanding int64 // neither spent nor released
	Minted      int64
	Votes       int64
	Burned      int64
	Expired     int64
	Tasks       int64
	Claims      int64 // less those that ended
	Mints       int64
	Issuers     []IssuerTotals // by DID
}

// Supply is minted − burned − expired.
func (t Totals) Supply() int64 { return t.Minted - t.Burned - t.Expired }

// IssuerTotals is one issuer's part.
type IssuerTotals struct {
	DID                                               syntax.DID
	Allocation, Reserved, Outstanding, Minted, Claims int64
}

// Totals gives the sums of every open epoch, by book and key.
func (a *Auditor) Totals() []Totals {
	var list []Totals
	for _, id := range slices.Sorted(maps.Keys(a.epochs)) {
		ep := a.epochs[id]
		t := Totals{
			Book: ep.book, Epoch: ep.key, StartsAt: ep.open.StartsAt, EndsAt: ep.open.EndsAt, Params: ep.params.ref,
			CapacityMonth: ep.open.Capacity, Cap: ep.open.Cap, Unallocated: ep.open.Unallocated, BoundBy: ep.open.BoundBy,
			Reserved: ep.reserved, Outstanding: ep.outstanding, Minted: ep.minted, Votes: ep.votes, Burned: ep.burned, Expired: ep.expired,
			Tasks: ep.tasks, Claims: ep.claims, Mints: ep.mints,
		}
		for _, did := range slices.Sorted(maps.Keys(ep.issuers)) {
			i := ep.issuers[did]
			t.Issuers = append(t.Issuers, IssuerTotals{
				DID: did, Allocation: ep.room[did], Reserved: i.reserved, Outstanding: i.outstanding, Minted: i.minted, Claims: i.claims,
			})
		}
		list = append(list, t)
	}
	return list
}

// Supply is what people hold of a book: Σ mint − Σ burn − Σ expire.
func (a *Auditor) Supply(book string) int64 {
	if b := a.books[book]; b != nil {
		return b.supply()
	}
	return 0
}
