package ledger

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
)

const workNSID = "org.city-sync.work."

// rawBytes are bytes as JSON of the data model has them.
type rawBytes struct {
	Bytes string `json:"$bytes"`
}

func (b rawBytes) of(n int) ([]byte, error) {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(b.Bytes, "="))
	if err != nil || len(raw) != n {
		return nil, fmt.Errorf("must be %d bytes", n)
	}
	return raw, nil
}

// sealedURI stands in the place of a record's address: a claim on a sealed task has no record.
func sealedURI(token []byte) string { return "sealed:" + hex.EncodeToString(token) }

// createSealedClaim takes a slot of a sealed task. Nothing of it is public; the issuer of the task learns its token and no name.
func (l *Ledger) createSealedClaim(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Task struct {
			URI string `json:"uri"`
			CID string `json:"cid"`
		} `json:"task"`
		ShiftID        string `json:"shiftId"`
		IdempotencyKey string `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	uri, err := syntax.ParseATURI(in.Task.URI)
	if err != nil || uri.Collection().String() != lexicons.WorkTask {
		return nil, xrpc.InvalidRequest("task must cite a task")
	}
	if _, err := syntax.ParseCID(in.Task.CID); err != nil {
		return nil, xrpc.InvalidRequest("task: %v", err)
	}
	if len(in.ShiftID) == 0 || len(in.ShiftID) > 16 || strings.ContainsRune(in.ShiftID, 0) {
		return nil, xrpc.InvalidRequest("shiftId must have 1 to 16 bytes")
	}
	req, err := newRequest(c.NSID, resident.String(), in.IdempotencyKey, in)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "create sealed claim", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			t := l.intake.turn(b)
			held, err := t.takeSlot(ctx, slotWish{
				did: resident, task: entry.Ref{URI: in.Task.URI, CID: in.Task.CID}, shift: in.ShiftID, sealed: true,
			})
			if err != nil {
				return nil, unseen(err)
			}
			return map[string]any{"status": "held", "claimToken": jsonBytes(held.Token)}, t.wakeAll(ctx)
		})
	})
}

// unseen turns a wait, which a record may do and a caller may not, into an answer.
func unseen(err error) error {
	if w := waits(err); w != nil {
		return xrpc.Errorf(http.StatusNotFound, rules.TaskNotAccepted, "the ledger has accepted no such version of the task")
	}
	return err
}

// ownSealed finds the caller's own sealed claim that stands.
func (t *turn) ownSealed(ctx context.Context, resident syntax.DID, token []byte) (*claimRow, error) {
	account, ok := t.b.state.AccountOf(resident)
	if !ok {
		return nil, &rules.Refusal{Name: rules.NotActivated}
	}
	c, err := getClaim(ctx, t.b.tx, sealedURI(token))
	if err != nil {
		return nil, err
	}
	if c == nil || string(c.Account) != string(account[:]) || (c.Status != "held" && c.Status != "entered" && c.Status != "rejected") {
		return nil, &rules.Refusal{Name: rules.ClaimMissing}
	}
	return c, nil
}

// createSealedProof tells that the work was done. Its evidence stays where the resident put it, under a commitment.
func (l *Ledger) createSealedProof(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		ClaimToken rawBytes `json:"claimToken"`
		Commitment struct {
			Alg    string   `json:"alg"`
			Value  rawBytes `json:"value"`
			Padded int64    `json:"padded"`
		} `json:"commitment"`
		IdempotencyKey string `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	token, err := in.ClaimToken.of(32)
	if err != nil {
		return nil, xrpc.InvalidRequest("claimToken %v", err)
	}
	value, err := in.Commitment.Value.of(32)
	if err != nil {
		return nil, xrpc.InvalidRequest("commitment %v", err)
	}
	if in.Commitment.Padded < 1 || in.Commitment.Padded > 1024 {
		return nil, xrpc.InvalidRequest("padded must be from 1 to 1024")
	}
	req, err := newRequest(c.NSID, resident.String(), in.IdempotencyKey, in)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "create sealed proof", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			t := l.intake.turn(b)
			own, err := t.ownSealed(ctx, resident, token)
			if err != nil {
				return nil, err
			}
			const prove = `update claim set proof = uri, proof_commitment = $2, proof_padded = $3 where uri = $1 and proof is null`
			tag, err := b.tx.Exec(ctx, prove, own.URI, value, in.Commitment.Padded)
			if err != nil {
				return nil, fmt.Errorf("proof of claim: %w", err)
			}
			if tag.RowsAffected() == 0 {
				return nil, &rules.Refusal{Name: rules.ProofSubmitted}
			}
			return map[string]any{"status": "proved"}, nil
		})
	})
}

// deleteSealedClaim takes a sealed claim back, as deleting its record takes back a public one.
func (l *Ledger) deleteSealedClaim(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		ClaimToken     rawBytes `json:"claimToken"`
		IdempotencyKey string   `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	token, err := in.ClaimToken.of(32)
	if err != nil {
		return nil, xrpc.InvalidRequest("claimToken %v", err)
	}
	req, err := newRequest(c.NSID, resident.String(), in.IdempotencyKey, in)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "delete sealed claim", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			t := l.intake.turn(b)
			own, err := t.ownSealed(ctx, resident, token)
			if err != nil {
				return nil, err
			}
			if err := t.end(ctx, own, entry.UnclaimWithdrawn); err != nil {
				return nil, err
			}
			return map[string]any{"status": "withdrawn"}, nil
		})
	})
}
