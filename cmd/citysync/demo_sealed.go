package main

import (
	"context"

	lexutil "github.com/bluesky-social/indigo/lex/util"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// What is sealed has no record: claim and proof are told to the ledger alone.

// sealed tells whether residents claim it by a call and not by a record.
func (r *row) sealed() bool { return r.refused == nil && r.entry.Sensitivity == city.Sealed }

// claimable tells whether residents can claim it at all.
func (r *row) claimable() bool { return r.open() || r.sealed() }

// sealedTurn is a resident's one claim of this kind.
type sealedTurn struct {
	by    *resident
	row   *row
	shift *citysync.Defs_Shift
}

// claimSealed gives each resident one sealed task in turn, as far as there are slots, and lets them tell that the work was done. Who has
// which follows from their number alone, so that it is asked for again under the same key.
func (d *demo) claimSealed(ctx context.Context) error {
	var places []sealedTurn
	for i := range maxShifts {
		for _, r := range d.rows {
			if r.sealed() && i < len(r.task.Shifts) {
				for range r.task.Shifts[i].Slots {
					places = append(places, sealedTurn{row: r, shift: r.task.Shifts[i]})
				}
			}
		}
	}
	if len(places) == 0 {
		return nil
	}
	step := max(1, len(places)/max(1, len(d.residents)))
	var turns []sealedTurn
	for _, r := range d.residents {
		if at := r.n * step; at < len(places) {
			turns = append(turns, sealedTurn{r, places[at].row, places[at].shift})
		}
	}
	return together(ctx, d, turns, func(ctx context.Context, t sealedTurn) error {
		var claimed struct {
			Token lexutil.LexBytes `json:"claimToken"`
		}
		who := t.by.DID.String()
		as := d.ledger.as(t.by.session)
		err := d.ledger.procedure(ctx, as, "org.city-sync.work.createSealedClaim", map[string]any{
			"task": t.row.ref, "shiftId": t.shift.Id, "idempotencyKey": d.idempotencyKey("sealed claim", who, t.row.ref.Uri),
		}, &claimed)
		if named(err, "SlotsFull", "ClaimWindowClosed") {
			return nil // another run's residents were before
		}
		if err != nil {
			return err
		}
		err = d.ledger.procedure(ctx, as, "org.city-sync.work.createSealedProof", map[string]any{
			"claimToken": claimed.Token, "idempotencyKey": d.idempotencyKey("sealed proof", who, t.row.ref.Uri),
			"commitment": map[string]any{
				"alg": "sha256-merkle-v1", "value": lexutil.LexBytes(d.deriveForSeed("evidence", who, t.row.ref.Uri)), "padded": 8,
			},
		}, nil)
		if named(err, "ProofSubmitted") {
			return nil
		}
		return err
	})
}

// guest is a resident of the demonstration who takes part in one step only. Their claims are not among those that everybody's are.
func (d *demo) guest(ctx context.Context, name string, issuer *organization) (*resident, error) {
	s, err := d.account(ctx, d.ready.PDS, "guest "+name)
	if err != nil {
		return nil, err
	}
	if err := d.activate(ctx, issuer.session, s); err != nil {
		return nil, err
	}
	return &resident{session: s, n: -1, claims: map[string]*row{}}, nil
}

// guestClaim lets a guest claim a slot of a row and prove the work, and gives the claim as the issuer sees it. Nil: no slot was left.
func (d *demo) guestClaim(ctx context.Context, g *resident, r *row) (*heldClaim, error) {
	shift := r.task.Shifts[len(r.task.Shifts)-1]
	ref, err := d.once(ctx, g.session, lexicons.WorkClaim, lexicons.ClaimKey(r.ref.Uri, shift.Id), func() (any, error) { return newClaim(r, shift), nil })
	if err != nil {
		return nil, err
	}
	e, err := d.decided(ctx, ref)
	if err != nil {
		return nil, err
	}
	if e.Status == "refused" {
		return nil, nil
	}
	g.claims[rkeyOf(ref.Uri)] = r
	proof, err := d.pds.get(ctx, g.DID, lexicons.WorkProof, rkeyOf(ref.Uri))
	if err != nil {
		return nil, err
	}
	if proof == nil {
		if err := d.prove(ctx, g, rkeyOf(ref.Uri)); err != nil {
			return nil, err
		}
	}
	claims, err := d.issuerClaims(ctx, r)
	if err != nil {
		return nil, err
	}
	for i := range claims {
		if claims[i].Claim == ref.Uri {
			return &claims[i], nil
		}
	}
	return nil, nil
}

// guestRow is the row with the most room that one organization alone may verify. A public one is better: whoever disputes says in public
// whose the work was.
func (d *demo) guestRow() *row {
	var best *row
	for _, r := range d.rows {
		if !r.open() || r.entry.VerificationLevel > 2 {
			continue
		}
		public := r.entry.Sensitivity == city.Public
		if best == nil || public && best.entry.Sensitivity != city.Public || public == (best.entry.Sensitivity == city.Public) && r.Slots > best.Slots {
			best = r
		}
	}
	return best
}

// verificationOf writes a guest's verification once.
func (d *demo) verificationOf(ctx context.Context, by *session, n int, v *citysync.WorkVerification) (*city.Ref, error) {
	return d.once(ctx, by, lexicons.WorkVerification, d.guestKey(n), func() (any, error) { return v, nil })
}
