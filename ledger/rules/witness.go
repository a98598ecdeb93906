package rules

import (
	"bytes"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// Roles of an institution that may run a witness.
const RoleWitness = "witness"

var witnessing = []string{RoleIssuer, RoleRedeemer, RoleSponsor, RoleVerifier, RoleWitness}

// Witness is an institution's key by which it cosigns, as the log has it.
type Witness struct {
	Org      syntax.DID
	Key      string // signed-note verifier key
	Class    string // group of the policy
	Openings bool   // it may see what is sealed
}

// BindWitnesses puts the quorum policy and its witnesses in the log. What stands already makes no entry.
type BindWitnesses struct {
	Now       time.Time
	Witnesses []Witness
	Policy    [32]byte // SHA-256 of its text
}

// LogKey is a key that the log came to be signed with, and since when.
type LogKey struct {
	Key string // signed-note verifier key
	At  string
	By  int64 // seq of its entry
}

// BindLogKey names the log's next key. Without a quorum it is the old key that vouches for it, by the checkpoints that both sign.
type BindLogKey struct {
	Now    time.Time
	Key    string
	Quorum []entry.Sign
}

func (c BindWitnesses) decide(s *State) ([]entry.Entry, error) {
	d := s.draft(c.Now)
	for _, w := range c.Witnesses {
		if k, err := tlog.ParseKey(w.Key); err != nil || !k.Cosigns() || w.Class == "" {
			return nil, refuse(InvalidRecord, figures{"key": w.Key, "class": w.Class})
		}
		if !s.accreditedNow(w.Org, c.Now, witnessing...) {
			return nil, refuse(NotAccredited, figures{"org": string(w.Org), "role": RoleWitness})
		}
		have, ok := s.witnesses[w.Key]
		if ok && have.Org != w.Org {
			return nil, refuse(NotAuthorized, figures{"key": w.Key, "org": string(have.Org)})
		}
		if have == w {
			continue
		}
		d.addTimed(entry.Entry{
			Kind: entry.KindBind, Org: w.Org, Bind: &entry.Bind{What: entry.BindWitness, Key: w.Key, Class: w.Class, Openings: w.Openings},
		})
	}
	if !bytes.Equal(s.policy, c.Policy[:]) {
		d.addTimed(entry.Entry{Kind: entry.KindBind, Bind: &entry.Bind{What: entry.BindPolicy, Hash: c.Policy[:]}})
	}
	return d.out, nil
}

func (c BindLogKey) decide(s *State) ([]entry.Entry, error) {
	if k, err := tlog.ParseKey(c.Key); err != nil || k.Cosigns() {
		return nil, refuse(InvalidRecord, figures{"key": c.Key})
	}
	if slices.ContainsFunc(s.logKeys, func(k LogKey) bool { return k.Key == c.Key }) {
		return nil, nil
	}
	for _, q := range c.Quorum {
		if _, ok := s.witnesses[q.Key]; !ok {
			return nil, refuse(NotAuthorized, figures{"key": q.Key})
		}
	}
	d := s.draft(c.Now)
	d.addTimed(entry.Entry{Kind: entry.KindBind, Bind: &entry.Bind{What: entry.BindLogKey, Key: c.Key, Quorum: c.Quorum}})
	return d.out, nil
}

func (s *State) applyWitnessing(e *entry.Entry) error {
	switch b := e.Bind; b.What {
	case entry.BindWitness:
		if k, err := tlog.ParseKey(b.Key); err != nil || !k.Cosigns() {
			return broken("%q is no witness's key", b.Key)
		}
		if have, ok := s.witnesses[b.Key]; ok && have.Org != e.Org {
			return broken("the key of %s is that of %s", e.Org, have.Org)
		}
		s.witnesses[b.Key] = Witness{Org: e.Org, Key: b.Key, Class: b.Class, Openings: b.Openings}
		return nil
	case entry.BindPolicy:
		s.policy = b.Hash
		return nil
	case entry.BindLogKey:
		if k, err := tlog.ParseKey(b.Key); err != nil || k.Cosigns() {
			return broken("%q is no log's key", b.Key)
		}
		s.logKeys = append(s.logKeys, LogKey{Key: b.Key, At: e.At, By: e.Seq})
		return nil
	}
	return broken("binding of %q", e.Bind.What)
}

// Witness gives the witness of a verifier key.
func (s *State) Witness(key string) (Witness, bool) {
	w, ok := s.witnesses[key]
	return w, ok
}

// Policy is the hash of the quorum policy, nil where there is none.
func (s *State) Policy() []byte { return s.policy }

// LogKeys are the keys that the log came to be signed with after its first, in order.
func (s *State) LogKeys() []LogKey { return slices.Clone(s.logKeys) }
