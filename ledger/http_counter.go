package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
)

// createRedemption makes a short-lived code, bound to person, offering, units and price.
func (l *Ledger) createRedemption(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Offering struct {
			URI string `json:"uri"`
			CID string `json:"cid"`
		} `json:"offering"`
		Units          int64  `json:"units"`
		NoneOfFreeFor  bool   `json:"noneOfFreeForApplies"`
		TTLSeconds     *int64 `json:"ttlSeconds,omitempty"`
		IdempotencyKey string `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	uri, err := syntax.ParseATURI(in.Offering.URI)
	if err != nil || uri.Collection().String() != lexicons.OfferOffering {
		return nil, xrpc.InvalidRequest("offering must cite an offering")
	}
	if _, err := syntax.ParseCID(in.Offering.CID); err != nil {
		return nil, xrpc.InvalidRequest("offering: %v", err)
	}
	ttl := maxCodeTTL
	if in.TTLSeconds != nil {
		ttl = time.Duration(*in.TTLSeconds) * time.Second
		if *in.TTLSeconds < 1 || *in.TTLSeconds > int64(maxCodeTTL/time.Second) {
			return nil, xrpc.InvalidRequest("ttlSeconds must be from 1 to %d", int64(maxCodeTTL/time.Second))
		}
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
			return l.makeCode(ctx, b, &codeRow{
				Account: terms.Account[:], Offering: in.Offering.URI, OfferingCID: in.Offering.CID, Units: in.Units,
				Price: terms.Price, Book: terms.Book, MadeAt: b.now, ExpiresAt: b.now.Add(ttl),
			})
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
	const insert = `insert into code (hash, account, offering, offering_cid, units, price, book, made_at, expires_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (hash) do nothing`
	for range 5 { // a code that was drawn before is drawn again
		code, err := newCode()
		if err != nil {
			return nil, err
		}
		tag, err := b.tx.Exec(ctx, insert, codeHash(code), row.Account, row.Offering, row.OfferingCID, row.Units, row.Price, row.Book,
			row.MadeAt, row.ExpiresAt)
		if err != nil {
			return nil, fmt.Errorf("keep code: %w", err)
		}
		if tag.RowsAffected() == 1 {
			crash.Point("ledger/code/made")
			return map[string]any{
				"code": code, "payload": "citysync:" + l.cfg.DID.String() + "?code=" + code, "price": row.Price, "expiresAt": stamp(row.ExpiresAt),
			}, nil
		}
	}
	return nil, broken("five codes in a row were drawn before")
}

type update struct {
	Code   string `json:"code"`
	Action string `json:"action"`
	Reason string `json:"reason"`
	Till   string `json:"till"`
	At     string `json:"at"`
}

// updateRedemption is signed by the till itself; no account is asked. The hash of what is signed is the idempotency key.
func (l *Ledger) updateRedemption(c *xrpc.Call) (any, error) {
	in, req, err := l.signedUpdate(c)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "update redemption", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) { return l.redeem(ctx, b, in) })
	})
}

// readUpdate reads a body and gives the bytes that its signature stands over: its DAG-CBOR without sig. It is flat, so its form costs no more
// than its length, whoever sent it.
func readUpdate(raw []byte) (in *update, signed, sig []byte, err error) {
	body, err := atdata.UnmarshalJSON(raw)
	if err != nil {
		return nil, nil, nil, xrpc.InvalidRequest("the body is no data of the network: %v", err)
	}
	sig, ok := body["sig"].(atdata.Bytes)
	if !ok {
		return nil, nil, nil, xrpc.InvalidRequest("sig must be bytes")
	}
	delete(body, "sig")
	for name, v := range body {
		switch v.(type) {
		case map[string]any, []any:
			return nil, nil, nil, xrpc.InvalidRequest("%.40q must be a single value", name)
		}
	}
	if signed, err = atdata.MarshalCBOR(body); err != nil {
		return nil, nil, nil, xrpc.InvalidRequest("the body has no canonical form: %v", err)
	}
	word := func(name string) string { s, _ := body[name].(string); return s }
	in = &update{Action: word("action"), Reason: word("reason"), Till: word("till"), At: word("at")}
	if in.Code, ok = normalCode(word("code")); !ok {
		return nil, nil, nil, xrpc.Errorf(http.StatusNotFound, "CodeUnknown", "there is no such code")
	}
	if in.Action != "confirm" && in.Action != "refuse" {
		return nil, nil, nil, xrpc.InvalidRequest("action must be confirm or refuse")
	}
	if _, err := syntax.ParseDatetime(in.At); err != nil {
		return nil, nil, nil, xrpc.InvalidRequest("at: %v", err)
	}
	if len(in.Till) > 64 || len(in.Reason) > 64 {
		return nil, nil, nil, xrpc.InvalidRequest("till or reason is too long")
	}
	return in, signed, sig, nil
}

// signedUpdate reads the body and checks that the till signed it.
func (l *Ledger) signedUpdate(c *xrpc.Call) (*update, *request, error) {
	var raw json.RawMessage
	if err := c.Body(&raw); err != nil {
		return nil, nil, err
	}
	in, signed, sig, err := readUpdate(raw)
	if err != nil {
		return nil, nil, err
	}
	var didKey string
	err = l.store.pool.QueryRow(c.Context(), `select key from till where id = $1`, printable(in.Till)).Scan(&didKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, xrpc.Errorf(http.StatusForbidden, rules.TillUnknown, "the till is not bound")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("till: %w", err)
	}
	key, err := atcrypto.ParsePublicDIDKey(didKey)
	if err != nil {
		return nil, nil, broken("key of till %s: %w", in.Till, err)
	}
	// Browsers make high-S signatures half of the time: this one check is lenient.
	if err := key.HashAndVerifyLenient(signed, sig); err != nil {
		return nil, nil, xrpc.Errorf(http.StatusUnauthorized, rules.BadSignature, "the signature is not that of the till")
	}
	sum := sha256.Sum256(signed)
	req, err := newRequest(c.NSID, in.Till, hex.EncodeToString(sum[:]), signed)
	return in, req, err
}

// redeem checks and burns in one command: of two tills with one code only one gets through.
func (l *Ledger) redeem(ctx context.Context, b *batch, in *update) (any, error) {
	hash := codeHash(in.Code)
	rows, err := b.tx.Query(ctx, `select account, offering, offering_cid, units, price, book, made_at, expires_at, status, used_at
		from code where hash = $1`, hash)
	if err != nil {
		return nil, fmt.Errorf("code: %w", err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[codeRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, xrpc.Errorf(http.StatusNotFound, "CodeUnknown", "there is no such code")
	}
	if err != nil {
		return nil, fmt.Errorf("code: %w", err)
	}
	org, _, ok := b.state.Till(in.Till)
	if !ok {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.TillUnknown, "the till is not bound")
	}
	uri, err := syntax.ParseATURI(row.Offering)
	if err != nil {
		return nil, broken("offering of a code: %w", err)
	}
	if uri.Authority().String() != org.String() {
		return nil, xrpc.Errorf(http.StatusForbidden, "WrongTill", "the till belongs to another redeemer")
	}
	if err := scannable(&row, b.now); err != nil {
		return nil, err
	}
	answer := map[string]any{"amount": row.Price, "units": row.Units, "offering": row.Offering}
	if in.Action == "refuse" {
		answer["status"], answer["amount"] = "refused", 0
		return answer, useCode(ctx, b, hash, "refused", nil)
	}
	offering, err := offeringFor(ctx, b.tx, b.state, row.Offering, row.OfferingCID)
	if err != nil {
		return nil, err
	}
	entries, err := l.intake.turn(b).decide(ctx, rules.Burn{
		Now: b.now, Account: [16]byte(row.Account), Offering: *offering, Units: row.Units, Till: in.Till,
	})
	if err != nil {
		return nil, err
	}
	burn := entries[0]
	if burn.Amount != row.Price {
		return nil, broken("a code for %d burned %d", row.Price, burn.Amount)
	}
	crash.Point("ledger/code/burned")
	answer["status"], answer["seq"], answer["receipt"] = "redeemed", burn.Seq, receiptKey(burn.Seq)
	return answer, useCode(ctx, b, hash, "redeemed", &burn.Seq)
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
