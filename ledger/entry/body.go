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
)

// EpochPlan is one epoch of a parameter set.
type EpochPlan struct {
	Key      string  `dag:"key,always"`
	StartsAt string  `dag:"startsAt,always"`
	EndsAt   string  `dag:"endsAt,always"`
	TZ       string  `dag:"tz,always"`
	Months   []Month `dag:"months"`
	Phase    string  `dag:"phase,always"`
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
	BindRole  = "role"
	BindTill  = "till"
	BindStaff = "staff"
)

// Bind ties a role to an organization (an accreditation as the log saw it), a till's key to a redeemer, or, in the sealed
// part alone, an account to the organization its holder verifies for.
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
	Key  string `dag:"key"`  // did:key of the till
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
