package entry

import "github.com/bluesky-social/indigo/atproto/syntax"

// RulesVersion names the version of the rules that every later entry is checked by. It is the first entry of a log.
type RulesVersion struct {
	Version int64 `dag:"version,always"`
}

// Parameters are the numbers of one gov.parameterSet record, which is the entry's Params and its cause.
type Parameters struct {
	EffectiveEpoch string      `dag:"effectiveEpoch,always"`
	Epochs         []EpochPlan `dag:"epochs"`
	CapPolicy      CapPolicy   `dag:"capPolicy,always"`
	Weights        []Weight    `dag:"weights"` // empty: equal shares
	Tiers          []Tier      `dag:"tiers"`
	DormancyMonths int64       `dag:"dormancyMonths"`
	WarmUpMonths   int64       `dag:"warmUpMonths"`
	ClaimLimit     int64       `dag:"claimLimit,always"`
	ClaimLapseDays int64       `dag:"claimLapseDays,always"`
	VotesPerCredit int64       `dag:"votesPerCredit,always"`
	KMin           int64       `dag:"kMin"`
}

// Phases of an epoch.
const (
	PhaseLaunch = "launch"
	PhaseSteady = "steady"
	PhaseEvent  = "event" // of one mass event's own book: a single month, at whose end its credits expire
)

// EpochPlan is one epoch of a parameter set. One of an event names the event's book; others are for any standard book.
type EpochPlan struct {
	Key      string  `dag:"key,always"`
	StartsAt string  `dag:"startsAt,always"`
	EndsAt   string  `dag:"endsAt,always"`
	TZ       string  `dag:"tz,always"`
	Months   []Month `dag:"months"`
	Phase    string  `dag:"phase,always"`
	Book     string  `dag:"book"`
}

// Month is one review month of an epoch; its bounds are stored, never computed.
type Month struct {
	StartsAt string `dag:"startsAt,always"`
	EndsAt   string `dag:"endsAt,always"`
}

// CapPolicy is the cap formula's parameters.
type CapPolicy struct {
	CapPhaseBps   int64 `dag:"capPhaseBps,always"`
	CapShareBps   int64 `dag:"capShareBps,always"`
	AscrMaxMilli  int64 `dag:"ascrMaxMilli,always"`
	DeltaCapBps   int64 `dag:"deltaCapBps,always"`
	RStartBps     int64 `dag:"rStartBps,always"`
	DeltaStartBps int64 `dag:"deltaStartBps,always"`
}

// Weight is one issuer's weight where allocations are not equal.
type Weight struct {
	DID    syntax.DID `dag:"did,always"`
	Weight int64      `dag:"weight,always"`
}

// Tier is one rate of pay.
type Tier struct {
	N              int64 `dag:"n,always"`
	CreditsPerHour int64 `dag:"creditsPerHour,always"`
	BandBps        int64 `dag:"bandBps"`
}

// What a bind entry binds.
const (
	BindRole    = "role"
	BindTill    = "till"
	BindStaff   = "staff"
	BindWitness = "witness"
	BindPolicy  = "policy"
	BindLogKey  = "logKey"
)

// Bind ties a role to an organization (an accreditation as the log saw it), a till's key to a redeemer, a witness's key to
// the institution that runs it, the witnesses' quorum policy or the log's own next key to this log, or, in the sealed part
// alone, an account to the organization its holder verifies for.
type Bind struct {
	What string `dag:"what,always"`

	Roles         []string     `dag:"roles"` // bare names: issuer, redeemer, sponsor, verifier, …
	Status        string       `dag:"status"`
	ValidFrom     string       `dag:"validFrom"`
	ValidUntil    string       `dag:"validUntil"`
	Delegates     []syntax.DID `dag:"delegates"`
	Categories    []string     `dag:"categories"`
	PerEpochLimit int64        `dag:"perEpochLimit"`

	Till string `dag:"till"` // id, derived from redeemer and key
	Key  string `dag:"key"`  // did:key of the till; signed-note verifier key of a witness or of the log

	Class    string `dag:"class"`    // of a witness: the group of the policy that it counts in
	Openings bool   `dag:"openings"` // to a witness: it has an agreement by which it sees what is sealed
	Hash     []byte `dag:"hash"`     // of a policy: SHA-256 of its text
	Quorum   []Sign `dag:"quorum"`   // of a log key that the old one does not sign for: the witnesses that agree
}

// Sign is one signature by a key that the log knows, over what its kind of entry says.
type Sign struct {
	Key string `dag:"key,always"` // signed-note verifier key
	Sig []byte `dag:"sig,always"`
}

// EpochOpen opens one epoch of one book and fixes its capacity, cap and allocations.
type EpochOpen struct {
	StartsAt    string            `dag:"startsAt,always"`
	EndsAt      string            `dag:"endsAt,always"`
	TZ          string            `dag:"tz,always"`
	Months      []Month           `dag:"months"`
	Phase       string            `dag:"phase,always"`
	Offerings   []CountedOffering `dag:"offerings"`
	Capacity    int64             `dag:"capacity,always"` // C, credits a month
	R           Ratio             `dag:"r,always"`
	Delta       Ratio             `dag:"delta,always"`
	ShareBound  int64             `dag:"shareBound"`   // of the epoch, floored; steady phase only
	BackBound   int64             `dag:"backlogBound"` // of the epoch, floored; steady phase only
	Cap         int64             `dag:"cap,always"`   // of the epoch
	BoundBy     string            `dag:"boundBy,always"`
	Unallocated int64             `dag:"unallocated"`
	Allocations []Allocation      `dag:"allocations"`
}

// What bound a cap.
const (
	BoundByLaunch  = "launch"
	BoundByShare   = "share"
	BoundByBacklog = "backlog"
	BoundByEvent   = "event"
)

// CountedOffering is an offering that C counts.
type CountedOffering struct {
	URI     string     `dag:"uri,always"`
	CID     string     `dag:"cid,always"`
	Rev     string     `dag:"rev"`
	DID     syntax.DID `dag:"did,always"`
	Units   int64      `dag:"units,always"` // a month: the least of physical, marginal and committed
	Credits int64      `dag:"credits,always"`
}

// Allocation is one issuer's share of a cap.
type Allocation struct {
	DID    syntax.DID `dag:"did,always"`
	Amount int64      `dag:"amount,always"`
}

// Sensitivities of a task.
const (
	SensitivityPublic       = "public"
	SensitivityPseudonymous = "pseudonymous"
	SensitivitySealed       = "sealed"
)

// Reserve accepts one version of a task and its terms. Amount is what this version adds to the reservation.
type Reserve struct {
	Task          Ref     `dag:"task,always"`
	First         string  `dag:"first,always"` // uri of the task's first version
	Entry         Ref     `dag:"entry,always"` // the city's copy of the catalog entry
	Shifts        []Shift `dag:"shifts"`
	Credits       int64   `dag:"credits,always"` // per completion
	Tier          int64   `dag:"tier,always"`
	TierRate      int64   `dag:"tierRate,always"` // credits an hour
	MinMinutes    int64   `dag:"minMinutes"`
	MaxMinutes    int64   `dag:"maxMinutes"`
	Level         int64   `dag:"level,always"`
	Sensitivity   string  `dag:"sensitivity,always"`
	ClaimOpensAt  string  `dag:"claimOpensAt,always"`
	ClaimClosesAt string  `dag:"claimClosesAt"` // empty: at the end of each shift
}

// Shift is one shift of a task.
type Shift struct {
	ID       string `dag:"id,always"`
	StartsAt string `dag:"startsAt,always"`
	EndsAt   string `dag:"endsAt,always"`
	Slots    int64  `dag:"slots,always"`
}

// Why slots are released.
const (
	ReleaseCancelled = "cancelled" // by the issuer
	ReleaseExpired   = "expired"   // nobody claimed them in time
	ReleaseVersion   = "version"   // a new version pays less or has fewer slots
	ReleaseRejected  = "rejected"  // a claim whose work was rejected; the entry has its nullifier
	ReleaseWithdrawn = "withdrawn" // a held claim on an older version ended before it was entered
)

// Release gives Amount of a task's reservation back to its issuer's allocation.
type Release struct {
	First  string   `dag:"first,always"`
	Reason string   `dag:"reason,always"`
	Shifts []string `dag:"shifts"` // ids of those whose unclaimed slots end; for rejected or withdrawn the one shift
	Closed int64    `dag:"closed"` // slots of that shift which do not open again, for withdrawn
}

// Claim takes a slot. The task's cid are the frozen terms.
type Claim struct {
	Task  Ref    `dag:"task,always"`
	First string `dag:"first,always"`
	Shift string `dag:"shift,always"`
}

// Why a claim ended.
const (
	UnclaimWithdrawn = "withdrawn"
	UnclaimLapsed    = "lapsed"
	UnclaimErased    = "erased" // its person asked to be forgotten, whether there is a proof or not
)

// Unclaim ends the claim with the entry's nullifier. Amount is what it releases: nothing where the slot is open again.
type Unclaim struct {
	First  string `dag:"first,always"`
	Shift  string `dag:"shift,always"`
	Reason string `dag:"reason,always"`
	Closed int64  `dag:"closed"` // 1: the slot does not open again
}

// Outcomes of a verification.
const (
	OutcomeApproved = "approved"
	OutcomePartial  = "partial"
	OutcomeRejected = "rejected"
)

// Mint issues Amount for the claim with the entry's nullifier. The first cause is the verification, the others are those
// of its co-signers.
type Mint struct {
	Task      Ref          `dag:"task,always"`
	First     string       `dag:"first,always"`
	Shift     string       `dag:"shift,always"`
	Verifier  syntax.DID   `dag:"verifier,always"`
	Outcome   string       `dag:"outcome,always"`
	Minutes   int64        `dag:"minutes"`
	Frozen    int64        `dag:"frozen,always"` // credits of the frozen terms; what is not minted is released
	Level     int64        `dag:"level,always"`
	Methods   []string     `dag:"methods"`
	CoSigners []syntax.DID `dag:"coSigners"`

	Resolution *Ref `dag:"resolution"` // that upheld a dispute of the rejection before; it is among the causes
}

// Burn ends Amount for units of an offering, which is the cause.
type Burn struct {
	Offering    Ref    `dag:"offering,always"`
	Units       int64  `dag:"units,always"`
	Price       int64  `dag:"price,always"`       // credits a unit
	Month       int64  `dag:"month,always"`       // of the epoch, from 0
	UnitsBefore int64  `dag:"unitsBefore,always"` // burned in that month before this entry
	UnitsMonth  int64  `dag:"unitsMonth,always"`  // committed for the month
	Till        string `dag:"till,always"`
}

// Hold puts Amount aside for units of an offering at one till, so that it can be honored while both sides are offline. The
// units count against the month's commitment at once. It is an act of its holder, as its capture is: credits that slept
// wake.
type Hold struct {
	Offering    Ref    `dag:"offering,always"`
	Units       int64  `dag:"units,always"`
	Price       int64  `dag:"price,always"`
	Month       int64  `dag:"month,always"`
	UnitsBefore int64  `dag:"unitsBefore,always"`
	UnitsMonth  int64  `dag:"unitsMonth,always"`
	Till        string `dag:"till,always"`
	Until       string `dag:"until,always"` // last local day on which it can be honored
}

// Capture burns a hold: Amount is all of it. The cause is the hold's.
type Capture struct {
	Hold int64  `dag:"hold,always"` // seq of the hold
	Till string `dag:"till,always"`
}

// Why a hold ends without a burn.
const (
	VoidExpired   = "expired"
	VoidRefused   = "refused"   // by the counter
	VoidCancelled = "cancelled" // by the resident

	VoidBookClosed = "bookClosed" // the event is over; just before its last month is closed
)

// Void gives a hold's Amount back to its holder and its units to the month.
type Void struct {
	Hold   int64  `dag:"hold,always"`
	Reason string `dag:"reason,always"`
}

// Why an entry is reversed.
const (
	ReverseRefused   = "refused"   // the counter did not honor what was burned
	ReverseUndone    = "undone"    // the counter confirmed by mistake
	ReverseCorrected = "corrected" // a superseding verification, and the city's resolution that orders it
)

// Reverse undoes a mint, a burn or a capture by Amount: all of a burn; of a mint what its holder still has, at most. It
// takes two authorities: the till and the resident whose code it was, or the verifier and the city.
type Reverse struct {
	Of     int64  `dag:"of,always"` // seq
	What   Kind   `dag:"what,always"`
	Reason string `dag:"reason,always"`
	Till   string `dag:"till"`  // of a burn or capture
	Short  int64  `dag:"short"` // of a mint: what was spent already and stays
}

// Dormant closes one month of a book: Amount went dormant, because its holders earned and redeemed nothing in the month.
// The month's flows are those of the entries since the month before was closed. Who it is follows from the openings.
type Dormant struct {
	Month       int64  `dag:"month,always"` // of the epoch, from 0
	StartsAt    string `dag:"startsAt,always"`
	EndsAt      string `dag:"endsAt,always"`
	Issued      int64  `dag:"issued,always"` // less what was reversed
	Burned      int64  `dag:"burned,always"` // less what was reversed
	Reactivated int64  `dag:"reactivated,always"`
	Expired     int64  `dag:"expired,always"` // since the month before was closed
	Active      int64  `dag:"active,always"`  // A at the end, holds included
	Dormant     int64  `dag:"dormant,always"` // D at the end
}

// Why credits expire.
const (
	ExpireDormancy   = "dormancy"   // asleep for the parameter set's dormancyMonths
	ExpireBookClosed = "bookClosed" // the event's window is over
	ExpireErased     = "erased"     // their holder asked to be forgotten
)

// Expire ends Amount of a book. Whose it was follows from the openings. Credits of one who was forgotten say what they were, because
// no opening will.
type Expire struct {
	Reason string `dag:"reason,always"`
	Month  int64  `dag:"month"`  // of the epoch, from 0: the one that was closed just before; for dormancy and bookClosed
	Active int64  `dag:"active"` // of Amount: not dormant when it expired; it counts as quiet and as expired
	Woken  int64  `dag:"woken"`  // for erased: what their acts of this month had made active again
}

// EpochClose fixes what an epoch of a book came to, and what the next cap would be by it.
type EpochClose struct {
	Months      []MonthFlow `dag:"months"`
	Reserved    int64       `dag:"reserved,always"`
	Outstanding int64       `dag:"outstanding,always"` // claims whose verification is still to come
	Minted      int64       `dag:"minted,always"`      // out of the epoch's cap
	Votes       int64       `dag:"votes,always"`
	Measured    bool        `dag:"measured"` // r and δ below are measured, over the last two closed epochs; else the parameters' start values
	R           Ratio       `dag:"r,always"`
	Delta       Ratio       `dag:"delta,always"`
	Next        *NextCap    `dag:"next"` // none where no next epoch is planned
}

// MonthFlow is one month of a book: issued, burned, quiet (gone dormant), reactivated, expired; the stock at its end.
type MonthFlow struct {
	Issued      int64 `dag:"issued,always"`
	Burned      int64 `dag:"burned,always"`
	Quiet       int64 `dag:"quiet,always"`
	Reactivated int64 `dag:"reactivated,always"`
	Expired     int64 `dag:"expired,always"`
	Active      int64 `dag:"active,always"`
	Dormant     int64 `dag:"dormant,always"`
}

// NextCap is the cap that a next epoch would have at the capacity of the one that closes.
type NextCap struct {
	Epoch      string `dag:"epoch,always"`
	Phase      string `dag:"phase,always"`
	Capacity   int64  `dag:"capacity,always"`
	ShareBound int64  `dag:"shareBound"`
	BackBound  int64  `dag:"backlogBound"`
	Cap        int64  `dag:"cap,always"`
	BoundBy    string `dag:"boundBy,always"`
}

// What can be paused. A pause only ever takes something away, for a time.
const (
	PauseTask        = "task"        // mints of one task, by an admitted objection; until the ruling
	PauseOffering    = "offering"    // codes of one offering, by its redeemer and for a cause that is shown
	PauseTasks       = "tasks"       // no task is accepted, of the city or of one organization
	PauseClaims      = "claims"      // no claim takes a slot
	PauseMints       = "mints"       // nothing is minted
	PauseRedemptions = "redemptions" // no code is made and none is burned
)

// Pause stops something until a time, or for a task until it is resumed. Its cause is the signed record that says so.
type Pause struct {
	What    string `dag:"what,always"`
	Subject string `dag:"subject"` // first uri of a task, uri of an offering; otherwise none: the entry's org, or the whole city
	Until   string `dag:"until"`   // always there but for a task
	Reason  string `dag:"reason,always"`
}

// Resume ends a pause before its time.
type Resume struct {
	What    string `dag:"what,always"`
	Subject string `dag:"subject"`
	Reason  string `dag:"reason,always"`
}

// StateDigest fixes what the entries before it come to. Digest is over what anybody can compute from the leaves; the roots
// of the balances can be computed with the openings, and each resident can have the path to their own.
type StateDigest struct {
	Digest   []byte         `dag:"digest,always"` // 32 bytes
	Balances []BalancesRoot `dag:"balances"`      // by book
}

// BalancesRoot is the root of the Merkle sum tree over the balances of a book. The sealed seed places and salts its leaves.
type BalancesRoot struct {
	Book   string `dag:"book,always"`
	Root   []byte `dag:"root,always"` // 32 bytes
	Sum    int64  `dag:"sum,always"`
	Height int64  `dag:"height,always"` // of the padded tree
}
