package oauth_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/pds/oauth"
	"city-sync.org/citysync/pds/scope"
)

func TestTokenRequestRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	a.push(nil)
	for name, row := range map[string]struct {
		f       url.Values
		refusal string
	}{
		"nothing":           {url.Values{}, "invalid_request"},
		"password":          {url.Values{"grant_type": {"password"}}, "unsupported_grant_type"},
		"no code":           {url.Values{"grant_type": {"authorization_code"}, "redirect_uri": {a.redirect}, "code_verifier": {a.verifier}}, "invalid_request"},
		"no redirect":       {url.Values{"grant_type": {"authorization_code"}, "code": {"c"}, "code_verifier": {a.verifier}}, "invalid_request"},
		"no verifier":       {url.Values{"grant_type": {"authorization_code"}, "code": {"c"}, "redirect_uri": {a.redirect}}, "invalid_request"},
		"unknown code":      {url.Values{"grant_type": {"authorization_code"}, "code": {"c"}, "redirect_uri": {a.redirect}, "code_verifier": {a.verifier}}, "invalid_grant"},
		"no refresh token":  {url.Values{"grant_type": {"refresh_token"}}, "invalid_request"},
		"malformed refresh": {url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"ref-a.b.c"}}, "invalid_grant"},
		"unknown refresh":   {url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"ref-aaaa.1.cccc"}}, "invalid_grant"},
		"long refresh":      {url.Values{"grant_type": {"refresh_token"}, "refresh_token": {strings.Repeat("r", 10_000)}}, "invalid_grant"},
	} {
		got := a.post("/oauth/token", row.f)
		refusedAs(t, row.refusal, got, name)
		assert.Equal(t, "no-store", got.Header.Get("Cache-Control"))
	}
}

func TestCodeIsUsedUpByAnyTry(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	for name, wrong := range map[string]func(a *app) answer{
		"another verifier": func(a *app) answer {
			return a.exchange(a.allowed(byAlice()), url.Values{"code_verifier": {b64(newVerifier())}})
		},
		"a short verifier": func(a *app) answer { return a.exchange(a.allowed(byAlice()), url.Values{"code_verifier": {"short"}}) },
		"another redirect": func(a *app) answer {
			return a.exchange(a.allowed(byAlice()), url.Values{"redirect_uri": {b.host + "/x"}})
		},
		"another client": func(a *app) answer {
			code := a.allowed(byAlice())
			other := *a
			other.id = "http://localhost"
			return other.exchange(code, nil)
		},
		"another key": func(a *app) answer {
			code := a.allowed(byAlice())
			other := *a
			other.dpop = newKey(t)
			return other.exchange(code, nil)
		},
		"a minute later": func(a *app) answer {
			code := a.allowed(byAlice())
			b.clock.Advance(time.Minute)
			return a.exchange(code, nil)
		},
		"an account that cannot be used": func(a *app) answer {
			code := a.allowed(byAlice())
			b.mayNot.Store(alice, true)
			defer b.mayNot.Delete(alice)
			return a.exchange(code, nil)
		},
	} {
		refusedAs(t, "invalid_grant", wrong(a.again()), name)
		assert.Zero(t, b.count(`select count(*) from oauth_request`), name)
		assert.Zero(t, b.count(`select count(*) from oauth_session`), name)
	}
	code := a.again().allowed(byAlice())
	b.clock.Advance(59 * time.Second)
	assert.Equal(t, http.StatusOK, a.exchange(code, nil).Status)
}

func TestCodeUsedAgainEndsItsSession(t *testing.T) { // O3
	t.Parallel()
	b := newBed(t)
	a := b.public()
	code := a.allowed(byAlice())
	got := a.exchange(code, nil)
	require.Equal(t, http.StatusOK, got.Status)
	b.clock.Advance(time.Hour)
	require.NoError(t, b.server.Collect(t.Context(), b.clock.Now()))
	refusedAs(t, "invalid_grant", a.exchange(code, nil))
	assert.Zero(t, b.count(`select count(*) from oauth_session`))
	refusedAs(t, "invalid_grant", a.refresh(got.str("refresh_token")))
	assert.Contains(t, b.log.String(), "authorization code used again, session ended")
}

func TestCodeThatIsUsedTwiceAtOnceOpensNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	code := a.allowed(byAlice())
	statuses := atOnce(2, func() int { c := *a; return c.exchange(code, nil).Status })
	assert.ElementsMatch(t, []int{http.StatusOK, http.StatusBadRequest}, statuses)
	assert.Zero(t, b.count(`select count(*) from oauth_session`))
}

func atOnce(n int, fn func() int) []int {
	var wg sync.WaitGroup
	out := make([]int, n)
	for i := range out {
		wg.Go(func() { out[i] = fn() })
	}
	wg.Wait()
	return out
}

func TestChallengeIsNotRepeatedWithinADay(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	a.login()
	refusedAs(t, "invalid_grant", a.exchange(a.allowed(byAlice()), nil))
	b.clock.Advance(24*time.Hour - time.Second)
	require.NoError(t, b.server.Collect(t.Context(), b.clock.Now()))
	refusedAs(t, "invalid_grant", a.exchange(a.allowed(byAlice()), nil))
	b.clock.Advance(time.Second)
	a.login()
}

func TestRetriedRefreshGivesTheSameGenerationForTwoMinutes(t *testing.T) { // O4
	t.Parallel()
	b := newBed(t)
	a := b.public()
	first := a.login().str("refresh_token")
	second := a.refresh(first)
	require.Equal(t, http.StatusOK, second.Status)
	b.clock.Advance(2*time.Minute - time.Second)
	again := a.refresh(first)
	require.Equal(t, http.StatusOK, again.Status, again.Raw)
	assert.Equal(t, second.str("refresh_token"), again.str("refresh_token"))
	assert.Equal(t, http.StatusOK, a.use(again.str("access_token"), nil).Status)
	assert.Equal(t, http.StatusOK, a.use(second.str("access_token"), nil).Status)

	b.clock.Advance(time.Second)
	refusedAs(t, "invalid_grant", a.refresh(first))
	assert.Zero(t, b.count(`select count(*) from oauth_session`), "a replay ends the session")
	refusedAs(t, "invalid_token", a.use(again.str("access_token"), nil))
	refusedAs(t, "invalid_grant", a.refresh(second.str("refresh_token")))
}

func TestRefreshTokenOfTwoGenerationsAgoEndsTheSession(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	first := a.login().str("refresh_token")
	second := a.refresh(first).str("refresh_token")
	third := a.refresh(second).str("refresh_token")
	refusedAs(t, "invalid_grant", a.refresh(first))
	refusedAs(t, "invalid_grant", a.refresh(third))
}

func TestProcessesThatRefreshAtOnceGetOneGeneration(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	first := a.login().str("refresh_token")
	var mu sync.Mutex
	tokens := map[string]bool{}
	statuses := atOnce(6, func() int {
		c := *a
		got := c.refresh(first)
		mu.Lock()
		defer mu.Unlock()
		tokens[got.str("refresh_token")] = true
		return got.Status
	})
	assert.Equal(t, []int{200, 200, 200, 200, 200, 200}, statuses)
	assert.Len(t, tokens, 1)
	assert.Equal(t, 1, b.count(`select count(*) from oauth_session where generation = 2`))
}

func TestRefreshTokenInOtherHandsEndsTheSession(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	for name, thief := range map[string]func(a *app) *app{
		"another DPoP key": func(a *app) *app { c := *a; c.dpop = newKey(t); return &c },
		"another client":   func(a *app) *app { c := *a; c.id = "http://localhost"; return &c },
	} {
		token := a.again().login().str("refresh_token")
		refusedAs(t, "invalid_grant", thief(a).refresh(token), name)
		assert.Zero(t, b.count(`select count(*) from oauth_session`), name)
	}
	token := a.again().login().str("refresh_token")
	refusedAs(t, "invalid_grant", a.refresh(token[:len(token)-1]+"_"), "a forgery")
	assert.Equal(t, http.StatusOK, a.refresh(token).Status, "ends nothing")
}

func TestSessionLives(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, row := range []struct {
		kind        string
		idle, whole time.Duration
	}{{"public", 14 * day, 14 * day}, {"confidential", 90 * day, 2 * 365 * day}} {
		t.Run(row.kind, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			a := b.public()
			if row.kind == "confidential" {
				a = b.confidential()
			}
			token := a.login().str("refresh_token")
			b.clock.Advance(row.idle)
			refusedAs(t, "invalid_grant", a.refresh(token), "not refreshed for too long")

			got := a.again().login()
			end := b.clock.Now().Add(row.whole)
			for left := row.whole; left > 5*time.Minute; left = end.Sub(b.clock.Now()) {
				b.clock.Advance(min(row.idle-time.Minute, left-5*time.Minute))
				got = a.refresh(got.str("refresh_token"))
				require.Equal(t, http.StatusOK, got.Status, got.Raw)
			}
			assert.InDelta(t, (5 * time.Minute).Seconds(), got.JSON["expires_in"], 0, "a token does not outlive its session")
			b.clock.Advance(5 * time.Minute)
			refusedAs(t, "invalid_grant", a.refresh(got.str("refresh_token")), "however often it was refreshed")
			require.NoError(t, b.server.Collect(t.Context(), b.clock.Now()))
			assert.Zero(t, b.count(`select count(*) from oauth_session`))
		})
	}
}

func TestAccountThatCannotBeUsedGetsNoTokens(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("refresh_token")
	b.mayNot.Store(alice, true)
	refusedAs(t, "invalid_grant", a.refresh(token))
	b.mayNot.Delete(alice)
	assert.Equal(t, http.StatusOK, a.refresh(token).Status)
}

func TestClientWithoutRefreshGetsNoRefreshToken(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	b.publish("/app.json", b.metadata("/app.json", m{"grant_types": nil}))
	assert.NotContains(t, a.login().JSON, "refresh_token")
	refusedAs(t, "unauthorized_client", a.refresh("ref-aaaa.1.cccc"))
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	got := a.login()
	revoke := func(a *app, token string) answer { return a.post("/oauth/revoke", url.Values{"token": {token}}) }
	other := *a
	other.id = "http://localhost"
	for name, out := range map[string]answer{
		"another client":   revoke(&other, got.str("refresh_token")),
		"an unknown token": revoke(a, "ref-aaaa.1.bbbb"),
		"no token of ours": revoke(a, "nonsense"),
		"a forgery":        revoke(a, got.str("refresh_token")+"x"),
	} {
		assert.Equal(t, http.StatusOK, out.Status, name)
		assert.Equal(t, 1, b.count(`select count(*) from oauth_session`), name)
	}
	refusedAs(t, "invalid_request", a.post("/oauth/revoke", url.Values{}))
	refusedAs(t, "invalid_client", a.post("/oauth/revoke", url.Values{"client_id": {""}, "token": {"x"}}))
	old := a.refresh(got.str("refresh_token"))
	require.Equal(t, http.StatusOK, old.Status)
	assert.Equal(t, http.StatusOK, revoke(a, got.str("refresh_token")).Status)
	assert.Zero(t, b.count(`select count(*) from oauth_session`), "an older token of the session ends it too")

	access := a.again().login().str("access_token")
	b.clock.Advance(time.Hour)
	out := a.request("/oauth/revoke", url.Values{"client_id": {a.id}, "token": {access}}, "")
	assert.Equal(t, http.StatusOK, out.Status)
	assert.Zero(t, b.count(`select count(*) from oauth_session`), "also a token that is over, and without a proof")
}

func TestSessionsAreEndedAtOnce(t *testing.T) { // O6
	t.Parallel()
	b := newBed(t)
	a := b.public()
	login := func(who oauth.Approval) string {
		got := a.again().exchange(a.allowed(who), nil)
		require.Equal(t, http.StatusOK, got.Status, got.Raw)
		return got.str("access_token")
	}
	delegated := byAlice()
	delegated.Actor = bob
	one, two, three := login(byAlice()), login(byAlice()), login(delegated)
	theirs := login(oauth.Approval{Account: bob, Actor: bob})
	ok := func(token string) bool { return a.use(token, nil).Status == http.StatusOK }

	list, err := b.server.Sessions(t.Context(), alice)
	require.NoError(t, err)
	require.Len(t, list, 3)
	id := a.use(one, nil).str("id")
	require.NoError(t, b.server.End(t.Context(), bob, id))
	assert.True(t, ok(one), "not one's own")
	require.NoError(t, b.server.End(t.Context(), alice, id))
	assert.False(t, ok(one))
	assert.True(t, ok(three))
	assert.True(t, ok(two))
	code := a.again().allowed(byAlice())
	require.NoError(t, b.server.EndAll(t.Context(), alice))
	assert.False(t, ok(two))
	refusedAs(t, "invalid_grant", a.exchange(code, nil), "a code on its way is taken back")
	assert.True(t, ok(theirs))
}

func TestDatabaseHoldsNothingThatOpensAnything(t *testing.T) { // O5
	t.Parallel()
	b := newBed(t)
	a := b.confidential()
	waiting := a.allowed(byAlice())
	used := a.again().allowed(byAlice())
	got := a.exchange(used, nil)
	require.Equal(t, http.StatusOK, got.Status)
	next := a.refresh(got.str("refresh_token"))
	var dump strings.Builder
	for _, table := range []string{"oauth_request", "oauth_session", "oauth_proof", "oauth_once", "oauth_salt"} {
		rows, err := b.pool.Query(t.Context(), `select t::text from `+table+` t`)
		require.NoError(t, err)
		for rows.Next() {
			var text string
			require.NoError(t, rows.Scan(&text))
			dump.WriteString(text)
		}
		require.NoError(t, rows.Err())
	}
	for _, secret := range []string{waiting, used, got.str("access_token"), got.str("refresh_token"), next.str("refresh_token"), a.verifier} {
		require.NotEmpty(t, secret)
		mac := secret[strings.LastIndex(secret, ".")+1:]
		assert.NotContains(t, dump.String(), mac)
		assert.NotContains(t, dump.String(), fmt.Sprintf("%x", mac))
	}
	assert.NotContains(t, b.log.String(), waiting)
}

func TestRefreshThatWaitedForAnotherSeesWhatItDid(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	first := a.login().str("refresh_token")
	tx, err := b.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `update oauth_session set generation = 3`) // two refreshes by another process, not committed yet
	require.NoError(t, err)
	done := make(chan answer, 1)
	go func() { c := *a; done <- c.refresh(first) }()
	require.Eventually(t, func() bool {
		return b.count(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`) == 1
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, tx.Commit(t.Context()))
	refusedAs(t, "invalid_grant", <-done, "the token is two generations old")
	assert.Zero(t, b.count(`select count(*) from oauth_session`))
}

func TestSessionWhosePermissionSetIsGoneOpensNothingAndCanBeEnded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a := b.public()
	token := a.login().str("access_token")
	b.cfg.Scopes = func(raw string) (*scope.Set, error) {
		return nil, &scope.InvalidError{Word: raw, Reason: "not known any more"}
	}
	later := httptest.NewServer(mux(b.another()))
	t.Cleanup(later.Close)
	req, err := http.NewRequest(http.MethodGet, later.URL+"/resource/thing", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "DPoP "+token)
	req.Header.Set("DPoP", a.proof(http.MethodGet, b.url+"/resource/thing", token, nil))
	refusedAs(t, "invalid_token", b.do(req))
	list, err := b.another().Sessions(t.Context(), alice)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.True(t, list[0].Scope.Empty())
	require.NoError(t, b.server.End(t.Context(), alice, list[0].ID))
	assert.Zero(t, b.count(`select count(*) from oauth_session`))
}
