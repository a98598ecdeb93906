package audit

import (
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// Finding is something wrong in a log.
type Finding struct {
	Entry int64
	URI   string // of the record it is about, if it is about one
	What  string

	Sealed bool // only the openings show it
}

// String writes the finding with its entry first.
func (f Finding) String() string {
	if f.URI != "" {
		return fmt.Sprintf("entry %d: %s: %s", f.Entry, f.URI, f.What)
	}
	return fmt.Sprintf("entry %d: %s", f.Entry, f.What)
}

// Error implements error.
func (f Finding) Error() string { return f.String() }

const maxFindings = 1000 // of one log; the first are the ones that matter

// Auditor replays one log. It has one owner.
type Auditor struct {
	origin   string
	tree     tlog.Tree
	findings []Finding
	counts   map[entry.Kind]int64

	loc     *time.Location
	version int64      // of the rules
	city    syntax.DID // author of the first parameter set
	params  []paramSet
	roles   map[syntax.DID][]role
	tills   map[string]syntax.DID
	epochs  map[string]*epoch // by book and key
	books   map[string]*book
	tasks   map[string]*task
	first   map[entry.Ref]string
	claims  map[string]*claim
	mints   map[int64]*claim // by seq
	units   map[unitsKey]int64
	spends  map[int64]*spend // burns, holds and captures by seq
	pauses  map[pauseKey]*pause
	stopped map[decided]bool
	keys    keyring

	digests []digested

	private *private // nil: the openings are not at hand
	sealed  bool     // what is found now rests on them
}

// New is the auditor of an empty log of this origin.
func New(origin string) *Auditor {
	return &Auditor{
		origin: origin, counts: map[entry.Kind]int64{}, loc: time.UTC,
		roles: map[syntax.DID][]role{}, tills: map[string]syntax.DID{}, epochs: map[string]*epoch{}, books: map[string]*book{},
		tasks: map[string]*task{}, first: map[entry.Ref]string{}, claims: map[string]*claim{}, mints: map[int64]*claim{},
		units: map[unitsKey]int64{}, spends: map[int64]*spend{}, pauses: map[pauseKey]*pause{}, stopped: map[decided]bool{},
	}
}

// Size is the number of leaves added.
func (a *Auditor) Size() int64 { return a.tree.Size() }

// Tree is the tree over the leaves added.
func (a *Auditor) Tree() *tlog.Tree { return &a.tree }

// Count is the number of entries of a kind.
func (a *Auditor) Count(k entry.Kind) int64 { return a.counts[k] }

// Findings are all that was found so far.
func (a *Auditor) Findings() []Finding { return a.findings }

// Add checks the next leaf. What is wrong with it is kept and also comes back, joined; the replay goes on with the next leaf
// either way.
func (a *Auditor) Add(seq int64, leaf []byte) error { return a.add(seq, leaf, nil) }

func (a *Auditor) add(seq int64, leaf []byte, unseal func(*entry.Entry)) error {
	before := len(a.findings)
	if seq != a.tree.Size() {
		a.found(seq, "comes as leaf %d", a.tree.Size())
	}
	at := a.tree.Size()
	if err := a.tree.Append(leaf); err != nil {
		a.found(at, "%v", err)
	}
	e, err := entry.Decode(leaf)
	switch {
	case err != nil:
		a.found(at, "%v", err)
	case e.Seq != at:
		a.found(at, "its seq is %d", e.Seq)
		fallthrough
	default:
		e.Seq = at
		a.counts[e.Kind]++
		a.sealed = true
		if unseal != nil {
			unseal(e)
		}
		a.sealed = false
		a.replay(e)
		if a.private != nil {
			a.sealed = true
			a.private.replay(a, e)
			a.sealed = false
		}
	}
	var errs []error
	for _, f := range a.findings[before:] {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// CheckCheckpoint compares a checkpoint with the leaves added, its root and what it says of the balances: false means that it is ahead of
// them.
func (a *Auditor) CheckCheckpoint(c tlog.Checkpoint) (bool, error) {
	if c.Origin != a.origin {
		return true, fmt.Errorf("checkpoint %d is of %q, not of %q", c.Size, c.Origin, a.origin)
	}
	if c.Size > a.tree.Size() {
		return false, nil
	}
	root, err := a.tree.Root(c.Size)
	if err != nil {
		return true, err
	}
	if root != c.Root {
		return true, fmt.Errorf("checkpoint %d: root %s, the leaves give %s", c.Size, c.Root, root)
	}
	if err := a.checkBalances(c); err != nil {
		return true, fmt.Errorf("checkpoint %d: %w", c.Size, err)
	}
	return true, nil
}

func (a *Auditor) found(seq int64, format string, args ...any) {
	if len(a.findings) < maxFindings {
		a.findings = append(a.findings, Finding{Entry: seq, What: fmt.Sprintf(format, args...), Sealed: a.sealed})
	}
}

// check notes a finding where something does not hold.
func (a *Auditor) check(e *entry.Entry, holds bool, format string, args ...any) bool {
	if !holds {
		a.found(e.Seq, format, args...)
	}
	return holds
}

func (a *Auditor) replay(e *entry.Entry) {
	a.check(e, (e.Seq == 0) == (e.Kind == entry.KindRulesVersion) || e.Kind == entry.KindRulesVersion,
		"the log begins with a %s, not with the version of its rules", e.Kind)
	switch e.Kind {
	case entry.KindRulesVersion:
		v := e.RulesVersion.Version
		a.check(e, v == 1 || v == 2, "rules version %d is not known here", v)
		a.check(e, v > a.version, "rules version %d after version %d", v, a.version)
		a.version = v
	case entry.KindParameters:
		a.parameters(e)
	case entry.KindBind:
		a.bind(e)
	case entry.KindActivate:
		r := a.roleNow(e.Org)
		a.check(e, r.holdsOn(e.Day, a.loc, "issuer") && r.has("activation"), "%s may not activate", e.Org)
	case entry.KindEpochOpen:
		a.epochOpen(e)
	case entry.KindReserve:
		a.reserve(e)
	case entry.KindRelease:
		a.release(e)
	case entry.KindClaim:
		a.claim(e)
	case entry.KindUnclaim:
		a.unclaim(e)
	case entry.KindMint:
		a.mint(e)
	case entry.KindBurn:
		a.burn(e)
	default:
		a.replayLater(e)
	}
	if at, err := entry.ParseTime(e.At); err == nil {
		a.check(e, entry.FormatDay(at, a.loc) == e.Day || a.loc == time.UTC, "its day is %s, its time %s", e.Day, e.At)
	}
}

// replayLater is replay for the kinds that rest on earlier entries.
func (a *Auditor) replayLater(e *entry.Entry) {
	a.check(e, a.version >= 2, "a %s under rules version %d, which has none", e.Kind, a.version)
	switch e.Kind {
	case entry.KindHold:
		a.hold(e)
	case entry.KindCapture:
		a.capture(e)
	case entry.KindVoid:
		a.void(e)
	case entry.KindReverse:
		a.reverse(e)
	case entry.KindDormant:
		a.closeMonth(e)
	case entry.KindExpire:
		a.expire(e)
	case entry.KindEpochClose:
		a.closeEpoch(e)
	case entry.KindPause:
		a.pause(e)
	case entry.KindResume:
		a.resume(e)
	case entry.KindStateDigest:
		a.stateDigest(e)
	}
}
