package identity_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
)

// keyOf makes a key that is the same in every run.
func keyOf(t testing.TB, name string) *atcrypto.PrivateKeyK256 {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	k, err := atcrypto.ParsePrivateBytesK256(sum[:])
	require.NoError(t, err)
	return k
}

func didKey(t testing.TB, k atcrypto.PrivateKey) string {
	t.Helper()
	pub, err := k.PublicKey()
	require.NoError(t, err)
	return pub.DIDKey()
}

func signed(t testing.TB, op identity.Operation, k atcrypto.PrivateKey) identity.Operation {
	t.Helper()
	require.NoError(t, op.Sign(k))
	return op
}

// genesis is the first operation of an account with two rotation keys, strong before weak.
func genesis(t testing.TB) identity.Operation {
	t.Helper()
	return signed(t, identity.Operation{
		RotationKeys:        []string{didKey(t, keyOf(t, "strong")), didKey(t, keyOf(t, "weak"))},
		VerificationMethods: map[string]string{"atproto": didKey(t, keyOf(t, "signing"))},
		AlsoKnownAs:         []string{"at://alice.test"},
		Services:            map[string]identity.Service{"atproto_pds": {Type: "AtprotoPersonalDataServer", Endpoint: "http://localhost:2581"}},
	}, keyOf(t, "weak"))
}

const sample = `{"type":"plc_operation","rotationKeys":["did:key:zQ3shkzwFnf9UJ6MN5RBxyAo7T9pFB5kmLDLCXYCWoYsHxgpA"],"verificationMethods":{"atproto":"did:key:zQ3shkzwFnf9UJ6MN5RBxyAo7T9pFB5kmLDLCXYCWoYsHxgpA"},"alsoKnownAs":["at://sample.test"],"services":{"atproto_pds":{"type":"AtprotoPersonalDataServer","endpoint":"http://localhost:2581"}},"prev":null,"sig":"SIG"}`

// I3: our bytes are those of the general DAG-CBOR encoder, fed with the JSON.
func TestOperationBytesAreCanonical(t *testing.T) {
	t.Parallel()
	g := genesis(t)
	long := g.Next()
	for i := range 30 {
		long.Services[strings.Repeat("s", i+1)] = identity.Service{Type: strings.Repeat("t", 20*i), Endpoint: strings.Repeat("é", i)}
		long.AlsoKnownAs = append(long.AlsoKnownAs, strings.Repeat("n", 300))
	}
	for name, op := range map[string]identity.Operation{
		"genesis": g, "update": signed(t, long, keyOf(t, "weak")), "tombstone": signed(t, identity.Tombstone(g.CID()), keyOf(t, "weak")),
	} {
		raw, err := json.Marshal(op)
		require.NoError(t, err)
		var m map[string]any
		require.NoError(t, json.Unmarshal(raw, &m))
		want, err := atdata.MarshalCBOR(m)
		require.NoError(t, err)
		assert.Equal(t, len(want), op.Size(), name)
		sum, err := op.CID().Prefix().Sum(want)
		require.NoError(t, err)
		assert.Equal(t, sum, op.CID(), name)

		var back identity.Operation
		require.NoError(t, json.Unmarshal(raw, &back))
		assert.Equal(t, op.CID(), back.CID(), name)
	}
}

func TestGenesisDIDIsTheHashOfTheSignedOperation(t *testing.T) {
	t.Parallel()
	g := genesis(t)
	did, err := identity.GenesisDID(g)
	require.NoError(t, err)
	_, err = syntax.ParseDID(did.String())
	require.NoError(t, err)
	assert.Len(t, did.String(), 32)

	// The CID and the DID are two spellings of one hash.
	digest := g.CID().Hash()[2:]
	assert.True(t, strings.HasPrefix(strings.ToLower(b32(digest)), did.Identifier()))

	other := g
	other.Sig = signed(t, g, keyOf(t, "strong")).Sig
	did2, err := identity.GenesisDID(other)
	require.NoError(t, err)
	assert.NotEqual(t, did, did2, "the signature is part of what is hashed")

	unsigned := g
	unsigned.Sig = ""
	for _, bad := range []identity.Operation{unsigned, signed(t, g.Next(), keyOf(t, "weak")), signed(t, identity.Tombstone(g.CID()), keyOf(t, "weak"))} {
		_, err := identity.GenesisDID(bad)
		require.ErrorIs(t, err, identity.ErrGenesis)
	}
}

// A fixed operation, so that a change of the bytes shows even if it is made everywhere alike.
func TestFixedOperationKeepsItsHash(t *testing.T) {
	t.Parallel()
	op := genesis(t)
	op.Sig = "7rVEue2D9kzOJ3c7r5pfkQP51cBrUiOYaU2ZIKK-KkIWIAjiR2BwtY0ZHMGJ6uMqy92-VwHfyseqRjhc0M0QBA"
	i, err := op.VerifySig(op.RotationKeys)
	require.NoError(t, err)
	assert.Equal(t, 1, i)
	did, err := identity.GenesisDID(op)
	require.NoError(t, err)
	assert.Equal(t, syntax.DID("did:plc:gj4trjgab6oobt7kyflzqcvt"), did)
	assert.Equal(t, "bafyreibspe4kjqapttqm72wbk6mavm4ypaembqy4d7qv37w52g2h5hsfn4", op.CID().String())
}

func TestSignatureNamesTheRotationKey(t *testing.T) {
	t.Parallel()
	g := genesis(t)
	i, err := g.VerifySig(g.RotationKeys)
	require.NoError(t, err)
	assert.Equal(t, 1, i)

	p256, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(t, err)
	op := signed(t, g.Next(), p256)
	i, err = op.VerifySig([]string{"did:key:zunknownkind", g.RotationKeys[0], didKey(t, p256)})
	require.NoError(t, err)
	assert.Equal(t, 2, i)

	_, err = op.VerifySig(g.RotationKeys)
	require.ErrorIs(t, err, identity.ErrSignature)
	changed := g
	changed.AlsoKnownAs = []string{"at://mallory.test"}
	_, err = changed.VerifySig(g.RotationKeys)
	require.ErrorIs(t, err, identity.ErrSignature)
}

// One signature, one spelling: each of these verifies if it is read leniently, and would change the CID.
func TestSignatureHasOneSpelling(t *testing.T) {
	t.Parallel()
	g := genesis(t)
	raw, err := base64.RawURLEncoding.DecodeString(g.Sig)
	require.NoError(t, err)
	highS := append([]byte(nil), raw...)
	n, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	n.Sub(n, new(big.Int).SetBytes(raw[32:])).FillBytes(highS[32:])
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	spare := g.Sig[:len(g.Sig)-1] + string(alphabet[strings.IndexByte(alphabet, g.Sig[len(g.Sig)-1])+1])
	for name, sig := range map[string]string{
		"high S":     base64.RawURLEncoding.EncodeToString(highS),
		"padded":     g.Sig + "==",
		"line break": g.Sig[:40] + "\n" + g.Sig[40:],
		"spare bits": spare,
		"standard":   base64.StdEncoding.EncodeToString(raw),
		"empty":      "",
		"longer":     base64.RawURLEncoding.EncodeToString(append(raw, 0)),
	} {
		bad := g
		bad.Sig = sig
		_, err := bad.VerifySig(g.RotationKeys)
		require.ErrorIs(t, err, identity.ErrSignature, name)
	}
}

func TestOperationJSONIsExact(t *testing.T) {
	t.Parallel()
	var op identity.Operation
	require.NoError(t, json.Unmarshal([]byte(sample), &op))
	assert.Equal(t, "at://sample.test", op.AlsoKnownAs[0])
	for name, change := range map[string][2]string{
		"missing field":       {`"alsoKnownAs":["at://sample.test"],`, ``},
		"additional field":    {`"prev":null`, `"prev":null,"note":1`},
		"other case":          {`"alsoKnownAs"`, `"alsoknownas"`},
		"twice":               {`"prev":null`, `"prev":null,"prev":null`},
		"prev missing":        {`"prev":null,`, ``},
		"prev empty":          {`"prev":null`, `"prev":""`},
		"prev a number":       {`"prev":null`, `"prev":5`},
		"null list":           {`["at://sample.test"]`, `null`},
		"null in list":        {`["at://sample.test"]`, `[null]`},
		"null map":            {`{"atproto":"did:key:zQ3shkzwFnf9UJ6MN5RBxyAo7T9pFB5kmLDLCXYCWoYsHxgpA"}`, `null`},
		"null sig":            {`"SIG"`, `null`},
		"service with more":   {`"type":"AtprotoPersonalDataServer",`, `"type":"AtprotoPersonalDataServer","x":"y",`},
		"service without":     {`"type":"AtprotoPersonalDataServer",`, ``},
		"service a text":      {`{"type":"AtprotoPersonalDataServer","endpoint":"http://localhost:2581"}`, `"x"`},
		"unknown type":        {`plc_operation`, `plc_other`},
		"tombstone with more": {`plc_operation`, `plc_tombstone`},
		"legacy with more":    {`plc_operation`, `create`},
	} {
		bad := strings.Replace(sample, change[0], change[1], 1)
		require.NotEqual(t, sample, bad, name)
		var op identity.Operation
		require.ErrorIs(t, op.UnmarshalJSON([]byte(bad)), identity.ErrMalformed, name)
	}
	for _, bad := range []string{``, `[]`, `null`, `{`, sample + sample, `{"type":"plc_tombstone","prev":null,"sig":"x"}`} {
		require.ErrorIs(t, op.UnmarshalJSON([]byte(bad)), identity.ErrMalformed, bad)
	}
}

// The directory still serves accounts whose genesis has the old form; the DID is the hash of that form.
func TestLegacyGenesisIsReadAsItsMeaning(t *testing.T) {
	t.Parallel()
	signing, recovery := keyOf(t, "signing"), keyOf(t, "recovery")
	unsigned := map[string]any{"type": "create", "signingKey": didKey(t, signing), "recoveryKey": didKey(t, recovery),
		"handle": "old.test", "service": "pds.example.org", "prev": nil}
	raw, err := atdata.MarshalCBOR(unsigned)
	require.NoError(t, err)
	sig, err := signing.HashAndSign(raw)
	require.NoError(t, err)
	unsigned["sig"] = base64.RawURLEncoding.EncodeToString(sig)
	js, err := json.Marshal(unsigned)
	require.NoError(t, err)

	var op identity.Operation
	require.NoError(t, json.Unmarshal(js, &op))
	assert.Equal(t, []string{didKey(t, recovery), didKey(t, signing)}, op.RotationKeys)
	assert.Equal(t, []string{"at://old.test"}, op.AlsoKnownAs)
	assert.Equal(t, "https://pds.example.org", op.Services["atproto_pds"].Endpoint)
	_, err = op.VerifySig(op.RotationKeys)
	require.NoError(t, err)
	full, err := atdata.MarshalCBOR(unsigned)
	require.NoError(t, err)
	sum := sha256.Sum256(full)
	did, err := identity.GenesisDID(op)
	require.NoError(t, err)
	assert.Equal(t, "did:plc:"+strings.ToLower(b32(sum[:]))[:24], did.String())
	back, err := json.Marshal(op)
	require.NoError(t, err)
	assert.JSONEq(t, string(js), string(back))
	assert.Equal(t, identity.TypeOperation, op.Next().Type, "the operation after it has the new form")
}

func FuzzOperation(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(`{"type":"plc_tombstone","prev":"bafyreib","sig":"x"}`))
	f.Add([]byte(`{"type":"create","signingKey":"a","recoveryKey":"b","handle":"c","service":"d","prev":null,"sig":"e"}`))
	f.Add([]byte(`{"type":"plc_operation","type":"create"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var op identity.Operation
		if op.UnmarshalJSON(raw) != nil {
			return
		}
		out, err := json.Marshal(op)
		require.NoError(t, err)
		var back identity.Operation
		require.NoError(t, back.UnmarshalJSON(out))
		require.Equal(t, op.CID(), back.CID())
	})
}
