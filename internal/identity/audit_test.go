package identity_test

import (
	"encoding/base32"
	"encoding/json"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
)

func b32(b []byte) string { return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b) }

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// history is an audit log under construction, judged like a directory judges.
type history struct {
	t   *testing.T
	did syntax.DID
	es  []identity.AuditEntry
}

func newHistory(t *testing.T) *history {
	t.Helper()
	g := genesis(t)
	did, err := identity.GenesisDID(g)
	require.NoError(t, err)
	h := &history{t: t, did: did}
	require.NoError(t, h.try(g, t0))
	return h
}

func (h *history) try(op identity.Operation, at time.Time) error {
	nullified, err := identity.CheckNext(h.did, h.es, op, at)
	if err != nil {
		return err
	}
	identity.Nullify(h.es, nullified)
	h.es = append(h.es, identity.AuditEntry{DID: h.did, Operation: op, CID: op.CID().String(), CreatedAt: at})
	return nil
}

// after makes the operation that follows entry i, declaring the signing key of that name.
func (h *history) after(i int, signing string, rotation atcrypto.PrivateKey) identity.Operation {
	h.t.Helper()
	op := h.es[i].Operation.Next()
	op.VerificationMethods["atproto"] = didKey(h.t, keyOf(h.t, signing))
	return signed(h.t, op, rotation)
}

func (h *history) nullified() []bool {
	out := make([]bool, len(h.es))
	for i, e := range h.es {
		out[i] = e.Nullified
	}
	return out
}

func TestHistoryGrowsByRotationKeysOnly(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	strong, weak, stranger := keyOf(t, "strong"), keyOf(t, "weak"), keyOf(t, "stranger")
	require.ErrorIs(t, h.try(h.after(0, "k1", stranger), t0.Add(time.Second)), identity.ErrSignature)
	require.ErrorIs(t, h.try(h.after(0, "k1", keyOf(t, "signing")), t0.Add(time.Second)), identity.ErrSignature, "a signing key is no rotation key")
	require.NoError(t, h.try(h.after(0, "k1", weak), t0.Add(time.Second)))
	require.NoError(t, h.try(h.after(1, "k2", strong), t0.Add(2*time.Second)))
	require.ErrorIs(t, h.try(genesis(t), t0.Add(3*time.Second)), identity.ErrMisordered, "no second genesis")

	elsewhere := h.after(2, "k3", strong)
	elsewhere.Prev = genesis(t).Next().CID().String()
	require.ErrorIs(t, h.try(signed(t, elsewhere, strong), t0.Add(3*time.Second)), identity.ErrMisordered)
	require.NoError(t, identity.VerifyAudit(h.did, h.es))
}

func TestRotatedKeysLoseTheirPower(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	op := h.es[0].Operation.Next()
	op.RotationKeys = []string{didKey(t, keyOf(t, "new"))}
	require.NoError(t, h.try(signed(t, op, keyOf(t, "weak")), t0.Add(time.Second)))
	require.ErrorIs(t, h.try(h.after(1, "k", keyOf(t, "weak")), t0.Add(2*time.Second)), identity.ErrSignature)
	require.NoError(t, h.try(h.after(1, "k", keyOf(t, "new")), t0.Add(2*time.Second)))
}

func TestStrongerKeyRewritesHistoryWithin72Hours(t *testing.T) {
	t.Parallel()
	strong, weak := keyOf(t, "strong"), keyOf(t, "weak")
	hijacked := func(t *testing.T) *history {
		h := newHistory(t)
		require.NoError(t, h.try(h.after(0, "thief", weak), t0.Add(time.Hour)))
		require.NoError(t, h.try(h.after(1, "thief2", weak), t0.Add(2*time.Hour)))
		return h
	}

	h := hijacked(t)
	require.NoError(t, h.try(h.after(0, "owner", strong), t0.Add(73*time.Hour)), "exactly 72 hours after the first displaced")
	assert.Equal(t, []bool{false, true, true, false}, h.nullified())
	require.NoError(t, identity.VerifyAudit(h.did, h.es))
	require.ErrorIs(t, h.try(h.after(2, "thief3", weak), t0.Add(74*time.Hour)), identity.ErrMisordered, "what was nullified is no place to go on from")

	h = hijacked(t)
	require.ErrorIs(t, h.try(h.after(0, "owner", strong), t0.Add(73*time.Hour+time.Millisecond)), identity.ErrLateRecovery)
	require.ErrorIs(t, h.try(h.after(0, "other", weak), t0.Add(3*time.Hour)), identity.ErrSignature, "an equal key may not")
	require.ErrorIs(t, h.try(h.after(0, "owner", strong), t0.Add(2*time.Hour)), identity.ErrMisordered, "time must advance")

	h = newHistory(t)
	require.NoError(t, h.try(h.after(0, "k1", strong), t0.Add(time.Hour)))
	require.ErrorIs(t, h.try(h.after(0, "k2", weak), t0.Add(2*time.Hour)), identity.ErrSignature, "a weaker key may not")
}

func TestTombstoneEndsUnlessItIsRewritten(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	weak := keyOf(t, "weak")
	require.NoError(t, h.try(signed(t, identity.Tombstone(h.es[0].Operation.CID()), weak), t0.Add(time.Hour)))
	next := genesis(t).Next()
	next.Prev = h.es[1].CID
	require.ErrorIs(t, h.try(signed(t, next, weak), t0.Add(2*time.Hour)), identity.ErrMisordered)
	_, err := identity.KeyAt(h.es, "atproto", t0.Add(2*time.Hour))
	require.ErrorIs(t, err, identity.ErrNoKey)
	require.NoError(t, h.try(h.after(0, "back", keyOf(t, "strong")), t0.Add(3*time.Hour)))
	require.NoError(t, identity.VerifyAudit(h.did, h.es))
}

// I2: each single change to a true log is found.
func TestAuditFindsEachLie(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	weak, strong := keyOf(t, "weak"), keyOf(t, "strong")
	require.NoError(t, h.try(h.after(0, "k1", weak), t0.Add(time.Hour)))
	require.NoError(t, h.try(h.after(0, "k2", strong), t0.Add(2*time.Hour)))
	require.NoError(t, h.try(h.after(2, "k3", weak), t0.Add(3*time.Hour)))
	require.NoError(t, identity.VerifyAudit(h.did, h.es))
	require.ErrorIs(t, identity.VerifyAudit(h.did, nil), identity.ErrBadAudit)
	require.ErrorIs(t, identity.VerifyAudit("did:plc:otheraaaaaaaaaaaaaaaaaaa", h.es), identity.ErrBadAudit)

	resign := func(e *identity.AuditEntry, k atcrypto.PrivateKey) {
		require.NoError(t, e.Operation.Sign(k))
		e.CID = e.Operation.CID().String()
	}
	for name, lie := range map[string]func(es []identity.AuditEntry) []identity.AuditEntry{
		"genesis left out": func(es []identity.AuditEntry) []identity.AuditEntry { return es[1:] },
		"middle left out":  func(es []identity.AuditEntry) []identity.AuditEntry { return append(es[:2], es[3]) },
		"order changed":    func(es []identity.AuditEntry) []identity.AuditEntry { es[1], es[2] = es[2], es[1]; return es },
		"twice":            func(es []identity.AuditEntry) []identity.AuditEntry { return append(es, es[3]) },
		"key changed": func(es []identity.AuditEntry) []identity.AuditEntry {
			es[3].Operation.VerificationMethods["atproto"] = didKey(t, weak)
			return es
		},
		"signed by a stranger": func(es []identity.AuditEntry) []identity.AuditEntry { resign(&es[3], keyOf(t, "stranger")); return es },
		"genesis signed anew":  func(es []identity.AuditEntry) []identity.AuditEntry { resign(&es[0], strong); return es[:1] },
		"CID of another":       func(es []identity.AuditEntry) []identity.AuditEntry { es[3].CID = es[2].CID; return es },
		"nullified hidden":     func(es []identity.AuditEntry) []identity.AuditEntry { es[1].Nullified = false; return es },
		"nullified invented":   func(es []identity.AuditEntry) []identity.AuditEntry { es[3].Nullified = true; return es },
		"genesis nullified":    func(es []identity.AuditEntry) []identity.AuditEntry { es[0].Nullified = true; return es },
		"time goes back":       func(es []identity.AuditEntry) []identity.AuditEntry { es[3].CreatedAt = t0.Add(time.Minute); return es },
		"recovery came too late": func(es []identity.AuditEntry) []identity.AuditEntry {
			es[2].CreatedAt = t0.Add(80 * time.Hour)
			es[3].CreatedAt = es[2].CreatedAt
			return es
		},
		"entry of another DID": func(es []identity.AuditEntry) []identity.AuditEntry {
			es[3].DID = "did:plc:otheraaaaaaaaaaaaaaaaaaa"
			return es
		},
	} {
		raw, err := json.Marshal(h.es)
		require.NoError(t, err)
		var es []identity.AuditEntry // a deep copy, through the form it travels in
		require.NoError(t, json.Unmarshal(raw, &es))
		require.NoError(t, identity.VerifyAudit(h.did, es), name)
		require.ErrorIs(t, identity.VerifyAudit(h.did, lie(es)), identity.ErrBadAudit, name)
	}
}

func TestKeyAtIsWhatTheDirectoryAnsweredThen(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	require.NoError(t, h.try(h.after(0, "thief", keyOf(t, "weak")), t0.Add(time.Hour)))
	require.NoError(t, h.try(h.after(0, "owner", keyOf(t, "strong")), t0.Add(2*time.Hour)))
	for _, tc := range []struct {
		at   time.Time
		want string
	}{
		{t0, "signing"},
		{t0.Add(time.Hour - time.Millisecond), "signing"},
		{t0.Add(time.Hour), "thief"}, // in force until the recovery, for nobody could know
		{t0.Add(2*time.Hour - time.Millisecond), "thief"},
		{t0.Add(2 * time.Hour), "owner"},
		{t0.Add(1000 * time.Hour), "owner"},
	} {
		key, err := identity.KeyAt(h.es, "atproto", tc.at)
		require.NoError(t, err)
		assert.Equal(t, didKey(t, keyOf(t, tc.want)), key.DIDKey(), tc.at)
	}
	_, err := identity.KeyAt(h.es, "atproto", t0.Add(-time.Millisecond))
	require.ErrorIs(t, err, identity.ErrNoKey)
	_, err = identity.KeyAt(h.es, "other", t0)
	require.ErrorIs(t, err, identity.ErrNoKey)
}
