package ledger

import (
	"context"
	"errors"
	"net/http"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// issueCard gives a resident a card and ends the one before: for themselves, or at an issuer's desk with the resident's own token.
func (l *Ledger) issueCard(c *xrpc.Call) (any, error) {
	caller, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Resident       syntax.DID `json:"resident"`
		ResidentToken  string     `json:"residentToken"`
		PIN            string     `json:"pin"`
		IdempotencyKey string     `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	atDesk := in.Resident != "" && in.Resident != caller
	resident := caller
	if atDesk {
		resident = in.Resident
	}
	// Token and PIN are no part of what is kept of a request.
	req, err := newRequest(c.NSID, caller.String(), in.IdempotencyKey, resident)
	if err != nil {
		return nil, err
	}
	if have, err := req.answered(c.Context(), l.store.pool); have != nil || err != nil {
		return have, err
	}
	if err := checkPIN(in.PIN); err != nil {
		return nil, err
	}
	if atDesk {
		if err := l.present(c, in.ResidentToken, resident); err != nil {
			return nil, err
		}
	}
	number, err := newCardNumber()
	if err != nil {
		return nil, err
	}
	var name []byte
	var pin string
	err = l.pins.with(func() error {
		if name, err = l.cardName(c.Context(), number); err != nil {
			return err
		}
		pin, err = l.pins.hasher.Hash(c.Context(), cardSecret(number, in.PIN))
		return err
	})
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "issue card", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			account, err := cardHolder(b, caller, resident)
			if err != nil {
				return nil, err
			}
			if err := keepCard(ctx, b, account[:], name, pin); err != nil {
				return nil, err
			}
			crash.Point("ledger/card/made")
			return map[string]any{"card": number}, nil
		})
	})
}

// present checks the token that a resident brings to a desk.
func (l *Ledger) present(c *xrpc.Call, token string, resident syntax.DID) error {
	did, err := l.auth.Verify(c.Context(), token, c.NSID)
	if err != nil {
		var named *xrpc.Error
		if errors.As(err, &named) && named.Status < 500 {
			return xrpc.Errorf(http.StatusUnauthorized, "InvalidResidentToken", "%s", named.Message)
		}
		return err
	}
	if did != resident {
		return xrpc.Errorf(http.StatusUnauthorized, "InvalidResidentToken", "the token is another person's")
	}
	return nil
}

// cardHolder gives the account that a card is for. Whoever acts for another must be an issuer with a desk.
func cardHolder(b *batch, caller, resident syntax.DID) (entry.Account, error) {
	if caller != resident {
		if err := rules.CheckDesk(b.state, caller, b.now); err != nil {
			return entry.Account{}, err
		}
	}
	account, ok := b.state.AccountOf(resident)
	if !ok {
		return entry.Account{}, xrpc.Errorf(http.StatusForbidden, rules.NotActivated, "the resident has no account in this city")
	}
	return account, nil
}

// endCard ends a resident's card at once. At a desk no token is asked: a lost card must be easy to stop.
func (l *Ledger) endCard(c *xrpc.Call) (any, error) {
	caller, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Resident       syntax.DID `json:"resident"`
		IdempotencyKey string     `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	resident := caller
	if in.Resident != "" {
		resident = in.Resident
	}
	req, err := newRequest(c.NSID, caller.String(), in.IdempotencyKey, resident)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "end card", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			account, err := cardHolder(b, caller, resident)
			if err != nil {
				return nil, err
			}
			return map[string]any{"status": "ended"}, endCards(ctx, b, account[:])
		})
	})
}

// createCardRedemption is the till's: somebody without a phone shows a card, reads the list of those who get it free, and types the PIN.
func (l *Ledger) createCardRedemption(c *xrpc.Call) (any, error) {
	in, err := l.byTill(c)
	if err != nil {
		return nil, err
	}
	offering := offeringRef{URI: in.word("offering"), CID: in.word("cid")}
	if err := offering.check(); err != nil {
		return nil, err
	}
	number, ok := normalCard(in.word("card"))
	if !ok {
		return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidCard", "a card has %d digits of which the last two check the others", cardDigits)
	}
	if err := checkPIN(in.word("pin")); err != nil {
		return nil, err
	}
	if _, err := openTill(c.Context(), l.store.pool, in.till, l.clock.Now().UTC()); err != nil {
		return nil, err // before any work is spent on the PIN
	}
	account, name, err := l.tryCard(c.Context(), number, in.word("pin"))
	if err != nil {
		return nil, err
	}
	units := in.number("units")
	none, _ := in.fields["noneOfFreeForApplies"].(bool)
	// Number and PIN are no part of what is kept of a request: what stands for the number is.
	req, err := newRequest(c.NSID, in.till, in.word("idempotencyKey"), []any{offering, units, none, name})
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "create card redemption", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			o, err := offeringFor(ctx, b.tx, b.state, offering.URI, offering.CID)
			if err != nil {
				return nil, err
			}
			if err := tillOf(ctx, b, in.till, o); err != nil {
				return nil, err
			}
			if err := standingCard(ctx, b, name); err != nil {
				return nil, err
			}
			return l.redeemCard(ctx, b, in.till, rules.CodeRequest{
				Now: b.now, Account: [16]byte(account), Offering: *o, Units: units, NoneOfFreeFor: none,
			})
		})
	})
}

func (l *Ledger) redeemCard(ctx context.Context, b *batch, till string, c rules.CodeRequest) (any, error) {
	terms, err := rules.CheckCode(b.state, c)
	if err != nil {
		return nil, err
	}
	burn, err := l.burn(ctx, b, rules.Burn{Account: terms.Account, Offering: c.Offering, Units: c.Units, Till: till}, terms.Price)
	if err != nil {
		return nil, err
	}
	code, err := l.keepRedeemed(ctx, b, &codeRow{
		Account: terms.Account[:], Offering: c.Offering.Record.URI, OfferingCID: c.Offering.Record.CID, Units: c.Units, Price: terms.Price,
		Book: terms.Book, MadeAt: b.now, ExpiresAt: b.now,
	}, burn.Seq, nil)
	if err != nil {
		return nil, err
	}
	answer := redeemed(burn)
	answer["code"] = code
	return answer, nil
}
