package tlog

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	proofHeader    = "c2sp.org/tlog-proof@v1"
	maxProofHashes = 63
	maxExtra       = 96 << 10 // base64 of the longest leaf there can be

	// MaxProofFile bounds a proof file.
	MaxProofFile = maxExtra + maxProofHashes*64 + MaxNote
)

// ProofFile is a proof that something stands in a log, which needs no network to be checked (C2SP tlog-proof).
type ProofFile struct {
	Leaf       []byte // the entry itself, carried as the extra line; it is believed because the proof is of its hash
	Index      int64
	Hashes     []Hash
	Checkpoint []byte // signed note, cosignatures included
}

// Encode writes the file.
func (p *ProofFile) Encode() []byte {
	var b strings.Builder
	b.WriteString(proofHeader + "\n")
	if len(p.Leaf) > 0 {
		b.WriteString("extra " + base64.StdEncoding.EncodeToString(p.Leaf) + "\n")
	}
	b.WriteString("index " + strconv.FormatInt(p.Index, 10) + "\n")
	for _, h := range p.Hashes {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n")
	b.Write(p.Checkpoint)
	return []byte(b.String())
}

// ParseProofFile reads what Encode writes, and nothing else. The error wraps ErrProof.
func ParseProofFile(data []byte) (*ProofFile, error) {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrProof, what) }
	if len(data) > MaxProofFile {
		return nil, bad(fmt.Sprintf("file of %d bytes", len(data)))
	}
	head, signed, ok := strings.Cut(string(data), "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || lines[0] != proofHeader || len(lines) < 2 {
		return nil, bad("not a proof file")
	}
	lines = lines[1:]
	p := &ProofFile{Checkpoint: []byte(signed)}
	var err error
	if encoded, has := strings.CutPrefix(lines[0], "extra "); has {
		if p.Leaf, err = base64.StdEncoding.Strict().DecodeString(encoded); err != nil || len(p.Leaf) == 0 {
			return nil, bad("extra data that does not decode")
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || len(lines) > 1+maxProofHashes {
		return nil, bad("no index, or too many hashes")
	}
	number, has := strings.CutPrefix(lines[0], "index ")
	if p.Index, err = strconv.ParseInt(number, 10, 64); err != nil || !has || p.Index < 0 {
		return nil, bad("no index")
	}
	for _, l := range lines[1:] {
		h, err := tlog.ParseHash(l)
		if err != nil {
			return nil, bad("a hash that does not decode")
		}
		p.Hashes = append(p.Hashes, h)
	}
	if _, err := NoteText(p.Checkpoint); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if string(p.Encode()) != string(data) {
		return nil, bad("not in its one form")
	}
	return p, nil
}

// Verify checks the file's own leaf against the log's keys and, where one is given, the policy; without a policy the result has no
// cosignatures. The error wraps ErrProof, ErrCheckpoint or ErrCosignature.
func (p *ProofFile) Verify(policy *Policy, logKeys ...string) (*Cosigned, error) {
	var c *Cosigned
	if policy != nil {
		var err error
		if c, err = policy.Check(p.Checkpoint, logKeys...); err != nil {
			return nil, err
		}
	} else {
		opened, _, err := OpenAny(p.Checkpoint, logKeys...)
		if err != nil {
			return nil, err
		}
		c = &Cosigned{Checkpoint: opened}
	}
	if err := CheckInclusion(p.Hashes, c.Size, c.Root, p.Index, LeafHash(p.Leaf)); err != nil {
		return nil, err
	}
	return c, nil
}
