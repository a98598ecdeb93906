package entry

import (
	"github.com/bluesky-social/indigo/atproto/syntax"
)

// Kind says what an entry does.
type Kind string

// The kinds of entry in use.
const (
	KindRulesVersion Kind = "rulesVersion"
	KindParameters   Kind = "parameters"
	KindBind         Kind = "bind"
	KindActivate     Kind = "activate"
	KindEpochOpen    Kind = "epochOpen"
	KindReserve      Kind = "reserve"
	KindRelease      Kind = "release"
	KindClaim        Kind = "claim"
	KindUnclaim      Kind = "unclaim"
	KindMint         Kind = "mint"
	KindBurn         Kind = "burn"
	KindHold         Kind = "hold"
	KindCapture      Kind = "capture"
	KindVoid         Kind = "void"
	KindReverse      Kind = "reverse"
	KindDormant      Kind = "dormant"
	KindExpire       Kind = "expire"
	KindEpochClose   Kind = "epochClose"
	KindPause        Kind = "pause"
	KindResume       Kind = "resume"
	KindStateDigest  Kind = "stateDigest"
)

// Entry is one entry of the log. Everything but Sealed is public and stands in the leaf.
type Entry struct {
	Seq  int64 `dag:"seq,always"` // index in the log, from 0
	Kind Kind  `dag:"kind,always"`

	At  string `dag:"at"`         // UTC, to the second; only on entries that concern organizations alone
	Day string `dag:"day,always"` // YYYY-MM-DD in the city's time zone

	Epoch string     `dag:"epoch"`
	Book  string     `dag:"book"`
	Org   syntax.DID `dag:"org"` // the organization the entry concerns: issuer, redeemer, holder of a role

	Amount int64 `dag:"amount"` // whole credits
	Votes  int64 `dag:"votes"`

	Causes     []Cause     `dag:"causes"`     // signed records of organizations, never of a resident
	Params     *Ref        `dag:"params"`     // the parameter set in force
	Cap        *CapState   `dag:"cap"`        // before this entry
	Nullifier  []byte      `dag:"nullifier"`  // 32 bytes: the claim token
	Commitment *Commitment `dag:"commitment"` // to the sealed part

	RulesVersion *RulesVersion `dag:"rulesVersion"`
	Parameters   *Parameters   `dag:"parameters"`
	Bind         *Bind         `dag:"bind"`
	EpochOpen    *EpochOpen    `dag:"epochOpen"`
	Reserve      *Reserve      `dag:"reserve"`
	Release      *Release      `dag:"release"`
	Claim        *Claim        `dag:"claim"`
	Unclaim      *Unclaim      `dag:"unclaim"`
	Mint         *Mint         `dag:"mint"`
	Burn         *Burn         `dag:"burn"`
	Hold         *Hold         `dag:"hold"`
	Capture      *Capture      `dag:"capture"`
	Void         *Void         `dag:"void"`
	Reverse      *Reverse      `dag:"reverse"`
	Dormant      *Dormant      `dag:"dormant"`
	Expire       *Expire       `dag:"expire"`
	EpochClose   *EpochClose   `dag:"epochClose"`
	Pause        *Pause        `dag:"pause"`
	Resume       *Resume       `dag:"resume"`
	StateDigest  *StateDigest  `dag:"stateDigest"`

	Sealed *Sealed // the private part; apart from the log, never in the leaf
}

// Ref names one version of one record.
type Ref struct {
	URI string `dag:"uri,always"`
	CID string `dag:"cid,always"`
}

// Cause is a record that an entry rests on: the version, the commit that carried it, and the key that signed it.
type Cause struct {
	URI string `dag:"uri,always"`
	CID string `dag:"cid,always"`
	Rev string `dag:"rev"`
	Key string `dag:"key"` // did:key
}

// Ref is the version the cause names.
func (c Cause) Ref() Ref { return Ref{URI: c.URI, CID: c.CID} }

// CapState is the cap of a book's epoch and how much of it was used before the entry: minted for a mint, minted and
// outstanding for a reservation.
type CapState struct {
	Cap    int64 `dag:"cap,always"`
	Before int64 `dag:"before,always"`
}

// Commitment hides the sealed part of an entry.
type Commitment struct {
	Value  []byte `dag:"value,always"`  // 32 bytes
	Padded int64  `dag:"padded,always"` // number of leaves, padding included: 8, 16 or 32
}

// Ratio is an exact rational.
type Ratio struct {
	Num int64 `dag:"num,always"`
	Den int64 `dag:"den,always"`
}
