package ledger

import (
	"crypto/elliptic"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"city-sync.org/citysync/internal/xrpc"
)

// A browser's signature has a high S half of the time: both forms of a till's signature confirm.
func TestTillsSignatureCountsInBothForms(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	forms := map[bool]bool{}
	for _, high := range []bool{false, true} {
		code := c.code(ana, 1, map[bool]string{false: "low", true: "high"}[high], nil)
		require.Equal(t, 200, code.Status, "%v", code.Body)
		body := map[string]any{"code": code.str("code"), "action": "confirm", "till": c.till.id, "at": at(c.clock.Now())}
		raw, err := atdata.MarshalCBOR(body)
		require.NoError(t, err)
		sig, err := c.till.key.HashAndSign(raw)
		require.NoError(t, err)
		if high {
			n := elliptic.P256().Params().N
			new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:])).FillBytes(sig[32:])
			pub, err := c.till.key.PublicKey()
			require.NoError(t, err)
			require.Error(t, pub.HashAndVerify(raw, sig), "the form that strict readers refuse")
		}
		body["sig"] = atdata.Bytes(sig)
		res := c.call(nil, "updateRedemption", "", body)
		forms[high] = res.str("status") == "redeemed"
	}
	require.Equal(t, map[bool]bool{false: true, true: true}, forms)
}

func TestWhatTheTillSendsIsFlat(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{
		"nested":      `"x":{"a":1}`,
		"a list":      `"x":[]`,
		"nested deep": `"x":` + strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000),
	} {
		_, _, err := readUpdate([]byte(`{"code":"ABCDEFGH","action":"confirm","till":"t","at":"2027-01-13T20:00:00Z","sig":{"$bytes":"AAAA"},` + more + `}`))
		var refusal *xrpc.Error
		require.ErrorAs(t, err, &refusal, name)
		assert.Contains(t, refusal.Message, "single value", name)
	}
}

// FuzzRedemption: a body is refused by name, or has one canonical form to sign, without its signature.
func FuzzRedemption(f *testing.F) {
	good := `{"code":"ABCD-EFGH","action":"confirm","till":"t","at":"2027-01-13T20:00:00.000Z","sig":{"$bytes":"AAAA"}}`
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, `"till"`, `"z":1,"till"`, 1)))
	f.Add([]byte(strings.Replace(good, `"till"`, `"z":1.5,"till"`, 1)))
	f.Add([]byte(strings.Replace(good, `"till"`, `"z":null,"sig":"x","till"`, 1)))
	f.Add([]byte(strings.Replace(good, `"AAAA"`, `"!"`, 1)))
	f.Add([]byte(`{"sig":{"$bytes":""},"code":{"$link":"x"}}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, _, err := readUpdate(raw)
		if err != nil {
			var refusal *xrpc.Error
			require.True(t, errors.As(err, &refusal) && refusal.Status < 500, "%v", err)
			return
		}
		require.NoError(t, dagcbor.Validate(in.signed), "one form to sign")
		require.Len(t, in.code, codeLength)
		require.Contains(t, []string{"confirm", "refuse", "undo"}, in.action)
	})
}
