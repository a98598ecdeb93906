package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

// RecoveryWindow is how long a stronger rotation key may rewrite what a weaker one signed.
const RecoveryWindow = 72 * time.Hour

// maxAuditEntries bounds the work of replaying a history; the public directory's rate limits keep every DID far below it.
const maxAuditEntries = 2000

const timeForm = "2006-01-02T15:04:05.000Z"

// Errors of an operation within its history. All are final for that operation.
var (
	ErrMisordered   = errors.New("operation does not follow the history")
	ErrLateRecovery = errors.New("recovery after the 72 hour window")
	ErrBadAudit     = errors.New("audit log does not prove itself")
	ErrNoKey        = errors.New("no such key at that time")
)

// AuditEntry is one line of a DID's audit log: every operation the directory ever took, also those that a
// recovery nullified later, in the order it took them.
type AuditEntry struct {
	DID       syntax.DID
	Operation Operation
	CID       string
	Nullified bool
	CreatedAt time.Time // to the millisecond
}

type auditJSON struct {
	DID       syntax.DID `json:"did"`
	Operation Operation  `json:"operation"`
	CID       string     `json:"cid"`
	Nullified bool       `json:"nullified"`
	CreatedAt string     `json:"createdAt"`
}

// MarshalJSON writes the directory's form.
func (e AuditEntry) MarshalJSON() ([]byte, error) {
	return json.Marshal(auditJSON{e.DID, e.Operation, e.CID, e.Nullified, FormatTime(e.CreatedAt)})
}

// UnmarshalJSON reads the directory's form.
func (e *AuditEntry) UnmarshalJSON(raw []byte) error {
	var j auditJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return err
	}
	at, err := syntax.ParseDatetime(j.CreatedAt)
	if err != nil {
		return fmt.Errorf("%w: createdAt", ErrMalformed)
	}
	*e = AuditEntry{j.DID, j.Operation, j.CID, j.Nullified, at.Time().UTC()}
	return nil
}

// FormatTime writes a time as the directory does.
func FormatTime(t time.Time) string { return t.UTC().Format(timeForm) }

// CheckNext judges an operation against what the directory holds of a DID, entries being its audit log so far
// (none for a genesis). It returns the CIDs of the operations that accepting this one nullifies.
func CheckNext(did syntax.DID, entries []AuditEntry, op Operation, at time.Time) (nullified []string, err error) {
	if len(entries) == 0 {
		return nil, checkGenesis(did, op)
	}
	if op.Prev == "" {
		return nil, fmt.Errorf("%w: a second genesis", ErrMisordered)
	}
	active := make([]AuditEntry, 0, len(entries))
	prev := -1
	for _, e := range entries {
		if e.Nullified {
			continue
		}
		if e.CID == op.Prev {
			prev = len(active)
		}
		active = append(active, e)
	}
	if prev < 0 {
		return nil, fmt.Errorf("%w: prev is not part of it", ErrMisordered)
	}
	last := active[prev].Operation
	if last.IsTombstone() {
		return nil, fmt.Errorf("%w: prev is a tombstone", ErrMisordered)
	}
	displaced := active[prev+1:]
	if len(displaced) == 0 {
		_, err := op.VerifySig(last.RotationKeys)
		return nil, err
	}
	// A fork: only a key stronger than the one that signed the first displaced operation may do this.
	signer, err := displaced[0].Operation.VerifySig(last.RotationKeys)
	if err != nil {
		return nil, fmt.Errorf("operation %s: %w", displaced[0].CID, err)
	}
	if _, err := op.VerifySig(last.RotationKeys[:signer]); err != nil {
		return nil, err
	}
	if !at.After(entries[len(entries)-1].CreatedAt) {
		return nil, fmt.Errorf("%w: time does not advance", ErrMisordered)
	}
	if at.Sub(displaced[0].CreatedAt) > RecoveryWindow {
		return nil, ErrLateRecovery
	}
	for _, e := range displaced {
		nullified = append(nullified, e.CID)
	}
	return nullified, nil
}

func checkGenesis(did syntax.DID, op Operation) error {
	want, err := GenesisDID(op)
	if err != nil {
		return err
	}
	if want != did {
		return fmt.Errorf("%w: it makes %s", ErrGenesis, want)
	}
	_, err = op.VerifySig(op.RotationKeys)
	return err
}

// VerifyAudit replays a whole audit log and checks everything it says (I2), the nullified marks included. An
// error wraps ErrBadAudit and names the entry.
func VerifyAudit(did syntax.DID, entries []AuditEntry) error {
	if len(entries) == 0 {
		return fmt.Errorf("%w: it is empty", ErrBadAudit)
	}
	if len(entries) > maxAuditEntries {
		return fmt.Errorf("%w: %d entries, at most %d are replayed", ErrBadAudit, len(entries), maxAuditEntries)
	}
	replayed := make([]AuditEntry, 0, len(entries))
	for i, e := range entries {
		if e.DID != did {
			return fmt.Errorf("%w: entry %d is of %s", ErrBadAudit, i, e.DID)
		}
		if got := e.Operation.CID().String(); got != e.CID {
			return fmt.Errorf("%w: entry %d hashes to %s, not %s", ErrBadAudit, i, got, e.CID)
		}
		if i > 0 && e.CreatedAt.Before(entries[i-1].CreatedAt) {
			return fmt.Errorf("%w: entry %d is older than the one before", ErrBadAudit, i)
		}
		nullified, err := CheckNext(did, replayed, e.Operation, e.CreatedAt)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrBadAudit, i, err)
		}
		Nullify(replayed, nullified)
		e.Nullified = false
		replayed = append(replayed, e)
	}
	for i, e := range entries {
		if e.Nullified != replayed[i].Nullified {
			return fmt.Errorf("%w: entry %d says nullified %t", ErrBadAudit, i, e.Nullified)
		}
	}
	return nil
}

// Nullify marks the entries with those CIDs, in place.
func Nullify(entries []AuditEntry, cids []string) {
	for _, c := range cids {
		for i := range entries {
			if entries[i].CID == c {
				entries[i].Nullified = true
			}
		}
	}
}

// KeyAt is the key that a verified audit log declared under id ("atproto" for a repository) at that time: what
// the directory answered then. An operation that was nullified later counts until the recovery that nullified
// it, since nobody could know. Before the genesis, after a tombstone, and where id is not declared: ErrNoKey.
func KeyAt(entries []AuditEntry, id string, at time.Time) (atcrypto.PublicKey, error) {
	var head *Operation
	for i := range entries {
		if entries[i].CreatedAt.After(at) {
			break
		}
		head = &entries[i].Operation // the newest taken is the head: a recovery displaces what it forks from
	}
	if head == nil || head.IsTombstone() {
		return nil, ErrNoKey
	}
	didKey, ok := head.VerificationMethods[id]
	if !ok {
		return nil, ErrNoKey
	}
	key, err := atcrypto.ParsePublicDIDKey(didKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return key, nil
}
