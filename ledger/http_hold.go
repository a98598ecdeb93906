package ledger

import (
	"context"
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
	"city-sync.org/citysync/ledger/voucher"
)

// createHold puts credits and units aside for a till, so that it can be honored while neither side reaches the ledger.
func (l *Ledger) createHold(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Offering       offeringRef `json:"offering"`
		Units          int64       `json:"units"`
		Till           string      `json:"till"`
		Until          string      `json:"until"`
		NoneOfFreeFor  bool        `json:"noneOfFreeForApplies"`
		IdempotencyKey string      `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if err := in.Offering.check(); err != nil {
		return nil, err
	}
	if _, err := time.Parse(time.DateOnly, in.Until); err != nil || len(in.Till) > 64 {
		return nil, xrpc.InvalidRequest("until must be a day, and till one of the redeemer's")
	}
	req, err := newRequest(c.NSID, resident.String(), in.IdempotencyKey, in)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "create hold", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			offering, err := offeringFor(ctx, b.tx, b.state, in.Offering.URI, in.Offering.CID)
			if err != nil {
				return nil, err
			}
			t, err := getTill(ctx, b.tx, in.Till)
			if err != nil {
				return nil, err
			}
			if err := t.usable(); err != nil {
				return nil, err
			}
			return l.putAside(ctx, b, rules.PutAside{
				Now: b.now, Resident: resident, Offering: *offering, Units: in.Units, Till: in.Till, Until: in.Until,
				NoneOfFreeFor: in.NoneOfFreeFor,
			})
		})
	})
}

func (l *Ledger) putAside(ctx context.Context, b *batch, c rules.PutAside) (any, error) {
	end, err := l.endOf(b, c.Until)
	if err != nil {
		return nil, err
	}
	entries, err := l.intake.turn(b).decide(ctx, c)
	if err != nil {
		return nil, err
	}
	e := entries[len(entries)-1]
	signed, err := l.sign(voucher.Voucher{
		What: voucher.Hold, Till: c.Till, Offering: e.Hold.Offering.URI, Version: e.Hold.Offering.CID, Units: c.Units, Credits: e.Amount,
		Receipt: e.Seq, IssuedAt: b.now, ExpiresAt: end,
	})
	if err != nil {
		return nil, err
	}
	crash.Point("ledger/hold/made")
	return map[string]any{"hold": e.Seq, "price": e.Amount, "until": c.Until, "expiresAt": stamp(end), "voucher": signed}, nil
}

// captureHold is the till's: it honored a hold, at the time that it signs.
func (l *Ledger) captureHold(c *xrpc.Call) (any, error) {
	in, err := l.byTill(c)
	if err != nil {
		return nil, err
	}
	seq := in.number("hold")
	req, err := in.request(c.NSID)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "capture hold", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			if _, err := openTill(ctx, b.tx, in.till, b.now); err != nil {
				return nil, err
			}
			h, err := standingHold(ctx, b, seq)
			if err != nil {
				return nil, err
			}
			windows, err := windowsOf(ctx, b.tx, h.Terms.Offering)
			if err != nil {
				return nil, err
			}
			entries, err := l.intake.turn(b).decide(ctx, rules.Capture{Now: b.now, Hold: seq, Till: in.till, At: in.at, Windows: windows})
			if err != nil {
				return nil, err
			}
			e := entries[len(entries)-1]
			code, err := l.keepRedeemed(ctx, b, &codeRow{
				Account: h.Account[:], Offering: h.Terms.Offering.URI, OfferingCID: h.Terms.Offering.CID, Units: h.Terms.Units,
				Price: h.Amount, Book: h.Book, MadeAt: b.now, ExpiresAt: b.now,
			}, e.Seq, nil)
			if err != nil {
				return nil, err
			}
			crash.Point("ledger/hold/captured")
			return captured(e, h, code), nil
		})
	})
}

// windowsOf reads when an offering is open from the version that was held, whatever became of it since.
func windowsOf(ctx context.Context, q querier, ref entry.Ref) ([]rules.Window, error) {
	f, err := getFact(ctx, q, ref.URI, ref.CID)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, broken("offering %s was held and never seen", ref.URI)
	}
	o, err := offerOf(f)
	if err != nil {
		return nil, broken("offering %s was held and cannot be read: %w", ref.URI, err)
	}
	return o.Windows, nil
}

// standingHold gives a hold that stands, or says what became of it.
func standingHold(ctx context.Context, b *batch, seq int64) (rules.Hold, error) {
	if h, ok := b.state.Hold(seq); ok {
		return h, nil
	}
	var at time.Time
	var as string
	const ended = `select coalesce(ended_at, $2), coalesce(ended_as, 'ended') from hold where seq = $1` // null: in this very batch
	err := b.tx.QueryRow(ctx, ended, seq, b.now).Scan(&at, &as)
	if errors.Is(err, pgx.ErrNoRows) {
		return rules.Hold{}, holdUnknown()
	}
	if err != nil {
		return rules.Hold{}, fmt.Errorf("hold: %w", err)
	}
	return rules.Hold{}, xrpc.Errorf(http.StatusConflict, rules.HoldEnded, "the hold was %s at %s", as, stamp(at)).
		With(map[string]any{"as": as, "at": stamp(at)})
}

func holdUnknown() *xrpc.Error {
	return xrpc.Errorf(http.StatusNotFound, rules.HoldUnknown, "there is no such hold")
}

// endHold gives a hold back: by its till at once, by its resident as soon as the till cannot have honored it unseen. A till that is
// open may have; it tells when it closes its day, and at the latest the hold's last day ends it.
func (l *Ledger) endHold(c *xrpc.Call) (any, error) {
	if _, ok := c.Bearer(); !ok {
		return l.refuseHold(c)
	}
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Hold           int64  `json:"hold"`
		IdempotencyKey string `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	req, err := newRequest(c.NSID, resident.String(), in.IdempotencyKey, in)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "end hold", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) { return l.cancel(ctx, b, resident, in.Hold) })
	})
}

func (l *Ledger) cancel(ctx context.Context, b *batch, resident syntax.DID, seq int64) (any, error) {
	account, ok := b.state.AccountOf(resident)
	if !ok {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.NotActivated, "you have no account in this city")
	}
	var own bool
	const mine = `select exists (select from hold where seq = $1 and account = $2)`
	if err := b.tx.QueryRow(ctx, mine, seq, account[:]).Scan(&own); err != nil {
		return nil, fmt.Errorf("hold: %w", err)
	}
	if !own {
		return nil, holdUnknown()
	}
	h, err := standingHold(ctx, b, seq)
	if err != nil {
		return nil, err
	}
	t, err := getTill(ctx, b.tx, h.Terms.Till)
	if err != nil {
		return nil, err
	}
	if t.OpenedAt != nil {
		if _, err := b.tx.Exec(ctx, `update hold set asked_at = coalesce(asked_at, $2) where seq = $1`, seq, b.now); err != nil {
			return nil, fmt.Errorf("end hold: %w", err)
		}
		return map[string]any{"hold": seq, "status": "asked", "until": h.Terms.Until}, nil
	}
	if err := l.intake.turn(b).endOne(ctx, seq, entry.VoidCancelled); err != nil {
		return nil, err
	}
	return map[string]any{"hold": seq, "status": "ended", "amount": h.Amount}, nil
}

// refuseHold is the till's: it will not honor the hold.
func (l *Ledger) refuseHold(c *xrpc.Call) (any, error) {
	in, err := l.byTill(c)
	if err != nil {
		return nil, err
	}
	req, err := in.request(c.NSID)
	if err != nil {
		return nil, err
	}
	seq := in.number("hold")
	return l.ask(c.Context(), "end hold", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			if _, err := openTill(ctx, b.tx, in.till, b.now); err != nil {
				return nil, err
			}
			h, err := standingHold(ctx, b, seq)
			if err != nil {
				return nil, err
			}
			if h.Terms.Till != in.till {
				return nil, xrpc.Errorf(http.StatusForbidden, "WrongTill", "the hold is for another till")
			}
			if err := l.intake.turn(b).endOne(ctx, seq, entry.VoidRefused); err != nil {
				return nil, err
			}
			return map[string]any{"hold": seq, "status": "ended", "amount": h.Amount}, nil
		})
	})
}

// endOne voids one hold that stands.
func (t *turn) endOne(ctx context.Context, seq int64, reason string) error {
	_, err := t.decide(ctx, rules.EndHold{Now: t.b.now, Hold: seq, Reason: reason})
	return err
}

// endHolds voids the holds that a query lists.
func (t *turn) endHolds(ctx context.Context, reason, sql string, args ...any) error {
	rows, err := t.b.tx.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("holds: %w", err)
	}
	seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("holds: %w", err)
	}
	for _, seq := range seqs {
		if err := t.endOne(ctx, seq, reason); err != nil {
			return ours(err)
		}
	}
	return nil
}

// expireHolds ends the holds whose last day is over.
func (t *turn) expireHolds(ctx context.Context) (int, error) {
	due := t.b.state.DueHolds(t.b.now)
	due = due[:min(len(due), sweepRows)]
	for _, c := range due {
		if err := t.endOne(ctx, c.Hold, c.Reason); err != nil {
			return 0, ours(err)
		}
	}
	return len(due), nil
}
