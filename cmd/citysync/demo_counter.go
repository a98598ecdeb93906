package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"

	"city-sync.org/citysync/ledger/voucher"
)

// shown is something that the city can do, done once and compared with what must come of it.
type shown struct {
	What    string         `json:"what"`
	Figures map[string]any `json:"figures"`
}

func (d *demo) show(what string, figures map[string]any) {
	d.shows = append(d.shows, shown{what, figures})
	d.progress.add()
}

const cardPIN = "271828"

// done are the answers of a step that an earlier run has done.
var done = []string{"AlreadyRedeemed", "AlreadyReversed", "HoldEnded", "IdempotencyConflict"}

// showCounter lets the first resident meet a counter on its bad days. Each way redeems one unit of the cheapest offering that is open.
func (d *demo) showCounter(ctx context.Context) error {
	who := d.residents[0]
	for _, step := range []struct {
		what  string
		price int64 // units that are paid in the end
		do    func(context.Context, *resident, *openOffering) (map[string]any, error)
	}{
		{"a counter gives back what it took", 0, d.refund},
		{"a hold is honored offline and captured later", 1, d.captured},
		{"a till that cannot ask checks a voucher", 1, d.vouched},
		{"a person without a phone redeems with card and PIN", 1, d.carded},
	} {
		before, err := d.balance(ctx, who)
		if err != nil {
			return err
		}
		var figures map[string]any
		var o *openOffering
		for _, o = range d.offerings {
			if o.record.CreditsPerUnit > before.Credits {
				return fmt.Errorf("%s: the resident has %d credits, the offering costs %d", step.what, before.Credits, o.record.CreditsPerUnit)
			}
			figures, err = step.do(ctx, who, o)
			if !named(err, "UnitsExhausted", "PersonLimit", "OutsideWindow", "OfferingNotLive") {
				break
			}
		}
		if named(err, done...) {
			d.show(step.what, map[string]any{"before": "done"})
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		after, err := d.balance(ctx, who)
		if err != nil {
			return err
		}
		if want := before.Credits - step.price*o.record.CreditsPerUnit; after.Credits != want && after.Credits != before.Credits {
			return fmt.Errorf("%s: the balance went from %d to %d, not to %d", step.what, before.Credits, after.Credits, want)
		}
		figures["price"], figures["balance"] = o.record.CreditsPerUnit, after.Credits
		d.show(step.what, figures)
	}
	return d.showWrongPIN(ctx)
}

// refund: the till confirms and, at once, undoes.
func (d *demo) refund(ctx context.Context, r *resident, o *openOffering) (map[string]any, error) {
	for attempt := range redemptionTries {
		var c code
		err := d.ledger.procedure(ctx, d.ledger.as(r.session), "org.city-sync.ledger.createRedemption", map[string]any{
			"offering": o.ref, "units": 1, "noneOfFreeForApplies": true, "idempotencyKey": d.idempotencyKey("refund", r.DID.String(), fmt.Sprint(attempt)),
		}, &c)
		if err != nil {
			return nil, err
		}
		err = d.confirm(ctx, o.till, c.Code)
		if named(err, "CodeExpired") {
			continue
		}
		if err != nil && !named(err, "AlreadyRedeemed") {
			return nil, err
		}
		var back struct {
			Status string
			Amount int64
			Seq    int64
		}
		if err := d.says(ctx, o.till, "updateRedemption", map[string]any{"code": c.Code, "action": "undo"}, &back); err != nil {
			return nil, err
		}
		if back.Status != "returned" || back.Amount != o.record.CreditsPerUnit {
			return nil, fmt.Errorf("the till was told %s and %d", back.Status, back.Amount)
		}
		return map[string]any{"returned": back.Amount, "entry": back.Seq}, nil
	}
	return nil, errors.New("its codes ran out")
}

// captured: the resident puts credits aside for the till; both are offline when it is honored; later the till tells.
func (d *demo) captured(ctx context.Context, r *resident, o *openOffering) (map[string]any, error) {
	var held struct {
		Hold    int64
		Price   int64
		Voucher string
	}
	err := d.ledger.procedure(ctx, d.ledger.as(r.session), "org.city-sync.ledger.createHold", map[string]any{
		"offering": o.ref, "units": 1, "till": o.till.id, "until": time.Now().In(d.loc).Format(time.DateOnly), "noneOfFreeForApplies": true,
		"idempotencyKey": d.idempotencyKey("hold", r.DID.String()),
	}, &held)
	if err != nil {
		return nil, err
	}
	if err := d.checkVoucher(held.Voucher, o, held.Price); err != nil {
		return nil, err
	}
	var got struct {
		Status      string
		Seq, Amount int64
	}
	if err := d.says(ctx, o.till, "captureHold", map[string]any{"hold": held.Hold}, &got); err != nil {
		return nil, err
	}
	if got.Status != "redeemed" || got.Amount != held.Price {
		return nil, fmt.Errorf("the till was told %s and %d", got.Status, got.Amount)
	}
	return map[string]any{"hold": held.Hold, "entry": got.Seq}, d.giveBack(ctx, r, o)
}

// giveBack: the till does not honor a second hold, and what was put aside is free again.
func (d *demo) giveBack(ctx context.Context, r *resident, o *openOffering) error {
	var held struct{ Hold int64 }
	err := d.ledger.procedure(ctx, d.ledger.as(r.session), "org.city-sync.ledger.createHold", map[string]any{
		"offering": o.ref, "units": 1, "till": o.till.id, "until": time.Now().In(d.loc).Format(time.DateOnly), "noneOfFreeForApplies": true,
		"idempotencyKey": d.idempotencyKey("second hold", r.DID.String()),
	}, &held)
	if named(err, "InsufficientBalance", "UnitsExhausted", "PersonLimit") {
		return nil // there is not enough for two
	}
	if err != nil {
		return err
	}
	var got struct{ Status string }
	if err := d.says(ctx, o.till, "endHold", map[string]any{"hold": held.Hold}, &got); err != nil {
		return err
	}
	if got.Status != "ended" {
		return fmt.Errorf("the till was told that the hold is %s", got.Status)
	}
	return nil
}

// vouched: the phone burns for this till first, and shows what the ledger signed.
func (d *demo) vouched(ctx context.Context, r *resident, o *openOffering) (map[string]any, error) {
	var out struct {
		Voucher    string
		Price, Seq int64
	}
	err := d.ledger.procedure(ctx, d.ledger.as(r.session), "org.city-sync.ledger.createRedemption", map[string]any{
		"offering": o.ref, "units": 1, "noneOfFreeForApplies": true, "till": o.till.id, "idempotencyKey": d.idempotencyKey("voucher", r.DID.String()),
	}, &out)
	if err != nil {
		return nil, err
	}
	return map[string]any{"entry": out.Seq}, d.checkVoucher(out.Voucher, o, out.Price)
}

// checkVoucher is what a till does that cannot ask. One of an earlier run has had its time.
func (d *demo) checkVoucher(signed string, o *openOffering, price int64) error {
	v, err := voucher.Open([]byte(signed), d.vkey)
	if err != nil {
		return err
	}
	if v.Till != o.till.id || v.Credits != price || v.Units != 1 {
		return fmt.Errorf("the voucher is for till %s, %d credits and %d units", v.Till, v.Credits, v.Units)
	}
	if _, err := voucher.Check([]byte(signed), d.vkey, "another till", time.Now()); err == nil {
		return errors.New("another till takes the voucher too")
	}
	return nil
}

// carded: number and PIN are typed at the till.
func (d *demo) carded(ctx context.Context, r *resident, o *openOffering) (map[string]any, error) {
	var card struct{ Card string }
	err := d.ledger.procedure(ctx, d.ledger.as(r.session), "org.city-sync.ledger.issueCard", map[string]any{
		"pin": cardPIN, "idempotencyKey": d.idempotencyKey("card", r.DID.String()),
	}, &card)
	if err != nil {
		return nil, err
	}
	var got struct {
		Status      string
		Seq, Amount int64
	}
	err = d.says(ctx, o.till, "createCardRedemption", map[string]any{
		"card": card.Card, "pin": cardPIN, "offering": o.ref.Uri, "cid": o.ref.Cid, "units": int64(1), "noneOfFreeForApplies": true,
		"idempotencyKey": d.idempotencyKey("card redemption", r.DID.String()),
	}, &got)
	if err != nil {
		return nil, err
	}
	if got.Status != "redeemed" || got.Amount != o.record.CreditsPerUnit {
		return nil, fmt.Errorf("the till was told %s and %d", got.Status, got.Amount)
	}
	return map[string]any{"entry": got.Seq}, nil
}

// wrongPINs is how many in a row lock a till.
const wrongPINs = 5

// showWrongPIN locks a till of its own by wrong PINs, and lets its redeemer give it a new one.
func (d *demo) showWrongPIN(ctx context.Context) error {
	redeemer := d.offerings[0].redeemer
	key, err := atcrypto.ParsePrivateBytesP256(d.derive("second till", redeemer.DID.String()))
	if err != nil {
		return err
	}
	public, err := didKey(key)
	if err != nil {
		return err
	}
	var bound struct{ Till string }
	as := d.ledger.as(redeemer.session)
	err = d.ledger.procedure(ctx, as, "org.city-sync.ledger.bindTill", map[string]any{
		"label": "Second counter", "key": public, "pin": tillPIN, "idempotencyKey": d.idempotencyKey("till", public),
	}, &bound)
	if err != nil {
		return fmt.Errorf("bind a second till of %s: %w", redeemer.ID, err)
	}
	t := &till{id: bound.Till, key: key}
	var last error
	wrong := 0
	for range wrongPINs + 1 {
		if last = d.says(ctx, t, "openTill", map[string]any{"pin": "000000"}, nil); !named(last, "WrongPin") {
			break
		}
		wrong++
	}
	if err := d.answeredAs("TillLocked", "a till is opened with wrong PINs", last); err != nil {
		return err
	}
	if err := d.answeredAs("TillLocked", "the locked till is opened with the right PIN", d.says(ctx, t, "openTill", map[string]any{"pin": tillPIN}, nil)); err != nil {
		return err
	}
	d.show("wrong PINs lock a till until its redeemer gives it a new one", map[string]any{"wrong": wrong, "locked": true})
	return nil
}
