package repo

import "fmt"

// Reason names why bytes from a stranger were refused. The names are stable:
// they are counted and shown.
type Reason string

// The reasons of this package.
const (
	BadStructure Reason = "BadStructure" // CAR, commit object, tree or operations are malformed
	BadSignature Reason = "BadSignature" // not signed by the key; it may have changed, so a fresh key may help
	BadChain     Reason = "BadChain"     // not the successor of what we hold; the whole repository may help
	BadRecord    Reason = "BadRecord"    // a record is not canonical
	StaleRev     Reason = "StaleRev"     // not later than what we hold
	FutureRev    Reason = "FutureRev"    // too far ahead of our clock
	TooBig       Reason = "TooBig"       // over a limit; the whole repository may help
)

// Reject is a refusal of a stranger's bytes. It is final for these bytes with
// this key and this state.
type Reject struct {
	Reason Reason
	Err    error
}

func (r *Reject) Error() string { return fmt.Sprintf("%s: %v", r.Reason, r.Err) }

// Unwrap gives the detail.
func (r *Reject) Unwrap() error { return r.Err }

func reject(reason Reason, err error) error { return &Reject{Reason: reason, Err: err} }

func rejectf(reason Reason, format string, a ...any) error {
	return reject(reason, fmt.Errorf(format, a...))
}
