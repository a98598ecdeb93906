package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
)

// offeringRef cites one version of an offering.
type offeringRef struct {
	URI string `json:"uri"`
	CID string `json:"cid"`
}

func (o offeringRef) check() error {
	uri, err := syntax.ParseATURI(o.URI)
	if err != nil || uri.Collection().String() != lexicons.OfferOffering {
		return xrpc.InvalidRequest("offering must cite an offering")
	}
	if _, err := syntax.ParseCID(o.CID); err != nil {
		return xrpc.InvalidRequest("offering: %v", err)
	}
	return nil
}

// createRedemption makes a short-lived code, bound to person, offering, units and price. With a till
// it burns at once and gives a voucher for it.
func (l *Ledger) createRedemption(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Offering       offeringRef `json:"offering"`
		Units          int64       `json:"units"`
		NoneOfFreeFor  bool        `json:"noneOfFreeForApplies"`
		TTLSeconds     *int64      `json:"ttlSeconds,omitempty"`
		Till           string      `json:"till,omitempty"`
		IdempotencyKey string      `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if err := in.Offering.check(); err != nil {
		return nil, err
	}
	ttl := maxCodeTTL
	if in.TTLSeconds != nil {
		ttl = time.Duration(*in.TTLSeconds) * time.Second
		if *in.TTLSeconds < 1 || *in.TTLSeconds > int64(maxCodeTTL/time.Second) {
			return nil, xrpc.InvalidRequest("ttlSeconds must be from 1 to %d", int64(maxCodeTTL/time.Second))
		}
	}
	if len(in.Till) > 64 || (in.Till != "" && in.TTLSeconds != nil) {
		return nil, xrpc.InvalidRequest("till is too long, or stands with ttlSeconds")
	}
	req, err := newRequest(c.NSID, resident.String(), in.IdempotencyKey, in)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "create redemption", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			offering, err := offeringFor(ctx, b.tx, b.state, in.Offering.URI, in.Offering.CID)
			if err != nil {
				return nil, err
			}
			terms, err := rules.CheckCode(b.state, rules.CodeRequest{
				Now: b.now, Resident: resident, Offering: *offering, Units: in.Units, NoneOfFreeFor: in.NoneOfFreeFor,
			})
			if err != nil {
				return nil, err
			}
			row := &codeRow{
				Account: terms.Account[:], Offering: in.Offering.URI, OfferingCID: in.Offering.CID, Units: in.Units,
				Price: terms.Price, Book: terms.Book, MadeAt: b.now, ExpiresAt: b.now.Add(ttl), Status: "open",
			}
			if in.Till != "" {
				return l.makeVoucher(ctx, b, row, offering, in.Till)
			}
			return l.makeCode(ctx, b, row)
		})
	})
}

type codeRow struct {
	Account     []byte
	Offering    string
	OfferingCID string
	Units       int64
	Price       int64
	Book        string
	MadeAt      time.Time
	ExpiresAt   time.Time
	Status      string
	UsedAt      *time.Time
	Seq         *int64  // of what was burned by it
	Till        *string // that it was burned for at once, and is shown to by a voucher
	Reversed    *int64
}

func (l *Ledger) makeCode(ctx context.Context, b *batch, row *codeRow) (any, error) {
	var open int64
	const count = `select count(*) from code where account = $1 and status = 'open' and expires_at > $2`
	if err := b.tx.QueryRow(ctx, count, row.Account, b.now).Scan(&open); err != nil {
		return nil, fmt.Errorf("open codes: %w", err)
	}
	if open >= maxOpenCodes {
		return nil, xrpc.Errorf(http.StatusTooManyRequests, "RateLimitExceeded", "%d codes are open; use one or let them end", open).After(maxCodeTTL)
	}
	code, err := keepCode(ctx, b, row)
	if err != nil {
		return nil, err
	}
	crash.Point("ledger/code/made")
	return map[string]any{"code": code, "payload": l.payload(code), "price": row.Price, "expiresAt": stamp(row.ExpiresAt)}, nil
}

// payload is the text of a code's QR.
func (l *Ledger) payload(code string) string {
	return "citysync:" + l.cfg.DID.String() + "?code=" + code
}

// keepCode draws a code for a redemption. One that was drawn before is drawn again.
func keepCode(ctx context.Context, b *batch, row *codeRow) (string, error) {
	const insert = `insert into code (hash, account, offering, offering_cid, units, price, book, made_at, expires_at, status, used_at, seq, till)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) on conflict (hash) do nothing`
	for range 5 {
		code, err := newCode()
		if err != nil {
			return "", err
		}
		tag, err := b.tx.Exec(ctx, insert, codeHash(code), row.Account, row.Offering, row.OfferingCID, row.Units, row.Price, row.Book,
			row.MadeAt, row.ExpiresAt, row.Status, row.UsedAt, row.Seq, row.Till)
		if err != nil {
			return "", fmt.Errorf("keep code: %w", err)
		}
		if tag.RowsAffected() == 1 {
			return code, nil
		}
	}
	return "", broken("five codes in a row were drawn before")
}

type update struct {
	*said
	code, action, reason string
}

// updateRedemption is signed by the till itself; no account is asked. The hash of what is signed is the idempotency key.
func (l *Ledger) updateRedemption(c *xrpc.Call) (any, error) {
	var raw json.RawMessage
	if err := c.Body(&raw); err != nil {
		return nil, err
	}
	in, sig, err := readUpdate(raw)
	if err != nil {
		return nil, err
	}
	if err := l.checkSig(c, in.said, sig); err != nil {
		return nil, err
	}
	req, err := in.request(c.NSID)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "update redemption", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) { return l.update(ctx, b, in) })
	})
}

// readUpdate reads a body as far as it can be judged by itself.
func readUpdate(raw []byte) (in *update, sig []byte, err error) {
	signed, sig, err := readSigned(raw)
	if err != nil {
		return nil, nil, err
	}
	in = &update{said: signed, action: signed.word("action"), reason: signed.word("reason")}
	var ok bool
	if in.code, ok = normalCode(signed.word("code")); !ok {
		return nil, nil, codeUnknown()
	}
	switch in.action {
	case "confirm", "refuse", "undo":
	default:
		return nil, nil, xrpc.InvalidRequest("action must be confirm, refuse or undo")
	}
	if len(in.reason) > 64 {
		return nil, nil, xrpc.InvalidRequest("reason is too long")
	}
	return in, sig, nil
}

func codeUnknown() *xrpc.Error {
	return xrpc.Errorf(http.StatusNotFound, "CodeUnknown", "there is no such code")
}

// update does what a till says of a code. Check and burn are one command: of two tills with one code only one gets through.
func (l *Ledger) update(ctx context.Context, b *batch, in *update) (any, error) {
	hash := codeHash(in.code)
	row, err := l.codeAt(ctx, b, hash)
	if err != nil {
		return nil, err
	}
	uri, err := syntax.ParseATURI(row.Offering)
	if err != nil {
		return nil, broken("offering of a code: %w", err)
	}
	till, err := openTill(ctx, b.tx, in.till, b.now)
	if err != nil {
		return nil, err
	}
	if uri.Authority().String() != till.Org {
		return nil, xrpc.Errorf(http.StatusForbidden, "WrongTill", "the till belongs to another redeemer")
	}
	switch {
	case row.Reversed != nil:
		return nil, refused(&rules.Refusal{Name: rules.AlreadyReversed, Figures: map[string]any{"by": *row.Reversed}})
	case row.Status == "redeemed" && in.action != "confirm":
		return l.takeBack(ctx, b, in, hash, row)
	case in.action == "undo":
		return nil, xrpc.Errorf(http.StatusConflict, "NotRedeemed", "the code was not redeemed: there is nothing to undo")
	}
	if err := scannable(row, b.now); err != nil {
		return nil, err
	}
	if in.action == "refuse" {
		answer := map[string]any{"status": "refused", "amount": 0, "units": row.Units, "offering": row.Offering}
		return answer, useCode(ctx, b, hash, "refused", nil)
	}
	return l.redeem(ctx, b, in, hash, row)
}

func (*Ledger) codeAt(ctx context.Context, b *batch, hash []byte) (*codeRow, error) {
	rows, err := b.tx.Query(ctx, `select account, offering, offering_cid, units, price, book, made_at, expires_at, status, used_at, seq, till, reversed
		from code where hash = $1`, hash)
	if err != nil {
		return nil, fmt.Errorf("code: %w", err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[codeRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, codeUnknown()
	}
	if err != nil {
		return nil, fmt.Errorf("code: %w", err)
	}
	return row, nil
}

func (l *Ledger) redeem(ctx context.Context, b *batch, in *update, hash []byte, row *codeRow) (any, error) {
	offering, err := offeringFor(ctx, b.tx, b.state, row.Offering, row.OfferingCID)
	if err != nil {
		return nil, err
	}
	burn, err := l.burn(ctx, b, rules.Burn{Account: [16]byte(row.Account), Offering: *offering, Units: row.Units, Till: in.till}, row.Price)
	if err != nil {
		return nil, err
	}
	crash.Point("ledger/code/burned")
	return redeemed(burn), useCode(ctx, b, hash, "redeemed", &burn.Seq)
}

// burn burns what was agreed on.
func (l *Ledger) burn(ctx context.Context, b *batch, c rules.Burn, price int64) (*entry.Entry, error) {
	c.Now = b.now
	entries, err := l.intake.turn(b).decide(ctx, c)
	if err != nil {
		return nil, err
	}
	burn := entries[len(entries)-1] // a month that is over is closed before
	if burn.Kind != entry.KindBurn || burn.Amount != price {
		return nil, broken("what was to burn %d made a %s of %d", price, burn.Kind, burn.Amount)
	}
	return burn, nil
}

func redeemed(burn *entry.Entry) map[string]any {
	return map[string]any{
		"status": "redeemed", "seq": burn.Seq, "receipt": receiptKey(burn.Seq), "amount": burn.Amount, "units": burn.Burn.Units,
		"offering": burn.Burn.Offering.URI,
	}
}

// takeBack reverses what was burned: the counter did not honor it, or confirmed by mistake.
func (l *Ledger) takeBack(ctx context.Context, b *batch, in *update, hash []byte, row *codeRow) (any, error) {
	if row.Seq == nil {
		return nil, broken("a redeemed code without its entry")
	}
	undo := rules.Undo{Now: b.now, Of: *row.Seq, Till: in.till, Reason: entry.ReverseUndone}
	status := "returned"
	if in.action == "refuse" {
		undo.Reason, status = entry.ReverseRefused, "refused"
	}
	if row.Till != nil { // shown by a voucher, to a till that may have been away
		undo.Until = row.ExpiresAt
	}
	entries, err := l.intake.turn(b).decide(ctx, undo)
	if err != nil {
		return nil, err
	}
	back := entries[len(entries)-1]
	const sql = `update code set status = $2, reversed = $3 where hash = $1 and status = 'redeemed'`
	tag, err := b.tx.Exec(ctx, sql, hash, status, back.Seq)
	if err != nil {
		return nil, fmt.Errorf("return code: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return nil, broken("a code was returned twice")
	}
	crash.Point("ledger/code/returned")
	return map[string]any{
		"status": status, "seq": back.Seq, "receipt": receiptKey(back.Seq), "amount": back.Amount, "units": row.Units, "offering": row.Offering,
	}, nil
}

// scannable says what happened to a code that is used or over.
func scannable(row *codeRow, now time.Time) error {
	var used time.Time
	if row.UsedAt != nil {
		used = row.UsedAt.UTC()
	}
	if row.Status == "refused" {
		return xrpc.Errorf(http.StatusConflict, "AlreadyRefused", "refused at %s", stamp(used)).With(map[string]any{"at": stamp(used)})
	}
	err := rules.CheckScan(now, row.ExpiresAt.UTC(), used)
	var refusal *rules.Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	switch refusal.Name {
	case rules.AlreadyRedeemed:
		return xrpc.Errorf(http.StatusConflict, refusal.Name, "already redeemed at %s", stamp(used)).With(refusal.Figures)
	case rules.CodeExpired:
		return xrpc.Errorf(http.StatusGone, refusal.Name, "the code was good until %s", stamp(row.ExpiresAt)).With(refusal.Figures)
	}
	return err
}

func useCode(ctx context.Context, b *batch, hash []byte, status string, seq *int64) error {
	const use = `update code set status = $2, used_at = $3, seq = $4 where hash = $1 and status = 'open'`
	tag, err := b.tx.Exec(ctx, use, hash, status, b.now, seq)
	if err != nil {
		return fmt.Errorf("use code: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return broken("a code was used twice")
	}
	crash.Point("ledger/code/used")
	return nil
}
