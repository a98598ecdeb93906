package rules

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// State is what the log says so far, and the claims held beside it. It has one owner; reading it while it changes is a race.
type State struct {
	loc     *time.Location // the city's
	size    int64          // entries applied
	version int64          // of the rules

	params    []parameters // in the order of the log
	roles     map[syntax.DID][]accreditation
	tills     map[string]till
	staff     map[syntax.DID]map[syntax.DID]bool // resident → organizations
	witnesses map[string]Witness                 // by verifier key
	policy    []byte                             // SHA-256 of the quorum policy's text; none at first
	logKeys   []LogKey                           // after the one that the log began with
	epochs    map[bookEpoch]*epoch
	tasks     map[string]*task           // by the uri of the first version
	versions  map[entry.Ref]string       // every accepted version → first
	accounts  map[entry.Account]*account // the zero account is that of all who were forgotten
	residents map[syntax.DID]entry.Account
	claims    map[string]*claim // by token; a token claimed again after its claim ended takes its place
	units     map[unitsKey]int64
	personal  map[personalKey]int64
	books     map[string]*book
	aside     map[int64]*hold         // holds that stand, by seq
	asideOf   map[entry.Account]int64 // how many of them a person has
	burns     map[int64]*redeemed     // those that may still be reversed, or were lately, by seq
	burnOrder []int64                 // the same, as they came
	pauses    map[pauseKey]*pause
	spent     map[spentKey]bool // decisions that stopped something

	held map[string]*HeldClaim // by token; beside the log

	trees *balances // of the last stateDigest; nil: none, or somebody was forgotten since
	built *balances // of one that was decided on and not yet applied
}

type bookEpoch struct{ book, epoch string }

type unitsKey struct {
	bookEpoch
	offering string
	month    int
}

type personalKey struct {
	account  entry.Account
	epoch    string
	offering string
}

type till struct {
	org syntax.DID
	key string
}

// NewState is the state of an empty log. loc is the city's time zone: days, windows and work dates are its.
func NewState(loc *time.Location) *State {
	return &State{
		loc:       loc,
		roles:     map[syntax.DID][]accreditation{},
		tills:     map[string]till{},
		witnesses: map[string]Witness{},
		staff:     map[syntax.DID]map[syntax.DID]bool{},
		epochs:    map[bookEpoch]*epoch{},
		tasks:     map[string]*task{},
		versions:  map[entry.Ref]string{},
		accounts:  map[entry.Account]*account{erased: {}},
		residents: map[syntax.DID]entry.Account{},
		claims:    map[string]*claim{},
		units:     map[unitsKey]int64{},
		personal:  map[personalKey]int64{},
		books:     map[string]*book{},
		aside:     map[int64]*hold{},
		asideOf:   map[entry.Account]int64{},
		burns:     map[int64]*redeemed{},
		pauses:    map[pauseKey]*pause{},
		spent:     map[spentKey]bool{},
		held:      map[string]*HeldClaim{},
	}
}

// Size is the number of entries applied, which is the next entry's seq.
func (s *State) Size() int64 { return s.size }

// RulesVersion is the version in force; 0 before the first entry.
func (s *State) RulesVersion() int64 { return s.version }

// Location is the city's time zone.
func (s *State) Location() *time.Location { return s.loc }

// AccountOf gives the account of an activated resident.
func (s *State) AccountOf(resident syntax.DID) (entry.Account, bool) {
	a, ok := s.residents[resident]
	return a, ok
}

// Balance gives an account's free credits and votes in a book.
func (s *State) Balance(a entry.Account, book string) (credits, votes int64) {
	if acc := s.accounts[a]; acc != nil {
		if h := acc.has(book); h != nil {
			return h.credits, h.votes
		}
	}
	return 0, 0
}

// Till gives the redeemer and the key of a bound till.
func (s *State) Till(id string) (org syntax.DID, key string, ok bool) {
	t, ok := s.tills[id]
	return t.org, t.key, ok
}

// Staff says whether a person is bound as one who verifies for an organization.
func (s *State) Staff(resident, org syntax.DID) bool { return s.staff[resident][org] }

func (s *State) day(t time.Time) string { return entry.FormatDay(t, s.loc) }
