package repo

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"github.com/ipfs/go-cid"
)

// Limits of the network, and of what we read from strangers.
const (
	MaxOps         = 200
	MaxRecord      = 1_000_000 // bytes of one record
	MaxCommitCAR   = 2_000_000 // bytes of a commit's blocks
	maxBlock       = 1 << 20   // bytes of any block, record or node
	maxCARHeader   = 1 << 10
	maxSliceBlocks = 20_000
)

// Limits bound a CAR file from a stranger. Zero fields take the defaults for a
// whole repository.
type Limits struct {
	MaxBytes  int64 // of the file; default 256 MiB
	MaxBlocks int   // default 2,000,000
}

func (l Limits) withDefaults() Limits {
	if l.MaxBytes <= 0 {
		l.MaxBytes = 256 << 20
	}
	if l.MaxBlocks <= 0 {
		l.MaxBlocks = 2_000_000
	}
	return l
}

// commitLimits bound the blocks of one firehose commit.
var commitLimits = Limits{MaxBytes: MaxCommitCAR, MaxBlocks: maxSliceBlocks}

// Errors of [ReadCAR].
var (
	ErrCAR    = errors.New("bad CAR")
	ErrTooBig = errors.New("over the size limit")
)

// CAR is the content of a CAR v1 file with one root.
type CAR struct {
	Root   cid.Cid
	Blocks MapBlocks
}

// WriteCAR writes a CAR v1 file, without a root where that is undefined. Blocks are written in the order given.
func WriteCAR(w io.Writer, root cid.Cid, blocks iter.Seq[Block]) error {
	h := dagcbor.AppendMap(nil, 2)
	if root.Defined() {
		h = dagcbor.AppendArray(dagcbor.AppendText(h, "roots"), 1)
		h = dagcbor.AppendCID(h, root)
	} else {
		h = dagcbor.AppendArray(dagcbor.AppendText(h, "roots"), 0)
	}
	h = dagcbor.AppendInt(dagcbor.AppendText(h, "version"), 1)
	buf := append(binary.AppendUvarint(nil, uint64(len(h))), h...)
	if _, err := w.Write(buf); err != nil {
		return err
	}
	for b := range blocks {
		raw := b.CID.KeyString()
		buf = binary.AppendUvarint(buf[:0], uint64(len(raw)+len(b.Data)))
		buf = append(buf, raw...)
		if _, err := w.Write(buf); err != nil {
			return err
		}
		if _, err := w.Write(b.Data); err != nil {
			return err
		}
	}
	return nil
}

// ReadCAR reads a whole CAR file into memory, hashing every block. It refuses
// more than one root, CIDs other than version 1 with sha-256 and dag-cbor or
// raw, and anything over the limits ([ErrTooBig]). The root's block need not be
// there: the caller looks it up.
func ReadCAR(r io.Reader, lim Limits) (*CAR, error) {
	lim = lim.withDefaults()
	cr := &carReader{r: bufio.NewReader(r), left: lim.MaxBytes}
	root, err := cr.header()
	if err != nil {
		return nil, err
	}
	out := &CAR{Root: root, Blocks: MapBlocks{}}
	for count := 0; ; count++ {
		b, err := cr.block()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if count >= lim.MaxBlocks {
			return nil, fmt.Errorf("%w: more than %d blocks", ErrTooBig, lim.MaxBlocks)
		}
		out.Blocks.Put(b)
	}
}

type carReader struct {
	r    *bufio.Reader
	left int64
}

// length reads a section's length. io.EOF means the file ended before it.
func (c *carReader) length(limit uint64) (int, error) {
	var v uint64
	for shift := 0; ; shift += 7 {
		b, err := c.r.ReadByte()
		if err == io.EOF && shift == 0 {
			return 0, io.EOF
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrCAR, err)
		}
		c.left--
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if b == 0 && shift > 0 {
				return 0, fmt.Errorf("%w: length not in its shortest form", ErrCAR)
			}
			break
		}
		if shift >= 28 {
			return 0, fmt.Errorf("%w: length out of range", ErrCAR)
		}
	}
	if v > limit {
		return 0, fmt.Errorf("%w: section of %d bytes", ErrTooBig, v)
	}
	if int64(v) > c.left {
		return 0, fmt.Errorf("%w: file", ErrTooBig)
	}
	return int(v), nil
}

func (c *carReader) read(n int) ([]byte, error) {
	c.left -= int64(n)
	b := make([]byte, n) // at most maxBlock
	_, err := io.ReadFull(c.r, b)
	if errors.Is(err, io.EOF) { // only between sections may a file end
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCAR, err)
	}
	return b, nil
}

func (c *carReader) header() (cid.Cid, error) {
	n, err := c.length(maxCARHeader)
	if errors.Is(err, io.EOF) {
		return cid.Undef, fmt.Errorf("%w: empty file", ErrCAR)
	}
	if err != nil {
		return cid.Undef, err
	}
	b, err := c.read(n)
	if err != nil {
		return cid.Undef, err
	}
	root, err := readCARHeader(dagcbor.NewReader(b))
	if err != nil {
		return cid.Undef, fmt.Errorf("%w: header: %w", ErrCAR, err)
	}
	return root, nil
}

func readCARHeader(r *dagcbor.Reader) (cid.Cid, error) {
	if n, err := r.Map(); err != nil || n != 2 {
		return cid.Undef, orElse(err, "two fields expected")
	}
	if err := r.Key("roots"); err != nil {
		return cid.Undef, err
	}
	if n, err := r.Array(); err != nil || n != 1 {
		return cid.Undef, orElse(err, "exactly one root expected")
	}
	root, err := r.CID()
	if err != nil {
		return cid.Undef, err
	}
	if !plainCID(root, false) {
		return cid.Undef, errors.New("root is not a sha-256 dag-cbor CID")
	}
	if err := r.Key("version"); err != nil {
		return cid.Undef, err
	}
	if v, err := r.Int(); err != nil || v != 1 {
		return cid.Undef, orElse(err, "version 1 expected")
	}
	return root, r.End()
}

func (c *carReader) block() (Block, error) {
	n, err := c.length(cidLen + maxBlock)
	if err != nil {
		return Block{}, err
	}
	if n < cidLen {
		return Block{}, fmt.Errorf("%w: section of %d bytes holds no CID", ErrCAR, n)
	}
	b, err := c.read(n)
	if err != nil {
		return Block{}, err
	}
	head, data := b[:cidLen], b[cidLen:]
	if head[0] != 1 || head[1] != dagByte && head[1] != rawByte || head[2] != 0x12 || head[3] != 32 {
		return Block{}, fmt.Errorf("%w: block CID is not version 1, sha-256, dag-cbor or raw", ErrCAR)
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], head[4:]) {
		return Block{}, fmt.Errorf("%w: block does not hash to its CID", ErrCAR)
	}
	k, err := cid.Cast(head)
	if err != nil {
		return Block{}, fmt.Errorf("%w: %w", ErrCAR, err)
	}
	return Block{CID: k, Data: data}, nil
}
