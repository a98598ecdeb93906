package pds

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	oldMaster = bytes.Repeat([]byte{1}, 32)
	newMaster = bytes.Repeat([]byte{2}, 32)
)

func sealerOf(t *testing.T, masters ...[]byte) *sealer {
	t.Helper()
	s, err := newSealer(masters...)
	require.NoError(t, err)
	return s
}

func TestEachSealedValueHasADataKeyOfItsOwn(t *testing.T) {
	t.Parallel()
	s := sealerOf(t, oldMaster)
	a, b := s.seal("x", []byte("secret")), s.seal("x", []byte("secret"))
	assert.NotEqual(t, a[1+markSize:headSize], b[1+markSize:headSize])
	assert.NotContains(t, string(a), "secret")
	for i := range a {
		bent := bytes.Clone(a)
		bent[i] ^= 1
		_, err := s.open("x", bent)
		require.ErrorIs(t, err, errSealed, "byte %d", i)
		_, err = s.open("x", a[:i])
		require.ErrorIs(t, err, errSealed, "cut at %d", i)
	}
	_, err := s.open("y", a)
	require.ErrorIs(t, err, errSealed, "bound to its row")
	_, err = sealerOf(t, newMaster).open("x", a)
	require.ErrorIs(t, err, errSealed)
}

// direct is a value as it was sealed before there were envelopes.
func direct(label string, plain []byte) []byte {
	return sealPart([]byte{sealDirect}, gcm(oldMaster), label, plain)
}

func TestValuesSealedBeforeEnvelopesStillOpen(t *testing.T) {
	t.Parallel()
	got, err := sealerOf(t, newMaster, oldMaster).open("x", direct("x", []byte("secret")))
	require.NoError(t, err)
	assert.Equal(t, "secret", string(got))
}

func TestRewrappingLeavesTheValueUnderItsDataKey(t *testing.T) {
	t.Parallel()
	before := sealerOf(t, oldMaster).seal("x", []byte("secret"))
	both := sealerOf(t, newMaster, oldMaster)
	after, err := both.rewrap("x", before)
	require.NoError(t, err)
	assert.Equal(t, before[headSize:], after[headSize:])
	got, err := sealerOf(t, newMaster).open("x", after)
	require.NoError(t, err)
	assert.Equal(t, "secret", string(got))
	again, err := both.rewrap("x", after)
	require.NoError(t, err)
	assert.Nil(t, again)
	_, err = sealerOf(t, newMaster).rewrap("x", before)
	require.ErrorIs(t, err, errSealed, "the old key is needed")
}

// A value under a key that came after the start is opened without a restart; a key that is nowhere is not looked for with each request.
func TestNewMasterKeyIsFoundWithoutARestart(t *testing.T) {
	t.Parallel()
	now, reads := time.Unix(0, 0), 0
	keys := [][]byte{oldMaster}
	s := sealerOf(t, oldMaster)
	s.now = func() time.Time { return now }
	s.reload = func() ([][]byte, error) { reads++; return keys, nil }
	now = now.Add(time.Hour)
	later := sealerOf(t, newMaster).seal("x", []byte("secret"))
	for range 5 {
		_, err := s.open("x", later)
		require.ErrorIs(t, err, errSealed)
	}
	assert.Equal(t, 1, reads)
	keys, now = [][]byte{newMaster, oldMaster}, now.Add(time.Minute)
	got, err := s.open("x", later)
	require.NoError(t, err)
	assert.Equal(t, "secret", string(got))
	_, err = sealerOf(t, newMaster).open("x", s.seal("x", nil))
	require.NoError(t, err, "it seals with the new one")

	s.reload = func() ([][]byte, error) { return nil, errors.New("disk") }
	require.Error(t, s.refresh())
	_, err = s.open("x", later)
	require.NoError(t, err, "what is known stays known")
}

// The master key changes under a running server: nothing fails meanwhile, and afterwards the old key opens nothing that is left.
func TestMasterKeyChangesWithoutDowntime(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	keys := [][]byte{oldMaster}
	b.deps.MasterKey, b.deps.MasterKeys = oldMaster, func() ([][]byte, error) { return keys, nil }
	b.restart()
	u := b.account("user")
	early := b.account("early")
	raw, err := sealerOf(t, oldMaster).open(early.DID.String(), sealedKey(b, early))
	require.NoError(t, err)
	_, err = b.pool.Exec(t.Context(), `update account set signing_key = $2 where did = $1`, early.DID, direct(early.DID.String(), raw))
	require.NoError(t, err)
	secret, err := b.server.Load().totpBegin(t.Context(), u.DID.String())
	require.NoError(t, err)
	b.plcDown.Store(true)
	half := m{"handle": "half.test", "password": password, "inviteCode": b.invite()}
	b.post("", createAccountNSID, half)
	b.plcDown.Store(false)

	keys = [][]byte{newMaster, oldMaster}
	n, err := Rewrap(t.Context(), b.pool, keys...)
	require.NoError(t, err)
	assert.Equal(t, 4, n, "two accounts, a sign-up and a second factor")
	u.ok(u.create(note, "", m{"text": "meanwhile"}))
	early.ok(early.create(note, "", m{"text": "meanwhile"}))
	n, err = Rewrap(t.Context(), b.pool, keys...)
	require.NoError(t, err)
	assert.Zero(t, n)

	keys = [][]byte{newMaster}
	b.deps.MasterKey = newMaster
	b.restart()
	u.ok(u.create(note, "", m{"text": "after"}))
	early.ok(early.create(note, "", m{"text": "after"}))
	b.ok(b.post("", createAccountNSID, half))
	got, err := b.server.Load().totpSecret(t.Context(), u.DID.String(), false)
	require.NoError(t, err)
	assert.Equal(t, secret, got)
}

func sealedKey(b *bed, u *user) []byte {
	b.t.Helper()
	var sealed []byte
	require.NoError(b.t, b.pool.QueryRow(b.t.Context(), `select signing_key from account where did = $1`, u.DID).Scan(&sealed))
	return sealed
}
