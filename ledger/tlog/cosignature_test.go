package tlog_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"city-sync.org/citysync/ledger/tlog"
)

const cosignOrigin = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"

var cosignTime = time.Date(2027, 1, 13, 20, 0, 0, 0, time.UTC)

func seed(b byte) *strings.Reader { return strings.NewReader(strings.Repeat(string(rune('a'+b)), 64)) }

func logKey(t *testing.T, b byte) (skey, vkey string) {
	t.Helper()
	skey, vkey, err := tlog.GenerateKey(seed(b), cosignOrigin)
	require.NoError(t, err)
	return skey, vkey
}

func cosigner(t *testing.T, b byte) *tlog.Cosigner {
	t.Helper()
	c, err := tlog.NewCosigner(seed(b), fmt.Sprintf("witness.example/w%d", b))
	require.NoError(t, err)
	return c
}

// A log of three leaves, signed, and cosigned by the witnesses.
func cosignedNote(t *testing.T, skey string, witnesses ...*tlog.Cosigner) (*tlog.Tree, []byte) {
	t.Helper()
	tree := new(tlog.Tree)
	for i := range 3 {
		require.NoError(t, tree.Append(fmt.Appendf(nil, "leaf %d", i)))
	}
	root, err := tree.Root(3)
	require.NoError(t, err)
	signed, err := tlog.Sign(tlog.Checkpoint{Origin: cosignOrigin, Size: 3, Root: root, Extensions: []string{"balances 2 aGVsbG8="}}, skey)
	require.NoError(t, err)
	text, err := tlog.NoteText(signed)
	require.NoError(t, err)
	for _, w := range witnesses {
		line, err := w.Cosign(text, cosignTime)
		require.NoError(t, err)
		signed, err = tlog.AddLines(signed, line)
		require.NoError(t, err)
	}
	return tree, signed
}

// The cosignature is checked with nothing but the specification's words.
func TestCosignatureIsWhatTheSpecificationSays(t *testing.T) {
	t.Parallel()
	skey, _ := logKey(t, 0)
	w := cosigner(t, 1)
	_, signed := cosignedNote(t, skey, w)
	text, err := tlog.NoteText(signed)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(signed), "\n"), "\n")
	last := lines[len(lines)-1]
	raw, err := base64.StdEncoding.DecodeString(last[strings.LastIndex(last, " ")+1:])
	require.NoError(t, err)
	require.Len(t, raw, 4+8+64)

	parts := strings.SplitN(w.VerifierKey(), "+", 3)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	require.NoError(t, err)
	assert.EqualValues(t, 4, key[0])
	id := sha256.Sum256([]byte(parts[0] + "\n" + string(key)))
	assert.Equal(t, id[:4], raw[:4])
	assert.Equal(t, fmt.Sprintf("%x", id[:4]), parts[1])
	assert.EqualValues(t, cosignTime.Unix(), binary.BigEndian.Uint64(raw[4:]))
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", cosignTime.Unix(), text)
	assert.True(t, ed25519.Verify(key[1:], []byte(message), raw[12:]))
}

func TestNoteLibraryPassesOverCosignatures(t *testing.T) {
	t.Parallel()
	skey, vkey := logKey(t, 0)
	_, signed := cosignedNote(t, skey, cosigner(t, 1), cosigner(t, 2))
	v, err := note.NewVerifier(vkey)
	require.NoError(t, err)
	n, err := note.Open(signed, note.VerifierList(v))
	require.NoError(t, err)
	assert.Len(t, n.UnverifiedSigs, 2)
	c, err := tlog.Open(signed, vkey)
	require.NoError(t, err)
	assert.Equal(t, []string{"balances 2 aGVsbG8="}, c.Extensions)
}

func TestCosignaturesOfKnownWitnessesOnly(t *testing.T) {
	t.Parallel()
	skey, _ := logKey(t, 0)
	a, b, c := cosigner(t, 1), cosigner(t, 2), cosigner(t, 3)
	_, signed := cosignedNote(t, skey, a, b)
	got, err := tlog.Cosignatures(signed, b.VerifierKey(), c.VerifierKey())
	require.NoError(t, err)
	require.Len(t, got, 1)
	assert.Equal(t, b.VerifierKey(), got[0].Key)
	assert.Equal(t, cosignTime, got[0].At)

	text, err := tlog.NoteText(signed)
	require.NoError(t, err)
	_, err = tlog.CheckCosignature(got[0].Line, text, b.VerifierKey())
	require.NoError(t, err)
	_, err = tlog.CheckCosignature(got[0].Line, strings.Replace(text, "\n3\n", "\n4\n", 1), b.VerifierKey())
	require.ErrorIs(t, err, tlog.ErrCosignature)
	_, err = tlog.CheckCosignature(got[0].Line, text, c.VerifierKey())
	require.ErrorIs(t, err, tlog.ErrCosignature)
}

func TestChangedCosignatureSpoilsTheNote(t *testing.T) {
	t.Parallel()
	skey, _ := logKey(t, 0)
	a := cosigner(t, 1)
	_, signed := cosignedNote(t, skey, a)
	for _, cut := range []int{10, 40} { // in the signature, and in the time
		bad := []byte(string(signed))
		at := len(bad) - cut
		bad[at] = map[bool]byte{true: 'A', false: 'B'}[bad[at] != 'A']
		_, err := tlog.Cosignatures(bad, a.VerifierKey())
		require.ErrorIs(t, err, tlog.ErrCosignature)
	}
}

func TestWitnessKeySignsNoDataThatIsACosignature(t *testing.T) {
	t.Parallel()
	w := cosigner(t, 1)
	k, err := tlog.ParseKey(w.VerifierKey())
	require.NoError(t, err)
	_, err = w.SignData([]byte("cosignature/v1\ntime 1\nx\n"))
	require.Error(t, err)
	sig, err := w.SignData([]byte("something else"))
	require.NoError(t, err)
	require.NoError(t, k.CheckData([]byte("something else"), sig))
	require.ErrorIs(t, k.CheckData([]byte("something"), sig), tlog.ErrCosignature)
}

func TestCheckpointOfTwoKeysOpensUnderEach(t *testing.T) {
	t.Parallel()
	oldS, oldV := logKey(t, 0)
	newS, newV := logKey(t, 1)
	_, otherV := logKey(t, 2)
	c := tlog.Checkpoint{Origin: cosignOrigin, Size: 0}
	signed, err := tlog.SignAll(c, oldS, newS)
	require.NoError(t, err)
	for _, vkey := range []string{oldV, newV} {
		_, err := tlog.Open(signed, vkey)
		require.NoError(t, err)
	}
	_, by, err := tlog.OpenAny(signed, otherV, newV)
	require.NoError(t, err)
	assert.Equal(t, []string{newV}, by)
	_, _, err = tlog.OpenAny(signed, otherV)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	_, _, err = tlog.OpenAny(signed)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
}

const groups = `# institutions of a city
log %[1]s https://ledger.example

witness lib %[2]s https://lib.example/witness/
witness parks %[3]s
	witness schools %[4]s
group issuers 2 lib parks schools
quorum issuers
`

func policyOf(t *testing.T, text string, skeys ...byte) (*tlog.Policy, []*tlog.Cosigner) {
	t.Helper()
	_, vkey := logKey(t, 0)
	args := []any{vkey}
	var ws []*tlog.Cosigner
	for _, b := range skeys {
		w := cosigner(t, b)
		ws = append(ws, w)
		args = append(args, w.VerifierKey())
	}
	p, err := tlog.ParsePolicy(fmt.Appendf(nil, text, args...))
	require.NoError(t, err)
	return p, ws
}

func TestPolicyCountsByGroup(t *testing.T) {
	t.Parallel()
	p, ws := policyOf(t, groups, 1, 2, 3)
	assert.Equal(t, "https://lib.example/witness", p.Witnesses[0].URL)
	assert.Equal(t, "issuers", p.Class("parks"))
	a, b := ws[0].VerifierKey(), ws[1].VerifierKey()
	assert.True(t, p.Holds(a, b))
	assert.False(t, p.Holds(a))
	assert.False(t, p.Holds(a, a), "one witness twice is one witness")

	skey, vkey := logKey(t, 0)
	_, signed := cosignedNote(t, skey, ws[0], ws[1])
	c, err := p.Check(signed, vkey)
	require.NoError(t, err)
	assert.Equal(t, []string{"lib", "parks"}, c.Names)
	_, signed = cosignedNote(t, skey, ws[0], cosigner(t, 9))
	_, err = p.Check(signed, vkey)
	require.ErrorIs(t, err, tlog.ErrCosignature)
}

func TestPolicyOfTwoLevels(t *testing.T) {
	t.Parallel()
	p, ws := policyOf(t, `witness a %[2]s
witness b %[3]s
witness c %[4]s
group ab any a b
group both all ab c
quorum both
`, 1, 2, 3)
	key := func(i int) string { return ws[i].VerifierKey() }
	assert.True(t, p.Holds(key(1), key(2)))
	assert.False(t, p.Holds(key(0), key(1)))
	assert.False(t, p.Holds(key(2)))
	none, err := tlog.ParsePolicy([]byte("quorum none\n"))
	require.NoError(t, err)
	assert.True(t, none.Holds())
}

func TestPolicyRefusesWhatIsNotOne(t *testing.T) {
	t.Parallel()
	_, log := logKey(t, 0)
	a, b := cosigner(t, 1).VerifierKey(), cosigner(t, 2).VerifierKey()
	sameKey, err := tlog.NewCosigner(seed(1), "other.example")
	require.NoError(t, err)
	for name, text := range map[string]string{
		"no quorum":              "witness a " + a + "\n",
		"two quorums":            "witness a " + a + "\nquorum a\nquorum a\n",
		"quorum of nobody":       "quorum a\n",
		"quorum before its name": "quorum a\nwitness a " + a + "\n",
		"group before member":    "witness a " + a + "\ngroup g any a b\nwitness b " + b + "\nquorum g\n",
		"member of two groups":   "witness a " + a + "\ngroup g any a\ngroup h any a\nquorum g\n",
		"member twice":           "witness a " + a + "\ngroup g 2 a a\nquorum g\n",
		"more than there are":    "witness a " + a + "\ngroup g 2 a\nquorum g\n",
		"none of them":           "witness a " + a + "\ngroup g 0 a\nquorum g\n",
		"number with a zero":     "witness a " + a + "\ngroup g 01 a\nquorum g\n",
		"no members":             "witness a " + a + "\ngroup g any\nquorum g\n",
		"none as a member":       "group g any none\nquorum g\n",
		"name taken":             "witness a " + a + "\nwitness a " + b + "\nquorum a\n",
		"key twice":              "witness a " + a + "\nwitness b " + a + "\nquorum a\n",
		"key twice, other name":  "witness a " + a + "\nwitness b " + sameKey.VerifierKey() + "\nquorum a\n",
		"log's key for witness":  "witness a " + log + "\nquorum a\n",
		"witness's key for log":  "log " + a + "\nquorum none\n",
		"log twice":              "log " + log + "\nlog " + log + "\nquorum none\n",
		"changed key":            "witness a " + a[:len(a)-2] + "A=\nquorum a\n",
		"address of a file":      "log " + log + " file:///etc/passwd\nquorum none\n",
		"carriage return":        "quorum none\r\n",
		"no last newline":        "quorum none",
		"unknown item":           "cosigner a\nquorum none\n",
		"too long":               strings.Repeat("#\n", tlog.MaxPolicy) + "quorum none\n",
	} {
		_, err := tlog.ParsePolicy([]byte(text))
		assert.ErrorIs(t, err, tlog.ErrPolicy, name)
	}
}

func TestProofFileVerifiesOffline(t *testing.T) {
	t.Parallel()
	p, ws := policyOf(t, groups, 1, 2, 3)
	skey, vkey := logKey(t, 0)
	tree, signed := cosignedNote(t, skey, ws[0], ws[2])
	hashes, err := tlog.ProveInclusion(3, 1, tree)
	require.NoError(t, err)
	file := (&tlog.ProofFile{Leaf: []byte("leaf 1"), Index: 1, Hashes: hashes, Checkpoint: signed}).Encode()
	assert.True(t, strings.HasPrefix(string(file), "c2sp.org/tlog-proof@v1\nextra bGVhZiAx\nindex 1\n"))

	got, err := tlog.ParseProofFile(file)
	require.NoError(t, err)
	c, err := got.Verify(p, vkey)
	require.NoError(t, err)
	assert.EqualValues(t, 3, c.Size)
	assert.Equal(t, []string{"lib", "schools"}, c.Names)

	for name, change := range map[string]func(*tlog.ProofFile){
		"leaf":  func(f *tlog.ProofFile) { f.Leaf = []byte("leaf 2") },
		"index": func(f *tlog.ProofFile) { f.Index = 2 },
		"hash":  func(f *tlog.ProofFile) { f.Hashes[0][0] ^= 1 },
		"more":  func(f *tlog.ProofFile) { f.Hashes = append(f.Hashes, tlog.Hash{}) },
	} {
		bad, err := tlog.ParseProofFile(file)
		require.NoError(t, err)
		change(bad)
		_, err = bad.Verify(p, vkey)
		assert.ErrorIs(t, err, tlog.ErrProof, name)
	}
	_, other := logKey(t, 5)
	_, err = got.Verify(p, other)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte("quorum none\n"))
	f.Add(fmt.Appendf(nil, "witness a %s\ngroup g any a\nquorum g\n", "w+00000000+BA=="))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := tlog.ParsePolicy(text)
		if err != nil {
			require.ErrorIs(t, err, tlog.ErrPolicy)
			return
		}
		keys := make([]string, len(p.Witnesses))
		for i, w := range p.Witnesses {
			keys[i] = w.Key
		}
		require.True(t, p.Holds(keys...), "everybody together is always enough")
	})
}

func FuzzProofFile(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra bGVhZiAx\nindex 0\n\nx\n1\nAAAA\n\n— x AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := tlog.ParseProofFile(data)
		if err != nil {
			require.ErrorIs(t, err, tlog.ErrProof)
			return
		}
		require.Equal(t, string(data), string(p.Encode()))
	})
}

func FuzzCosignatures(f *testing.F) {
	w, err := tlog.NewCosigner(seed(1), "w")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("x\n1\nAAAA\n\n— w AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := tlog.Cosignatures(data, w.VerifierKey())
		if err != nil {
			require.ErrorIs(t, err, tlog.ErrCosignature)
		}
		require.Empty(t, got)
	})
}
