package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Names of refusals.
const (
	NotAccredited       = "NotAccredited"
	NotAuthorized       = "NotAuthorized"
	NotActivated        = "NotActivated"
	AlreadyActivated    = "AlreadyActivated"
	EntryNotActive      = "EntryNotActive"
	OutsideTierBand     = "OutsideTierBand"
	AllocationExceeded  = "AllocationExceeded"
	CapExceeded         = "CapExceeded"
	EpochClosed         = "EpochClosed"
	EpochAlreadyOpen    = "EpochAlreadyOpen"
	EpochOver           = "EpochOver"
	EpochNotOver        = "EpochNotOver"
	BookMismatch        = "BookMismatch"
	ParametersMissing   = "ParametersMissing"
	ParametersInvalid   = "ParametersInvalid"
	SelfVerification    = "SelfVerification"
	ClaimWindowClosed   = "ClaimWindowClosed"
	SealedTask          = "SealedTask"
	AlreadyClaimed      = "AlreadyClaimed"
	SlotsFull           = "SlotsFull"
	ClaimLimit          = "ClaimLimit"
	ProofSubmitted      = "ProofSubmitted"
	NotLapsed           = "NotLapsed"
	BadSignature        = "BadSignature"
	TaskNotAccepted     = "TaskNotAccepted"
	ClaimMissing        = "ClaimMissing"
	AlreadyMinted       = "AlreadyMinted"
	AlreadyRejected     = "AlreadyRejected"
	NotMinted           = "NotMinted"
	NothingToCorrect    = "NothingToCorrect"
	TermsFrozen         = "TermsFrozen"
	TooEarly            = "TooEarly"
	MethodsMissing      = "MethodsMissing"
	HeldByDispute       = "HeldByDispute"
	Paused              = "Paused"
	PauseTooLong        = "PauseTooLong"
	DecisionSpent       = "DecisionSpent"
	PublicPriceZero     = "PublicPriceZero"
	OfferingPaused      = "OfferingPaused"
	FreeAnyway          = "FreeAnyway"
	OutsideWindow       = "OutsideWindow"
	UnitsExhausted      = "UnitsExhausted"
	PersonLimit         = "PersonLimit"
	InsufficientBalance = "InsufficientBalance"
	TillUnknown         = "TillUnknown"
	CodeExpired         = "CodeExpired"
	AlreadyRedeemed     = "AlreadyRedeemed"
	HoldUnknown         = "HoldUnknown"
	HoldEnded           = "HoldEnded"
	HoldStands          = "HoldStands"
	HoldLimit           = "HoldLimit"
	HoldTooLong         = "HoldTooLong"
	UndoTooLate         = "UndoTooLate"
	AlreadyReversed     = "AlreadyReversed"
	InvalidRecord       = "InvalidRecord" // a record whose content no rule can use
)

// Refusal is the answer no: final while the state stays as it is, unless WaitFor names what may still come.
type Refusal struct {
	Name    string
	Figures map[string]any // int64, string or bool
	WaitFor []string       // uris, or "epochOpen book epoch"; empty: nothing to wait for
	Alarm   bool           // the rules made this impossible before: a fault of ours
}

// Error implements error.
func (r *Refusal) Error() string {
	var b strings.Builder
	b.WriteString(r.Name)
	for _, k := range slices.Sorted(maps.Keys(r.Figures)) {
		fmt.Fprintf(&b, " %s=%v", k, r.Figures[k])
	}
	if len(r.WaitFor) > 0 {
		fmt.Fprintf(&b, " waiting for %s", strings.Join(r.WaitFor, ", "))
	}
	return b.String()
}

// Waiting says that the command may succeed when something else has come.
func (r *Refusal) Waiting() bool { return len(r.WaitFor) > 0 }

// Refused gives the refusal's name, or "" for another error or none.
func Refused(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Name
	}
	return ""
}

type figures map[string]any

func refuse(name string, f figures) *Refusal { return &Refusal{Name: name, Figures: f} }

// ErrBroken means that an entry contradicts the state: stop, nothing after it can be trusted.
var ErrBroken = errors.New("broken invariant")

func broken(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, a...))
}
