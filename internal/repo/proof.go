package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// Proof is the CAR that shows what a signed commit says about one path: the
// commit, the tree nodes on the way, and the record, or only the way if there
// is no such record.
func Proof(ctx context.Context, src Blocks, head Head, path string) ([]byte, error) {
	commit, err := src.Get(ctx, head.Commit)
	if err != nil {
		return nil, fmt.Errorf("proof of %s: commit: %w", path, err)
	}
	rec := &recorder{base: src, seen: map[cid.Cid][]byte{}}
	c, ok, err := openTree(rec, head.Data).get(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("proof of %s: %w", path, err)
	}
	if ok {
		if _, err := rec.Get(ctx, c); err != nil {
			return nil, fmt.Errorf("proof of %s: record: %w", path, err)
		}
	}
	var buf bytes.Buffer
	err = WriteCAR(&buf, head.Commit, func(yield func(Block) bool) {
		_ = yield(Block{CID: head.Commit, Data: commit}) && yieldSorted(rec.seen, yield)
	})
	return buf.Bytes(), err
}

// Proved is what a proof shows. CID is undefined and Record nil if it shows that
// there is no record.
type Proved struct {
	CID    cid.Cid
	Record []byte
	Commit cid.Cid
	Rev    string
}

// proofLimits bound a proof: a record, and one node per level.
var proofLimits = Limits{MaxBytes: MaxCommitCAR, MaxBlocks: 4 * maxDepth}

// VerifyProof checks a proof from a stranger with nothing but the author's key.
func VerifyProof(car []byte, did syntax.DID, key atcrypto.PublicKey, path string) (p *Proved, err error) {
	defer rescue(&err)
	if _, _, err := syntax.ParseRepoPath(path); err != nil {
		return nil, reject(BadStructure, err)
	}
	file, commit, err := openCAR(bytes.NewReader(car), proofLimits, did, key)
	if err != nil {
		return nil, err
	}
	if _, err := checkTree(file.Blocks, commit.data, sliceTree); err != nil {
		return nil, err
	}
	p = &Proved{Commit: file.Root, Rev: commit.rev}
	c, ok, err := openTree(file.Blocks, commit.data).get(context.Background(), path)
	if err != nil {
		return nil, reject(BadStructure, err)
	}
	if !ok {
		return p, nil
	}
	p.CID = c
	if p.Record, err = record(file.Blocks, c); err != nil {
		return nil, err
	}
	return p, nil
}

// record finds and checks a record's bytes.
func record(blocks MapBlocks, c cid.Cid) ([]byte, error) {
	b, ok := blocks[c]
	if !ok {
		return nil, reject(BadStructure, fmt.Errorf("record %s: %w", c, ErrBlockMissing))
	}
	if err := CheckRecord(c, b); err != nil {
		return nil, err
	}
	return b, nil
}

// ProofFromSlice cuts the proof of one path out of a verified commit. The path
// must be one of the commit's creates or updates, whose way is in the slice.
func ProofFromSlice(v *Verified, path string) ([]byte, error) {
	blocks := v.blocks
	if blocks == nil {
		file, err := ReadCAR(bytes.NewReader(v.CAR), commitLimits)
		if err != nil {
			return nil, fmt.Errorf("proof of %s: %w", path, err)
		}
		blocks = file.Blocks
	}
	return Proof(context.Background(), blocks, Head{Commit: v.Commit, Data: v.Data, Rev: v.Rev}, path)
}

var errPanic = errors.New("panic")

// rescue turns a panic of a library on hostile bytes into a refusal.
func rescue(err *error) {
	if p := recover(); p != nil {
		*err = reject(BadStructure, fmt.Errorf("%w: %v", errPanic, p))
	}
}
