package ledger

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
)

// paths are the ways by which credits become access. Each takes a person, an offering, units, and whether the person says that none of
// the groups that get it free applies.
func (c *founded) paths(r *actor) map[string]func(o strong, units int, none bool) answer {
	card, n := c.issue(r, "paths"), 0
	key := func() string {
		n++
		return fmt.Sprint("path ", n)
	}
	return map[string]func(o strong, units int, none bool) answer{
		"code": func(o strong, units int, none bool) answer {
			return c.code(r, units, key(), map[string]any{"offering": o, "noneOfFreeForApplies": none})
		},
		"voucher": func(o strong, units int, none bool) answer {
			return c.code(r, units, key(), map[string]any{"offering": o, "noneOfFreeForApplies": none, "till": c.till.id})
		},
		"hold": func(o strong, units int, none bool) answer {
			return c.hold(r, units, key(), map[string]any{"offering": o, "noneOfFreeForApplies": none})
		},
		"card": func(o strong, units int, none bool) answer {
			return c.card(c.till, card, cardPIN, units, key(), map[string]any{"offering": o.URI, "cid": o.CID, "noneOfFreeForApplies": none})
		},
	}
}

// swimWith is a swim of the pool with other terms.
func (c *founded) swimWith(more map[string]any) strong {
	record := map[string]any{
		"title": "Swim", "creditsPerUnit": 8, "unitLabel": "visit", "epoch": epoch, "book": book,
		"capacity":         map[string]any{"physicalMonth": 1000, "marginalMonth": 1000, "committedMonth": 2},
		"publicPriceMinor": 800, "currency": "USD",
	}
	for k, v := range more {
		record[k] = v
	}
	return c.pool.put(lexicons.OfferOffering, c.tid(), record)
}

// Whatever way it is asked, the same conditions hold, and nothing is written when one refuses.
func TestEveryWayToRedeemHoldsTheSameConditions(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		name  string
		units int
		none  bool
		offer func(c *founded) strong
	}{
		{"FreeAnyway", 1, false, func(c *founded) strong { return c.swimWith(map[string]any{"freeFor": []any{"children"}}) }},
		{"PublicPriceZero", 1, true, func(c *founded) strong { return c.swimWith(map[string]any{"publicPriceMinor": 0}) }},
		{"OutsideWindow", 1, true, func(c *founded) strong {
			return c.swimWith(map[string]any{"windows": []any{map[string]any{"days": []any{"tue"}, "from": "00:00", "to": "24:00"}}})
		}},
		{"UnitsExhausted", 3, true, func(c *founded) strong { return c.swimWith(nil) }},
		{"PersonLimit", 2, true, func(c *founded) strong { return c.swimWith(map[string]any{"perPersonLimit": 1}) }},
		{"InsufficientBalance", 4, true, func(c *founded) strong { return c.swim }},
		{"OfferingPaused", 1, true, func(c *founded) strong {
			o := c.swimWith(nil)
			c.pool.put(lexicons.OfferOfferingStatus, rkeyOf(o), map[string]any{"status": "ended", "offering": o})
			return o
		}},
		{"EpochClosed", 1, true, func(c *founded) strong { return c.swimWith(map[string]any{"epoch": "e2027-02"}) }},
		{"NotAccredited", 1, true, func(c *founded) strong {
			c.accredit(c.pool, "suspended", "redeemer")
			return c.swim
		}},
		{"OfferingUnknown", 1, true, func(c *founded) strong { return strong{c.swim.URI, c.params.CID} }},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			c, ana := rich(t)
			ways := c.paths(ana)
			offering := one.offer(c)
			c.unchanged(func() {
				for way, redeem := range ways {
					assert.Equal(t, one.name, redeem(offering, one.units, one.none).name(), way)
				}
			})
		})
	}
	c, ana := rich(t)
	for way, redeem := range c.paths(ana) {
		if way != "code" { // three of them take eight credits each
			require.Equal(t, 200, redeem(c.swim, 1, true).Status, way)
		}
	}
	require.Zero(t, c.balance(ana))
}

// One way's units and limits are the others': what is held or shown by a voucher is gone for a code.
func TestUnitsAndLimitsAreOneForAllWays(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"voucher", "hold", "card"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			c, ana := rich(t)
			ben := c.resident("ben")
			c.earn(ben, c.catalog(c.library, entryOptions{}))
			ways := c.paths(ana)
			limited := c.swimWith(map[string]any{"perPersonLimit": 1})
			require.Equal(t, 200, ways[first](limited, 1, true).Status)
			for way, redeem := range ways {
				assert.Equal(t, "PersonLimit", redeem(limited, 1, true).name(), way)
			}
			require.Equal(t, 200, c.code(ben, 1, "in time", map[string]any{"offering": limited, "till": c.till.id}).Status)
			assert.Equal(t, "UnitsExhausted", c.code(c.resident("cleo"), 1, "too late", map[string]any{"offering": limited}).name())
		})
	}
}
