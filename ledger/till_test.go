package ledger

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

func TestClosedTillRedeemsNothing(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	shut := c.bindTill(c.pool, "back")
	code := c.code(ana, 1, "k", nil).str("code")
	c.unchanged(func() {
		assert.Equal(t, tillClosed, c.scan(shut, code, "confirm", 0).name())
		assert.Equal(t, tillClosed, c.scan(shut, code, "refuse", 1).name())
		assert.Equal(t, tillClosed, c.code(ana, 1, "voucher", map[string]any{"till": shut.id}).name())
	})
	require.Equal(t, 200, c.openTill(shut, pin).Status)
	c.clock.Advance(time.Second)
	require.Equal(t, 200, c.says(shut, "closeTill", nil).Status)
	c.unchanged(func() { assert.Equal(t, tillClosed, c.scan(shut, code, "confirm", 2).name()) })
	c.clock.Advance(time.Second)
	require.Equal(t, 200, c.openTill(shut, pin).Status)
	require.Equal(t, "redeemed", c.scan(shut, code, "confirm", 3).str("status"))
	c.clock.Advance(maxTillDay)
	late := c.code(ana, 1, "late", nil).str("code")
	assert.Equal(t, tillClosed, c.scan(shut, late, "confirm", 0).name(), "nobody closed it")
}

func TestFiveWrongPINsLockATillUntilItsRedeemerActs(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	for left := int64(maxWrong - 1); left >= 0; left-- {
		c.clock.Advance(time.Second)
		res := c.openTill(c.till, "000000")
		require.Equal(t, wrongPIN, res.name())
		require.Contains(t, res.Body["message"], "tries are left")
		require.EqualValues(t, left, res.Body["figures"].(map[string]any)["left"])
	}
	c.clock.Advance(time.Second)
	assert.Equal(t, tillLocked, c.openTill(c.till, pin).name(), "the right one too")
	assert.Equal(t, tillLocked, c.scan(c.till, code, "confirm", 0).name(), "its open day is over")
	assert.Equal(t, "TillUnknown", c.call(c.parks, "resetTill", "", map[string]any{
		"till": c.till.id, "pin": "135791", "idempotencyKey": "theirs",
	}).name())
	reset := map[string]any{"till": c.till.id, "pin": "135791", "idempotencyKey": "reset"}
	require.Equal(t, "reset", c.call(c.pool, "resetTill", "", reset).str("status"))
	require.Equal(t, "reset", c.call(c.pool, "resetTill", "", reset).str("status"), "asked again")
	assert.Equal(t, tillClosed, c.scan(c.till, code, "confirm", 1).name())
	assert.Equal(t, wrongPIN, c.openTill(c.till, pin).name(), "the old one")
	c.clock.Advance(time.Second)
	require.Equal(t, 200, c.openTill(c.till, "135791").Status)
	require.Equal(t, "redeemed", c.scan(c.till, code, "confirm", 2).str("status"))
}

// Of many tries at once no more are made than one after the other.
func TestTriesAtOnceAreCountedBeforeTheyAreMade(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	var wrong, locked, busy atomic.Int64
	var wg sync.WaitGroup
	for i := range 40 {
		body := signedBody(t, c.till, map[string]any{
			"till": c.till.id, "pin": "999999", "at": at(c.clock.Now().Add(time.Duration(i+1) * time.Second)),
		})
		wg.Go(func() {
			switch c.call(nil, "openTill", "", body).name() {
			case wrongPIN:
				wrong.Add(1)
			case tillLocked:
				locked.Add(1)
			default:
				busy.Add(1)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, maxWrong, wrong.Load())
	assert.EqualValues(t, 35, locked.Load())
	assert.Zero(t, busy.Load())
}

func TestLostTillIsStoppedAtOnceAndForGood(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	size := c.size()
	require.Equal(t, "ended", c.call(c.pool, "resetTill", "", map[string]any{
		"till": c.till.id, "end": true, "idempotencyKey": "lost",
	}).str("status"))
	require.Equal(t, size, c.size(), "no entry: it takes nothing from anybody")
	assert.Equal(t, tillWithdrawn, c.scan(c.till, code, "confirm", 0).name())
	assert.Equal(t, tillWithdrawn, c.openTill(c.till, pin).name())
	assert.Equal(t, tillWithdrawn, c.says(c.till, "closeTill", nil).name())
	pub, err := c.till.key.PublicKey()
	require.NoError(t, err)
	for method, body := range map[string]map[string]any{
		"resetTill": {"till": c.till.id, "pin": pin, "idempotencyKey": "back"},
		"bindTill":  {"label": "x", "key": pub.DIDKey(), "pin": pin, "idempotencyKey": "again"},
	} {
		assert.Equal(t, tillWithdrawn, c.call(c.pool, method, "", body).name(), method)
	}
	c.restart()
	assert.Equal(t, tillWithdrawn, c.openTill(c.till, pin).name())
}

func TestTillNeedsAPIN(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	pub, err := c.bindTill(c.pool, "good").key.PublicKey()
	require.NoError(t, err)
	c.unchanged(func() {
		for given, want := range map[string]string{"": pinMissing, "12345": invalidPIN, "1234567890123": invalidPIN, "12345x": invalidPIN} {
			bind := map[string]any{"label": "x", "key": pub.DIDKey(), "pin": given, "idempotencyKey": "x" + given}
			assert.Equal(t, want, c.call(c.pool, "bindTill", "", bind).name(), given)
			reset := map[string]any{"till": c.till.id, "pin": given, "idempotencyKey": "y" + given}
			assert.Equal(t, want, c.call(c.pool, "resetTill", "", reset).name(), given)
			assert.Equal(t, want, c.openTill(c.till, given).name(), given)
		}
	})
	// Bound again by another key of the request, a till keeps its PIN.
	again := map[string]any{"label": "x", "key": pub.DIDKey(), "pin": "999999", "idempotencyKey": "again"}
	require.Equal(t, 200, c.call(c.pool, "bindTill", "", again).Status)
	bound := c.call(c.pool, "bindTill", "", again)
	require.Equal(t, 200, bound.Status)
}

// What a till signed to open its day opens it once: sent again later by somebody it opens nothing.
func TestOpeningIsNotReplayed(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.clock.Advance(time.Minute)
	opening := signedBody(t, c.till, map[string]any{"till": c.till.id, "pin": pin, "at": at(c.clock.Now())})
	first := c.call(nil, "openTill", "", opening)
	require.Equal(t, 200, first.Status, "%v", first.Body)
	c.clock.Advance(time.Second)
	require.Equal(t, first.Body, c.call(nil, "openTill", "", opening).Body, "the answer was lost")
	require.Equal(t, 200, c.says(c.till, "closeTill", nil).Status)
	c.clock.Advance(time.Second)
	assert.Equal(t, staleRequest, c.call(nil, "openTill", "", opening).name())
	c.clock.Advance(maxTillSkew + time.Second)
	assert.Equal(t, staleRequest, c.call(nil, "openTill", "", opening).name())
	assert.Equal(t, "BadSignature", c.openTill(&till{id: c.till.id, key: c.bindTill(c.pool, "other").key}, pin).name())
}

// No PIN and no card number can be read or tried in the database: neither stands there, nor a plain hash of either.
func TestNoPINStandsInTheDatabase(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	card := c.call(ana, "issueCard", "", map[string]any{"pin": "802468135790", "idempotencyKey": "card"}).str("card")
	require.Len(t, card, cardDigits)
	require.Equal(t, "redeemed", c.card(c.till, card, "802468135790", 1, "buy", nil).str("status"))
	dump := ""
	for _, v := range contents(t, c.world.pool) {
		dump += v
	}
	require.Contains(t, dump, c.till.id)
	for _, secret := range []string{pin, "802468135790", card} {
		assert.NotContains(t, dump, secret)
	}
	for _, e := range logOf(t, c) {
		raw, err := e.Encode()
		require.NoError(t, err)
		assert.NotContains(t, string(raw), card)
	}
}

// logOf reads the whole log.
func logOf(t *testing.T, c *founded) []*entry.Entry {
	t.Helper()
	list, err := c.l.entriesOf(c.ctx, `select leaf from entry order by seq`)
	require.NoError(t, err)
	return list
}
