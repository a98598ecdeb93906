package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// openOffering is an offering that is open at this hour, with a till of its redeemer.
type openOffering struct {
	ref      city.Ref
	record   *citysync.OfferOffering
	redeemer *organization
	till     *till
}

// till signs for a redeemer at its counter. Its key follows from the admin's password,
// so that a second run is the same till.
type till struct {
	id  string
	key *atcrypto.PrivateKeyP256
}

// openNow asks the AppView for the offerings that burn credits, and keeps those whose
// windows are open at this hour in the city.
func (d *demo) openNow(ctx context.Context) error {
	d.offerings = nil
	cursor := ""
	for {
		params := url.Values{"limit": {"100"}}
		if cursor != "" {
			params.Set("cursor", cursor)
		}
		var page struct {
			Offerings []struct {
				URI      string                  `json:"uri"`
				CID      string                  `json:"cid"`
				Record   *citysync.OfferOffering `json:"record"`
				Redeemer string                  `json:"redeemer"`
				Status   string                  `json:"status"`
				Counted  bool                    `json:"counted"`
			} `json:"offerings"`
			Cursor string `json:"cursor"`
		}
		if err := d.web.query(ctx, nil, "org.city-sync.offer.queryOfferings", params, &page); err != nil {
			return err
		}
		for _, o := range page.Offerings {
			redeemer := d.orgs[syntax.DID(o.Redeemer)]
			if !o.Counted || o.Status != "live" || redeemer == nil || !d.inWindow(o.Record) {
				continue
			}
			d.offerings = append(d.offerings, &openOffering{ref: city.Ref{Uri: o.URI, Cid: o.CID}, record: o.Record, redeemer: redeemer})
		}
		if page.Cursor == "" || page.Cursor == cursor {
			break
		}
		cursor = page.Cursor
	}
	slices.SortFunc(d.offerings, func(a, b *openOffering) int {
		return cmp.Or(cmp.Compare(a.record.CreditsPerUnit, b.record.CreditsPerUnit), cmp.Compare(a.ref.Uri, b.ref.Uri))
	})
	if len(d.offerings) == 0 {
		return errors.New("no offering is open at this hour: nothing can be redeemed now")
	}
	return nil
}

func (d *demo) inWindow(o *citysync.OfferOffering) bool {
	if len(o.Windows) == 0 {
		return true
	}
	var rules []string
	for _, w := range o.Windows {
		for _, day := range w.Days {
			if len(day) == 3 {
				rules = append(rules, strings.ToUpper(day[:1])+day[1:]+" "+w.From+"-"+w.To)
			}
		}
	}
	windows, err := city.ParseWindows(strings.Join(rules, ";"))
	// A minute's margin: the window must still be open when the till confirms.
	now := time.Now().In(d.loc)
	return err == nil && city.Open(windows, now) && city.Open(windows, now.Add(time.Minute))
}

func (d *demo) bindTills(ctx context.Context) error {
	tills := map[syntax.DID]*till{}
	for _, o := range d.offerings {
		if t := tills[o.redeemer.DID]; t != nil {
			o.till = t
			continue
		}
		key, err := atcrypto.ParsePrivateBytesP256(d.derive("till", o.redeemer.DID.String()))
		if err != nil {
			return fmt.Errorf("till of %s: %w", o.redeemer.ID, err)
		}
		public, err := didKey(key)
		if err != nil {
			return err
		}
		var out struct {
			Till string `json:"till"`
		}
		err = d.ledger.procedure(ctx, d.ledger.as(o.redeemer.session), "org.city-sync.ledger.bindTill", map[string]any{
			"label": "Counter of the demonstration", "key": public, "pin": tillPIN, "idempotencyKey": d.idempotencyKey("till", public),
		}, &out)
		if err != nil {
			return fmt.Errorf("bind a till of %s: %w", o.redeemer.ID, err)
		}
		o.till = &till{id: out.Till, key: key}
		if err := d.openTill(ctx, o.till); err != nil {
			return fmt.Errorf("open the till of %s: %w", o.redeemer.ID, err)
		}
		tills[o.redeemer.DID] = o.till
	}
	return nil
}

// balance is what a resident has, and the own entries that the ledger shows them.
type balance struct {
	Credits int64 `json:"credits"`
	Entries []struct {
		Kind     string `json:"kind"`
		Offering string `json:"offering"`
		Epoch    string `json:"epoch"`
	} `json:"entries"`
}

// burned is the offering that the resident redeemed in this epoch, "" for none.
func (b *balance) burned(epoch string) string {
	for _, e := range b.Entries {
		if e.Kind == "burn" && e.Epoch == epoch {
			return e.Offering
		}
	}
	return ""
}

func (d *demo) balance(ctx context.Context, r *resident) (*balance, error) {
	var out balance
	err := d.ledger.query(ctx, d.ledger.as(r.session), "org.city-sync.ledger.getBalance", url.Values{"limit": {"100"}}, &out)
	if err != nil {
		return nil, fmt.Errorf("balance of resident %d: %w", r.n, err)
	}
	return &out, nil
}

// redeemAll lets every resident who has not redeemed yet, and can pay for something
// that is open, redeem one unit of it.
func (d *demo) redeemAll(ctx context.Context) error {
	if err := d.openNow(ctx); err != nil {
		return err
	}
	if err := d.bindTills(ctx); err != nil {
		return err
	}
	picks := map[*resident]int{}
	for _, r := range d.residents {
		picks[r] = d.rng.IntN(len(d.offerings))
	}
	return together(ctx, d, d.residents, func(ctx context.Context, r *resident) error {
		has, err := d.balance(ctx, r)
		if err != nil || has.burned(d.ready.Epoch.Key) != "" {
			return err
		}
		for i := range d.offerings {
			o := d.offerings[(picks[r]+i)%len(d.offerings)]
			if o.record.CreditsPerUnit > has.Credits {
				continue
			}
			err := d.redeem(ctx, r, o)
			if named(err, "UnitsExhausted", "PersonLimit", "OutsideWindow") {
				continue // the next one may do
			}
			return err
		}
		return nil
	})
}

// redemptionTries bounds how often a code is asked for again because the one before
// ran out while the city was away.
const redemptionTries = 5

func (d *demo) redeem(ctx context.Context, r *resident, o *openOffering) error {
	for attempt := range redemptionTries {
		code, err := d.code(ctx, r, o, attempt, 90)
		if err != nil {
			return err
		}
		err = d.confirm(ctx, o.till, code.Code)
		if named(err, "CodeExpired") {
			continue
		}
		if err == nil || named(err, "AlreadyRedeemed") {
			return nil
		}
		return err
	}
	return fmt.Errorf("resident %d: %d codes ran out before the till confirmed one", r.n, redemptionTries)
}

type code struct {
	Code      string    `json:"code"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// code asks for a redemption code; the same attempt asked for again gives the same code.
func (d *demo) code(ctx context.Context, r *resident, o *openOffering, attempt, seconds int) (*code, error) {
	var out code
	err := d.ledger.procedure(ctx, d.ledger.as(r.session), "org.city-sync.ledger.createRedemption", map[string]any{
		"offering": o.ref, "units": 1, "noneOfFreeForApplies": true, "ttlSeconds": seconds,
		"idempotencyKey": d.idempotencyKey("code", r.DID.String(), o.ref.Uri, strconv.Itoa(attempt), strconv.Itoa(seconds)),
	}, &out)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// confirm is the till's scan.
func (d *demo) confirm(ctx context.Context, t *till, code string) error {
	return d.says(ctx, t, "updateRedemption", map[string]any{"code": code, "action": "confirm"}, nil)
}

// tillPIN opens the demonstration's tills.
const tillPIN = "314159"

// openTill begins the till's day.
func (d *demo) openTill(ctx context.Context, t *till) error {
	return d.says(ctx, t, "openTill", map[string]any{"pin": tillPIN}, nil)
}

// says is what a till tells the ledger, signed with the till's key.
func (d *demo) says(ctx context.Context, t *till, method string, body map[string]any, out any) error {
	body["till"], body["at"] = t.id, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	signed, err := atdata.MarshalCBOR(body)
	if err != nil {
		return fmt.Errorf("sign for till %s: %w", t.id, err)
	}
	sig, err := t.key.HashAndSign(signed)
	if err != nil {
		return fmt.Errorf("sign for till %s: %w", t.id, err)
	}
	body["sig"] = atdata.Bytes(sig)
	return d.ledger.procedure(ctx, nil, "org.city-sync.ledger."+method, body, out)
}

// codeSlack covers what the answer's whole seconds leave out.
const codeSlack = 1100 * time.Millisecond

// tryCodes scans a code after its time, and one a second time.
func (d *demo) tryCodes(ctx context.Context) error {
	var spent, rich *resident
	var spentOn string
	most := int64(0)
	for i, r := range d.residents {
		has, err := d.balance(ctx, r)
		if err != nil {
			return err
		}
		// The first resident meets the counter on its bad days: what an earlier run burned for them last had no code of redeemAll's.
		if uri := has.burned(d.ready.Epoch.Key); i > 0 && uri != "" && spent == nil && d.offeringAt(uri) != nil {
			spent, spentOn = r, uri
		}
		if has.Credits > most {
			rich, most = r, has.Credits
		}
	}
	if err := d.tryExpired(ctx, rich, most); err != nil {
		return err
	}
	if spent == nil {
		return errors.New("nobody redeemed anything at an offering that is open now")
	}
	return d.tryTwice(ctx, spent, d.offeringAt(spentOn))
}

func (d *demo) offeringAt(uri string) *openOffering {
	for _, o := range d.offerings {
		if o.ref.Uri == uri {
			return o
		}
	}
	return nil
}

func (d *demo) tryExpired(ctx context.Context, r *resident, credits int64) error {
	cheapest := d.offerings[0]
	if r == nil || credits < cheapest.record.CreditsPerUnit {
		return errors.New("nobody has credits left for a code that is to expire")
	}
	short, err := d.code(ctx, r, cheapest, 0, 1)
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Until(short.ExpiresAt.Add(codeSlack))); err != nil {
		return err
	}
	return d.answeredAs("CodeExpired", "a till scans a code after its time", d.confirm(ctx, cheapest.till, short.Code))
}

func (d *demo) tryTwice(ctx context.Context, r *resident, o *openOffering) error {
	for attempt := range redemptionTries {
		c, err := d.code(ctx, r, o, attempt, 90)
		if err != nil {
			return err
		}
		err = d.confirm(ctx, o.till, c.Code)
		if named(err, "CodeExpired") {
			continue // it ran out in an earlier run; a later one was confirmed
		}
		return d.answeredAs("AlreadyRedeemed", "a till scans a code a second time", err)
	}
	return fmt.Errorf("resident %d redeemed, but none of %d codes is known as redeemed", r.n, redemptionTries)
}

// receiptView is a receipt as the ledger shows it.
type receiptView struct {
	URI    string                  `json:"uri"`
	CID    string                  `json:"cid"`
	Record *citysync.LedgerReceipt `json:"record"`
}

// receipts lists the ledger's receipts of one kind in this epoch, newest first.
func (d *demo) receipts(ctx context.Context, kind string) ([]receiptView, error) {
	var all []receiptView
	cursor := ""
	for len(all) < maxListed {
		params := url.Values{"kind": {kind}, "epoch": {d.ready.Epoch.Key}, "limit": {"100"}}
		if cursor != "" {
			params.Set("cursor", cursor)
		}
		var page struct {
			Receipts []receiptView `json:"receipts"`
			Cursor   string        `json:"cursor"`
		}
		if err := d.ledger.query(ctx, nil, "org.city-sync.ledger.listReceipts", params, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Receipts...)
		if page.Cursor == "" || page.Cursor == cursor {
			return all, nil
		}
		cursor = page.Cursor
	}
	return all, nil
}

// publishRedemptions lets each redeemer publish what it honored, by receipt: no person
// is in it.
func (d *demo) publishRedemptions(ctx context.Context) error {
	burns, err := d.receipts(ctx, "burn")
	if err != nil {
		return err
	}
	byRedeemer := map[syntax.DID][]newRecord{}
	have := map[syntax.DID]map[string]bool{}
	for _, b := range burns {
		offering := b.Record.Causes[0]
		redeemer := authorOf(offering.Uri)
		if d.orgs[redeemer] == nil {
			continue
		}
		if have[redeemer] == nil {
			have[redeemer] = map[string]bool{}
			list, err := d.pds.list(ctx, redeemer, lexicons.OfferRedemption)
			if err != nil {
				return err
			}
			for _, rec := range list {
				have[redeemer][rec.URI.RecordKey().String()] = true
			}
		}
		rkey := rkeyOf(b.URI)
		if have[redeemer][rkey] {
			continue
		}
		units, err := d.unitsOf(ctx, &b, offering)
		if err != nil {
			return err
		}
		byRedeemer[redeemer] = append(byRedeemer[redeemer], newRecord{lexicons.OfferRedemption, rkey, &citysync.OfferRedemption{
			LexiconTypeID: lexicons.OfferRedemption, Offering: offering, Receipt: &city.Ref{Uri: b.URI, Cid: b.CID},
			Outcome: "honored", Units: units, Day: b.Record.Day,
		}})
	}
	d.progress.of(len(byRedeemer))
	for did, records := range byRedeemer {
		if _, err := d.orgs[did].createAll(ctx, records); err != nil {
			return err
		}
		d.progress.add()
	}
	return nil
}

func (d *demo) unitsOf(ctx context.Context, b *receiptView, offering *city.Ref) (int64, error) {
	rec, err := d.pds.get(ctx, authorOf(offering.Uri), lexicons.OfferOffering, rkeyOf(offering.Uri))
	if err != nil {
		return 0, err
	}
	if rec == nil {
		return 0, fmt.Errorf("offering %s is gone", offering.Uri)
	}
	var o citysync.OfferOffering
	if err := json.Unmarshal(rec.Value, &o); err != nil {
		return 0, fmt.Errorf("%s: %w", rec.URI, err)
	}
	return max(1, b.Record.Amount/max(1, o.CreditsPerUnit)), nil
}

// reviewAll lets every resident review the task of their first claim. A redemption is
// never reviewed: that would say where a person goes.
func (d *demo) reviewAll(ctx context.Context) error {
	ratings := make([]int64, len(d.residents))
	for i := range ratings {
		ratings[i] = 3 + d.rng.Int64N(3)
	}
	return together(ctx, d, d.residents, func(ctx context.Context, r *resident) error {
		done, err := d.pds.list(ctx, r.DID, lexicons.WorkReview)
		if err != nil || len(done) > 0 || len(r.claims) == 0 {
			return err
		}
		var keys []string
		for k := range r.claims {
			keys = append(keys, k)
		}
		rec, err := d.pds.get(ctx, r.DID, lexicons.WorkClaim, slices.Min(keys))
		if err != nil || rec == nil {
			return err
		}
		var claim citysync.WorkClaim
		if err := json.Unmarshal(rec.Value, &claim); err != nil {
			return fmt.Errorf("%s: %w", rec.URI, err)
		}
		_, err = r.put(ctx, lexicons.WorkReview, lexicons.ReviewKey(claim.Task.Uri), &citysync.WorkReview{
			LexiconTypeID: lexicons.WorkReview, Rating: &ratings[r.n], CreatedAt: city.Datetime(time.Now().Truncate(time.Hour)),
			Subject: &citysync.WorkReview_Subject{WorkReview_Record: &citysync.WorkReview_Record{
				LexiconTypeID: lexicons.WorkReview + "#record", Ref: claim.Task,
			}},
		})
		return err
	})
}
