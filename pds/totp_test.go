package pds

import (
	"bytes"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// RFC 6238, appendix B, for SHA-1, cut to six digits.
func TestTOTPCodesAreThoseOfTheStandard(t *testing.T) {
	t.Parallel()
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		assert.Equal(t, want, totpCode(secret, at/totpStep), "at %d", at)
	}
}

func TestTOTPTakesTheStepsBesideThisOneAndNoOther(t *testing.T) {
	t.Parallel()
	secret := []byte("12345678901234567890")
	now := time.Unix(1_111_111_111, 0)
	current := now.Unix() / totpStep
	for off := int64(-3); off <= 3; off++ {
		step, ok := totpMatch(secret, totpCode(secret, current+off), now)
		assert.Equal(t, off >= -1 && off <= 1, ok, "%d steps away", off)
		if ok {
			assert.Equal(t, current+off, step)
		}
	}
	_, ok := totpMatch(secret, "", now)
	assert.False(t, ok)
}

func TestTOTPURINamesServerAndAccount(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(totpURI("pds.city.example:8443", "ann@x", []byte("12345678901234567890")))
	require.NoError(t, err)
	assert.Equal(t, "otpauth", u.Scheme)
	assert.Equal(t, "totp", u.Host)
	assert.Equal(t, "/pds.city.example:8443:ann@x", u.Path)
	assert.Equal(t, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", u.Query().Get("secret"))
	assert.Equal(t, "pds.city.example:8443", u.Query().Get("issuer"))
}

// factor turns the second factor of an owner on, and gives its secret.
func (b *bed) factor(owner string) (secret []byte, recovery []string) {
	b.t.Helper()
	s := b.server.Load()
	secret, err := s.totpBegin(b.t.Context(), owner)
	require.NoError(b.t, err)
	recovery, err = s.totpConfirm(b.t.Context(), owner, b.code(secret))
	require.NoError(b.t, err)
	require.Len(b.t, recovery, recoveryCount)
	return secret, recovery
}

func (b *bed) code(secret []byte) string { return totpCode(secret, b.clock.Now().Unix()/totpStep) }

func TestSecondFactorCountsOnceItsOwnerGaveACodeOfIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	s, ctx := b.server.Load(), t.Context()
	secret, err := s.totpBegin(ctx, "operator:ann")
	require.NoError(t, err)
	on, err := s.totpOn(ctx, "operator:ann")
	require.NoError(t, err)
	require.False(t, on)
	ok, err := s.totpCheck(ctx, "operator:ann", b.code(secret))
	require.NoError(t, err)
	require.False(t, ok, "nobody has confirmed it")
	none, err := s.totpConfirm(ctx, "operator:ann", "000000")
	require.NoError(t, err)
	require.Empty(t, none)

	b.clock.Advance(totpSetup)
	none, err = s.totpConfirm(ctx, "operator:ann", b.code(secret))
	require.NoError(t, err)
	require.Empty(t, none, "the secret was shown too long ago")
	b.factor("operator:ann")
	on, err = s.totpOn(ctx, "operator:ann")
	require.NoError(t, err)
	require.True(t, on)
	_, err = s.totpBegin(ctx, "operator:ann")
	require.ErrorIs(t, err, errFactorOn, "a session left open does not replace it")
	require.NoError(t, s.totpRemove(ctx, "operator:ann"))
	on, err = s.totpOn(ctx, "operator:ann")
	require.NoError(t, err)
	require.False(t, on)
}

func TestEveryCodeServesOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	s, ctx := b.server.Load(), t.Context()
	secret, recovery := b.factor("operator:ann")
	check := func(owner, code string) bool {
		ok, err := s.totpCheck(ctx, owner, code)
		require.NoError(t, err)
		return ok
	}
	assert.False(t, check("operator:ann", b.code(secret)), "the code that confirmed it is used")
	b.clock.Advance(time.Minute)
	code := b.code(secret)
	assert.False(t, check("operator:bob", code))
	assert.True(t, check("operator:ann", code[:3]+" "+code[3:]))
	assert.False(t, check("operator:ann", code))
	assert.False(t, check("operator:ann", totpCode(secret, b.clock.Now().Unix()/totpStep-1)), "nor one from before it")

	b.factor("operator:bob")
	assert.False(t, check("operator:bob", recovery[0]), "a recovery code is its owner's")
	assert.True(t, check("operator:ann", recovery[0]))
	assert.False(t, check("operator:ann", recovery[0]))
	left, err := s.totpLeft(ctx, "operator:ann")
	require.NoError(t, err)
	assert.Equal(t, recoveryCount-1, left)
	fresh, err := s.totpRenew(ctx, "operator:ann")
	require.NoError(t, err)
	assert.False(t, check("operator:ann", recovery[1]))
	assert.True(t, check("operator:ann", fresh[1]))
}

func TestCodeGivenTwiceAtOnceServesOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	s := b.server.Load()
	secret, recovery := b.factor("operator:ann")
	b.clock.Advance(time.Minute)
	for _, code := range []string{b.code(secret), recovery[0]} {
		var wg sync.WaitGroup
		taken := make([]bool, 8)
		for i := range taken {
			wg.Go(func() {
				ok, err := s.totpCheck(t.Context(), "operator:ann", code)
				assert.NoError(t, err)
				taken[i] = ok
			})
		}
		wg.Wait()
		n := 0
		for _, ok := range taken {
			if ok {
				n++
			}
		}
		assert.Equal(t, 1, n)
	}
}

func TestSecondFactorsAreSealedAtRest(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	secret, recovery := b.factor("operator:ann")
	var stored []byte
	require.NoError(t, b.pool.QueryRow(t.Context(), `select secret from second_factor`).Scan(&stored))
	assert.False(t, bytes.Contains(stored, secret))
	assert.Empty(t, b.traces(recovery[0]))
	// A sealed secret that is moved to another owner opens nothing.
	b.factor("operator:bob")
	_, err := b.pool.Exec(t.Context(), `update second_factor set secret = $1 where owner = 'operator:bob'`, stored)
	require.NoError(t, err)
	_, err = b.server.Load().totpCheck(t.Context(), "operator:bob", "123456")
	require.ErrorIs(t, err, errSealed)
}
