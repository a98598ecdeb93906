package ledger

import (
	"context"
	"fmt"
	"net/http"

	"github.com/bluesky-social/indigo/atproto/atcrypto"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// bindTill ties a till's key to the redeemer that calls, and gives it the PIN that opens its day.
func (l *Ledger) bindTill(c *xrpc.Call) (any, error) {
	redeemer, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Label          string `json:"label"`
		Key            string `json:"key"`
		PIN            string `json:"pin"`
		IdempotencyKey string `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if len(in.Label) > 1000 {
		return nil, xrpc.InvalidRequest("label is longer than 1000 bytes")
	}
	key, err := atcrypto.ParsePublicDIDKey(in.Key)
	if err != nil {
		return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidKey", "the key is no did:key")
	}
	if _, ok := key.(*atcrypto.PublicKeyP256); !ok {
		return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidKey", "the key is not on P-256")
	}
	didKey := key.DIDKey() // one spelling
	// The PIN is no part of what is kept of a request: of a short number any plain hash can be undone.
	req, err := newRequest(c.NSID, redeemer.String(), in.IdempotencyKey, []string{printable(in.Label), didKey})
	if err != nil {
		return nil, err
	}
	if have, err := req.answered(c.Context(), l.store.pool); have != nil || err != nil {
		return have, err
	}
	if err := checkPIN(in.PIN); err != nil {
		return nil, err
	}
	pin, err := l.pins.hash(c.Context(), in.PIN)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "bind till", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			id := entry.TillID(redeemer.String(), didKey)
			entries, err := l.intake.turn(b).decide(ctx, rules.BindTill{Now: b.now, Org: redeemer, Key: didKey})
			if err != nil {
				return nil, err
			}
			if len(entries) == 0 {
				return boundBefore(ctx, b, id, pin)
			}
			const keep = `insert into till (id, org, key, label, seq, pin) values ($1, $2, $3, $4, $5, $6)`
			seq := entries[len(entries)-1].Seq
			if _, err := b.tx.Exec(ctx, keep, id, redeemer.String(), didKey, printable(in.Label), seq, pin); err != nil {
				return nil, fmt.Errorf("till: %w", err)
			}
			return map[string]any{"seq": seq, "till": id}, nil
		})
	})
}

// boundBefore answers for a till that is bound. A PIN is set where there was none; another one is for resetTill.
func boundBefore(ctx context.Context, b *batch, id, pin string) (any, error) {
	t, err := getTill(ctx, b.tx, id)
	if err != nil {
		return nil, err
	}
	if err := t.usable(); t.EndedAt != nil {
		return nil, err
	}
	var seq int64
	const sql = `update till set pin = coalesce(pin, $2) where id = $1 returning seq`
	if err := b.tx.QueryRow(ctx, sql, id, pin).Scan(&seq); err != nil {
		return nil, fmt.Errorf("till: %w", err)
	}
	return map[string]any{"seq": seq, "till": id}, nil
}

// openTill begins a till's day: its people know the PIN, and the till signs.
func (l *Ledger) openTill(c *xrpc.Call) (any, error) {
	in, err := l.byTill(c)
	if err != nil {
		return nil, err
	}
	pin := in.word("pin")
	if err := checkPIN(pin); err != nil {
		return nil, err
	}
	if err := l.fresh(in); err != nil {
		return nil, err
	}
	if err := l.tryTillPIN(c.Context(), in.till, pin); err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "open till", func(ctx context.Context, b *batch) (any, error) {
		t, err := getTill(ctx, b.tx, in.till)
		if err != nil {
			return nil, err
		}
		if err := t.usable(); err != nil {
			return nil, err
		}
		opened := b.now
		switch again := t.SaidAt != nil && t.SaidAt.Equal(in.at); {
		case again && t.OpenedAt != nil:
			opened = *t.OpenedAt
		case t.SaidAt != nil && !in.at.After(*t.SaidAt): // an earlier opening, sent once more by somebody
			return nil, stale()
		default:
			const sql = `update till set opened_at = $2, said_at = $3 where id = $1`
			if _, err := b.tx.Exec(ctx, sql, in.till, b.now, in.at); err != nil {
				return nil, fmt.Errorf("open till: %w", err)
			}
		}
		crash.Point("ledger/till/opened")
		return map[string]any{"till": in.till, "openedAt": stamp(opened), "closesAt": stamp(opened.Add(maxTillDay))}, nil
	})
}

// closeTill ends a till's day. With it the till says that it has told all that it honored: what residents took back of the rest is
// theirs again.
func (l *Ledger) closeTill(c *xrpc.Call) (any, error) {
	in, err := l.byTill(c)
	if err != nil {
		return nil, err
	}
	if err := l.fresh(in); err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "close till", func(ctx context.Context, b *batch) (any, error) {
		t, err := getTill(ctx, b.tx, in.till)
		if err != nil {
			return nil, err
		}
		if err := t.usable(); err != nil {
			return nil, err
		}
		if t.SaidAt != nil && in.at.Before(*t.SaidAt) {
			return nil, stale()
		}
		const sql = `update till set opened_at = null, said_at = $2 where id = $1`
		if _, err := b.tx.Exec(ctx, sql, in.till, in.at); err != nil {
			return nil, fmt.Errorf("close till: %w", err)
		}
		const asked = `select seq from hold where till = $1 and asked_at is not null and ended_at is null order by seq`
		if err := l.intake.turn(b).endHolds(ctx, entry.VoidCancelled, asked, in.till); err != nil {
			return nil, err
		}
		return map[string]any{"till": in.till, "day": entry.FormatDay(b.now, b.state.Location())}, nil
	})
}

func stale() *xrpc.Error {
	return xrpc.Errorf(http.StatusConflict, staleRequest, "the till said something later already; sign anew")
}

// fresh says whether a till's clock and ours agree.
func (l *Ledger) fresh(in *said) error {
	now := l.clock.Now().UTC()
	if d := now.Sub(in.at); d > maxTillSkew || d < -maxTillSkew {
		return xrpc.Errorf(http.StatusBadRequest, staleRequest, "signed at %s, it is %s here", stamp(in.at), stamp(now)).
			With(map[string]any{"at": stamp(in.at), "now": stamp(now)})
	}
	return nil
}

// resetTill is for the redeemer: a new PIN for a till that is locked or whose PIN was told, or the end of a till that was lost.
func (l *Ledger) resetTill(c *xrpc.Call) (any, error) {
	redeemer, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Till           string `json:"till"`
		PIN            string `json:"pin"`
		End            bool   `json:"end"`
		IdempotencyKey string `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if len(in.Till) > 64 || (in.End && in.PIN != "") {
		return nil, xrpc.InvalidRequest("till is too long, or pin stands with end")
	}
	req, err := newRequest(c.NSID, redeemer.String(), in.IdempotencyKey, []any{in.Till, in.End})
	if err != nil {
		return nil, err
	}
	if have, err := req.answered(c.Context(), l.store.pool); have != nil || err != nil {
		return have, err
	}
	var pin *string
	if !in.End {
		if err := checkPIN(in.PIN); err != nil {
			return nil, err
		}
		stored, err := l.pins.hash(c.Context(), in.PIN)
		if err != nil {
			return nil, err
		}
		pin = &stored
	}
	return l.ask(c.Context(), "reset till", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			t, err := getTill(ctx, b.tx, in.Till)
			if err != nil {
				return nil, err
			}
			if t.Org != redeemer.String() {
				return nil, xrpc.Errorf(http.StatusForbidden, rules.TillUnknown, "the till is not yours")
			}
			if err := t.usable(); t.EndedAt != nil {
				return nil, err
			}
			const sql = `update till set pin = $2, wrong = 0, opened_at = null, ended_at = case when $2::text is null then $3::timestamptz end where id = $1`
			if _, err := b.tx.Exec(ctx, sql, in.Till, pin, b.now); err != nil {
				return nil, fmt.Errorf("reset till: %w", err)
			}
			status := "reset"
			if in.End {
				status = "ended"
			}
			return map[string]any{"till": in.Till, "status": status}, nil
		})
	})
}
