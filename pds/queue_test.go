package pds

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRepoQueueLetsOneWriterThroughARepository(t *testing.T) {
	t.Parallel()
	q := newRepoQueue()
	leave, err := q.enter(t.Context(), "did:plc:a")
	require.NoError(t, err)

	other, err := q.enter(t.Context(), "did:plc:b")
	require.NoError(t, err, "another repository does not wait")
	other()

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = q.enter(gone, "did:plc:a")
	require.ErrorIs(t, err, context.Canceled)

	entered := make(chan func())
	go func() {
		next, err := q.enter(context.Background(), "did:plc:a")
		assert.NoError(t, err)
		entered <- next
	}()
	select {
	case <-entered:
		require.FailNow(t, "two writers at once")
	default:
	}
	leave()
	(<-entered)()
	assert.Empty(t, q.turns, "nothing is kept of repositories that are at rest")
}
