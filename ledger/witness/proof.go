package witness

import (
	"encoding/json"
	"errors"
	"fmt"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// Kinds of proof.
const (
	ProofFork  = "fork"  // the log signed two histories
	ProofEntry = "entry" // the log signed an entry that breaks its rules
)

// MaxProof bounds a proof's file.
const MaxProof = 24 << 20

const maxBefore = 8 << 20 // of the entries that a proof carries along

// ErrProof means that a proof proves nothing. Final.
var ErrProof = errors.New("the proof does not hold")

// Side is one signed checkpoint of a fork, and what its tree was at the size where the two part.
type Side struct {
	Checkpoint string   `json:"checkpoint"`
	Root       []byte   `json:"root"`   // of its first Size leaves
	Hashes     [][]byte `json:"hashes"` // that its tree continues that root
}

// Proof shows that a log broke its word, by what its own key signed. Anybody who knows that key can check it, with no network.
type Proof struct {
	Kind    string   `json:"kind"`
	Origin  string   `json:"origin"`
	LogKeys []string `json:"logKeys"` // as the witness knew them; a checker uses its own
	Witness string   `json:"witness"`
	At      string   `json:"at"`
	What    string   `json:"what"`

	Size int64 `json:"size,omitempty"` // of a fork: where both sides can be compared
	A    *Side `json:"a,omitempty"`
	B    *Side `json:"b,omitempty"`

	Entry      int64    `json:"entry,omitempty"`
	Checkpoint string   `json:"checkpoint,omitempty"`
	Leaf       []byte   `json:"leaf,omitempty"`
	Inclusion  [][]byte `json:"inclusion,omitempty"`
	Before     [][]byte `json:"before,omitempty"` // all entries before it, where they are not too many: what it is judged by
	Hashes     [][]byte `json:"hashes,omitempty"` // that the checkpoint continues the tree of them and the leaf
	Sealed     bool     `json:"sealed,omitempty"` // found with openings, which no proof carries: only another validator can confirm it
}

// Verdict is what a proof shows.
type Verdict struct {
	Kind  string
	Entry int64 // -1 for a fork
	What  string
}

// ReadProof reads a proof's file. The error wraps ErrProof.
func ReadProof(data []byte) (*Proof, error) {
	p := &Proof{}
	if len(data) > MaxProof {
		return nil, fmt.Errorf("%w: %d bytes", ErrProof, len(data))
	}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return p, nil
}

// Check checks the proof under keys of the log that the checker knows. before gives an earlier entry where the proof does not carry
// them, as any copy of the log has it; nil: there is none at hand. The error wraps ErrProof.
func (p *Proof) Check(logKeys []string, before func(seq int64) ([]byte, error)) (*Verdict, error) {
	switch p.Kind {
	case ProofFork:
		return p.checkFork(logKeys)
	case ProofEntry:
		return p.checkEntry(logKeys, before)
	}
	return nil, fmt.Errorf("%w: kind %.40q", ErrProof, p.Kind)
}

func (p *Proof) open(note string, logKeys []string) (tlog.Checkpoint, error) {
	c, _, err := tlog.OpenAny([]byte(note), logKeys...)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if c.Origin != p.Origin {
		return c, fmt.Errorf("%w: a checkpoint of %q, not of %q", ErrProof, c.Origin, p.Origin)
	}
	return c, nil
}

func (p *Proof) checkFork(logKeys []string) (*Verdict, error) {
	if p.A == nil || p.B == nil || string(p.A.Root) == string(p.B.Root) || p.Size < 1 {
		return nil, fmt.Errorf("%w: it has no two sides", ErrProof)
	}
	var sizes [2]int64
	for i, s := range []*Side{p.A, p.B} {
		c, err := p.open(s.Checkpoint, logKeys)
		if err != nil {
			return nil, err
		}
		hashes, err := toHashes(append([][]byte{s.Root}, s.Hashes...))
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckConsistency(hashes[1:], c.Size, c.Root, p.Size, hashes[0]); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrProof, err)
		}
		sizes[i] = c.Size
	}
	return &Verdict{Kind: ProofFork, Entry: -1, What: fmt.Sprintf(
		"%s signed two histories: its checkpoints of %d and of %d entries disagree on the first %d", p.Origin, sizes[0], sizes[1], p.Size)}, nil
}

func (p *Proof) checkEntry(logKeys []string, before func(seq int64) ([]byte, error)) (*Verdict, error) {
	c, err := p.open(p.Checkpoint, logKeys)
	if err != nil {
		return nil, err
	}
	inclusion, err := toHashes(p.Inclusion)
	if err != nil {
		return nil, err
	}
	if err := tlog.CheckInclusion(inclusion, c.Size, c.Root, p.Entry, tlog.LeafHash(p.Leaf)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	e, err := entry.Decode(p.Leaf)
	switch {
	case err != nil:
		return &Verdict{ProofEntry, p.Entry, fmt.Sprintf("entry %d: %v", p.Entry, err)}, nil
	case e.Seq != p.Entry:
		return &Verdict{ProofEntry, p.Entry, fmt.Sprintf("entry %d says that it is entry %d", p.Entry, e.Seq)}, nil
	}
	a := audit.New(p.Origin)
	if err := p.replay(a, c, before); err != nil {
		return nil, err
	}
	for _, f := range a.Findings() {
		if f.Entry == p.Entry {
			return &Verdict{ProofEntry, p.Entry, fmt.Sprintf("entry %d (%s): %s", p.Entry, e.Kind, f.What)}, nil
		}
	}
	if p.Sealed {
		return nil, fmt.Errorf("%w by what is public: entry %d was found with openings, and only a validator that has them can confirm: %s", ErrProof, p.Entry, p.What)
	}
	return nil, fmt.Errorf("%w: entry %d breaks no rule", ErrProof, p.Entry)
}

// replay runs the auditor up to the entry, over entries that are shown to be those of the checkpoint's tree.
func (p *Proof) replay(a *audit.Auditor, c tlog.Checkpoint, before func(seq int64) ([]byte, error)) error {
	carried := int64(len(p.Before)) == p.Entry
	if !carried && before == nil {
		return fmt.Errorf("%w alone: entry %d is judged by the %d before it; give a copy of the log", ErrProof, p.Entry, p.Entry)
	}
	for seq := range p.Entry {
		leaf := []byte(nil)
		if carried {
			leaf = p.Before[seq]
		} else {
			var err error
			if leaf, err = before(seq); err != nil {
				return fmt.Errorf("%w: entry %d of the copy: %w", ErrProof, seq, err)
			}
		}
		_ = a.Add(seq, leaf) // kept as a finding
	}
	_ = a.Add(p.Entry, p.Leaf) // kept as a finding
	root, err := a.Tree().Root(p.Entry + 1)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	hashes, err := toHashes(p.Hashes)
	if err != nil {
		return err
	}
	if err := tlog.CheckConsistency(hashes, c.Size, c.Root, p.Entry+1, root); err != nil {
		return fmt.Errorf("%w: the entries before it are of another log: %w", ErrProof, err)
	}
	return nil
}

func toHashes(list [][]byte) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, raw := range list {
		var h tlog.Hash
		if len(raw) != len(h) || len(list) > 128 {
			return nil, fmt.Errorf("%w: a hash of %d bytes", ErrProof, len(raw))
		}
		copy(h[:], raw)
		out = append(out, h)
	}
	return out, nil
}

func fromHashes(list []tlog.Hash) [][]byte {
	var out [][]byte
	for _, h := range list {
		out = append(out, append([]byte(nil), h[:]...))
	}
	return out
}
