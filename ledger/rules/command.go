package rules

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// Command is one wish that Decide answers with entries or a refusal: a value of one of the types below. The facts in it
// have been checked by whoever fills it in: signatures, schemas and keys of records are not seen here.
type Command interface {
	decide(*State) ([]entry.Entry, error)
}

// RulesVersion opens a log, or changes the rules in force.
type RulesVersion struct {
	Now     time.Time
	Version int64
}

// SetParameters puts a gov.parameterSet of the city in the log. Again the same version: no entry.
type SetParameters struct {
	Now        time.Time
	Record     entry.Cause
	Parameters entry.Parameters
}

// Statuses of an accreditation.
const (
	StatusActive      = "active"
	StatusConditional = "conditional"
	StatusSuspended   = "suspended"
	StatusRevoked     = "revoked"
)

// Roles that the rules ask for, and the category that allows activation.
const (
	RoleIssuer   = "issuer"
	RoleRedeemer = "redeemer"
	RoleSponsor  = "sponsor"
	RoleVerifier = "verifier"

	CategoryActivation = "activation"
)

// BindRole puts a registry.accreditation of the city in the log. A deleted one comes as revoked. Again the same version:
// no entry. Roles and categories may be tokens or bare names.
type BindRole struct {
	Now           time.Time
	Record        entry.Cause
	Org           syntax.DID
	Roles         []string
	Status        string
	ValidFrom     time.Time
	ValidUntil    time.Time // zero: no end
	Delegates     []syntax.DID
	Categories    []string
	PerEpochLimit int64 // credits; 0: none
}

// BindTill binds a till's key to a redeemer. Its id is entry.TillID(org, key). Again the same: no entry.
type BindTill struct {
	Now time.Time
	Org syntax.DID
	Key string // did:key
}

// BindStaff tells that a person verifies for an organization. Again the same: no entry.
type BindStaff struct {
	Now      time.Time
	Org      syntax.DID
	Resident syntax.DID
}

// Activate opens an account for a resident at an issuer's desk.
type Activate struct {
	Now      time.Time
	Issuer   syntax.DID
	Resident syntax.DID
	Account  entry.Account // 16 random bytes
}

// OpenEpoch opens an epoch of a book. Which of the offerings count is decided here.
type OpenEpoch struct {
	Now       time.Time
	Epoch     string
	Book      string
	Offerings []Offering // any order; those that cannot count are left out
}

// Shift is one shift of a task.
type Shift struct {
	ID       string
	StartsAt time.Time
	EndsAt   time.Time
	Slots    int64
}

// CatalogEntry is what a task needs of its catalog entry: the city's copy and whether that is active.
type CatalogEntry struct {
	Ref         entry.Ref
	Active      bool // a copy of the city's, approved and neither retired nor held
	Tier        int64
	MinMinutes  int64 // 0: not stated
	MaxMinutes  int64 // 0: not stated
	Level       int64
	Sensitivity string
	Category    string // checked against the accreditation's categories where both are stated
}

// AcceptTask asks for one version of a task: its slots are reserved. A version already accepted: no entry.
type AcceptTask struct {
	Now           time.Time
	Task          entry.Cause
	First         string // uri of the first version; the task's own uri if it supersedes nothing
	Author        syntax.DID
	Epoch         string
	Book          string
	Credits       int64
	Shifts        []Shift
	ClaimOpensAt  time.Time // zero: at the start of the epoch
	ClaimClosesAt time.Time // zero: at the end of each shift
	Entry         CatalogEntry
}

// ReleaseSlots gives back what nobody claimed: Reason is entry.ReleaseCancelled (by the issuer's record, then Author and
// Cause are set, or Ordered by a ruling of the city, which is the Cause) or entry.ReleaseExpired (after the shift and its claim
// window). Nothing to release: no entry.
type ReleaseSlots struct {
	Now    time.Time
	First  string
	Shifts []string // ids; none: all
	Reason string
	Author syntax.DID
	Cause  *entry.Cause

	Ordered bool
}

// Unclaim ends a claim that stands in the log and has no proof: Reason is entry.UnclaimWithdrawn, entry.UnclaimLapsed or,
// whether there is a proof or not, entry.UnclaimErased.
// A claim that is only held ends by DropClaim.
type Unclaim struct {
	Now    time.Time
	Token  []byte
	Reason string
	Proven bool // a proof was seen
}

// EnterClaims puts the held claims of a shift in the log, sorted by nullifier. A mint does it by itself for its shift.
type EnterClaims struct {
	Now   time.Time
	First string
	Shift string
}

// CoSigner is an organization's own verification of the same subject.
type CoSigner struct {
	Org       syntax.DID
	Record    entry.Cause
	Signed    bool // its commit's signature is good
	Task      entry.Ref
	Shift     string
	Token     []byte
	Outcome   string
	Supported bool // the verification it supports names it in coSigners
}

// Mint asks for the mint that a work.verification calls for. An outcome of rejected mints nothing and releases the slot's
// reservation. Claims of the shift that are still held are entered before it.
type Mint struct {
	Now       time.Time
	Record    entry.Cause
	Author    syntax.DID
	Signed    bool      // the commit's signature by the author's key of that time is good
	Task      entry.Ref // as the verification cites it
	Shift     string
	ByClaim   bool   // the subject is a public claim; otherwise a claim token
	Token     []byte // the token cited, or that of the claim cited; none: no such claim is known
	Outcome   string
	Minutes   int64
	Credits   int64
	Level     int64
	Methods   []string // tokens or bare names
	CoSigners []CoSigner
	Upheld    *entry.Cause // the city's resolution that upheld a dispute of the rejection, and names the author to verify anew
}

// Window is a weekly opening: from and to in minutes after local midnight, 24:00 is 1440. Where to is not after from the
// window ends on the next day.
type Window struct {
	Day  time.Weekday
	From int
	To   int
}

// Offering is what is needed of an offer.offering and its status.
type Offering struct {
	Record           entry.Cause
	Redeemer         syntax.DID
	Book             string
	Epoch            string
	Credits          int64 // a unit
	Physical         int64 // units a month
	Marginal         int64
	Committed        int64
	PublicPriceMinor int64 // 0: none or not stated
	Windows          []Window
	PersonLimit      int64 // units a person in an epoch; 0: none
	FreeFor          bool  // the offering lists groups that get it free
	Paused           bool
	Ended            bool
}

// CodeRequest asks whether a redemption code may be made; CheckCode answers it. It makes no entry.
type CodeRequest struct {
	Now           time.Time
	Resident      syntax.DID
	Account       entry.Account // where Resident is not set
	Offering      Offering
	Units         int64
	NoneOfFreeFor bool // the resident says that none of the free groups applies
}

// Burn is a redemption that a till confirmed.
type Burn struct {
	Now      time.Time
	Account  entry.Account
	Offering Offering
	Units    int64
	Till     string
}

// PutAside makes a hold for a resident, or for the account where Resident is not set.
type PutAside struct {
	Now           time.Time
	Resident      syntax.DID
	Account       entry.Account
	Offering      Offering
	Units         int64
	Till          string
	Until         string // last local day, YYYY-MM-DD
	NoneOfFreeFor bool
}

// Capture burns a hold that its till honored, at At by the till's own clock.
type Capture struct {
	Now     time.Time
	Hold    int64 // seq
	Till    string
	At      time.Time
	Windows []Window // of the offering
}

// EndHold gives a hold back: Reason is entry.VoidExpired, entry.VoidRefused or entry.VoidCancelled.
type EndHold struct {
	Now    time.Time
	Hold   int64 // seq
	Reason string
}

// Undo reverses a burn or a capture: Reason is entry.ReverseRefused or entry.ReverseUndone.
type Undo struct {
	Now    time.Time
	Of     int64 // seq
	Till   string
	Reason string
	Until  time.Time // end of the voucher that the burn was shown by; zero: there was none
}
