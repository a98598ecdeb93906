package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// receiptFile is a proof file of a mint in a log of some entries, with what it is checked by.
type receiptFile struct {
	file   tlog.ProofFile
	vkey   string
	policy string
	lines  []string // of two of the policy's three witnesses
}

func newReceiptFile(t *testing.T) *receiptFile {
	t.Helper()
	const origin = "did:plc:llllllllllllllllllllllll"
	skey, vkey, err := tlog.GenerateKey(rand.Reader, origin)
	require.NoError(t, err)
	var tree tlog.Tree
	r := &receiptFile{vkey: vkey}
	for seq := range int64(9) {
		e := entry.Entry{Seq: seq, Kind: entry.KindRulesVersion, At: "2027-01-12T10:00:00Z", Day: "2027-01-12", RulesVersion: &entry.RulesVersion{Version: 2}}
		if seq == 4 {
			ref := entry.Ref{URI: "at://did:plc:x/org.city-sync.work.task/3k", CID: "bafy"}
			e = entry.Entry{Seq: seq, Kind: entry.KindMint, Day: "2027-01-12", Epoch: "e2027-01", Book: "std", Org: "did:plc:library", Amount: 64, Votes: 64,
				Causes: []entry.Cause{{URI: ref.URI, CID: ref.CID}}, Params: &ref, Cap: &entry.CapState{Cap: 100}, Nullifier: bytes.Repeat([]byte{1}, 32),
				Commitment: &entry.Commitment{Value: bytes.Repeat([]byte{2}, 32), Padded: 8},
				Mint:       &entry.Mint{Task: ref, First: ref.URI, Shift: "s1", Verifier: "did:plc:library", Outcome: entry.OutcomeApproved, Frozen: 64, Level: 2}}
		}
		leaf, err := e.Encode()
		require.NoError(t, err)
		require.NoError(t, tree.Append(leaf))
		if seq == 4 {
			r.file.Index, r.file.Leaf = seq, leaf
		}
	}
	root, err := tree.Root(9)
	require.NoError(t, err)
	r.file.Hashes, err = tlog.ProveInclusion(9, 4, &tree)
	require.NoError(t, err)
	r.file.Checkpoint, err = tlog.Sign(tlog.Checkpoint{Origin: origin, Size: 9, Root: root}, skey)
	require.NoError(t, err)
	text, err := tlog.NoteText(r.file.Checkpoint)
	require.NoError(t, err)
	policy := "log " + vkey + "\n"
	for _, name := range []string{"library", "museum", "parks"} {
		c, err := tlog.NewCosigner(rand.Reader, name+".example")
		require.NoError(t, err)
		line, err := c.Cosign(text, time.Date(2027, 1, 12, 10, 0, 5, 0, time.UTC))
		require.NoError(t, err)
		r.lines = append(r.lines, line)
		policy += "witness " + name + " " + c.VerifierKey() + "\n"
	}
	r.policy = policy + "group all2of3 2 library museum parks\nquorum all2of3\n"
	return r
}

func (r *receiptFile) cosign(t *testing.T, n int) {
	t.Helper()
	var err error
	r.file.Checkpoint, err = tlog.AddLines(r.file.Checkpoint, r.lines[:n]...)
	require.NoError(t, err)
}

// verify runs the command on the file's bytes, spoiled or not.
func (r *receiptFile) verify(t *testing.T, args []string, spoil ...func([]byte) []byte) (code int, out, said string) {
	t.Helper()
	dir := t.TempDir()
	raw := r.file.Encode()
	for _, fn := range spoil {
		raw = fn(raw)
	}
	file, policy := filepath.Join(dir, "receipt-4.tlog-proof"), filepath.Join(dir, "policy")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	require.NoError(t, os.WriteFile(policy, []byte(r.policy), 0o600))
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "POLICY", policy)
	}
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"citysync", "verify", file}, args...), nil, streams{&o, &e})
	return code, o.String(), e.String()
}

// No address is listened on or asked: the command has the file and what it is given.
func TestReceiptVerifiesOffline(t *testing.T) {
	t.Parallel()
	r := newReceiptFile(t)
	code, out, said := r.verify(t, []string{"--vkey", r.vkey})
	assert.Zero(t, code, said)
	for _, words := range []string{"receipt 4: 64 credits issued for verified work; day 2027-01-12; epoch e2027-01 of book std; organization did:plc:library",
		"inclusion ok: entry 4 of the 9 of did:plc:llllllllllllllllllllllll", "committed: signed with the log's key", "not checked: cosignatures: no policy was given"} {
		assert.Contains(t, out, words)
	}
	code, out, _ = r.verify(t, []string{"--vkey", r.vkey, "--policy", "POLICY"})
	assert.Equal(t, exitWrong, code, "a policy is there to be fulfilled")
	assert.Contains(t, out, "no quorum")
	assert.Contains(t, out, "committed: ")

	r.cosign(t, 2)
	code, out, said = r.verify(t, []string{"--policy", "POLICY"})
	assert.Zero(t, code, said)
	assert.Contains(t, out, "cosigned: a quorum of witnesses signed it: library, museum")
	code, out, _ = r.verify(t, []string{"--json", "--policy", "POLICY"})
	assert.Zero(t, code)
	assert.Contains(t, out, `"cosigned": true`)
}

func TestReceiptThatDoesNotHoldIsNamed(t *testing.T) {
	t.Parallel()
	r := newReceiptFile(t)
	r.cosign(t, 2)
	other := newReceiptFile(t)
	for name, c := range map[string]struct {
		args  []string
		spoil func([]byte) []byte
		code  int
		words string
	}{
		"no key given":            {nil, nil, exitCouldNot, "the log's key is needed"},
		"another log's key":       {[]string{"--vkey", other.vkey}, nil, exitWrong, "bad checkpoint"},
		"another city's policy":   {[]string{"--vkey", r.vkey, "--policy", "OTHER"}, nil, exitWrong, "no quorum"},
		"a key that is none":      {[]string{"--vkey", "x"}, nil, exitCouldNot, "is no key of a log"},
		"a policy that is none":   {[]string{"--policy", "MISSING"}, nil, exitCouldNot, "no such file"},
		"another index":           {[]string{"--vkey", r.vkey}, replaced("index 4\n", "index 5\n"), exitWrong, "entry 4 is said to stand at 5"},
		"a leaf with more in it":  {[]string{"--vkey", r.vkey}, func([]byte) []byte { f := r.file; f.Leaf = raised(t, f.Leaf); return f.Encode() }, exitWrong, "proof does not hold"},
		"a hash left out":         {[]string{"--vkey", r.vkey}, func([]byte) []byte { f := r.file; f.Hashes = f.Hashes[1:]; return f.Encode() }, exitWrong, "proof does not hold"},
		"an empty file":           {[]string{"--vkey", r.vkey}, func([]byte) []byte { return nil }, exitWrong, "not a proof file"},
		"a size that nobody said": {[]string{"--vkey", r.vkey}, replaced("\n9\n", "\n8\n"), exitWrong, "proof does not hold"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if len(c.args) > 0 && c.args[len(c.args)-1] == "OTHER" {
				file := filepath.Join(t.TempDir(), "other")
				require.NoError(t, os.WriteFile(file, []byte(other.policy), 0o600))
				c.args[len(c.args)-1] = file
			}
			spoil := c.spoil
			if spoil == nil {
				spoil = func(b []byte) []byte { return b }
			}
			code, out, said := r.verify(t, c.args, spoil)
			assert.Equal(t, c.code, code, "%s%s", out, said)
			assert.Contains(t, out+said, c.words)
		})
	}
}

func replaced(from, to string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(from), []byte(to), 1) }
}

// raised is the leaf of a mint with one credit more.
func raised(t *testing.T, leaf []byte) []byte {
	t.Helper()
	e, err := entry.Decode(leaf)
	require.NoError(t, err)
	e.Amount++
	out, err := e.Encode()
	require.NoError(t, err)
	return out
}
