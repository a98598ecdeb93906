package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"time"

	"city-sync.org/citysync/internal/firehose"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// State is what we hold of a repository: the last verified rev and the root of
// its tree. The zero State is nothing.
type State struct {
	Rev  string
	Data cid.Cid
}

// Verified is a commit whose every claim was checked.
type Verified struct {
	DID    syntax.DID
	Commit cid.Cid
	Rev    string
	Data   cid.Cid
	Key    string // did:key that signed
	Ops    []VerifiedOp
	CAR    []byte // the event's blocks as they came

	blocks MapBlocks
}

// VerifiedOp is one change of a record. Record is nil for a delete; CID and
// Prev are undefined where there is none.
type VerifiedOp struct {
	Action     Action
	Collection string
	RKey       string
	CID        cid.Cid
	Prev       cid.Cid
	Record     []byte
}

// VerifyCommit checks a commit event against the author's key and against what
// we hold of that repository (V1–V4). Every error is a [Reject].
func VerifyCommit(ctx context.Context, ev *firehose.Commit, key atcrypto.PublicKey, have State, now time.Time) (v *Verified, err error) {
	defer rescue(&err)
	if ev.TooBig || len(ev.Blocks) > MaxCommitCAR || len(ev.Ops) > MaxOps {
		return nil, rejectf(TooBig, "%d bytes of blocks, %d operations", len(ev.Blocks), len(ev.Ops))
	}
	if ev.Rebase {
		return nil, rejectf(BadStructure, "rebase is not in use any more")
	}
	if err := CheckRev(ev.Rev, have, now); err != nil {
		return nil, err
	}
	ops, err := checkOps(ev.Ops)
	if err != nil {
		return nil, err
	}
	file, commit, err := openCAR(bytes.NewReader(ev.Blocks), commitLimits, ev.DID, key)
	if err != nil {
		return nil, err
	}
	if file.Root != ev.Commit {
		return nil, rejectf(BadStructure, "the CAR's root is not the event's commit")
	}
	if commit.rev != ev.Rev {
		return nil, rejectf(BadStructure, "rev %s in the commit, %s in the event", commit.rev, ev.Rev)
	}
	// From here on the author has signed what is wrong: a broken chain is worth
	// fetching the whole repository for.
	former, err := formerRoot(ev, have)
	if err != nil {
		return nil, err
	}
	if _, err := checkTree(file.Blocks, commit.data, sliceTree); err != nil {
		return nil, err
	}
	t := openTree(file.Blocks, commit.data)
	t.partial = true
	got, err := t.invert(ctx, ops)
	if err != nil {
		return nil, reject(BadChain, err)
	}
	if got != former {
		return nil, rejectf(BadChain, "undoing the operations gives %s, not %s", got, former)
	}
	v = &Verified{DID: ev.DID, Commit: file.Root, Rev: commit.rev, Data: commit.data, Key: key.DIDKey(), CAR: ev.Blocks, blocks: file.Blocks}
	for _, op := range ops {
		vop := VerifiedOp{Action: op.Action}
		vop.Collection, vop.RKey, _ = strings.Cut(op.Path, "/")
		if op.Prev != nil {
			vop.Prev = *op.Prev
		}
		if op.CID != nil {
			vop.CID = *op.CID
			if vop.Record, err = record(file.Blocks, vop.CID); err != nil {
				return nil, err
			}
		}
		v.Ops = append(v.Ops, vop)
	}
	return v, nil
}

// SignedRoot is the root of the tree that the author signed under the event's rev. It says nothing about how that tree came about: it
// tells a repeated event from another one under the same rev. Every error is a [Reject].
func SignedRoot(ev *firehose.Commit, key atcrypto.PublicKey) (root cid.Cid, err error) {
	defer rescue(&err)
	if ev.TooBig || len(ev.Blocks) > MaxCommitCAR {
		return cid.Undef, rejectf(TooBig, "%d bytes of blocks", len(ev.Blocks))
	}
	file, commit, err := openCAR(bytes.NewReader(ev.Blocks), commitLimits, ev.DID, key)
	if err != nil {
		return cid.Undef, err
	}
	if file.Root != ev.Commit || commit.rev != ev.Rev {
		return cid.Undef, rejectf(BadStructure, "the CAR's commit is not the event's")
	}
	return commit.data, nil
}

// formerRoot is the root that undoing the operations must give. A first commit
// starts from the empty tree, whatever its author leaves out.
func formerRoot(ev *firehose.Commit, have State) (cid.Cid, error) {
	switch {
	case !have.Data.Defined() && ev.PrevData == nil:
		return emptyRoot(), nil
	case !have.Data.Defined():
		return cid.Undef, rejectf(BadChain, "we hold nothing before %s", ev.Rev)
	case ev.PrevData == nil:
		return cid.Undef, rejectf(BadChain, "prevData missing")
	case *ev.PrevData != have.Data:
		return cid.Undef, rejectf(BadChain, "prevData is %s, we hold %s", ev.PrevData, have.Data)
	}
	return have.Data, nil
}

func checkOps(in []firehose.Op) ([]Op, error) {
	seen := make(map[string]bool, len(in))
	out := make([]Op, len(in))
	for i, op := range in {
		if _, _, err := syntax.ParseRepoPath(op.Path); err != nil {
			return nil, reject(BadStructure, err)
		}
		if seen[op.Path] {
			return nil, rejectf(BadStructure, "two operations on %s", op.Path)
		}
		seen[op.Path] = true
		var shape bool
		switch Action(op.Action) {
		case Create:
			shape = op.CID != nil && op.Prev == nil
		case Update:
			shape = op.CID != nil && op.Prev != nil && *op.CID != *op.Prev
		case Delete:
			shape = op.CID == nil && op.Prev != nil
		}
		if !shape {
			return nil, rejectf(BadStructure, "%q of %s without the CIDs that belong to it", op.Action, op.Path)
		}
		for _, c := range []*cid.Cid{op.CID, op.Prev} {
			if c != nil && !plainCID(*c, false) {
				return nil, rejectf(BadStructure, "%s: not a sha-256 dag-cbor CID", op.Path)
			}
		}
		out[i] = Op{Action: Action(op.Action), Path: op.Path, CID: op.CID, Prev: op.Prev}
	}
	return out, nil
}

// Full is a whole repository that was checked, held in memory.
type Full struct {
	DID    syntax.DID
	Commit cid.Cid
	Rev    string
	Data   cid.Cid
	Key    string // did:key that signed

	blocks MapBlocks
	leaves []leaf
}

// Record is one record of a repository.
type Record struct {
	Path string // collection/rkey
	CID  cid.Cid
	Data []byte
}

// Len is the number of records.
func (f *Full) Len() int { return len(f.leaves) }

// Records yields every record in the order of the paths.
func (f *Full) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, l := range f.leaves {
			if !yield(Record{Path: l.path, CID: l.cid, Data: f.blocks[l.cid]}) {
				return
			}
		}
	}
}

// Proof is the proof of one path under this commit.
func (f *Full) Proof(path string) ([]byte, error) {
	return Proof(context.Background(), f.blocks, Head{Commit: f.Commit, Data: f.Data, Rev: f.Rev}, path)
}

// VerifyRepo reads a whole repository and checks all of it: the tree must be
// complete and every record canonical. Whether its rev is acceptable is
// [CheckRev]'s to say. Errors are [Reject]s, or the reader's own.
func VerifyRepo(_ context.Context, car io.Reader, did syntax.DID, key atcrypto.PublicKey, lim Limits) (f *Full, err error) {
	defer rescue(&err)
	src := &errReader{r: car}
	file, commit, err := openCAR(src, lim, did, key)
	if src.err != nil {
		return nil, src.err
	}
	if err != nil {
		return nil, err
	}
	leaves, err := checkTree(file.Blocks, commit.data, wholeTree)
	if err != nil {
		return nil, err
	}
	for _, l := range leaves {
		if _, err := record(file.Blocks, l.cid); err != nil {
			return nil, err
		}
	}
	return &Full{DID: did, Commit: file.Root, Rev: commit.rev, Data: commit.data, Key: key.DIDKey(), blocks: file.Blocks, leaves: leaves}, nil
}

// errReader keeps a failure of the source apart from what is wrong with its bytes.
type errReader struct {
	r   io.Reader
	err error
}

func (e *errReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}
