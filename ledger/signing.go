package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/signer"
	"city-sync.org/citysync/ledger/tlog"
)

// ErrLogKeyMissing means that the signer has not the keys that the log names. Final until it has.
var ErrLogKeyMissing = errors.New("LogKeyMissing: the signer has not the key that the log names")

// signing decides which keys a checkpoint is signed with, as the log names them.
type signing struct {
	origin string
	signer signer.Signer
	clock  clock.Clock

	mu   sync.Mutex
	keys []boundKey // guarded by mu: named by the log, in order; the one that it began with is in no entry
}

// boundKey is a key that the log named, and until when the one before it signs too.
type boundKey struct {
	key   string
	until time.Time
}

func localSigner(did syntax.DID, keys ...string) (*signer.Local, error) {
	return signer.New(did.String(), slices.DeleteFunc(keys, func(k string) bool { return k == "" })...)
}

// named takes note of an entry that names a key. A key named by a quorum has no overlap: the operator before is gone.
func (s *signing) named(e *entry.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := boundKey{key: e.Bind.Key}
	if at, err := entry.ParseTime(e.At); err == nil && len(e.Bind.Quorum) == 0 {
		k.until = at.Add(tlog.KeyOverlap)
	}
	s.keys = append(s.keys, k)
}

// first is the key that the log began with, as far as the signer has it. The caller holds mu.
func (s *signing) first() string {
	for _, have := range s.signer.Keys() {
		if !slices.ContainsFunc(s.keys, func(k boundKey) bool { return k.key == have }) {
			return have
		}
	}
	return ""
}

// now are the keys that a checkpoint is signed with now: the old one's signature first while both sign.
func (s *signing) now() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.keys)
	if n == 0 {
		return []string{s.first()}
	}
	before := s.first()
	if n > 1 {
		before = s.keys[n-2].key
	}
	if s.clock.Now().Before(s.keys[n-1].until) {
		return []string{before, s.keys[n-1].key}
	}
	return []string{s.keys[n-1].key}
}

func (s *signing) newest() string {
	keys := s.now()
	return keys[len(keys)-1]
}

// known are all keys under which the world may have seen the log.
func (s *signing) known() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.signer.Keys()
	for _, k := range s.keys {
		if !slices.Contains(out, k.key) {
			out = append(out, k.key)
		}
	}
	return out
}

// check refuses a signer that cannot sign what the log needs.
func (s *signing) check() error {
	for _, key := range s.now() {
		if !slices.Contains(s.signer.Keys(), key) {
			return fmt.Errorf("%w: %s", ErrLogKeyMissing, key)
		}
	}
	return nil
}

// next is the signer's key that the log does not name yet, "" where there is none.
func (s *signing) next() string {
	keys := s.signer.Keys()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(keys) < 2 || slices.ContainsFunc(s.keys, func(k boundKey) bool { return k.key == keys[1] }) {
		return ""
	}
	return keys[1]
}

// forgets tells whether a signature that is thrown away leaves nothing behind: it was made in this process, by what remembers nothing.
func forgets(s signer.Signer) bool {
	local, ok := s.(*signer.Local)
	return ok && !local.Remembers()
}

func (s *signing) sign(c tlog.Checkpoint, nodes tlog.Nodes) (*Checkpoint, error) {
	ctx := context.Background() // a signer bounds its own work; an alarm more would be set for each batch
	old, err := s.signer.Last(ctx)
	if err != nil {
		return nil, err
	}
	if old > c.Size {
		return nil, broken("the signer has signed %d entries, the log has %d", old, c.Size)
	}
	proof, err := tlog.ProveConsistency(c.Size, old, nodes)
	if err != nil {
		return nil, err
	}
	note, err := s.signer.Sign(ctx, signer.Request{Checkpoint: c, Keys: s.now(), Old: old, Proof: proof})
	if err != nil {
		return nil, err
	}
	return &Checkpoint{Size: c.Size, Root: c.Root, Note: note, At: s.clock.Now().UTC().Truncate(time.Second)}, nil
}

// changeKey puts the signer's next key in the log, once: from here on both sign, until the overlap is over.
func (s *sequencer) changeKey(ctx context.Context) error {
	next := s.signing.next()
	if next == "" {
		return nil
	}
	return s.alone(ctx, "change the log's key", func(_ context.Context, b *batch) (any, error) {
		return b.decide(rules.BindLogKey{Now: b.now, Key: next})
	})
}
