package audit

import (
	"bytes"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// LogKey is a key that the log's checkpoints came to be signed with, after the one that it began with.
type LogKey struct {
	Key    string // signed-note verifier key
	Entry  int64
	At     time.Time
	Agreed []string // keys of witnesses; none: the key before it vouches for it, by the checkpoints that both sign
}

// Witness is an institution's key, as the log binds it.
type Witness struct {
	Org   syntax.DID
	Key   string
	Class string
}

// keyring are the keys that the log itself names.
type keyring struct {
	witnesses []Witness
	policy    []byte
	log       []LogKey
}

// LogKeys gives the keys that the log names, in order.
func (a *Auditor) LogKeys() []LogKey { return slices.Clone(a.keys.log) }

// Witnesses gives the witnesses that the log binds.
func (a *Auditor) Witnesses() []Witness { return slices.Clone(a.keys.witnesses) }

// Policy is the hash of the witnesses' quorum policy; nil where there is none.
func (a *Auditor) Policy() []byte { return bytes.Clone(a.keys.policy) }

func (a *Auditor) bindKey(e *entry.Entry) {
	switch b := e.Bind; b.What {
	case entry.BindWitness:
		k, err := tlog.ParseKey(b.Key)
		a.check(e, err == nil && k.Cosigns(), "%q is no key of a witness", b.Key)
		a.check(e, a.roleNow(e.Org).holdsOn(e.Day, a.loc, "issuer", "redeemer", "sponsor", "verifier", "witness"),
			"%s is not accredited, and runs a witness", e.Org)
		w := Witness{Org: e.Org, Key: b.Key, Class: b.Class}
		i := slices.IndexFunc(a.keys.witnesses, func(had Witness) bool { return had.Key == b.Key })
		if i < 0 {
			a.keys.witnesses = append(a.keys.witnesses, w)
			return
		}
		a.check(e, a.keys.witnesses[i].Org == e.Org, "the key of %s is that of %s", e.Org, a.keys.witnesses[i].Org)
		a.keys.witnesses[i] = w
	case entry.BindPolicy:
		a.keys.policy = b.Hash
	case entry.BindLogKey:
		a.bindLogKey(e)
	}
}

func (a *Auditor) bindLogKey(e *entry.Entry) {
	b := e.Bind
	k, err := tlog.ParseKey(b.Key)
	a.check(e, err == nil && !k.Cosigns() && k.Name == a.origin, "%q is no key of the log %s", b.Key, a.origin)
	twice := slices.ContainsFunc(a.keys.log, func(had LogKey) bool { return had.Key == b.Key })
	a.check(e, !twice, "a log key is named twice")
	at, _ := entry.ParseTime(e.At)
	a.keys.log = append(a.keys.log, LogKey{Key: b.Key, Entry: e.Seq, At: at, Agreed: a.agreed(e)})
}

// agreed gives the witnesses that let a new key continue the log, and finds those that do not: each signs over the log as it
// was before this entry.
func (a *Auditor) agreed(e *entry.Entry) (list []string) {
	root, err := a.tree.Root(e.Seq)
	if !a.check(e, err == nil, "%v", err) {
		return nil
	}
	text := tlog.SuccessionText(a.origin, e.Seq, root, e.Bind.Key)
	for _, q := range e.Bind.Quorum {
		bound := slices.ContainsFunc(a.keys.witnesses, func(w Witness) bool { return w.Key == q.Key })
		k, err := tlog.ParseKey(q.Key)
		good := bound && err == nil && k.CheckData(text, q.Sig) == nil
		if a.check(e, good && !slices.Contains(list, q.Key), "%s does not agree to the new log key", q.Key) {
			list = append(list, q.Key)
		}
	}
	return list
}
