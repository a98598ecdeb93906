package repo

import (
	"errors"
	"io"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// maxAhead is how far a rev may be ahead of our clock.
const maxAhead = 5 * time.Minute

// CheckRev holds a rev against what we hold and against the clock.
func CheckRev(rev string, have State, now time.Time) error {
	tid, err := syntax.ParseTID(rev)
	if err != nil {
		return reject(BadStructure, err)
	}
	if rev <= have.Rev {
		return rejectf(StaleRev, "rev %s, we hold %s", rev, have.Rev)
	}
	if tid.Time().After(now.Add(maxAhead)) {
		return rejectf(FutureRev, "rev %s is of %s", rev, tid.Time().UTC().Format(time.RFC3339))
	}
	return nil
}

// openCAR reads a CAR and checks its root: a commit object of did, signed.
func openCAR(r io.Reader, lim Limits, did syntax.DID, key atcrypto.PublicKey) (*CAR, *signed, error) {
	file, err := ReadCAR(r, lim)
	if errors.Is(err, ErrTooBig) {
		return nil, nil, reject(TooBig, err)
	}
	if err != nil {
		return nil, nil, reject(BadStructure, err)
	}
	raw, ok := file.Blocks[file.Root]
	if !ok {
		return nil, nil, rejectf(BadStructure, "the root's block is missing")
	}
	commit, err := decodeCommit(raw)
	if err != nil {
		return nil, nil, reject(BadStructure, err)
	}
	if commit.did != did {
		return nil, nil, rejectf(BadStructure, "commit of %s in the repository of %s", commit.did, did)
	}
	if err := commit.verify(key); err != nil {
		return nil, nil, reject(BadSignature, err)
	}
	return file, commit, nil
}

type completeness bool

const (
	sliceTree completeness = false // nodes may be missing
	wholeTree completeness = true  // a missing node is an error
)

// leaf is one entry of a checked tree.
type leaf struct {
	path string
	cid  cid.Cid
}

// checkTree walks a stranger's tree before anything else reads it (V2) and
// returns the entries it could reach, in order.
func checkTree(blocks MapBlocks, root cid.Cid, want completeness) ([]leaf, error) {
	c := &checker{blocks: blocks, whole: bool(want), seen: map[cid.Cid]bool{}}
	if err := c.node(root, -1, "", ""); err != nil {
		return nil, reject(BadStructure, err)
	}
	return c.leaves, nil
}

type checker struct {
	blocks MapBlocks
	whole  bool
	seen   map[cid.Cid]bool
	leaves []leaf
	coll   string // the last collection that was found valid
}

var (
	errTwice = errors.New("tree node reached twice")
	errRange = errors.New("key outside its subtree's range")
	errPath  = errors.New("key is not a record path")
)

// node checks one node whose keys must lie strictly between low and high; an
// empty high is no bound. Depth is bounded by the levels, which fall.
func (c *checker) node(at cid.Cid, level int, low, high string) error {
	if c.seen[at] {
		return errTwice
	}
	c.seen[at] = true
	raw, ok := c.blocks[at]
	if !ok {
		if c.whole {
			return ErrBlockMissing
		}
		return nil
	}
	n, err := decodeNode(raw)
	if err != nil {
		return err
	}
	if err := n.place(level); err != nil {
		return errors.Join(errNode, err)
	}
	for i, k := range n.kids {
		next := high
		if i < len(n.keys) {
			next = n.keys[i]
			if next <= low || high != "" && next >= high {
				return errRange
			}
			if err := c.path(next); err != nil {
				return err
			}
		}
		if !k.absent() {
			if err := c.node(k.cid, n.level-1, low, next); err != nil {
				return err
			}
		}
		if i < len(n.keys) {
			c.leaves = append(c.leaves, leaf{n.keys[i], n.vals[i]})
			low = next
		}
	}
	return nil
}

// path checks that a key is collection/rkey. Neighbours mostly share their
// collection, whose check is the dear part.
func (c *checker) path(key string) error {
	coll, rkey, ok := strings.Cut(key, "/")
	if !ok {
		return errPath
	}
	if coll != c.coll {
		if _, err := syntax.ParseNSID(coll); err != nil {
			return errors.Join(errPath, err)
		}
		c.coll = coll
	}
	if _, err := syntax.ParseRecordKey(rkey); err != nil {
		return errors.Join(errPath, err)
	}
	return nil
}
