package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// proofSuffix ends the name of a proof file. No address of a city ends so.
const proofSuffix = ".tlog-proof"

// verifyProofConfig is a receipt's proof file and what it is checked with. Nothing of it needs a network.
type verifyProofConfig struct {
	File   string
	VKey   string // of the log; "" where the policy names it
	Policy string // file of the witnesses' policy; "" where cosignatures are not asked for
}

// proofResult is what a proof file says and whether it holds.
type proofResult struct {
	OK        bool     `json:"ok"`
	Log       string   `json:"log,omitempty"`
	Index     int64    `json:"index"`
	Size      int64    `json:"size,omitempty"`
	LeafHash  string   `json:"leafHash,omitempty"`
	Says      []string `json:"says,omitempty"` // the receipt in words
	Inclusion bool     `json:"inclusion"`
	Committed bool     `json:"committed"`
	Cosigned  bool     `json:"cosigned"`
	Witnesses []string `json:"witnesses,omitempty"`
	Wrong     string   `json:"wrong,omitempty"`
	Unchecked []string `json:"unchecked,omitempty"`
}

func runVerifyProof(s streams, cfg verifyProofConfig, asJSON bool) error {
	r, failure := verifyProof(cfg)
	var err error
	if asJSON {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else if r.LeafHash != "" {
		err = r.writeText(s.out)
	}
	switch {
	case err != nil:
		return &exitCode{exitCouldNot, fmt.Errorf("write the result: %w", err)}
	case r.Wrong != "":
		return &exitCode{exitWrong, failure}
	case failure != nil:
		return &exitCode{exitCouldNot, failure}
	}
	return nil
}

// verifyProof checks a proof file. What is wrong with it stands in the result too; an error without it says that it could not be checked.
func verifyProof(cfg verifyProofConfig) (*proofResult, error) {
	r := &proofResult{}
	wrong := func(err error) (*proofResult, error) {
		r.Wrong = err.Error()
		return r, err
	}
	raw, err := readFile(cfg.File, tlog.MaxProofFile)
	if err != nil {
		return r, err
	}
	keys, policy, err := trusted(cfg)
	if err != nil {
		return r, err
	}
	file, err := tlog.ParseProofFile(raw)
	if err != nil {
		return wrong(err)
	}
	e, err := entry.Decode(file.Leaf)
	if err != nil {
		return wrong(err)
	}
	hash := tlog.LeafHash(file.Leaf)
	r.Index, r.LeafHash, r.Says = file.Index, hex.EncodeToString(hash[:]), receiptSays(e)
	if e.Seq != file.Index {
		return wrong(fmt.Errorf("%w: entry %d is said to stand at %d", tlog.ErrProof, e.Seq, file.Index))
	}
	text, err := tlog.NoteText(file.Checkpoint)
	if err != nil {
		return wrong(err)
	}
	c, err := tlog.ParseCheckpoint(text)
	if err != nil {
		return wrong(err)
	}
	r.Log, r.Size = c.Origin, c.Size
	if err := tlog.CheckInclusion(file.Hashes, c.Size, c.Root, file.Index, hash); err != nil {
		return wrong(err)
	}
	r.Inclusion = true
	if len(keys) == 0 {
		r.Unchecked = append(r.Unchecked, "the log's signature and the witnesses': no key of the log was given")
		return r, errors.New("the log's key is needed: --vkey, as the city's record names it, or a --policy that names it")
	}
	if _, _, err := tlog.OpenAny(file.Checkpoint, keys...); err != nil {
		return wrong(err)
	}
	r.Committed = true
	if policy == nil {
		r.Unchecked = append(r.Unchecked, "cosignatures: no policy was given")
		r.OK = true
		return r, nil
	}
	cosigned, err := policy.Check(file.Checkpoint, keys...)
	if err != nil {
		return wrong(err)
	}
	r.Cosigned, r.Witnesses, r.OK = true, cosigned.Names, true
	return r, nil
}

// trusted gives the keys and the policy that the caller believes in.
func trusted(cfg verifyProofConfig) (keys []string, policy *tlog.Policy, err error) {
	if cfg.VKey != "" {
		if k, err := tlog.ParseKey(cfg.VKey); err != nil || k.Cosigns() {
			return nil, nil, fmt.Errorf("--vkey %.80q is no key of a log", cfg.VKey)
		}
		keys = append(keys, cfg.VKey)
	}
	if cfg.Policy == "" {
		return keys, nil, nil
	}
	raw, err := readFile(cfg.Policy, tlog.MaxPolicy)
	if err != nil {
		return nil, nil, err
	}
	if policy, err = tlog.ParsePolicy(raw); err != nil {
		return nil, nil, fmt.Errorf("policy %s: %w", cfg.Policy, err)
	}
	if cfg.VKey == "" { // the key that is asked for goes before those of a file
		for _, l := range policy.Logs {
			keys = append(keys, l.Key)
		}
	}
	return keys, policy, nil
}

// readFile reads a small file of the caller's.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return raw, nil
}

// receiptWords name the kinds of entry that receipts are made of.
var receiptWords = map[entry.Kind]string{
	entry.KindMint: "credits issued for verified work", entry.KindBurn: "credits redeemed and burned",
	entry.KindCapture: "credits put aside before, redeemed and burned", entry.KindVoid: "credits put aside before, given back",
	entry.KindReverse: "credits of an earlier entry reversed", entry.KindExpire: "credits expired",
}

// receiptSays puts the entry into words. It names nobody, because the entry does not.
func receiptSays(e *entry.Entry) []string {
	words, ok := receiptWords[e.Kind]
	if !ok {
		words = "entry of kind " + string(e.Kind)
	}
	if e.Amount > 0 {
		words = fmt.Sprintf("%d %s", e.Amount, words)
	}
	says := []string{words, "day " + e.Day}
	if e.Epoch != "" {
		says = append(says, "epoch "+e.Epoch+" of book "+e.Book)
	}
	if e.Org != "" {
		says = append(says, "organization "+e.Org.String())
	}
	switch {
	case e.Reverse != nil:
		says = append(says, fmt.Sprintf("reverses entry %d, a %s: %s", e.Reverse.Of, e.Reverse.What, e.Reverse.Reason))
	case e.Capture != nil:
		says = append(says, fmt.Sprintf("put aside by entry %d", e.Capture.Hold))
	case e.Void != nil:
		says = append(says, fmt.Sprintf("put aside by entry %d: %s", e.Void.Hold, e.Void.Reason))
	case e.Burn != nil:
		says = append(says, fmt.Sprintf("%d units of %s", e.Burn.Units, e.Burn.Offering.URI))
	case e.Mint != nil:
		says = append(says, "task "+e.Mint.First)
	}
	return says
}

func (r *proofResult) writeText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "receipt %d: %s\n", r.Index, strings.Join(r.Says, "; "))
	fmt.Fprintf(&b, "leaf %s\n", r.LeafHash)
	if r.Inclusion {
		fmt.Fprintf(&b, "inclusion ok: entry %d of the %d of %s\n", r.Index, r.Size, r.Log)
	}
	if r.Committed {
		b.WriteString("committed: signed with the log's key\n")
	}
	if r.Cosigned {
		fmt.Fprintf(&b, "cosigned: a quorum of witnesses signed it: %s\n", strings.Join(r.Witnesses, ", "))
	}
	for _, u := range r.Unchecked {
		b.WriteString("not checked: " + u + "\n")
	}
	if r.Wrong != "" {
		b.WriteString("WRONG: " + r.Wrong + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
