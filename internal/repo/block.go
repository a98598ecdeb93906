package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// ErrBlockMissing is answered by [Blocks] for a block it does not hold.
var ErrBlockMissing = errors.New("block missing")

// Blocks is where tree nodes and records are read from. What Get returns is
// not changed by the caller.
type Blocks interface {
	Get(ctx context.Context, c cid.Cid) ([]byte, error)
}

// Block is one content-addressed block.
type Block struct {
	CID  cid.Cid
	Data []byte
}

// MapBlocks serves blocks from memory.
type MapBlocks map[cid.Cid][]byte

// Get implements [Blocks].
func (m MapBlocks) Get(_ context.Context, c cid.Cid) ([]byte, error) {
	if b, ok := m[c]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrBlockMissing, c)
}

// Put adds a block.
func (m MapBlocks) Put(b Block) { m[b.CID] = b.Data }

// cidHead is the fixed first part of a CIDv1 with a sha-256 multihash; the
// second byte is the codec.
const (
	cidLen  = 36
	rawByte = 0x55
	dagByte = 0x71
)

// CIDForCBOR is the CID of a dag-cbor block.
func CIDForCBOR(data []byte) cid.Cid {
	sum := sha256.Sum256(data)
	mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil { // impossible: the digest has the function's length
		panic(err)
	}
	return cid.NewCidV1(cid.DagCBOR, mh)
}

// plainCID says whether c has the only form the network blesses for links to
// blocks: version 1, sha-256, and dag-cbor (or raw, where allowed).
func plainCID(c cid.Cid, allowRaw bool) bool {
	raw := c.KeyString()
	return len(raw) == cidLen && raw[0] == 1 && raw[2] == 0x12 && raw[3] == 32 &&
		(raw[1] == dagByte || allowRaw && raw[1] == rawByte)
}

// overlay reads from memory first, then from what lies below.
type overlay struct {
	top  MapBlocks
	base Blocks
}

func (o overlay) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if b, ok := o.top[c]; ok {
		return b, nil
	}
	return o.base.Get(ctx, c)
}

// recorder remembers every block that was read through it.
type recorder struct {
	base Blocks
	seen map[cid.Cid][]byte
}

func (r *recorder) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, err := r.base.Get(ctx, c)
	if err == nil {
		r.seen[c] = b
	}
	return b, err
}
