package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"city-sync.org/citysync/ledger/entry"
)

// counted is what the replay has judged, by check, and the sums added up once more.
type counted struct {
	n                       map[string]int
	claims, mints           int
	minted, burned, expired int64 // less what was reversed
	supply                  map[string]int64
	digested                map[string]int64 // supply at the newest digest of the state
}

func (n *counted) entry(e *entry.Entry) {
	switch e.Kind {
	case entry.KindParameters, entry.KindEpochOpen:
		n.add(checkEpochs)
	case entry.KindBind:
		n.bind(e.Bind.What)
	case entry.KindClaim:
		n.claims++
		n.add(checkLimits, checkOneMint)
	case entry.KindReserve:
		n.add(checkLimits, checkTerms, checkAccreditation)
	case entry.KindMint:
		n.mints++
		n.add(checkLimits, checkTerms, checkAccreditation, checkOneMint, checkVotes)
		n.supply[e.Book] += e.Amount
		n.minted += e.Amount
		if e.Mint.Resolution != nil {
			n.add(checkStops)
		}
	case entry.KindBurn:
		n.add(checkLimits, checkTerms, checkAccreditation)
		n.supply[e.Book] -= e.Amount
		n.burned += e.Amount
	case entry.KindRelease, entry.KindUnclaim:
		n.add(checkLimits)
	default:
		n.later(e)
	}
}

func (n *counted) later(e *entry.Entry) {
	switch e.Kind {
	case entry.KindHold:
		n.add(checkRedeemed, checkTerms, checkAccreditation)
	case entry.KindVoid:
		n.add(checkRedeemed)
	case entry.KindCapture:
		n.add(checkRedeemed)
		n.supply[e.Book] -= e.Amount
		n.burned += e.Amount
	case entry.KindReverse:
		n.add(checkRedeemed)
		if e.Reverse.What == entry.KindMint {
			n.supply[e.Book] -= e.Amount
			n.minted -= e.Amount
		} else {
			n.supply[e.Book] += e.Amount
			n.burned -= e.Amount
		}
	case entry.KindExpire:
		n.add(checkMonths)
		n.supply[e.Book] -= e.Amount
		n.expired += e.Amount
	case entry.KindDormant, entry.KindEpochClose:
		n.add(checkMonths)
	case entry.KindPause, entry.KindResume:
		n.add(checkStops)
	case entry.KindStateDigest:
		n.add(checkDigests)
		n.digested = maps.Clone(n.supply)
	}
}

func (n *counted) bind(what string) {
	switch what {
	case entry.BindWitness, entry.BindPolicy, entry.BindLogKey:
		n.add(checkKeys)
	default:
		n.add(checkAccreditation)
	}
}

func (n *counted) add(checks ...string) {
	for _, c := range checks {
		n.n[c]++
	}
}

// totals counts what the replay has judged, and adds the sums up once more on its own.
func (v *verifier) totals(log *verifiedLog, p *published) {
	n := &counted{n: map[string]int{}, supply: map[string]int64{}}
	next := 0
	for seq := range log.sound + 1 {
		for next < len(p.checkpoints) && p.checkpoints[next].record.TreeSize == seq {
			v.supplyAt(&p.checkpoints[next], n)
			next++
		}
		if seq == log.sound {
			break
		}
		if e := log.entries[seq]; e != nil {
			n.entry(e)
		}
	}
	for _, book := range slices.Sorted(maps.Keys(n.supply)) {
		if got := v.audit.Supply(book); got != n.supply[book] {
			v.report.fail(checkSupply, noEntry, "", "supply of %s: the entries add up to %d, the replay to %d", book, n.supply[book], got)
		}
	}
	detail := map[string]string{
		checkEpochs:        join(v.caps(), v.upTo),
		checkLimits:        v.upTo,
		checkAccreditation: "",
		checkTerms:         v.upTo,
		checkOneMint:       join(fmt.Sprintf("%d claims, %d mints", n.claims, n.mints), v.upTo),
		checkVotes:         v.upTo,
		checkMonths:        v.upTo,
		checkRedeemed:      v.upTo,
		checkStops:         v.upTo,
		checkDigests:       v.upTo,
	}
	for _, check := range slices.Sorted(maps.Keys(detail)) {
		v.report.looked(check, n.n[check], detail[check])
	}
	v.report.looked(checkKeys, n.n[checkKeys], "")
	sums := fmt.Sprintf("%d minted − %d burned − %d expired = %d", n.minted, n.burned, n.expired, n.minted-n.burned-n.expired)
	v.report.looked(checkSupply, len(n.supply), join(sums, v.upTo))
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

// supplyAt holds what a published checkpoint says of the supply against the entries before it. With a root of the balances it is what
// these sum up to: the supply at the digest that the root stands in.
func (v *verifier) supplyAt(c *publishedCheckpoint, n *counted) {
	supply := n.supply
	if len(c.record.BalancesRoot) > 0 && n.digested != nil {
		supply = n.digested
	}
	for _, s := range c.record.Supply {
		if s != nil && s.Amount != supply[s.Book] {
			v.report.fail(checkSupply, noEntry, c.uri, "it says %d of %s are held, the entries give %d", s.Amount, s.Book, supply[s.Book])
		}
	}
}
