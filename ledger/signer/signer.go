// Package signer holds the log's key. It can run in the ledger's process, or alone: then whoever takes over the ledger still cannot
// sign two histories.
//
// Invariants:
//
//	G1  Of two checkpoints that are signed, the later one continues the earlier one, and is never smaller. What was signed last is on
//	    the disk before the signature leaves.
//	G2  A voucher is signed under another name and with another first line than any checkpoint has.
package signer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/voucher"
)

// ErrRefused means that the signer will not sign this. Final.
var ErrRefused = errors.New("the signer refuses")

// Request asks for one checkpoint.
type Request struct {
	Checkpoint tlog.Checkpoint
	Keys       []string    // verifier keys to sign with, the first one's line first
	Old        int64       // what Last said
	Proof      []tlog.Hash // that the checkpoint's tree continues that of Old leaves
}

// Signer signs what a log's key may sign. It ends by itself: Local in this process, Remote after askTimeout.
type Signer interface {
	// Keys are the verifier keys that it has, the one in use first, the next one after it.
	Keys() []string
	// Last is the size of what was signed last: a checkpoint needs a proof from there.
	Last(ctx context.Context) (int64, error)
	// Sign gives a signed checkpoint. An error that wraps ErrRefused is final.
	Sign(ctx context.Context, r Request) ([]byte, error)
	// Voucher gives the signed note of a voucher's text, under the keys of verifier keys.
	Voucher(ctx context.Context, text string, keys []string) ([]byte, error)
}

// Local signs in this process. Without a folder it remembers nothing: the ledger's database and its witnesses keep the history.
type Local struct {
	origin string
	vkeys  []string
	skeys  []string
	keys   []note.Signer // skeys, read once
	file   string        // "": nothing is kept

	mu   sync.Mutex
	last last // guarded by mu
}

type last struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   []byte `json:"root"`
}

// New is a signer in this process, for a log and its secret keys, as signed notes write them.
func New(origin string, skeys ...string) (*Local, error) {
	l := &Local{origin: origin}
	for _, skey := range skeys {
		vkey, err := tlog.VerifierKey(origin, skey)
		if err != nil {
			return nil, fmt.Errorf("signer: %w", err)
		}
		if !slices.Contains(l.vkeys, vkey) {
			key, err := tlog.NewSigner(origin, skey)
			if err != nil {
				return nil, fmt.Errorf("signer: %w", err)
			}
			l.vkeys, l.skeys, l.keys = append(l.vkeys, vkey), append(l.skeys, skey), append(l.keys, key)
		}
	}
	if len(l.vkeys) == 0 {
		return nil, errors.New("signer: no key")
	}
	return l, nil
}

// Open is a signer that keeps what it signed last in a file, and signs nothing that does not continue it. A file that is lost must
// not be replaced by an empty one: a new signer is given the last checkpoint by its operator.
func Open(file, origin string, skeys ...string) (*Local, error) {
	l, err := New(origin, skeys...)
	if err != nil {
		return nil, err
	}
	l.file = file
	raw, err := os.ReadFile(filepath.Clean(file))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	if err := json.Unmarshal(raw, &l.last); err != nil || l.last.Origin != origin || l.last.Size < 0 || len(l.last.Root) != len(tlog.Hash{}) {
		return nil, fmt.Errorf("signer: %s is of the log %q: %w", file, l.last.Origin, err)
	}
	return l, nil
}

// Keys implements Signer.
func (l *Local) Keys() []string { return slices.Clone(l.vkeys) }

// Remembers tells whether it holds the log to what it once signed, whether or not anybody has seen that.
func (l *Local) Remembers() bool { return l.file != "" }

// Last implements Signer.
func (l *Local) Last(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last.Size, nil
}

// Sign implements Signer. G1
func (l *Local) Sign(_ context.Context, r Request) ([]byte, error) {
	if r.Checkpoint.Origin != l.origin {
		return nil, fmt.Errorf("%w: a checkpoint of %q", ErrRefused, r.Checkpoint.Origin)
	}
	if len(r.Keys) == 0 {
		return nil, fmt.Errorf("%w: by no key", ErrRefused)
	}
	var keys []note.Signer
	for _, k := range r.Keys {
		i := slices.Index(l.vkeys, k)
		if i < 0 {
			return nil, fmt.Errorf("%w: it has no key %q", ErrRefused, k)
		}
		keys = append(keys, l.keys[i])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != "" {
		if err := l.advance(r); err != nil {
			return nil, err
		}
	}
	return tlog.SignWith(r.Checkpoint, keys...)
}

func (l *Local) advance(r Request) error {
	if r.Old != l.last.Size {
		return fmt.Errorf("%w: it signed %d last, the proof is from %d", ErrRefused, l.last.Size, r.Old)
	}
	var root tlog.Hash
	copy(root[:], l.last.Root)
	if r.Old == 0 {
		var err error
		if root, err = tlog.Root(0, nil); err != nil {
			return err
		}
	}
	if err := tlog.CheckConsistency(r.Proof, r.Checkpoint.Size, r.Checkpoint.Root, r.Old, root); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if r.Old == r.Checkpoint.Size && r.Old > 0 {
		return nil
	}
	next := last{Origin: l.origin, Size: r.Checkpoint.Size, Root: r.Checkpoint.Root[:]}
	if err := keep(l.file, next); err != nil {
		return fmt.Errorf("signer: %w", err)
	}
	l.last = next
	return nil
}

// keep writes the file beside its place, syncs and renames it, so that it is whole whenever it is read.
func keep(file string, v last) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, ".signer-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error counts
		return err
	}
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Voucher implements Signer. G2
func (l *Local) Voucher(_ context.Context, text string, keys []string) ([]byte, error) {
	v, err := voucher.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var skeys []string
	for _, key := range keys {
		i := slices.Index(l.vkeys, key)
		if i < 0 || v.Ledger != l.origin {
			return nil, fmt.Errorf("%w: a voucher of %q under %q", ErrRefused, v.Ledger, key)
		}
		skeys = append(skeys, l.skeys[i])
	}
	if len(skeys) == 0 {
		return nil, fmt.Errorf("%w: a voucher under no key", ErrRefused)
	}
	return voucher.Sign(v, skeys...)
}
