package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/voucher"
)

func TestHoldIsHonoredOfflineAndCapturedLater(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	h := c.hold(ana, 2, "h", nil)
	require.Equal(t, 200, h.Status, "%v", h.Body)
	require.Equal(t, h.Body, c.hold(ana, 2, "h", nil).Body, "asked again")
	require.EqualValues(t, 8, c.balance(ana))

	shown, err := voucher.Check([]byte(h.str("voucher")), c.l.VerifierKey(), c.till.id, c.clock.Now())
	require.NoError(t, err)
	assert.Equal(t, []any{voucher.Hold, h.num("hold"), int64(2), int64(16)}, []any{shown.What, shown.Receipt, shown.Units, shown.Credits})
	_, err = voucher.Check([]byte(h.str("voucher")), c.l.VerifierKey(), c.till.id, shown.ExpiresAt)
	require.ErrorIs(t, err, voucher.ErrTime)

	honored := c.clock.Now().Add(time.Minute)
	c.clock.Advance(3 * time.Hour) // the till was away
	body := map[string]any{"hold": h.num("hold"), "at": at(honored)}
	got := c.says(c.till, "captureHold", body)
	require.Equal(t, 200, got.Status, "%v", got.Body)
	assert.EqualValues(t, 16, got.num("amount"))
	require.Equal(t, got.Body, c.says(c.till, "captureHold", body).Body, "the answer was lost")
	again := c.says(c.till, "captureHold", map[string]any{"hold": h.num("hold")})
	assert.Equal(t, "HoldEnded", again.name())
	assert.Contains(t, again.str("message"), "captured")
	assert.EqualValues(t, 8, c.balance(ana))
	assert.EqualValues(t, 16, c.capacity().num("burned"))

	back := c.scan(c.till, got.str("code"), "undo", 1)
	require.Equal(t, "returned", back.str("status"), "%v", back.Body)
	assert.EqualValues(t, 24, c.balance(ana))
	assert.Zero(t, c.capacity().num("burned"))
	c.tablesAgree()
}

func TestHoldEndsWithItsLastDay(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	h := c.hold(ana, 2, "h", nil)
	c.clock.Advance(12 * time.Hour) // past midnight
	assert.Equal(t, "HoldEnded", c.says(c.till, "captureHold", map[string]any{"hold": h.num("hold")}).name())
	c.sweep()
	assert.EqualValues(t, 24, c.balance(ana))
	e := c.last(entry.KindVoid)
	assert.Equal(t, entry.VoidExpired, e.Void.Reason)
	ended := c.says(c.till, "captureHold", map[string]any{"hold": h.num("hold"), "at": at(c.clock.Now().Add(time.Second))})
	assert.Contains(t, ended.str("message"), "expired")
	c.tablesAgree()
}

// While a till may have honored a hold and not told yet, its resident cannot take it back; when the till closes its day, it is given back.
func TestResidentTakesAHoldBackWhenTheTillCannotHaveHonoredIt(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	first, second := c.hold(ana, 1, "a", nil), c.hold(ana, 1, "b", nil)
	take := func(h answer, key string) answer {
		return c.call(ana, "endHold", "", map[string]any{"hold": h.num("hold"), "idempotencyKey": key})
	}
	for _, h := range []answer{first, second} {
		got := take(h, "end"+h.str("expiresAt")+receiptKey(h.num("hold")))
		require.Equal(t, "asked", got.str("status"), "%v", got.Body)
	}
	require.EqualValues(t, 8, c.balance(ana), "both are still aside")
	require.Equal(t, 200, c.says(c.till, "captureHold", map[string]any{"hold": first.num("hold")}).Status, "it was honored after all")
	c.clock.Advance(time.Second)
	require.Equal(t, 200, c.says(c.till, "closeTill", nil).Status)
	require.EqualValues(t, 16, c.balance(ana), "the other one is given back")
	assert.Equal(t, "HoldEnded", take(second, "more").name())

	third := c.hold(ana, 1, "c", nil) // for a till that is closed
	got := take(third, "at once")
	require.Equal(t, "ended", got.str("status"), "%v", got.Body)
	require.Equal(t, got.Body, take(third, "at once").Body)
	require.EqualValues(t, 16, c.balance(ana))
	c.tablesAgree()
}

func TestHoldIsItsResidentsAndItsTills(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	ben := c.resident("ben")
	h := c.hold(ana, 1, "a", nil)
	other := c.bindTill(c.pool, "back")
	require.Equal(t, 200, c.openTill(other, pin).Status)
	c.unchanged(func() {
		assert.Equal(t, "HoldUnknown", c.call(ben, "endHold", "", map[string]any{"hold": h.num("hold"), "idempotencyKey": "x"}).name())
		assert.Equal(t, "HoldUnknown", c.says(c.till, "captureHold", map[string]any{"hold": 1}).name())
		assert.Equal(t, "TillUnknown", c.says(other, "captureHold", map[string]any{"hold": h.num("hold")}).name())
		assert.Equal(t, "WrongTill", c.says(other, "endHold", map[string]any{"hold": h.num("hold")}).name())
	})
	require.Equal(t, "ended", c.says(c.till, "endHold", map[string]any{"hold": h.num("hold")}).str("status"))
	assert.EqualValues(t, 24, c.balance(ana))
	assert.Equal(t, entry.VoidRefused, c.last(entry.KindVoid).Void.Reason)
}

func TestOnePersonKeepsFewHolds(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	c.earn(ana, c.catalog(c.library, entryOptions{}))
	for i := range 5 {
		require.Equal(t, 200, c.hold(ana, 1, receiptKey(int64(i)), nil).Status)
	}
	assert.Equal(t, "HoldLimit", c.hold(ana, 1, "more", nil).name())
	assert.Equal(t, "HoldTooLong", c.hold(ana, 1, "long", map[string]any{"until": "2027-01-21"}).name())
}

func TestHoldsAndTillsAreThereAfterARestart(t *testing.T) { // L2
	t.Parallel()
	c, ana := rich(t)
	h := c.hold(ana, 1, "a", nil)
	digest := c.l.seq.state.Digest()
	c.restart()
	require.Equal(t, digest, c.l.seq.state.Digest())
	require.Equal(t, 200, c.says(c.till, "captureHold", map[string]any{"hold": h.num("hold")}).Status)
	c.tablesAgree()
}

// tablesAgree compares the guards in SQL with the rules' state.
func (c *founded) tablesAgree() {
	c.t.Helper()
	rows, err := c.world.pool.Query(c.ctx, `select account, credits, aside from balance`)
	require.NoError(c.t, err)
	defer rows.Close()
	for rows.Next() {
		var account []byte
		var credits, aside, held int64
		require.NoError(c.t, rows.Scan(&account, &credits, &aside))
		free, _ := c.l.seq.state.Balance(entry.Account(account), book)
		for _, h := range c.l.seq.state.HoldsOf(entry.Account(account)) {
			held += h.Amount
		}
		assert.Equal(c.t, []int64{free, held}, []int64{credits, aside})
	}
	require.NoError(c.t, rows.Err())
}
