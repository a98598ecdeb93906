package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const cardPIN = "975310"

func (c *founded) issue(r *actor, key string) string {
	c.t.Helper()
	res := c.call(r, "issueCard", "", map[string]any{"pin": cardPIN, "idempotencyKey": key})
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	return res.str("card")
}

func TestSomebodyWithoutAPhoneRedeemsWithACard(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	card := c.issue(ana, "card")
	require.Equal(t, card, c.issue(ana, "card"), "the answer was lost")
	got := c.card(c.till, card[:4]+" "+card[4:8]+"-"+card[8:], cardPIN, 1, "buy", nil)
	require.Equal(t, "redeemed", got.str("status"), "%v", got.Body)
	require.Equal(t, got.Body, c.card(c.till, card, cardPIN, 1, "buy", nil).Body, "the same request under another form of its number")
	require.EqualValues(t, 16, c.balance(ana))
	require.Equal(t, "IdempotencyConflict", c.card(c.till, card, cardPIN, 2, "buy", nil).name())
	back := c.scan(c.till, got.str("code"), "refuse", 1)
	require.Equal(t, "refused", back.str("status"), "%v", back.Body)
	require.EqualValues(t, 24, c.balance(ana))
	c.unchanged(func() {
		assert.Equal(t, "FreeAnyway", c.freeCard(card).name())
		assert.Equal(t, "InsufficientBalance", c.card(c.till, card, cardPIN, 4, "much", nil).name())
	})
}

// freeCard redeems at an offering that some get free, without saying that it is not for this person.
func (c *founded) freeCard(card string) answer {
	free := c.pool.put("org.city-sync.offer.offering", c.tid(), map[string]any{
		"title": "Swim", "creditsPerUnit": 8, "unitLabel": "visit", "epoch": epoch, "book": book, "freeFor": []any{"children"},
		"capacity":         map[string]any{"physicalMonth": 1000, "marginalMonth": 1000, "committedMonth": 9},
		"publicPriceMinor": 800, "currency": "USD",
	})
	return c.card(c.till, card, cardPIN, 1, "free", map[string]any{"offering": free.URI, "cid": free.CID, "noneOfFreeForApplies": false})
}

// Nobody learns from the answers which numbers there are, nor when a PIN was close.
func TestWrongNumberAndWrongPINAnswerAlike(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	card := c.issue(ana, "card")
	other, err := newCardNumber()
	require.NoError(t, err)
	wrong := c.card(c.till, card, "111111", 1, "a", nil)
	require.Equal(t, cardRefused, wrong.name())
	require.Equal(t, wrong, c.card(c.till, other, cardPIN, 1, "b", nil))
	for range maxWrong - 1 {
		require.Equal(t, wrong, c.card(c.till, card, "111111", 1, "c", nil))
	}
	require.Equal(t, wrong, c.card(c.till, card, cardPIN, 1, "d", nil), "five wrong ones lock the card")
	fresh := c.issue(ana, "fresh")
	require.NotEqual(t, card, fresh)
	require.Equal(t, wrong, c.card(c.till, card, cardPIN, 1, "e", nil), "the one before is over")
	require.Equal(t, 200, c.card(c.till, fresh, cardPIN, 1, "f", nil).Status)
	require.Equal(t, "ended", c.call(ana, "endCard", "", map[string]any{"idempotencyKey": "end"}).str("status"))
	require.Equal(t, wrong, c.card(c.till, fresh, cardPIN, 1, "g", nil))
	assert.Equal(t, "InvalidCard", c.card(c.till, "123456789012", cardPIN, 1, "h", nil).name(), "a slip of a finger is told")
}

func TestRightPINForgetsTheWrongOnesBefore(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	card := c.issue(ana, "card")
	for range 3 {
		for range maxWrong - 1 {
			require.Equal(t, cardRefused, c.card(c.till, card, "111111", 1, "w", nil).name())
		}
		require.Equal(t, "InsufficientBalance", c.card(c.till, card, cardPIN, 9, "r", nil).name())
	}
}

func TestCardIsGivenAtADeskWithItsHolderPresent(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	ask := func(desk *actor, token, key string) answer {
		return c.call(desk, "issueCard", "", map[string]any{"resident": ana.did, "residentToken": token, "pin": cardPIN, "idempotencyKey": key})
	}
	c.unchanged(func() {
		assert.Equal(t, "InvalidResidentToken", ask(c.library, c.actor("eve").token("issueCard"), "a").name())
		assert.Equal(t, "InvalidResidentToken", ask(c.library, ana.token("activate"), "b").name())
		assert.Equal(t, "NotAccredited", ask(c.pool, ana.token("issueCard"), "c").name())
		assert.Equal(t, "NotActivated", c.call(c.actor("nobody"), "issueCard", "", map[string]any{"pin": cardPIN, "idempotencyKey": "d"}).name())
		assert.Equal(t, pinMissing, c.call(ana, "issueCard", "", map[string]any{"idempotencyKey": "e"}).name())
	})
	got := ask(c.library, ana.token("issueCard"), "f")
	require.Equal(t, 200, got.Status, "%v", got.Body)
	require.Equal(t, got.Body, ask(c.library, "spent", "f").Body, "the answer was lost, the token is spent")
	require.Equal(t, 200, c.card(c.till, got.str("card"), cardPIN, 1, "buy", nil).Status)
	end := map[string]any{"resident": ana.did, "idempotencyKey": "end"}
	assert.Equal(t, "NotAccredited", c.call(c.pool, "endCard", "", end).name())
	require.Equal(t, 200, c.call(c.library, "endCard", "", end).Status, "lost: no token of its holder is asked")
	assert.Equal(t, cardRefused, c.card(c.till, got.str("card"), cardPIN, 1, "stolen", nil).name())
}

func TestCardNumbersCheckThemselves(t *testing.T) {
	t.Parallel()
	for range 100 {
		n, err := newCardNumber()
		require.NoError(t, err)
		got, ok := normalCard(n)
		require.True(t, ok, n)
		require.Equal(t, n, got)
	}
	rapid.Check(t, func(t *rapid.T) {
		n, err := newCardNumber()
		require.NoError(t, err)
		i := rapid.IntRange(0, cardDigits-1).Draw(t, "at")
		d := byte('0' + rapid.IntRange(0, 9).Draw(t, "digit"))
		if n[i] != d {
			_, ok := normalCard(n[:i] + string(d) + n[i+1:])
			require.False(t, ok, "one wrong digit")
		}
		if i > 0 && n[i] != n[i-1] {
			_, ok := normalCard(n[:i-1] + n[i:i+1] + n[i-1:i] + n[i+1:])
			require.False(t, ok, "two digits swapped")
		}
	})
}

// A person who is forgotten has no card, no code and no hold any more.
func TestForgottenPersonLeavesNothingAtTheCounter(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	card := c.issue(ana, "card")
	require.Equal(t, 200, c.code(ana, 1, "k", nil).Status)
	require.Equal(t, 200, c.hold(ana, 1, "h", nil).Status)
	account, ok := c.l.seq.state.AccountOf(ana.did)
	require.True(t, ok)
	c.clock.Advance(time.Second)
	res := c.erase(ana)
	require.Equal(t, 200, res.Status, "%v", res.Body)
	for _, table := range counterTables {
		var n int
		require.NoError(t, c.world.pool.QueryRow(c.ctx, `select count(*) from `+table+` where account = $1`, account[:]).Scan(&n))
		assert.Zero(t, n, table)
	}
	assert.Equal(t, cardRefused, c.card(c.till, card, cardPIN, 1, "late", nil).name())
}
