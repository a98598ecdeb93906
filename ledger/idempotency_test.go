package ledger

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnswersOfBeforeTheKeyWasHashedWithTheBodyAreGivenAgain(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	const method = "org.city-sync.ledger.test"
	ask := func(body string) (answer any, err error) {
		r, err := newRequest(method, c.library.did.String(), "a-key", body)
		require.NoError(t, err)
		return c.l.seq.do(c.ctx, "ask", func(ctx context.Context, b *batch) (any, error) {
			return r.once(ctx, b, func() (any, error) { return "first", nil })
		})
	}
	_, err := ask("body")
	require.NoError(t, err)
	r, err := newRequest(method, c.library.did.String(), "a-key", "body")
	require.NoError(t, err)
	_, err = c.world.pool.Exec(c.ctx, `update idempotency set caller = null, body = $2 where key = $1`, r.hash(), r.bare[:])
	require.NoError(t, err)

	again, err := ask("body")
	require.NoError(t, err)
	require.Equal(t, json.RawMessage(`"first"`), again)
	_, err = ask("another body")
	require.ErrorContains(t, err, "another body")
}
