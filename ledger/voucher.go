package ledger

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/voucher"
)

// makeVoucher burns at once, for one till that is away from the network: the resident shows it what the ledger signed. The code stands
// for the redemption, so that the till can take it back when it is there again.
func (l *Ledger) makeVoucher(ctx context.Context, b *batch, row *codeRow, offering *rules.Offering, till string) (any, error) {
	if err := tillOf(ctx, b, till, offering); err != nil {
		return nil, err
	}
	burn, err := l.burn(ctx, b, rules.Burn{Account: [16]byte(row.Account), Offering: *offering, Units: row.Units, Till: till}, row.Price)
	if err != nil {
		return nil, err
	}
	row.ExpiresAt = b.now.Add(rules.VoucherLife)
	code, err := l.keepRedeemed(ctx, b, row, burn.Seq, &till)
	if err != nil {
		return nil, err
	}
	signed, err := l.sign(voucher.Voucher{
		What: voucher.Burn, Till: till, Offering: row.Offering, Version: row.OfferingCID, Units: row.Units, Credits: row.Price,
		Receipt: burn.Seq, Code: code, IssuedAt: b.now, ExpiresAt: row.ExpiresAt,
	})
	if err != nil {
		return nil, err
	}
	crash.Point("ledger/voucher/made")
	return map[string]any{
		"code": code, "payload": l.payload(code), "price": row.Price, "expiresAt": stamp(row.ExpiresAt), "voucher": signed,
		"seq": burn.Seq, "receipt": receiptKey(burn.Seq),
	}, nil
}

// keepRedeemed gives a redemption that came without a code one to be taken back by.
func (*Ledger) keepRedeemed(ctx context.Context, b *batch, row *codeRow, seq int64, till *string) (string, error) {
	row.Status, row.UsedAt, row.Seq, row.Till = "redeemed", &b.now, &seq, till
	return keepCode(ctx, b, row)
}

func (l *Ledger) sign(v voucher.Voucher) (string, error) {
	v.Ledger = l.cfg.DID.String()
	signed, err := l.seq.signing.signer.Voucher(context.Background(), v.Text(), l.seq.signing.now())
	if err != nil {
		return "", broken("%w", err)
	}
	return string(signed), nil
}

// tillOf checks that a till that is open belongs to the redeemer of an offering.
func tillOf(ctx context.Context, b *batch, till string, offering *rules.Offering) error {
	t, err := openTill(ctx, b.tx, till, b.now)
	if err != nil {
		return err
	}
	if t.Org != offering.Redeemer.String() {
		return xrpc.Errorf(http.StatusForbidden, "WrongTill", "the till belongs to another redeemer")
	}
	return nil
}

// endOf is the end of a local day.
func (l *Ledger) endOf(b *batch, day string) (time.Time, error) {
	t, err := time.ParseInLocation(time.DateOnly, day, b.state.Location())
	if err != nil {
		return t, fmt.Errorf("day %q: %w", day, err)
	}
	return t.AddDate(0, 0, 1), nil
}

// captured is what a till is told of a hold that it honored.
func captured(e *entry.Entry, h rules.Hold, code string) map[string]any {
	return map[string]any{
		"status": "redeemed", "seq": e.Seq, "receipt": receiptKey(e.Seq), "amount": e.Amount, "units": h.Terms.Units,
		"offering": h.Terms.Offering.URI, "code": code,
	}
}
