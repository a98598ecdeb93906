package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/voucher"
)

func TestRedemptionIsTakenBackOnceAndSoon(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	code := c.code(ana, 1, "k", nil).str("code")
	assert.Equal(t, "NotRedeemed", c.scan(c.till, code, "undo", 0).name())
	require.Equal(t, "redeemed", c.scan(c.till, code, "confirm", 0).str("status"))
	c.clock.Advance(rules.UndoWindow - time.Second)
	back := c.scan(c.till, code, "undo", 0)
	require.Equal(t, "returned", back.str("status"), "%v", back.Body)
	require.Equal(t, back.Body, c.scan(c.till, code, "undo", 0).Body, "the answer was lost")
	e := c.last(entry.KindReverse)
	assert.Equal(t, entry.ReverseUndone, e.Reverse.Reason)
	require.EqualValues(t, 24, c.balance(ana))
	c.unchanged(func() {
		for i, action := range []string{"undo", "refuse", "confirm"} {
			assert.Equal(t, "AlreadyReversed", c.scan(c.till, code, action, i+1).name(), action)
		}
	})
	late := c.code(ana, 1, "late", nil).str("code")
	require.Equal(t, "redeemed", c.scan(c.till, late, "confirm", 0).str("status"))
	c.clock.Advance(rules.UndoWindow)
	c.unchanged(func() { assert.Equal(t, "UndoTooLate", c.scan(c.till, late, "undo", 0).name()) })
	c.tablesAgree()
}

// A till that is away checks the voucher by itself, and takes it back later if it must.
func TestVoucherIsBurnedForOneTill(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	v := c.code(ana, 2, "v", map[string]any{"till": c.till.id})
	require.Equal(t, 200, v.Status, "%v", v.Body)
	require.Equal(t, v.Body, c.code(ana, 2, "v", map[string]any{"till": c.till.id}).Body, "asked again")
	require.EqualValues(t, 8, c.balance(ana), "burned at once")
	shown, err := voucher.Check([]byte(v.str("voucher")), c.l.VerifierKey(), c.till.id, c.clock.Now())
	require.NoError(t, err)
	assert.Equal(t, voucher.Voucher{
		Ledger: c.cfg.DID.String(), What: voucher.Burn, Till: c.till.id, Offering: c.swim.URI, Version: c.swim.CID, Units: 2, Credits: 16,
		Receipt: v.num("seq"), Code: v.str("code"), IssuedAt: c.clock.Now(), ExpiresAt: c.clock.Now().Add(rules.VoucherLife),
	}, shown)
	assert.Equal(t, "AlreadyRedeemed", c.scan(c.till, v.str("code"), "confirm", 0).name(), "the till is there again")
	assert.Equal(t, "WrongTill", c.code(ana, 1, "x", map[string]any{"till": c.parksTill().id}).name())
	c.clock.Advance(rules.VoucherLife - time.Second)
	require.Equal(t, "refused", c.scan(c.till, v.str("code"), "refuse", 0).str("status"))
	require.EqualValues(t, 24, c.balance(ana))

	w := c.code(ana, 1, "w", map[string]any{"till": c.till.id})
	require.Equal(t, 200, w.Status, "%v", w.Body)
	c.clock.Advance(rules.VoucherLife)
	require.Equal(t, 200, c.openTill(c.till, pin).Status)
	c.unchanged(func() { assert.Equal(t, "UndoTooLate", c.scan(c.till, w.str("code"), "undo", 0).name()) })
	c.tablesAgree()
}

// parksTill is an open till of another redeemer.
func (c *founded) parksTill() *till {
	c.t.Helper()
	c.accredit(c.parks, "active", "issuer", "redeemer")
	tl := c.bindTill(c.parks, "parks")
	require.Equal(c.t, 200, c.openTill(tl, pin).Status)
	return tl
}
