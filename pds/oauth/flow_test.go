package oauth_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/pds/oauth"
)

func TestAppIsLetInAndRefreshesAndLeaves(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"public", "confidential"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			a := b.public()
			if kind == "confidential" {
				a = b.confidential()
			}
			uri := a.push(url.Values{"login_hint": {"@User0.TEST"}})
			p, err := b.server.Pending(t.Context(), a.id, uri)
			require.NoError(t, err)
			assert.Equal(t, oauth.ClientInfo{ID: a.id, Name: "Example app", Confidential: kind == "confidential"}, p.Client)
			assert.Equal(t, "user0.test", p.Hint)
			assert.Equal(t, broad, p.Scope.String())

			to, err := b.server.Grant(t.Context(), p, oauth.Approval{Account: alice, Actor: bob, Scope: narrow, Device: "d1"})
			require.NoError(t, err)
			u, err := url.Parse(to)
			require.NoError(t, err)
			assert.Equal(t, a.redirect, u.Scheme+"://"+u.Host+u.Path)
			assert.Equal(t, "st8", u.Query().Get("state"))
			assert.Equal(t, b.url, u.Query().Get("iss"))

			got := a.exchange(u.Query().Get("code"), nil)
			require.Equal(t, http.StatusOK, got.Status, got.Raw)
			assert.Equal(t, "no-store", got.Header.Get("Cache-Control"))
			assert.Equal(t, alice.String(), got.str("sub"))
			assert.Equal(t, narrow, got.str("scope"), "what was granted, not what was asked")
			assert.Equal(t, "DPoP", got.str("token_type"))
			assert.InDelta(t, (15 * time.Minute).Seconds(), got.JSON["expires_in"], 0)

			seen := a.use(got.str("access_token"), nil)
			require.Equal(t, http.StatusOK, seen.Status, seen.Raw)
			assert.Equal(t, m{"id": seen.str("id"), "account": alice.String(), "actor": bob.String(), "client": a.id, "scope": narrow}, seen.JSON)

			b.clock.Advance(10 * time.Minute)
			next := a.refresh(got.str("refresh_token"))
			require.Equal(t, http.StatusOK, next.Status, next.Raw)
			assert.NotEqual(t, got.str("refresh_token"), next.str("refresh_token"))
			assert.Equal(t, narrow, next.str("scope"))
			assert.Equal(t, seen.str("id"), a.use(next.str("access_token"), nil).str("id"))

			list, err := b.server.Sessions(t.Context(), alice)
			require.NoError(t, err)
			require.Len(t, list, 1)
			assert.Equal(t, "Example app", list[0].Name)
			assert.Equal(t, b.clock.Now(), list[0].Used.UTC())

			out := a.post("/oauth/revoke", url.Values{"token": {next.str("access_token")}})
			assert.Equal(t, http.StatusOK, out.Status, out.Raw)
			over := a.use(next.str("access_token"), nil)
			assert.Equal(t, http.StatusUnauthorized, over.Status)
			assert.Contains(t, over.Header.Get("WWW-Authenticate"), `error="invalid_token"`)
			assert.Equal(t, "invalid_grant", a.refresh(next.str("refresh_token")).str("error"))
		})
	}
}
