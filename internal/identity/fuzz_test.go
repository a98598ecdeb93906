package identity_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
)

// A directory's word is replayed only as far as its work is bounded: entries, and keys tried on each.
func TestHistoriesAreBounded(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	long := make([]identity.AuditEntry, 2001)
	for i := range long {
		long[i] = h.es[0]
	}
	err := identity.VerifyAudit(h.did, long)
	require.ErrorIs(t, err, identity.ErrBadAudit)
	require.ErrorContains(t, err, "2001 entries")

	key := didKey(t, keyOf(t, "one"))
	for n, want := range map[int]bool{32: true, 33: false} {
		keys := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%q,", key), n), ",")
		raw := fmt.Sprintf(`{"type":"plc_operation","rotationKeys":[%s],"verificationMethods":{},"alsoKnownAs":[],"services":{},"prev":null,"sig":"x"}`, keys)
		var op identity.Operation
		if err := op.UnmarshalJSON([]byte(raw)); want {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, identity.ErrMalformed)
		}
	}
}

// FuzzAudit: a history that passes says the same again, and its keys can be asked for at any time.
func FuzzAudit(f *testing.F) {
	first := genesis(f)
	did, err := identity.GenesisDID(first)
	require.NoError(f, err)
	es := []identity.AuditEntry{{DID: did, Operation: first, CID: first.CID().String(), CreatedAt: t0}}
	add := func(prev int, key string, after time.Duration) {
		op := es[prev].Operation.Next()
		op.VerificationMethods["atproto"] = didKey(f, keyOf(f, key))
		op = signed(f, op, keyOf(f, key))
		nullified, err := identity.CheckNext(did, es, op, t0.Add(after))
		require.NoError(f, err)
		identity.Nullify(es, nullified)
		es = append(es, identity.AuditEntry{DID: did, Operation: op, CID: op.CID().String(), CreatedAt: t0.Add(after)})
	}
	seed := func() {
		raw, err := json.Marshal(es)
		require.NoError(f, err)
		f.Add(raw)
	}
	seed()
	add(0, "weak", time.Hour)
	seed()
	add(0, "strong", 2*time.Hour) // takes back what the weaker key did
	seed()
	f.Add([]byte(`[{}]`))
	f.Add([]byte(`[{"did":"` + did.String() + `","operation":{"type":"plc_tombstone","prev":"x","sig":""},"cid":"","createdAt":"2026-03-01T12:00:00.000Z"}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got []identity.AuditEntry
		if json.Unmarshal(raw, &got) != nil {
			return
		}
		verr := identity.VerifyAudit(did, got)
		for _, e := range got {
			if _, err := identity.KeyAt(got, "atproto", e.CreatedAt); err != nil {
				require.ErrorIs(t, err, identity.ErrNoKey)
			}
		}
		if verr != nil {
			require.ErrorIs(t, verr, identity.ErrBadAudit)
			return
		}
		again, err := json.Marshal(got)
		require.NoError(t, err)
		var back []identity.AuditEntry
		require.NoError(t, json.Unmarshal(again, &back))
		require.NoError(t, identity.VerifyAudit(did, back))
	})
}

// FuzzKey: the keys that tills, directories and documents write. What is taken has one spelling, in which it is stored and compared.
func FuzzKey(f *testing.F) {
	p256, err := atcrypto.ParsePrivateBytesP256([]byte(strings.Repeat("k", 32)))
	require.NoError(f, err)
	for _, k := range []atcrypto.PrivateKey{keyOf(f, "a"), p256} {
		s := didKey(f, k)
		f.Add(s)
		f.Add(strings.TrimPrefix(s, "did:key:"))
		f.Add(s[:len(s)-1])
		f.Add(s + "1")
	}
	f.Add("did:key:z")
	f.Add("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK") // Ed25519
	f.Add("z" + strings.Repeat("1", 500))
	f.Fuzz(func(t *testing.T, s string) {
		if key, err := atcrypto.ParsePublicDIDKey(s); err == nil {
			again, err := atcrypto.ParsePublicDIDKey(key.DIDKey())
			require.NoError(t, err)
			require.True(t, key.Equal(again))
			require.Equal(t, s, key.DIDKey(), "a second spelling of one key")
		}
		if key, err := atcrypto.ParsePublicMultibase(s); err == nil {
			again, err := atcrypto.ParsePublicMultibase(key.Multibase())
			require.NoError(t, err)
			require.True(t, key.Equal(again))
		}
		_, _ = syntax.ParseDID(s)
	})
}
