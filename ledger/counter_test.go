package ledger

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
)

// rich is a city with a resident who holds 24 credits.
func rich(t *testing.T) (*founded, *actor) {
	t.Helper()
	c := newCity(t)
	ana := c.resident("ana")
	c.earn(ana, c.catalog(c.library, entryOptions{}))
	return c, ana
}

func TestSecondScanSaysWhen(t *testing.T) { // L11
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	require.Equal(t, 200, c.scan(c.till, code, "confirm", 0).Status)
	burned := c.clock.Now()
	c.clock.Advance(time.Hour)
	c.unchanged(func() {
		again := c.scan(c.till, code, "confirm", 0)
		require.Equal(t, "AlreadyRedeemed", again.name())
		require.Contains(t, again.str("message"), at(burned))
	})
}

func TestCodeExpires(t *testing.T) { // L11
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", map[string]any{"ttlSeconds": 5}).str("code")
	c.clock.Advance(5 * time.Second)
	c.unchanged(func() { require.Equal(t, "CodeExpired", c.scan(c.till, code, "confirm", 0).name()) })
	require.Equal(t, "InvalidRequest", c.code(ana, 1, "k2", map[string]any{"ttlSeconds": 91}).name())
}

func TestRefusedCodeBurnsNothing(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	c.unchanged(func() {
		require.Equal(t, "refused", c.scan(c.till, code, "refuse", 0).str("status"))
		require.Equal(t, "AlreadyRefused", c.scan(c.till, code, "confirm", 0).name())
	})
	require.Equal(t, int64(24), c.balance(ana))
}

func TestCodeIsRefusedByName(t *testing.T) { // L14
	t.Parallel()
	c, ana := rich(t)
	c.unchanged(func() {
		assert.Equal(t, "InsufficientBalance", c.code(ana, 4, "a", nil).name())
		assert.Equal(t, "NotActivated", c.code(c.actor("nobody"), 1, "b", nil).name())
		assert.Equal(t, "UnitsExhausted", c.code(ana, 101, "c", nil).name())
		assert.Equal(t, "CodeUnknown", c.scan(c.till, "ZZZZZZZZ", "confirm", 0).name())
		free := strong{c.swim.URI, c.params.CID}
		assert.Equal(t, "OfferingUnknown", c.code(ana, 1, "d", map[string]any{"offering": free}).name())
	})
}

func TestTillMustBeBoundAndSign(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	good := *c.till
	other := &till{id: good.id, key: good.key}
	c.newTill() // another key
	other.key = c.till.key
	c.unchanged(func() {
		assert.Equal(t, "BadSignature", c.scan(other, code, "confirm", 0).name())
		assert.Equal(t, "TillUnknown", c.scan(&till{id: "nowhere", key: good.key}, code, "confirm", 0).name())
	})
	// A till of another redeemer does not confirm the pool's codes.
	c.accredit(c.parks, "active", "issuer", "redeemer")
	c.till = c.bindTill(c.parks, "p")
	require.Equal(t, 200, c.openTill(c.till, pin).Status)
	c.unchanged(func() { assert.Equal(t, "WrongTill", c.scan(c.till, code, "confirm", 0).name()) })
	require.Equal(t, "redeemed", c.scan(&good, code, "confirm", 0).str("status"))
}

func TestFiveHundredScansOneBurn(t *testing.T) { // L11
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	first := *c.till
	second := c.bindTill(c.pool, "back")
	require.Equal(t, 200, c.openTill(second, pin).Status)
	var wg sync.WaitGroup
	var redeemed, already, other atomic.Int64
	for i := range 500 {
		tl := &first
		if i%2 == 1 {
			tl = second
		}
		body := signedBody(t, tl, map[string]any{"code": code, "action": "confirm", "till": tl.id, "at": at(noon.Add(time.Duration(i) * time.Second))})
		wg.Go(func() {
			switch got := c.call(nil, "updateRedemption", "", body); {
			case got.str("status") == "redeemed":
				redeemed.Add(1)
			case got.name() == "AlreadyRedeemed":
				already.Add(1)
			default:
				other.Add(1)
			}
		})
	}
	wg.Wait()
	require.Equal(t, []int64{1, 499, 0}, []int64{redeemed.Load(), already.Load(), other.Load()})
	require.Equal(t, int64(16), c.balance(ana))
	require.Equal(t, int64(8), c.capacity().num("burned"))
}

func TestSameRequestGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	first := c.code(ana, 1, "k", nil)
	require.Equal(t, first.Body, c.code(ana, 1, "k", nil).Body)
	conflict := c.code(ana, 2, "k", nil)
	require.Equal(t, 409, conflict.Status)
	require.Equal(t, "IdempotencyConflict", conflict.name())

	body := signedBody(t, c.till, map[string]any{"code": first.str("code"), "action": "confirm", "till": c.till.id, "at": at(noon)})
	burned := c.call(nil, "updateRedemption", "", body)
	require.Equal(t, 200, burned.Status, "%v", burned.Body)
	c.unchanged(func() { require.Equal(t, burned.Body, c.call(nil, "updateRedemption", "", body).Body) })

	c.unchanged(func() {
		require.Equal(t, "activated", c.activate(ana).str("status"), "the first answer, to a fresh token")
	})
	res := c.call(c.library, "activate", "", map[string]any{"resident": ana.did, "residentToken": ana.token("activate"), "idempotencyKey": "new"})
	require.Equal(t, "already", res.str("status"), "%v", res.Body)
}

func TestActivationNeedsBothParties(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ben, eve := c.actor("ben"), c.actor("eve")
	ask := func(desk *actor, token string) string {
		return c.call(desk, "activate", "", map[string]any{"resident": ben.did, "residentToken": token, "idempotencyKey": fmt.Sprint(c.tid())}).name()
	}
	c.unchanged(func() {
		assert.Equal(t, "InvalidResidentToken", ask(c.library, eve.token("activate")))
		assert.Equal(t, "InvalidResidentToken", ask(c.library, ben.token("getBalance")))
		assert.Equal(t, "NotAccredited", ask(c.pool, ben.token("activate")))
		assert.Equal(t, "NotAccredited", ask(eve, ben.token("activate")))
		assert.Equal(t, "AuthMissing", c.call(nil, "activate", "", map[string]any{}).name())
	})
}

func TestCodeNeverStandsInTheDatabase(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	for _, q := range []string{
		`select count(*) from idempotency where position(convert_to($1, 'UTF8') in answer) > 0`,
		`select count(*) from code where position(convert_to($1, 'UTF8') in hash) > 0 or code::text like '%' || $1 || '%'`,
	} {
		var n int
		require.NoError(t, c.world.pool.QueryRow(c.ctx, q, code).Scan(&n))
		require.Zero(t, n, q)
	}
}

func TestOnePersonKeepsFewCodesOpen(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	for i := range maxOpenCodes {
		require.Equal(t, 200, c.code(ana, 1, fmt.Sprint(i), nil).Status)
	}
	over := c.code(ana, 1, "over", nil)
	require.Equal(t, 429, over.Status)
	require.Equal(t, "RateLimitExceeded", over.name())
	c.clock.Advance(maxCodeTTL)
	require.Equal(t, 200, c.code(ana, 1, "over", nil).Status)
}

// A redeemer that leaves in mid-epoch still honors what was counted; what came later ends at once.
func TestCommittedUnitsAreHonoredAfterAWithdrawal(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	later := c.offer(800, 10)
	for _, o := range []strong{c.swim, later} {
		c.pool.put(lexicons.OfferOfferingStatus, rkeyOf(o), map[string]any{"status": "ended", "offering": o})
	}
	require.Equal(t, 200, c.code(ana, 1, "counted", nil).Status)
	require.Equal(t, "OfferingPaused", c.code(ana, 1, "later", map[string]any{"offering": later}).name())
	gone := c.offer(800, 10)
	c.pool.del(lexicons.OfferOffering, rkeyOf(gone))
	require.Equal(t, "OfferingNotLive", c.code(ana, 1, "gone", map[string]any{"offering": gone}).name())
	// A dearer version of a counted offering is not what was committed.
	dearer := c.pool.put(lexicons.OfferOffering, rkeyOf(c.swim), map[string]any{
		"title": "Swim", "creditsPerUnit": 9, "unitLabel": "visit", "epoch": epoch, "book": book,
		"capacity":         map[string]any{"physicalMonth": 1000, "marginalMonth": 1000, "committedMonth": 100},
		"publicPriceMinor": 800, "currency": "USD",
	})
	require.Equal(t, "TermsFrozen", c.code(ana, 1, "dearer", map[string]any{"offering": dearer}).name())
	require.Equal(t, int64(8), c.code(ana, 1, "still", nil).num("price"))
}

func TestIssuerPagesThroughItsOwnClaimsOnly(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	want := []string{}
	for _, name := range []string{"ana", "ben", "cleo"} {
		want = append(want, c.resident(name).claim(task).URI)
	}
	got := []string{}
	for query := "?limit=2"; query != ""; {
		page := c.call(c.library, "listClaims", query, nil)
		require.Equal(t, 200, page.Status, "%v", page.Body)
		list, _ := page.Body["claims"].([]any)
		for _, one := range list {
			v, _ := one.(map[string]any)
			require.Equal(t, "held", v["status"])
			require.Equal(t, task.CID, v["taskCid"])
			uri, _ := v["claim"].(string)
			got = append(got, uri)
		}
		query = ""
		if next := page.str("cursor"); next != "" {
			query = "?limit=2&cursor=" + next
		}
	}
	require.Equal(t, want, got)
	require.Empty(t, c.call(c.parks, "listClaims", "", nil).Body["claims"])
	require.Equal(t, "BadCursor", c.call(c.library, "listClaims", "?cursor=x", nil).name())
}

func TestWellKnownNamesTheLog(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	var got struct {
		City, Ledger string
		Log          struct{ Origin, VKey, URL string }
		PLC          *string
	}
	rec := c.get("/.well-known/citysync.json")
	require.Equal(t, 200, rec.Code)
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &got))
	require.Equal(t, []string{c.cfg.City.String(), c.cfg.DID.String(), c.l.VerifierKey()}, []string{got.City, got.Log.Origin, got.Log.VKey})
	require.Nil(t, got.PLC, "named on loopback only")
	require.Equal(t, 200, c.get("/xrpc/_health").Code)
}
