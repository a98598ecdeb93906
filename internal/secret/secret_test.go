package secret

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStoredHashCarriesItsOwnCost(t *testing.T) {
	t.Parallel()
	before := NewHasher(Cost{MemoryKiB: 8, Passes: 1, Threads: 1})
	stored, err := before.Hash(t.Context(), "swim in the pool")
	require.NoError(t, err)
	assert.Contains(t, stored, "$argon2id$v=19$m=8,t=1,p=1$")
	after := NewHasher(Cost{MemoryKiB: 16, Passes: 2, Threads: 1})
	same, err := after.Matches(t.Context(), stored, "swim in the pool")
	require.NoError(t, err)
	assert.True(t, same)
	for _, damaged := range []string{"x", "$argon2id$v=19$m=8,t=1,p=1$$", "$argon2id$v=19$m=4294967295,t=1,p=1$AAAA$AAAA", "$argon2i$v=19$m=8,t=1,p=1$AAAA$AAAA"} {
		_, err := after.Matches(t.Context(), damaged, "swim in the pool")
		assert.ErrorIs(t, err, errForm, damaged)
	}
}

func TestUnknownOneCostsTheSameWork(t *testing.T) {
	t.Parallel()
	p := NewHasher(Cost{MemoryKiB: 16, Passes: 2, Threads: 1})
	cost, _, _, err := parsePHC(p.dummy)
	require.NoError(t, err)
	assert.Equal(t, p.cost, cost, "the stand-in costs what a password costs")
	same, err := p.Matches(t.Context(), "", "")
	require.NoError(t, err)
	assert.False(t, same, "the stand-in's own password opens nothing")

	for range cap(p.slots) { // all who may hash are busy: whoever hashes must wait
		p.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Matches(ctx, "", "swim in the pool")
	require.ErrorIs(t, err, context.Canceled, "an unknown account waits for its turn like any other")
	_, err = p.Matches(ctx, "", strings.Repeat("x", MaxLen+1))
	require.ErrorIs(t, err, context.Canceled)
}

func TestNameIsTheSameForTheSameSecretAndSalt(t *testing.T) {
	t.Parallel()
	h := NewHasher(Cost{MemoryKiB: 8, Passes: 1, Threads: 1})
	name := func(secret, salt string) string {
		n, err := h.Name(t.Context(), secret, []byte(salt))
		require.NoError(t, err)
		return string(n)
	}
	assert.Equal(t, name("a", "12345678"), name("a", "12345678"))
	assert.NotEqual(t, name("a", "12345678"), name("b", "12345678"))
	assert.NotEqual(t, name("a", "12345678"), name("a", "12345679"))
}
