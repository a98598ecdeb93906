package oauth_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A client that is told invalid_grant throws its session away, so nothing of ours that is broken may be told as that.
func TestWhatIsBrokenHereIsNoRefusal(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	got := a.login()
	b.mayErr.Store(true)
	refused := a.refresh(got.str("refresh_token"))
	assert.Equal(t, http.StatusInternalServerError, refused.Status)
	assert.Equal(t, "server_error", refused.str("error"))
	assert.NotContains(t, refused.Raw, errBroken.Error())
	assert.Contains(t, b.log.String(), errBroken.Error())
	b.mayErr.Store(false)
	got = a.refresh(got.str("refresh_token"))
	require.Equal(t, http.StatusOK, got.Status)

	dead, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/nowhere")
	require.NoError(t, err)
	t.Cleanup(dead.Close)
	b.cfg.Pool = dead
	away := httptest.NewServer(mux(b.another()))
	t.Cleanup(away.Close)
	for path, proof := range map[string]string{
		"/oauth/token":    a.proof(http.MethodPost, b.url+"/oauth/token", "", nil),
		"/resource/thing": a.proof(http.MethodPost, b.url+"/resource/thing", got.str("access_token"), nil),
	} {
		req, err := http.NewRequest(http.MethodPost, away.URL+path, http.NoBody)
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Authorization", "DPoP "+got.str("access_token"))
		req.Header.Set("DPoP", proof)
		out := b.do(req)
		assert.Equal(t, http.StatusServiceUnavailable, out.Status, "%s: %s", path, out.Raw)
		assert.Equal(t, "temporarily_unavailable", out.str("error"))
	}
}
