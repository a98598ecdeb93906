package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"city-sync.org/citysync/ledger/entry"
)

// totals counts what the replay has judged, and adds the sums up once more on its own.
func (v *verifier) totals(log *verifiedLog, p *published) {
	var limits, mints, claims, bound, votes, accredited, terms, epochs int
	supply := map[string]int64{}
	minted, burned := int64(0), int64(0)
	next := 0
	for seq := range log.sound + 1 {
		for next < len(p.checkpoints) && p.checkpoints[next].record.TreeSize == seq {
			v.supplyAt(&p.checkpoints[next], supply)
			next++
		}
		if seq == log.sound {
			break
		}
		e := log.entries[seq]
		if e == nil {
			continue
		}
		switch e.Kind {
		case entry.KindParameters, entry.KindEpochOpen:
			epochs++
		case entry.KindBind:
			bound++
		case entry.KindClaim:
			limits, claims = limits+1, claims+1
		case entry.KindReserve:
			limits, terms, accredited = limits+1, terms+1, accredited+1
		case entry.KindMint:
			limits, terms, accredited, mints = limits+1, terms+1, accredited+1, mints+1
			votes++
			supply[e.Book] += e.Amount
			minted += e.Amount
		case entry.KindBurn:
			limits, terms, accredited = limits+1, terms+1, accredited+1
			supply[e.Book] -= e.Amount
			burned += e.Amount
		case entry.KindRelease, entry.KindUnclaim:
			limits++
		}
	}
	for _, book := range slices.Sorted(maps.Keys(supply)) {
		if got := v.audit.Supply(book); got != supply[book] {
			v.report.fail(checkSupply, noEntry, "", "supply of %s: the entries add up to %d, the replay to %d", book, supply[book], got)
		}
	}
	v.report.looked(checkEpochs, epochs, join(v.caps(), v.upTo))
	v.report.looked(checkLimits, limits, v.upTo)
	v.report.looked(checkAccreditation, bound+accredited, "")
	v.report.looked(checkTerms, terms, v.upTo)
	v.report.looked(checkOneMint, mints+claims, join(fmt.Sprintf("%d claims, %d mints", claims, mints), v.upTo))
	v.report.looked(checkVotes, votes, v.upTo)
	v.report.looked(checkSupply, len(supply), join(fmt.Sprintf("%d minted − %d burned − 0 expired = %d", minted, burned, minted-burned), v.upTo))
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "; ")
}

// caps tells the cap of each open epoch.
func (v *verifier) caps() string {
	var list []string
	for _, t := range v.audit.Totals() {
		list = append(list, fmt.Sprintf("%s %s: C %d a month, cap %d to %d issuers", t.Book, t.Epoch, t.CapacityMonth, t.Cap, len(t.Issuers)))
	}
	return strings.Join(list, "; ")
}

// supplyAt holds what a published checkpoint says of the supply against the entries before it.
func (v *verifier) supplyAt(c *publishedCheckpoint, supply map[string]int64) {
	for _, s := range c.record.Supply {
		if s != nil && s.Amount != supply[s.Book] {
			v.report.fail(checkSupply, noEntry, c.uri, "it says %d of %s are held, the entries give %d", s.Amount, s.Book, supply[s.Book])
		}
	}
}
