package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/voucher"
	"city-sync.org/citysync/lexicons"
)

// Each test is named after a leak of the closest prototype.

func TestLeakPriceRaisedOrOfferingWithdrawnMidEpoch(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	ways := c.paths(ana)
	dearer := c.pool.put(lexicons.OfferOffering, rkeyOf(c.swim), map[string]any{
		"title": "Swim", "creditsPerUnit": 24, "unitLabel": "visit", "epoch": epoch, "book": book,
		"capacity":         map[string]any{"physicalMonth": 1000, "marginalMonth": 1000, "committedMonth": 100},
		"publicPriceMinor": 800, "currency": "USD",
	})
	c.pool.put(lexicons.OfferOfferingStatus, rkeyOf(c.swim), map[string]any{"status": "ended", "offering": c.swim})
	c.unchanged(func() {
		for way, redeem := range ways {
			assert.Equal(t, "TermsFrozen", redeem(dearer, 1, true).name(), way)
		}
	})
	for _, way := range []string{"voucher", "hold", "card"} {
		require.Equal(t, 200, ways[way](c.swim, 1, true).Status, "%s: what was counted is honored to the end of its epoch", way)
	}
	require.Zero(t, c.balance(ana), "at the price that was counted")
}

func TestLeakNoQuotaWindowOrPerPersonLimit(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	tuesdays := c.swimWith(map[string]any{"windows": []any{map[string]any{"days": []any{"tue"}, "from": "09:00", "to": "12:00"}}})
	once := c.swimWith(map[string]any{"perPersonLimit": 1})
	few := c.swimWith(nil)
	for way, redeem := range c.paths(ana) {
		assert.Equal(t, "OutsideWindow", redeem(tuesdays, 1, true).name(), way)
		assert.Equal(t, "PersonLimit", redeem(once, 2, true).name(), way)
		assert.Equal(t, "UnitsExhausted", redeem(few, 3, true).name(), way)
	}
	// A code made in time does not outlive the window, the month's units or the limit: the burn asks again.
	first, second := c.code(ana, 1, "a", map[string]any{"offering": once}), c.code(ana, 1, "b", map[string]any{"offering": once})
	require.Equal(t, "redeemed", c.scan(c.till, first.str("code"), "confirm", 0).str("status"))
	assert.Equal(t, "PersonLimit", c.scan(c.till, second.str("code"), "confirm", 1).name())
}

func TestLeakRequestBurnedAYearLater(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil)
	held := c.hold(ana, 1, "h", nil)
	shown := c.code(ana, 1, "v", map[string]any{"till": c.till.id})
	for _, later := range []time.Duration{maxCodeTTL, 365 * 24 * time.Hour} {
		c.clock.Set(noon.Add(later))
		tl := c.bindLater(later)
		res := c.scan(tl, code.str("code"), "confirm", 0)
		assert.Contains(t, []string{"CodeExpired", "CodeUnknown"}, res.name(), "%s", later)
	}
	assert.Equal(t, "HoldEnded", c.says(c.till, "captureHold", map[string]any{"hold": held.num("hold")}).name())
	_, err := voucher.Check([]byte(shown.str("voucher")), c.l.VerifierKey(), c.till.id, c.clock.Now())
	require.ErrorIs(t, err, voucher.ErrTime)
	_, err = voucher.Check([]byte(held.str("voucher")), c.l.VerifierKey(), c.till.id, c.clock.Now())
	require.ErrorIs(t, err, voucher.ErrTime)
}

// bindLater opens the till at a later time.
func (c *founded) bindLater(later time.Duration) *till {
	c.t.Helper()
	res := c.openTill(c.till, pin)
	require.Equal(c.t, 200, res.Status, "%s: %v", later, res.Body)
	return c.till
}

func TestLeakNoRefundWhenTheCounterRefuses(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	ways := c.paths(ana)
	for i, way := range []string{"code", "voucher", "card", "hold"} {
		got := ways[way](c.swim, 3, true)
		require.Equal(t, 200, got.Status, "%s: %v", way, got.Body)
		refuse := func() answer { return c.scan(c.till, got.str("code"), "refuse", 10+i) }
		switch way {
		case "code":
			require.Equal(t, "redeemed", c.scan(c.till, got.str("code"), "confirm", i).str("status"))
		case "hold":
			refuse = func() answer { return c.says(c.till, "endHold", map[string]any{"hold": got.num("hold")}) }
		}
		require.Zero(t, c.balance(ana), way)
		back := refuse()
		require.Equal(t, 200, back.Status, "%s: %v", way, back.Body)
		require.EqualValues(t, 24, c.balance(ana), "%s: all of it", way)
		require.Equal(t, back.Body, refuse().Body, "%s: once", way)
		require.EqualValues(t, 24, c.balance(ana), way)
	}
	require.Zero(t, c.capacity().num("burned"))
	c.tablesAgree()
}

func TestLeakReceiptShownTwice(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	other := c.bindTill(c.pool, "back")
	require.Equal(t, 200, c.openTill(other, pin).Status)
	code := c.code(ana, 1, "k", nil).str("code")
	require.Equal(t, "redeemed", c.scan(c.till, code, "confirm", 0).str("status"))
	c.unchanged(func() {
		for i, tl := range []*till{c.till, other} {
			assert.Equal(t, "AlreadyRedeemed", c.scan(tl, code, "confirm", 1+i).name())
		}
	})
	// A voucher is for one till, and both showings are one receipt.
	shown := c.code(ana, 1, "v", map[string]any{"till": c.till.id})
	honored := map[int64]bool{}
	for i := range 2 {
		v, err := voucher.Check([]byte(shown.str("voucher")), c.l.VerifierKey(), c.till.id, c.clock.Now())
		require.NoError(t, err)
		assert.Equal(t, i == 1, honored[v.Receipt], fmt.Sprint("showing ", i))
		honored[v.Receipt] = true
	}
	_, err := voucher.Check([]byte(shown.str("voucher")), c.l.VerifierKey(), other.id, c.clock.Now())
	require.ErrorIs(t, err, voucher.ErrOtherTill)
	assert.Equal(t, "AlreadyRedeemed", c.scan(other, shown.str("code"), "confirm", 9).name())
	// A hold is captured once.
	held := c.hold(ana, 1, "h", nil)
	require.Equal(t, 200, c.says(c.till, "captureHold", map[string]any{"hold": held.num("hold")}).Status)
	c.clock.Advance(time.Second)
	assert.Equal(t, "HoldEnded", c.says(c.till, "captureHold", map[string]any{"hold": held.num("hold")}).name())
	require.Zero(t, c.balance(ana))
}
