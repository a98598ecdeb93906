package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// The snapshot has every part of the state that the log gives, under keys that JSON sorts.
type snapshot struct {
	Size, Version int64
	Params        []snapParams
	Roles         map[syntax.DID][]snapRole
	Tills         map[string][2]string
	Staff         map[syntax.DID][]syntax.DID
	Witnesses     map[string]Witness
	Policy        []byte
	LogKeys       []LogKey
	Epochs        map[string]snapEpoch
	Tasks         map[string]snapTask
	Accounts      map[string]snapAccount
	Claims        map[string]snapClaim
	Units         map[string]int64
	Personal      map[string]int64
	Books         map[string]snapBook
	Holds         map[int64]snapHold
	Burns         map[int64]snapRedeemed
	Pauses        map[string][3]string
	Spent         map[string]bool
}

type snapParams struct {
	Ref entry.Ref
	Set entry.Parameters
}

type snapRole struct {
	At     string
	Record entry.Ref
	Bind   entry.Bind
}

type snapSums struct{ Reserved, Outstanding, Minted, Votes, Burned, Expired, Tasks, Claims, Mints int64 }

type snapEpoch struct {
	Params  entry.Ref
	Open    entry.EpochOpen
	Sums    snapSums
	Issuers map[syntax.DID]snapIssuer
	Past    []pastMonth
	Closed  bool
}

type snapIssuer struct {
	Allocation int64
	Sums       snapSums
}

type snapTask struct {
	Org         syntax.DID
	Epoch       string
	Versions    []entry.Reserve
	Shifts      map[string]snapSlots
	Outstanding int64
}

type snapSlots struct {
	Most, Taken, Closed int64
	Released            bool
}

type snapAccount struct {
	Resident syntax.DID
	Books    []snapHolding
	Open     int64
}

type snapHolding struct {
	Book                                 string
	Credits, Aside, Votes, Woken, Asleep int64
	Acted                                bool
}

type snapBook struct {
	Stock    Stock
	Flow     Flow
	Expiring int64
}

type snapHold struct {
	Account, Epoch string
	Org            syntax.DID
	Hold           entry.Hold
	Amount         int64
}

type snapRedeemed struct {
	What                       entry.Kind
	Account, Epoch, At, Day    string
	Org                        syntax.DID
	Offering                   string
	Units, Amount, Month, Undo int64
}

type snapClaim struct {
	First    string
	Terms    entry.Ref
	Shift    string
	Account  string
	Status   claimStatus
	Reserved int64
	Mint     int64
	Paid     int64
}

func snapOf(n sums) snapSums {
	return snapSums{n.reserved, n.outstanding, n.minted, n.votes, n.burned, n.expired, n.tasks, n.claims, n.mints}
}

func (id bookEpoch) String() string { return id.book + "\n" + id.epoch }

func (s *State) snapshot() snapshot {
	n := snapshot{
		Size: s.size, Version: s.version,
		Roles: map[syntax.DID][]snapRole{}, Tills: map[string][2]string{}, Staff: map[syntax.DID][]syntax.DID{},
		Epochs: map[string]snapEpoch{}, Tasks: map[string]snapTask{}, Accounts: map[string]snapAccount{},
		Claims: map[string]snapClaim{}, Units: map[string]int64{}, Personal: map[string]int64{}, Books: map[string]snapBook{},
		Holds: map[int64]snapHold{}, Burns: map[int64]snapRedeemed{},
		Pauses: map[string][3]string{}, Spent: map[string]bool{},
	}
	n.Witnesses, n.Policy, n.LogKeys = s.witnesses, s.policy, s.logKeys
	for _, p := range s.params {
		n.Params = append(n.Params, snapParams{p.ref, p.Parameters})
	}
	for org, versions := range s.roles {
		for _, a := range versions {
			n.Roles[org] = append(n.Roles[org], snapRole{a.at, a.record, a.Bind})
		}
	}
	for id, t := range s.tills {
		n.Tills[id] = [2]string{string(t.org), t.key}
	}
	for person, orgs := range s.staff {
		n.Staff[person] = slices.Sorted(maps.Keys(orgs))
	}
	for id, ep := range s.epochs {
		se := snapEpoch{Params: ep.params.ref, Open: ep.open, Sums: snapOf(ep.sums), Issuers: map[syntax.DID]snapIssuer{}, Past: ep.past, Closed: ep.closed}
		for org, i := range ep.issuers {
			se.Issuers[org] = snapIssuer{i.allocation, snapOf(i.sums)}
		}
		n.Epochs[id.String()] = se
	}
	for first, t := range s.tasks {
		st := snapTask{Org: t.org, Epoch: t.epoch.String(), Shifts: map[string]snapSlots{}, Outstanding: t.outstanding}
		for _, v := range t.versions {
			st.Versions = append(st.Versions, v.Reserve)
		}
		for id, sl := range t.shifts {
			st.Shifts[id] = snapSlots{sl.most, sl.taken, sl.closed, sl.released}
		}
		n.Tasks[first] = st
	}
	for k, p := range s.pauses {
		until := ""
		if !p.until.IsZero() {
			until = entry.FormatTime(p.until)
		}
		n.Pauses[k.String()] = [3]string{until, p.since, p.reason}
	}
	for k := range s.spent {
		n.Spent[k.String()+"\n"+k.decision] = true
	}
	for name, b := range s.books {
		n.Books[name] = snapBook{b.stock, b.flow, b.expiring}
	}
	for id, a := range s.accounts {
		if id == erased && len(a.books) == 0 && a.open == 0 {
			continue
		}
		acc := snapAccount{Resident: a.resident, Open: a.open}
		for _, h := range a.books {
			acc.Books = append(acc.Books, snapHolding{h.book, h.credits, h.aside, h.votes, h.woken, h.asleep, h.acted})
		}
		slices.SortFunc(acc.Books, func(a, b snapHolding) int { return strings.Compare(a.Book, b.Book) })
		n.Accounts[hex.EncodeToString(id[:])] = acc
	}
	for token, c := range s.claims {
		n.Claims[hex.EncodeToString([]byte(token))] = snapClaim{
			c.task.first, c.terms, c.shift, hex.EncodeToString(c.account[:]), c.status, c.reserved, c.mint, c.paid,
		}
	}
	for seq, h := range s.aside {
		n.Holds[seq] = snapHold{hex.EncodeToString(h.account[:]), h.epoch.String(), h.org, h.Hold, h.amount}
	}
	for seq, r := range s.burns {
		n.Burns[seq] = snapRedeemed{
			r.what, hex.EncodeToString(r.account[:]), r.epoch.String(), r.at, r.day, r.org, r.offering, r.units, r.amount, r.month, r.reversed,
		}
	}
	for k, v := range s.units {
		n.Units[fmt.Sprintf("%s\n%s\n%d", k.bookEpoch, k.offering, k.month)] = v
	}
	for k, v := range s.personal {
		n.Personal[fmt.Sprintf("%x\n%s\n%s", k.account, k.epoch, k.offering)] = v
	}
	return n
}

// Digest is a hash of all that the log gave the state. Claims held beside the log are not in it.
func (s *State) Digest() [32]byte {
	data, err := json.Marshal(s.snapshot())
	if err != nil { // only values that JSON can write are in it
		panic(err)
	}
	return sha256.Sum256(data)
}

// HeldDigest is a hash of the claims held beside the log.
func (s *State) HeldDigest() [32]byte {
	h := sha256.New()
	for _, token := range sortedKeys(s.held) {
		c := s.held[token]
		fmt.Fprintf(h, "%x %q %q %q %q %x %s\n", c.Token, c.First, c.Task.URI, c.Task.CID, c.Shift, c.Account, entry.FormatTime(c.At))
	}
	return [32]byte(h.Sum(nil))
}
