package repo

import (
	"errors"
	"fmt"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

const repoVersion = 3

// signed is the commit object of a repository, version 3.
type signed struct {
	did  syntax.DID
	rev  string
	data cid.Cid
	prev *cid.Cid // always null when we write
	sig  []byte
}

// encode writes the commit object; without a signature it is what is signed.
func (c *signed) encode() []byte {
	fields := 6
	if c.sig == nil {
		fields--
	}
	b := dagcbor.AppendMap(make([]byte, 0, 256), fields)
	b = dagcbor.AppendText(dagcbor.AppendText(b, "did"), string(c.did))
	b = dagcbor.AppendText(dagcbor.AppendText(b, "rev"), c.rev)
	if c.sig != nil {
		b = dagcbor.AppendBytes(dagcbor.AppendText(b, "sig"), c.sig)
	}
	b = dagcbor.AppendCID(dagcbor.AppendText(b, "data"), c.data)
	b = dagcbor.AppendCIDOrNull(dagcbor.AppendText(b, "prev"), c.prev)
	return dagcbor.AppendInt(dagcbor.AppendText(b, "version"), repoVersion)
}

func (c *signed) sign(key atcrypto.PrivateKey) (Block, error) {
	sig, err := key.HashAndSign(c.encode())
	if err != nil {
		return Block{}, fmt.Errorf("sign commit of %s: %w", c.did, err)
	}
	c.sig = sig
	b := c.encode()
	return Block{CID: CIDForCBOR(b), Data: b}, nil
}

// verify checks the signature, which must be in its low-S form.
func (c *signed) verify(key atcrypto.PublicKey) error {
	unsigned := *c
	unsigned.sig = nil
	return key.HashAndVerify(unsigned.encode(), c.sig)
}

// decodeCommit reads a commit object strictly.
func decodeCommit(b []byte) (*signed, error) {
	c, err := readCommit(dagcbor.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("commit object: %w", err)
	}
	return c, nil
}

func readCommit(r *dagcbor.Reader) (*signed, error) {
	if n, err := r.Map(); err != nil || n != 6 {
		return nil, orElse(err, "six fields expected")
	}
	var c signed
	if err := r.Key("did"); err != nil {
		return nil, err
	}
	did, err := r.Text()
	if err != nil {
		return nil, err
	}
	if c.did, err = syntax.ParseDID(did); err != nil {
		return nil, err
	}
	if err := r.Key("rev"); err != nil {
		return nil, err
	}
	if c.rev, err = r.Text(); err != nil {
		return nil, err
	}
	if _, err := syntax.ParseTID(c.rev); err != nil {
		return nil, err
	}
	if err := r.Key("sig"); err != nil {
		return nil, err
	}
	if c.sig, err = r.Bytes(); err != nil {
		return nil, err
	}
	if len(c.sig) != 64 {
		return nil, errors.New("signature of the wrong size")
	}
	if err := r.Key("data"); err != nil {
		return nil, err
	}
	if c.data, err = r.CID(); err != nil {
		return nil, err
	}
	if !plainCID(c.data, false) {
		return nil, errors.New("data is not a sha-256 dag-cbor CID")
	}
	if err := r.Key("prev"); err != nil {
		return nil, err
	}
	if !r.Null() {
		prev, err := r.CID()
		if err != nil {
			return nil, err
		}
		c.prev = &prev
	}
	if err := r.Key("version"); err != nil {
		return nil, err
	}
	if v, err := r.Int(); err != nil || v != repoVersion {
		return nil, orElse(err, "version 3 expected")
	}
	return &c, r.End()
}
