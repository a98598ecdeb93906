package pds

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func limited(c *Config, text string) {
	l, err := ParseLimits(text)
	if err != nil {
		panic(err)
	}
	c.Limits, c.LimitFactor = l, 1
}

func TestLimiterForgetsTheOldestKeys(t *testing.T) {
	t.Parallel()
	l, now := newLimiter(), time.Now()
	take := func(key int) bool {
		_, ok := l.take(strconv.Itoa(key), []Rate{{1, time.Hour}}, 1, now)
		return ok
	}
	for i := range limiterKeys + 10 {
		require.True(t, take(i))
	}
	assert.Len(t, l.keys, limiterKeys)
	assert.True(t, take(0), "forgotten, so forgiven")
	assert.False(t, take(limiterKeys+9))
}

func TestEveryRateOfALimitHolds(t *testing.T) {
	t.Parallel()
	l, now := newLimiter(), time.Now()
	rates := []Rate{{2, time.Minute}, {3, time.Hour}}
	take := func(cost int) (taken, bool) { return l.take("key", rates, cost, now) }
	for range 2 {
		_, ok := take(1)
		require.True(t, ok)
	}
	short, ok := take(1)
	require.False(t, ok)
	assert.Equal(t, 30*time.Second, short.wait)
	now = now.Add(time.Minute)
	last, ok := take(1)
	require.True(t, ok, "a refused use took nothing of the longer rate")
	assert.Zero(t, last.left, "the rate nearest to its end is told")
	long, ok := take(1)
	require.False(t, ok)
	assert.Equal(t, rates[1], long.rate)
}

// An import's commit may cost more than the whole rate: it passes when nothing else was used, and is paid for after.
func TestUseThatCostsMoreThanTheRatePassesAndIsOwed(t *testing.T) {
	t.Parallel()
	l, now := newLimiter(), time.Now()
	rates := []Rate{{100, time.Hour}}
	_, ok := l.take("key", rates, 300, now)
	require.True(t, ok)
	_, ok = l.take("key", rates, 1, now.Add(2*time.Hour))
	require.False(t, ok)
	_, ok = l.take("key", rates, 1, now.Add(2*time.Hour+time.Minute))
	require.True(t, ok)
}

func TestRemoteIPBelievesOnlyTrustedProxies(t *testing.T) {
	t.Parallel()
	r := &http.Request{RemoteAddr: "10.0.0.1:99", Header: http.Header{"X-Forwarded-For": {"6.6.6.6, 7.7.7.7"}}}
	assert.Equal(t, "10.0.0.1", remoteIP(r, 0), "also of a neighbour in a private network")
	assert.Equal(t, "7.7.7.7", remoteIP(r, 1))
	assert.Equal(t, "6.6.6.6", remoteIP(r, 2))
	assert.Equal(t, "10.0.0.1", remoteIP(r, 3))
	assert.Equal(t, "2001:db8::", remoteIP(&http.Request{RemoteAddr: "[2001:db8::1]:99"}, 0), "a household has a whole /64")
}

func TestEveryRequestCountsByAddressAndGetRepoApart(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { limited(c, "all=5/1m,getRepo=2/1m") })
	u := b.account("user") // two requests
	ask := func(nsid string, params ...string) answer { return b.get("", nsid, params...) }
	first := ask("com.atproto.server.describeServer")
	assert.Equal(t, "5", first.Header.Get("RateLimit-Limit"))
	assert.Equal(t, "2", first.Header.Get("RateLimit-Remaining"))
	assert.Equal(t, "5;w=60", first.Header.Get("RateLimit-Policy"))
	assert.Equal(t, strconv.FormatInt(b.clock.Now().Add(36*time.Second).Unix(), 10), first.Header.Get("RateLimit-Reset"))
	ask("com.example.not.served")
	ask("_health")
	full := ask("com.atproto.server.describeServer")
	assert.Equal(t, http.StatusTooManyRequests, full.Status)
	assert.Equal(t, "RateLimitExceeded", full.name())
	assert.Equal(t, "12", full.Header.Get("Retry-After"))
	assert.Equal(t, "*", full.Header.Get("Access-Control-Allow-Origin"), "a page in a browser may read the refusal")
	for range 2 {
		b.ok(ask("com.atproto.sync.getRepo", "did", u.DID.String()))
	}
	assert.Equal(t, "RateLimitExceeded", ask("com.atproto.sync.getRepo", "did", u.DID.String()).name())
	b.clock.Advance(12 * time.Second)
	b.ok(ask("com.atproto.server.describeServer"))
}

func TestSparedAddressHasNoLimitByAddress(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) {
		limited(c, "all=1/1m,createAccount=1/1m")
		c.LimitSpared = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for range 3 {
		b.ok(b.get("", "com.atproto.server.describeServer"))
	}
}

func TestWritesCostThreeTwoAndOnePoints(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { limited(c, "writes=10/1h+100/24h") })
	u := b.account("user")
	left := func(a answer) string { return b.ok(a).Header.Get("RateLimit-Remaining") }
	assert.Equal(t, "7", left(u.create(note, "a", m{"text": "1"})))
	assert.Equal(t, "5", left(u.put(note, "a", m{"text": "2"}, nil)))
	assert.Equal(t, "4", left(u.remove(note, "a", nil)))
	many := []m{}
	for _, key := range []string{"b", "c"} {
		many = append(many, m{"$type": "com.atproto.repo.applyWrites#create", "collection": note, "rkey": key, "value": m{"text": "x"}})
	}
	over := u.apply(many...)
	assert.Equal(t, "RateLimitExceeded", over.name(), "two creates cost six")
	assert.Equal(t, "720", over.Header.Get("Retry-After"))
	other := b.account("other")
	assert.Equal(t, "7", left(other.create(note, "a", m{"text": "1"})), "each account has its own")
}

// Without it an account could fill the disk with a few thousand records.
func TestBytesOfRecordsAreLimited(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { limited(c, "writeBytes=3000/1h") })
	u := b.account("user")
	long := m{"text": strings.Repeat("x", 2000)}
	u.ok(u.create(note, "a", long))
	over := u.create(note, "b", long)
	assert.Equal(t, "RateLimitExceeded", over.name())
	assert.Contains(t, string(over.Raw), "limit writeBytes: 3000 in 1h0m0s are allowed")
	assert.Equal(t, "RateLimitExceeded", u.put(note, "a", m{"text": strings.Repeat("y", 2000)}, nil).name())
	assert.Equal(t, "RateLimitExceeded", u.apply(m{"$type": "com.atproto.repo.applyWrites#create", "collection": note, "rkey": "c", "value": long}).name())
	u.ok(u.remove(note, "a", nil))
	u.ok(u.create(note, "d", m{"text": "short"}))
	b.clock.Advance(time.Hour)
	u.ok(u.create(note, "b", long))
}

// A city's import of 35,000 records would take three days under the network's usual limit.
func TestOperatorSetsAnAccountsLimit(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { limited(c, "writes=3/1h") })
	u, other := b.account("user"), b.account("other")
	write := func(u *user) string { return u.create(note, "", m{"text": "x"}).name() }
	require.Empty(t, write(u))
	require.Equal(t, "RateLimitExceeded", write(u))
	ctx := t.Context()
	require.NoError(t, SetAccountLimit(ctx, b.deps.Pool, u.DID, "writes", &Rate{}))
	b.clock.Advance(ownRatesLife)
	for range 5 {
		require.Empty(t, write(u))
	}
	require.Empty(t, write(other))
	require.Equal(t, "RateLimitExceeded", write(other))
	list, err := AccountLimits(ctx, b.deps.Pool, u.DID)
	require.NoError(t, err)
	assert.Equal(t, []AccountLimit{{Name: "writes", Rate: Rate{Window: time.Second}}}, list)
	require.NoError(t, SetAccountLimit(ctx, b.deps.Pool, u.DID, "writes", nil))
	b.clock.Advance(ownRatesLife)
	require.Empty(t, write(u))
	require.Equal(t, "RateLimitExceeded", write(u))
	require.ErrorContains(t, SetAccountLimit(ctx, b.deps.Pool, u.DID, "all", &Rate{}), "none that an account")
	require.ErrorIs(t, SetAccountLimit(ctx, b.deps.Pool, "did:plc:nobodynobodynobodynobody", "writes", &Rate{}), errRepoNotFound(""))
}

func TestCodesByMailAreLimitedForEachAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t, defaultLimited)
	b.withMail()
	u := b.account("user").withAddress("user@example.org")
	ask := func() answer { return b.post(u.Access, "com.atproto.server.requestAccountDelete", nil) }
	for range 5 {
		b.ok(ask())
	}
	assert.Equal(t, "RateLimitExceeded", ask().name())
	assert.Equal(t, "720", ask().Header.Get("Retry-After"))
}

func TestLimitsAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	l, err := ParseLimits(" createAccount=20/1h, writes=5000/1h+35000/24h,all=0/1s,")
	require.NoError(t, err)
	assert.Equal(t, Limits{"createAccount": {{20, time.Hour}}, "writes": {{5000, time.Hour}, {35000, 24 * time.Hour}}, "all": {{0, time.Second}}}, l)
	for _, bad := range []string{"writes", "writes=", "writes=1", "writes=x/1h", "writes=1/x", "writes=-1/1h", "writes=1/0s", "nothing=1/1h"} {
		_, err := ParseLimits(bad)
		assert.Error(t, err, bad)
	}
}

func defaultLimited(c *Config) { c.LimitFactor = 1 }

// The limits of pds.md are on where nothing is set.
func TestLimitsAreOnByDefault(t *testing.T) {
	t.Parallel()
	b := newBed(t, defaultLimited)
	assert.Equal(t, "3000;w=300", b.get("", "com.atproto.server.describeServer").Header.Get("RateLimit-Policy"))
	u := b.account("user")
	for range 9 {
		u.create(note, "", m{"text": "x"})
	}
	last := u.create(note, "", m{"text": "x"})
	assert.Equal(t, "5000;w=3600", last.Header.Get("RateLimit-Policy"), "of all limits it tells the one nearest to its end")
	assert.Equal(t, "30;w=300", b.post("", "com.atproto.server.createSession", m{"identifier": "user.test", "password": "wrong password"}).Header.Get("RateLimit-Policy"))
}
