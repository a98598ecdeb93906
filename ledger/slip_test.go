package ledger

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// The slip of a day is the sum of the log's entries at that till and day, which this test adds up by itself.
func TestSlipIsTheSumOfTheLog(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	for range 3 {
		c.earn(ana, c.catalog(c.library, entryOptions{}))
	}
	swim, later := c.swim, c.offer(800, 10)
	back := c.bindTill(c.pool, "back")
	require.Equal(t, 200, c.openTill(back, pin).Status)
	card := c.issue(ana, "card")
	code := func(units int, key string) string { return c.code(ana, units, key, nil).str("code") }

	require.Equal(t, "redeemed", c.scan(c.till, code(2, "a"), "confirm", 0).str("status"))
	undone := code(1, "b")
	require.Equal(t, "redeemed", c.scan(c.till, undone, "confirm", 1).str("status"))
	require.Equal(t, "returned", c.scan(back, undone, "undo", 2).str("status"), "at another till of the same counter")
	require.Equal(t, 200, c.card(c.till, card, cardPIN, 1, "card", map[string]any{"offering": later.URI, "cid": later.CID}).Status)
	held := c.hold(ana, 2, "h", nil)
	captured := c.says(c.till, "captureHold", map[string]any{"hold": held.num("hold")})
	require.Equal(t, 200, captured.Status, "%v", captured.Body)
	other := c.says(c.till, "captureHold", map[string]any{"hold": c.hold(ana, 1, "h2", nil).num("hold")})
	require.Equal(t, "refused", c.scan(c.till, other.str("code"), "refuse", 3).str("status"))
	require.Equal(t, 200, c.code(ana, 1, "v", map[string]any{"till": c.till.id}).Status)
	require.Equal(t, 200, c.hold(ana, 1, "stands", nil).Status, "nothing of it is on the slip")
	first := c.today()
	c.clock.Advance(15 * time.Hour)
	require.Equal(t, "redeemed", c.scan(c.till, code(1, "next"), "confirm", 0).str("status"))

	total := map[string]int64{}
	for _, tl := range []*till{c.till, back} {
		for _, day := range []string{first, c.today(), "2027-01-01"} {
			res := c.says(tl, "getTillSlip", map[string]any{"day": day})
			require.Equal(t, 200, res.Status, "%v", res.Body)
			var got slip
			raw, err := json.Marshal(res.Body)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(raw, &got))
			want := c.addUp(tl.id, day)
			cp, err := tlog.Open([]byte(got.Checkpoint.Note), c.l.VerifierKey())
			require.NoError(t, err)
			assert.Equal(t, cp.Size, got.Checkpoint.Size)
			want.Checkpoint = got.Checkpoint
			assert.Equal(t, want, &got, "%s %s", tl.id, day)
			byRedeemer := c.call(c.pool, "getTillSlip", "", map[string]any{"till": tl.id, "day": day})
			assert.Equal(t, res.Body, byRedeemer.Body)
			assert.NotContains(t, string(raw), ana.did.String())
			total["redemptions"] += got.Redemptions
			total["credits"] += got.Credits
			for _, l := range got.Offerings {
				total["holds"] += l.HoldsCaptured
				total["refunds"] += l.Refunds
			}
		}
	}
	assert.Equal(t, map[string]int64{"redemptions": 7, "credits": 56, "holds": 2, "refunds": 2}, total)
	assert.Equal(t, total["credits"], c.capacity().num("burned"))
	assert.NotEmpty(t, swim.URI)
	assert.Equal(t, "TillUnknown", c.call(c.parks, "getTillSlip", "", map[string]any{"till": c.till.id, "day": first}).name())
	assert.Equal(t, "InvalidRequest", c.call(c.pool, "getTillSlip", "", map[string]any{"till": c.till.id, "day": "yesterday!"}).name())
	c.tablesAgree()
}

// addUp reads the whole log for one till and day.
func (c *founded) addUp(id, day string) *slip {
	s := &slip{Till: id, Day: day, Offerings: []slipLine{}}
	log := logOf(c.t, c)
	lines := map[string]*slipLine{}
	var order []string
	what := func(seq int64) (uri string, units int64) {
		for {
			switch e := log[seq]; e.Kind {
			case entry.KindBurn:
				return e.Burn.Offering.URI, e.Burn.Units
			case entry.KindHold:
				return e.Hold.Offering.URI, e.Hold.Units
			case entry.KindCapture:
				seq = e.Capture.Hold
			default:
				seq = e.Reverse.Of
			}
		}
	}
	for _, e := range log {
		at, sign := "", int64(1)
		switch e.Kind {
		case entry.KindBurn:
			at = e.Burn.Till
		case entry.KindCapture:
			at = e.Capture.Till
		case entry.KindReverse:
			at, sign = e.Reverse.Till, -1
		}
		if at != id || e.Day != day {
			continue
		}
		uri, units := what(e.Seq)
		l := lines[uri]
		if l == nil {
			l = &slipLine{Offering: uri}
			lines[uri], order = l, append(order, uri)
		}
		if e.Kind == entry.KindCapture {
			l.HoldsCaptured++
		}
		if sign < 0 {
			l.Refunds, l.RefundedUnits, l.RefundedCredits = l.Refunds+1, l.RefundedUnits+units, l.RefundedCredits+e.Amount
		} else {
			l.Redemptions, l.Units, l.Credits = l.Redemptions+1, l.Units+units, l.Credits+e.Amount
			s.Redemptions++
		}
		s.Units, s.Credits = s.Units+sign*units, s.Credits+sign*e.Amount
		if s.First == "" {
			s.First = fmt.Sprintf("%012d", e.Seq)
		}
		s.Last = fmt.Sprintf("%012d", e.Seq)
	}
	for _, uri := range order {
		s.Offerings = append(s.Offerings, *lines[uri])
	}
	if len(s.Offerings) == 2 && s.Offerings[0].Offering > s.Offerings[1].Offering {
		s.Offerings[0], s.Offerings[1] = s.Offerings[1], s.Offerings[0]
	}
	return s
}
