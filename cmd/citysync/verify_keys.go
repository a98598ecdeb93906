package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// logKey is one key of the log and the time for which its signatures count.
type logKey struct {
	key   string
	entry int64     // that names it; noEntry for the first
	ends  time.Time // zero: it is the newest
	next  int64     // entry that names the one after it
}

// keysOf puts the keys in order: the one that the log began with, then those that it names. Where the city signed a later one,
// the first is not known by anything but what the later ones vouch for.
func keysOf(anchor string, named []audit.LogKey) []logKey {
	first := anchor
	if slices.ContainsFunc(named, func(k audit.LogKey) bool { return k.Key == anchor }) {
		first = ""
	}
	keys := []logKey{{key: first, entry: noEntry}}
	for _, k := range named {
		last := &keys[len(keys)-1]
		last.ends, last.next = k.At.Add(tlog.KeyOverlap), k.Entry
		keys = append(keys, logKey{key: k.Key, entry: k.Entry})
	}
	return keys
}

func (v *verifier) knownKeys() []string {
	var list []string
	for _, k := range v.keys {
		if k.key != "" {
			list = append(list, k.key)
		}
	}
	return list
}

// followKeys takes up the keys that the log names, and checks that each is vouched for by the one before it, or by witnesses, from
// the one that the city signed on. Then it judges the checkpoint that the log was read by.
func (v *verifier) followKeys(p *published, log *verifiedLog) {
	v.keys = keysOf(v.city.vkey, v.audit.LogKeys())
	named := v.audit.LogKeys()
	anchored := v.keys[0].key != ""
	for i, k := range named {
		if !anchored {
			anchored = k.Key == v.city.vkey
			continue
		}
		if before := v.keys[i]; len(k.Agreed) == 0 && !v.bothSigned(p, before.key, k.Key, k.Entry) {
			v.report.fail(checkKeys, k.Entry, "", "no checkpoint is signed by the log key that it names and by the one before it, and no witness agrees")
		}
	}
	v.report.looked(checkKeys, len(v.keys), fmt.Sprintf("%d keys of the log", len(v.keys)))
	c, err := v.openNote(v.newest, entry.FormatTime(v.clock.Now()))
	if err != nil {
		check, seq := checkSignature, noEntry
		var stale *staleKey
		if errors.As(err, &stale) {
			check, seq = checkKeys, stale.entry
		}
		v.report.fail(check, seq, "", "the checkpoint at %s: %v", v.city.url+"/checkpoint", err)
	}
	v.balancesOf("", c, err, nil, log)
}

// bothSigned says whether some checkpoint that covers an entry is signed by both keys.
func (v *verifier) bothSigned(p *published, before, after string, seq int64) bool {
	notes := [][]byte{v.newest}
	for _, c := range p.checkpoints {
		notes = append(notes, []byte(c.record.Note))
	}
	return slices.ContainsFunc(notes, func(raw []byte) bool {
		old, err1 := tlog.Open(raw, before)
		_, err2 := tlog.Open(raw, after)
		return err1 == nil && err2 == nil && old.Size > seq
	})
}

// staleKey is a signature by a key whose time was over.
type staleKey struct {
	ended time.Time
	entry int64 // that named the next
}

func (s *staleKey) Error() string {
	return fmt.Sprintf("a stale signature: by a log key that ended on %s", entry.FormatTime(s.ended))
}

// openNote checks a signed checkpoint under the keys that the log had at a time.
func (v *verifier) openNote(raw []byte, at string) (tlog.Checkpoint, error) {
	c, by, err := tlog.OpenAny(raw, v.knownKeys()...)
	if err != nil {
		return v.underFirst(raw, err)
	}
	when, timeErr := time.Parse(time.RFC3339Nano, at)
	if timeErr != nil {
		return c, fmt.Errorf("its time: %w", timeErr)
	}
	var stale error
	for _, k := range v.keys {
		if !slices.Contains(by, k.key) {
			continue
		}
		switch {
		case c.Size <= k.entry:
			stale = fmt.Errorf("signed by a log key that only entry %d names", k.entry)
		case !k.ends.IsZero() && when.After(k.ends):
			stale = &staleKey{ended: k.ends, entry: k.next}
		default:
			return c, nil
		}
	}
	return c, stale
}

// underFirst reads a checkpoint of the time before the key that the city signed: its root is held against the log, which a later
// key signed.
func (v *verifier) underFirst(raw []byte, err error) (tlog.Checkpoint, error) {
	text, bad := tlog.NoteText(raw)
	if v.keys[0].key != "" || bad != nil {
		return tlog.Checkpoint{}, err
	}
	c, bad := tlog.ParseCheckpoint(text)
	if bad != nil || c.Size > v.keys[0].next {
		return tlog.Checkpoint{}, err
	}
	return c, nil
}

// balancesOf holds what a checkpoint says of the balances against the newest stateDigest that it covers. root is what its record says,
// where there is one.
func (v *verifier) balancesOf(uri string, c tlog.Checkpoint, bad error, root []byte, log *verifiedLog) {
	if bad != nil {
		return
	}
	wrong := func(seq int64, format string, args ...any) { v.report.fail(checkDigests, seq, uri, format, args...) }
	seq, hash, ok, err := c.Balances()
	if err != nil {
		wrong(noEntry, "%v", err)
		return
	}
	switch {
	case !ok && len(root) > 0:
		wrong(noEntry, "it has a root of balances, its note has none")
	case ok && uri != "" && !bytes.Equal(root, hash[:]):
		wrong(seq, "its root of balances is %x, its note says %x", root, hash[:])
	}
	if c.Size > log.sound {
		return // the log went back, or cannot be judged so far
	}
	newest := log.digestBefore(c.Size)
	switch {
	case !ok && newest != noEntry:
		wrong(newest, "it has no balances, and this entry has")
		return
	case !ok:
		return
	}
	e := log.entries[seq]
	if e.Kind != entry.KindStateDigest {
		wrong(seq, "it names the entry for its balances, which is a %s", e.Kind)
		return
	}
	want, err := entry.BalancesHash(e.StateDigest.Balances)
	if err != nil || want != hash {
		wrong(seq, "it says %x of the balances, the entry gives %x", hash[:], want)
	}
	if newest != seq {
		wrong(newest, "it has the balances of entry %d, and this one is newer", seq)
	}
}

// digestBefore is the newest stateDigest of the log's first entries, all of which are sound.
func (l *verifiedLog) digestBefore(size int64) int64 {
	for seq := size - 1; seq >= 0; seq-- {
		if l.entries[seq].Kind == entry.KindStateDigest {
			return seq
		}
	}
	return noEntry
}

// seen reads a signed checkpoint from a file or an address.
func (v *verifier) seen(ctx context.Context, name string) ([]byte, error) {
	if strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") {
		return v.web.get(ctx, name, tlog.MaxNote)
	}
	return readAtMost(name, tlog.MaxNote)
}

func readAtMost(name string, most int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes, at most %d", name, info.Size(), most)
	}
	return os.ReadFile(name)
}

// checkViews holds checkpoints that were seen elsewhere against the log as it is served here: both are signed by the log.
func (v *verifier) checkViews(log *verifiedLog) {
	good := int64(0)
	slices.SortStableFunc(v.views, func(a, b []byte) int { return int(sizeOf(a) - sizeOf(b)) })
	for _, raw := range v.views {
		c, _, err := tlog.OpenAny(raw, v.knownKeys()...)
		switch {
		case err != nil:
			v.report.fail(checkViews, noEntry, "", "the checkpoint given: %v", err)
			continue
		case c.Size > log.checkpoint.Size:
			v.report.fail(checkViews, log.checkpoint.Size, "", "a rollback: the log showed %d entries elsewhere and has %d here", c.Size, log.checkpoint.Size)
			continue
		}
		root, err := log.tree.Root(c.Size)
		if err != nil || root != c.Root {
			v.report.fail(checkViews, good, "", "a split view between entries %d and %d: the log signed root %s of %d entries elsewhere, here it is %s",
				good, c.Size-1, c.Root, c.Size, root)
			continue
		}
		good = c.Size
	}
	if len(v.views) > 0 {
		v.report.looked(checkViews, len(v.views), "checkpoints seen elsewhere")
	}
}

// sizeOf is the size that a note says, for the order alone.
func sizeOf(raw []byte) int64 {
	text, err := tlog.NoteText(raw)
	if err != nil {
		return 0
	}
	c, err := tlog.ParseCheckpoint(text)
	if err != nil {
		return 0
	}
	return c.Size
}

// cosignatures checks the newest checkpoint that a quorum of witnesses cosigned, under the policy whose hash the log has.
func (v *verifier) cosignatures(ctx context.Context, log *verifiedLog) error {
	hash := v.audit.Policy()
	if hash == nil {
		v.succession(nil)
		v.report.looked(checkCosigned, 0, "the log names no policy: nobody cosigns it")
		return nil
	}
	text, err := v.web.get(ctx, v.city.url+"/policy", tlog.MaxPolicy)
	if refusedFor(err) {
		v.report.fail(checkCosigned, noEntry, "", "the log names a policy and does not give it out: %v", err)
		return nil
	}
	if err != nil {
		return couldNot("policy: %w", err)
	}
	if sum := sha256.Sum256(text); !bytes.Equal(sum[:], hash) {
		v.report.fail(checkCosigned, noEntry, "", "the policy given out is %x, the log names %x", sum, hash)
		return nil
	}
	policy, err := tlog.ParsePolicy(text)
	if err != nil {
		v.report.fail(checkCosigned, noEntry, "", "%v", err)
		return nil
	}
	v.bound(policy)
	v.succession(policy)
	raw, err := v.web.get(ctx, v.city.url+"/checkpoint/cosigned", tlog.MaxNote)
	if refusedFor(err) {
		v.report.looked(checkCosigned, 0, fmt.Sprintf("%d witnesses; no quorum has cosigned yet", len(policy.Witnesses)))
		return nil
	}
	if err != nil {
		return couldNot("cosigned checkpoint: %w", err)
	}
	v.cosigned(raw, policy, log)
	return nil
}

// bound checks that the log binds every witness of the policy to an institution.
func (v *verifier) bound(policy *tlog.Policy) {
	witnesses := v.audit.Witnesses()
	for _, w := range policy.Witnesses {
		if !slices.ContainsFunc(witnesses, func(b audit.Witness) bool { return b.Key == w.Key }) {
			v.report.fail(checkCosigned, noEntry, "", "witness %q of the policy is not bound in the log", w.Name)
		}
	}
}

// succession checks that witnesses who let a new key continue the log are a quorum.
func (v *verifier) succession(policy *tlog.Policy) {
	for _, k := range v.audit.LogKeys() {
		if len(k.Agreed) > 0 && (policy == nil || !policy.Holds(k.Agreed...)) {
			v.report.fail(checkKeys, k.Entry, "", "%d witnesses agree to the log key that it names, which are no quorum", len(k.Agreed))
		}
	}
}

func (v *verifier) cosigned(raw []byte, policy *tlog.Policy, log *verifiedLog) {
	done, err := policy.Check(raw, v.knownKeys()...)
	if err != nil {
		v.report.fail(checkCosigned, noEntry, "", "the cosigned checkpoint: %v", err)
		return
	}
	c := done.Checkpoint
	switch root, err := log.tree.Root(min(c.Size, log.tree.Size())); {
	case c.Size > log.checkpoint.Size:
		// The log may have grown since its newest checkpoint was read.
		v.report.looked(checkCosigned, 0, fmt.Sprintf("%d entries are cosigned, more than were read", c.Size))
		return
	case err != nil || root != c.Root:
		v.report.fail(checkCosigned, noEntry, "", "a quorum cosigned root %s of %d entries, here it is %s", c.Root, c.Size, root)
		return
	}
	v.report.looked(checkCosigned, len(done.Names), fmt.Sprintf("%d entries by %s: a quorum", c.Size, strings.Join(done.Names, ", ")))
}
