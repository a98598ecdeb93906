package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// resident is one generated account; nothing in it says who.
type resident struct {
	*session
	n      int
	claims map[string]*row // what they claimed, by the claim's record key
}

// together runs an act for every item, a few at a time, and stops at the first error.
func together[T any](ctx context.Context, d *demo, items []T, act func(context.Context, T) error) error {
	d.progress.of(len(items))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, item := range items {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			defer d.progress.add()
			return act(ctx, item)
		})
	}
	return g.Wait()
}

// welcome makes the accounts that are missing and activates their holders, each at
// the desk of one issuer: two parties, one act.
func (d *demo) welcome(ctx context.Context) error {
	var issuers []*organization
	for _, a := range d.ready.Accounts {
		if slices.Contains(a.Roles, city.RoleIssuer) {
			issuers = append(issuers, d.orgs[syntax.DID(a.DID)])
		}
	}
	for n := range d.count {
		d.residents = append(d.residents, &resident{n: n})
	}
	return together(ctx, d, d.residents, func(ctx context.Context, r *resident) error {
		name := strconv.Itoa(r.n)
		var err error
		if r.session, err = d.account(ctx, d.hostOf(r.n), name); err != nil {
			return err
		}
		if err := d.activate(ctx, issuers[r.n%len(issuers)].session, r.session); err != nil {
			return fmt.Errorf("activate resident %d: %w", r.n, err)
		}
		return d.lookAtClaims(ctx, r)
	})
}

// Of the first forty residents every fourth lives on the city's second PDS, where there
// is one: ten, whatever the number of residents of an earlier run.
const (
	elsewhereEvery = 4
	elsewhereUntil = 40
)

// hostOf is the PDS on which a resident has an account.
func (d *demo) hostOf(n int) string {
	if len(d.ready.Hosts) > 1 && n%elsewhereEvery == 1 && n < elsewhereUntil {
		return d.ready.Hosts[1]
	}
	return d.ready.PDS
}

// account signs an account of this seed up on a host, or finds it there by its handle.
func (d *demo) account(ctx context.Context, host, name string) (*session, error) {
	handle, password := d.randomHandle(name), d.password(name)
	pds, admin := d.pds.at(host), d.ready.AdminPassword
	if other, ok := d.ready.AdminPasswords[host]; ok {
		admin = other
	}
	did, err := pds.resolve(ctx, handle)
	if err != nil {
		return nil, err
	}
	if did == "" {
		if did, err = pds.signUp(ctx, admin, newAccount{Handle: handle, Password: password}); err != nil {
			return nil, err
		}
	}
	return d.pds.session(did, handle, password), nil
}

// activate is done again with a fresh token where the ledger went away after it had
// seen the first one: a token is good once.
func (d *demo) activate(ctx context.Context, issuer, person *session) error {
	const method = "org.city-sync.ledger.activate"
	for try := 1; ; try++ {
		token, err := person.serviceToken(ctx, d.ledger.did, method)
		if err != nil {
			return err
		}
		err = d.ledger.procedure(ctx, d.ledger.as(issuer), method, map[string]any{
			"resident": person.DID, "residentToken": token, "idempotencyKey": d.idempotencyKey("activate", person.DID.String()),
		}, nil)
		if named(err, "InvalidResidentToken") && try < 3 {
			continue
		}
		return err
	}
}

// lookAtClaims reads which of our rows a resident has claimed already.
func (d *demo) lookAtClaims(ctx context.Context, r *resident) error {
	have, err := d.pds.list(ctx, r.DID, lexicons.WorkClaim)
	if err != nil {
		return err
	}
	r.claims = map[string]*row{}
	for _, c := range have {
		var claim citysync.WorkClaim
		if err := json.Unmarshal(c.Value, &claim); err != nil {
			return fmt.Errorf("%s: %w", c.URI, err)
		}
		if row := d.rowOf(claim.Task.Uri); row != nil && row.open() {
			r.claims[c.URI.RecordKey().String()] = row
		}
	}
	return nil
}

func (d *demo) rowOf(task string) *row {
	for _, r := range d.rows {
		if r.ref.Uri == task {
			return r
		}
	}
	return nil
}

// claimsEach is how many claims a resident makes, as far as the city's limit lets them.
const claimsEach = 4

func (d *demo) claimsPerResident(ctx context.Context) (int, error) {
	sets, err := d.pds.list(ctx, d.city, lexicons.GovParameterSet)
	if err != nil {
		return 0, err
	}
	n := claimsEach
	for _, s := range sets {
		var p citysync.GovParameterSet
		if err := json.Unmarshal(s.Value, &p); err != nil {
			return 0, fmt.Errorf("%s: %w", s.URI, err)
		}
		if p.ClaimLimit != nil {
			n = min(claimsEach, int(*p.ClaimLimit))
		}
	}
	return n, nil
}

// slot is one shift of a row with the places that are left in it.
type slot struct {
	row   *row
	shift *citysync.Defs_Shift
	left  int64
}

// orders are the slots that one resident is to claim.
type orders struct {
	by    *resident
	slots []*slot
}

// claimAll gives every resident the claims that are missing. Who claims what follows
// from the seed and from what is left; it is settled before anybody claims, so that
// the order in which claims arrive changes nothing.
func (d *demo) claimAll(ctx context.Context) error {
	want, err := d.claimsPerResident(ctx)
	if err != nil {
		return err
	}
	slots, err := d.slotsLeft(ctx)
	if err != nil {
		return err
	}
	var all []orders
	for _, r := range d.residents {
		// The draw happens for everyone, done or not: a run that goes on draws as the first one did.
		start := d.rng.IntN(len(slots))
		o := orders{by: r}
		for i := range slots {
			s := slots[(start+i)%len(slots)]
			if len(r.claims)+len(o.slots) >= want {
				break
			}
			if s.left > 0 && !o.has(s.row) {
				s.left--
				o.slots = append(o.slots, s)
			}
		}
		if len(o.slots) > 0 {
			all = append(all, o)
		}
	}
	return together(ctx, d, all, func(ctx context.Context, o orders) error {
		for _, s := range o.slots {
			ref, err := d.putClaim(ctx, o.by.session, s.row, s.shift)
			if err != nil {
				return err
			}
			if _, err := d.must(ctx, ref); err != nil {
				return err
			}
			o.by.claims[rkeyOf(ref.Uri)] = s.row
		}
		return nil
	})
}

// has tells whether the resident has this row or is to claim it: nobody takes two
// shifts of one task.
func (o orders) has(r *row) bool {
	for _, claimed := range o.by.claims {
		if claimed == r {
			return true
		}
	}
	return slices.ContainsFunc(o.slots, func(s *slot) bool { return s.row == r })
}

// slotsLeft lists the shifts that are open to claims, one row after the other, so that
// neighbours in the list are different tasks.
func (d *demo) slotsLeft(ctx context.Context) ([]*slot, error) {
	var out []*slot
	now := time.Now()
	for i := range maxShifts {
		for _, r := range d.rows {
			if !r.open() || i >= len(r.task.Shifts) {
				continue
			}
			shift := r.task.Shifts[i]
			if end, err := syntax.ParseDatetimeTime(shift.EndsAt); err != nil || !now.Before(end) {
				continue
			}
			out = append(out, &slot{row: r, shift: shift, left: shift.Slots})
		}
	}
	for _, r := range d.rows {
		if !r.open() {
			continue
		}
		claims, err := d.issuerClaims(ctx, r)
		if err != nil {
			return nil, err
		}
		for _, s := range out {
			for _, c := range claims {
				if s.row == r && s.shift.Id == c.ShiftID && c.Status != "lapsed" {
					s.left--
				}
			}
		}
	}
	if len(out) == 0 {
		// Everything may be done: then nobody needs a slot.
		out = append(out, &slot{row: d.rows[0], shift: &citysync.Defs_Shift{}})
	}
	return out, nil
}

func (d *demo) putClaim(ctx context.Context, by *session, on *row, shift *citysync.Defs_Shift) (*city.Ref, error) {
	return by.put(ctx, lexicons.WorkClaim, lexicons.ClaimKey(on.ref.Uri, shift.Id), newClaim(on, shift))
}

// newClaim is a claim whose time is that of the shift, so that it says nothing more of
// the person's day.
func newClaim(on *row, shift *citysync.Defs_Shift) *citysync.WorkClaim {
	ref := on.ref
	return &citysync.WorkClaim{LexiconTypeID: lexicons.WorkClaim, Task: &ref, ShiftId: shift.Id, CreatedAt: shift.StartsAt}
}

// proveAll lets every resident send a proof for each claim that has none. Only digests
// of it are public.
func (d *demo) proveAll(ctx context.Context) error {
	return together(ctx, d, d.residents, func(ctx context.Context, r *resident) error {
		proofs, err := d.pds.list(ctx, r.DID, lexicons.WorkProof)
		if err != nil {
			return err
		}
		proved := map[string]*record{}
		for _, p := range proofs {
			proved[p.URI.RecordKey().String()] = &p
		}
		for rkey := range r.claims {
			if proved[rkey] != nil {
				continue
			}
			if err := d.prove(ctx, r, rkey); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *demo) prove(ctx context.Context, r *resident, rkey string) error {
	rec, err := d.pds.get(ctx, r.DID, lexicons.WorkClaim, rkey)
	if err != nil {
		return err
	}
	if rec == nil {
		return fmt.Errorf("claim %s of %s is gone", rkey, r.handle)
	}
	var claim citysync.WorkClaim
	if err := json.Unmarshal(rec.Value, &claim); err != nil {
		return fmt.Errorf("%s: %w", rec.URI, err)
	}
	row := d.rowOf(claim.Task.Uri)
	minutes := int64(row.Minutes)
	digest := d.deriveForSeed("evidence", rec.URI.String())
	ref, err := r.put(ctx, lexicons.WorkProof, rkey, &citysync.WorkProof{
		LexiconTypeID: lexicons.WorkProof, Claim: rec.ref(), Task: claim.Task, Minutes: &minutes, CreatedAt: claim.CreatedAt,
		Evidence: []*citysync.WorkProof_Evidence_Elem{{Defs_Commitment: &citysync.Defs_Commitment{
			LexiconTypeID: "org.city-sync.defs#commitment", Alg: "sha256-merkle-v1", Value: digest, Padded: 8,
		}}},
	})
	if err != nil {
		return err
	}
	_, err = d.must(ctx, ref)
	return err
}
