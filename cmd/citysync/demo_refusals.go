package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// try is one thing that must be refused, and how it was.
type try struct {
	What    string
	Want    string
	Got     string // the refusal's name, or what happened instead
	Message string
	Figures map[string]any
}

// refusedAs waits for the ledger's decision on a record that must not count.
func (d *demo) refusedAs(ctx context.Context, want, what string, ref *city.Ref) error {
	e, err := d.decided(ctx, ref)
	if err != nil {
		return err
	}
	got := e.Error
	if e.Status != "refused" {
		got = e.Status
	}
	d.tries = append(d.tries, try{What: what, Want: want, Got: got, Message: e.Message, Figures: e.Figures})
	d.progress.add()
	return nil
}

// answeredAs notes the answer of a procedure that must refuse.
func (d *demo) answeredAs(want, what string, err error) error {
	got, message := "accepted", ""
	var figures map[string]any
	if err != nil {
		answer := answerOf(err)
		if answer == nil {
			return err
		}
		got, message, figures = answer.Name, answer.Message, answer.Figures
	}
	d.tries = append(d.tries, try{What: what, Want: want, Got: got, Message: message, Figures: figures})
	d.progress.add()
	return nil
}

// missingRefusals is an error where a try was not refused, or under another name.
func (d *demo) missingRefusals() error {
	var errs []error
	for _, t := range d.tries {
		if t.Got != t.Want {
			errs = append(errs, fmt.Errorf("%s: want %s, got %s %s", t.What, t.Want, t.Got, t.Message))
		}
	}
	return errors.Join(errs...)
}

// once writes a try where it does not stand yet, and gives its address.
func (d *demo) once(ctx context.Context, by *session, collection, rkey string, value func() (any, error)) (*city.Ref, error) {
	rec, err := d.pds.get(ctx, by.DID, collection, rkey)
	if err != nil {
		return nil, err
	}
	if rec != nil {
		return rec.ref(), nil
	}
	v, err := value()
	if err != nil {
		return nil, err
	}
	return by.put(ctx, collection, rkey, v)
}

func (d *demo) tryAsOrganizations(ctx context.Context) error {
	var err error
	if d.outsider, err = d.newOutsider(ctx); err != nil {
		return err
	}
	for _, do := range []func(context.Context) error{d.tryTooBig, d.tryStranger, d.tryUnlisted, d.tryOwnClaim, d.tryPriceless} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) newOutsider(ctx context.Context) (*resident, error) {
	s, err := d.account(ctx, d.ready.PDS, "outsider")
	if err != nil {
		return nil, err
	}
	return &resident{session: s, n: -1}, nil
}

// tryTooBig publishes a task one slot too big for what its issuer has left: the one
// that the city folder names, or else the first row's.
func (d *demo) tryTooBig(ctx context.Context) error {
	r, slots, err := d.tooBig(ctx)
	if err != nil {
		return err
	}
	ref, err := d.once(ctx, r.issuer.session, lexicons.WorkTask, d.key(keyTryTooBig), func() (any, error) {
		if (slots+9999)/10000 > 100 {
			return nil, fmt.Errorf("%d slots fit in no task", slots)
		}
		task := *r.task
		task.Shifts = d.shifts(slots, r.Minutes, time.Now())
		return &task, nil
	})
	if err != nil {
		return err
	}
	return d.refusedAs(ctx, "AllocationExceeded", fmt.Sprintf("%s publishes %d more slots of %s", r.issuer.ID, slots, r.ID), ref)
}

func (d *demo) tooBig(ctx context.Context) (*row, int, error) {
	for _, t := range d.ready.Plan.Tries {
		for _, r := range d.rows {
			if r.ID == t.Entry {
				return r, t.Slots, nil
			}
		}
	}
	// The dearest entry needs the fewest slots.
	r := slices.MaxFunc(d.rows, func(a, b *row) int { return int(a.Credits - b.Credits) })
	c, err := d.ledger.capacity(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, i := range c.Issuers {
		if i.DID == r.issuer.DID {
			room := i.Allocation - i.Minted - i.Outstanding
			return r, int(room/r.Credits) + 1, nil
		}
	}
	return nil, 0, fmt.Errorf("the ledger names no allocation of %s", r.issuer.ID)
}

func (d *demo) tryStranger(ctx context.Context) error {
	r := d.rows[0]
	ref, err := d.once(ctx, d.outsider.session, lexicons.WorkTask, d.key(keyTryStranger), func() (any, error) {
		return d.newTask(r, time.Now()), nil
	})
	if err != nil {
		return err
	}
	return d.refusedAs(ctx, "NotAccredited", "a stranger publishes a task", ref)
}

// tryUnlisted publishes a task on a draft that the city has not approved.
func (d *demo) tryUnlisted(ctx context.Context) error {
	r := d.rows[0]
	draft, err := d.once(ctx, r.issuer.session, lexicons.CatalogEntry, d.key(keyTryDraft), func() (any, error) {
		entry := *r.entry
		entry.Origin, entry.Decision = nil, nil
		entry.Title += " (draft)"
		return &entry, nil
	})
	if err != nil {
		return err
	}
	ref, err := d.once(ctx, r.issuer.session, lexicons.WorkTask, d.key(keyTryUnlisted), func() (any, error) {
		task := d.newTask(r, time.Now())
		task.Entry = draft
		return task, nil
	})
	if err != nil {
		return err
	}
	return d.refusedAs(ctx, "EntryNotActive", r.issuer.ID+" publishes a task on a draft", ref)
}

// firstOpen is the first row that residents can claim.
func (d *demo) firstOpen() *row { return d.rows[slices.IndexFunc(d.rows, (*row).open)] }

func (d *demo) tryOwnClaim(ctx context.Context) error {
	r := d.firstOpen()
	ref, err := d.claimOnce(ctx, r.issuer.session, r)
	if err != nil {
		return err
	}
	return d.refusedAs(ctx, "SelfVerification", r.issuer.ID+" claims its own task", ref)
}

func (d *demo) claimOnce(ctx context.Context, by *session, on *row) (*city.Ref, error) {
	shift := on.task.Shifts[0]
	return d.once(ctx, by, lexicons.WorkClaim, lexicons.ClaimKey(on.ref.Uri, shift.Id), func() (any, error) {
		return newClaim(on, shift), nil
	})
}

func (d *demo) tryPriceless(ctx context.Context) error {
	var redeemer *organization
	for _, a := range d.ready.Accounts {
		if redeemer == nil && slices.Contains(a.Roles, city.RoleRedeemer) {
			redeemer = d.orgs[syntax.DID(a.DID)]
		}
	}
	if redeemer == nil {
		return errors.New("the city has no redeemer")
	}
	ref, err := d.once(ctx, redeemer.session, lexicons.OfferOffering, d.key(keyTryPriceless), func() (any, error) {
		return &citysync.OfferOffering{
			LexiconTypeID: lexicons.OfferOffering, Title: "Something that is free anyway", UnitLabel: "visit", CreditsPerUnit: 1,
			Capacity: &citysync.OfferOffering_Capacity{PhysicalMonth: 10, MarginalMonth: 10, CommittedMonth: 10},
			Epoch:    d.ready.Epoch.Key, Book: city.Book, PublicPriceMinor: 0, Currency: "XXX",
		}, nil
	})
	if err != nil {
		return err
	}
	return d.refusedAs(ctx, "PublicPriceZero", redeemer.ID+" offers what has no price", ref)
}

func (d *demo) tryAsResidents(ctx context.Context) error {
	r := d.firstOpen()
	ref, err := d.claimOnce(ctx, d.outsider.session, r)
	if err != nil {
		return err
	}
	if err := d.refusedAs(ctx, "NotActivated", "somebody who was not activated claims "+r.ID, ref); err != nil {
		return err
	}
	i := slices.IndexFunc(d.rows, func(r *row) bool { return r.entry.Sensitivity == city.Sealed && r.refused == nil })
	if i < 0 {
		return nil
	}
	if ref, err = d.claimOnce(ctx, d.residents[0].session, d.rows[i]); err != nil {
		return err
	}
	return d.refusedAs(ctx, "SealedTask", "a resident claims "+d.rows[i].ID+" in public", ref)
}

// tryLowerPay edits a task to a lower pay after it was claimed, verifies the claim at
// that pay, and puts the pay back. The edit is a version of its own: it asks for less,
// and putting it back asks for the same again, so the reservation ends as it began.
func (d *demo) tryLowerPay(ctx context.Context) error {
	r, minutes, credits, err := d.lowerPay()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%s verifies a claim of %s at %d credits, not %d", r.issuer.ID, r.ID, credits, r.Credits)
	rec, err := d.pds.get(ctx, r.issuer.DID, lexicons.WorkVerification, d.key(keyTryLowerPay))
	if err != nil {
		return err
	}
	if rec == nil {
		written, err := d.editAndVerify(ctx, r, minutes, credits)
		if err != nil {
			return err
		}
		rec = written
	}
	if err := d.refusedAs(ctx, "TermsFrozen", what, rec.ref()); err != nil {
		return err
	}
	return d.putBack(ctx, r)
}

// lowerPay finds a row whose pay can go down inside its tier: fewer minutes, so that
// rate × minutes ÷ 60 stays whole.
func (d *demo) lowerPay() (r *row, minutes int, credits int64, err error) {
	for _, r := range d.rows {
		if !r.open() {
			continue
		}
		rate := r.entry.CreditsPerHour
		for m := r.Minutes - 1; m > 0; m-- {
			if rate*int64(m)%60 == 0 {
				return r, m, rate * int64(m) / 60, nil
			}
		}
	}
	return nil, 0, 0, errors.New("no open task can pay less within its tier")
}

func (d *demo) editAndVerify(ctx context.Context, r *row, minutes int, credits int64) (*record, error) {
	claims, err := d.issuerClaims(ctx, r)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(claims, func(c heldClaim) bool { return c.stands() })
	if i < 0 {
		return nil, fmt.Errorf("no claim of %s stands: nothing to verify at a lower pay", r.ID)
	}
	edited := *r.task
	edited.CreditsPerCompletion = credits
	edited.Shifts = nil
	start := time.Now().Add(-shiftLead).Truncate(time.Minute)
	for _, s := range r.task.Shifts {
		short := *s
		short.StartsAt = city.Datetime(start)
		short.EndsAt = city.Datetime(start.Add(time.Duration(minutes) * time.Minute))
		edited.Shifts = append(edited.Shifts, &short)
	}
	ref, err := r.issuer.put(ctx, lexicons.WorkTask, rkeyOf(r.ref.Uri), &edited)
	if err != nil {
		return nil, err
	}
	if _, err := d.must(ctx, ref); err != nil {
		return nil, err
	}
	w := toVerify{r, &claims[i], &edited}
	v := d.verification(w, "")
	v.Task, v.Credits = ref, credits
	tried, err := r.issuer.put(ctx, lexicons.WorkVerification, d.key(keyTryLowerPay), v)
	if err != nil {
		return nil, err
	}
	return &record{URI: syntax.ATURI(tried.Uri), CID: tried.Cid}, nil
}

// putBack gives the task its pay and its shifts again. It is a third version, since
// the ledger has moved on from the first; claims of the first keep its terms.
func (d *demo) putBack(ctx context.Context, r *row) error {
	rec, err := d.pds.get(ctx, r.issuer.DID, lexicons.WorkTask, rkeyOf(r.ref.Uri))
	if err != nil {
		return err
	}
	if rec == nil {
		return fmt.Errorf("task %s is gone", r.ID)
	}
	var now citysync.WorkTask
	if err := json.Unmarshal(rec.Value, &now); err != nil {
		return fmt.Errorf("%s: %w", rec.URI, err)
	}
	if now.CreditsPerCompletion == r.Credits {
		r.ref, r.task = *rec.ref(), &now
		return nil
	}
	restored := *r.task
	if restored.CreditsPerCompletion != r.Credits { // a run that was cut short left the edit: its shifts are long over
		restored.CreditsPerCompletion = r.Credits
		restored.Shifts = d.shifts(r.Slots, r.Minutes, time.Now())
	}
	note := r.entry.Summary + " (terms as first published)"
	restored.Summary = &note
	ref, err := r.issuer.put(ctx, lexicons.WorkTask, rkeyOf(r.ref.Uri), &restored)
	if err != nil {
		return err
	}
	if _, err := d.must(ctx, ref); err != nil {
		return err
	}
	r.ref, r.task = *ref, &restored
	return nil
}

// trySecondMint verifies a claim again that was minted.
func (d *demo) trySecondMint(ctx context.Context) error {
	for _, r := range d.rows {
		if !r.open() {
			continue
		}
		rec, err := d.pds.get(ctx, r.issuer.DID, lexicons.WorkVerification, d.key(keyTrySecond))
		if err != nil {
			return err
		}
		if rec != nil {
			return d.refusedAs(ctx, "AlreadyMinted", r.issuer.ID+" verifies a claim a second time", rec.ref())
		}
	}
	for _, r := range d.rows {
		if !r.open() {
			continue
		}
		claims, err := d.issuerClaims(ctx, r)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(claims, func(c heldClaim) bool { return c.minted() })
		if i < 0 {
			continue
		}
		again := d.verification(toVerify{r, &claims[i], r.terms(&claims[i])}, "")
		ref, err := r.issuer.put(ctx, lexicons.WorkVerification, d.key(keyTrySecond), again)
		if err != nil {
			return err
		}
		return d.refusedAs(ctx, "AlreadyMinted", r.issuer.ID+" verifies a claim a second time", ref)
	}
	return errors.New("nothing was minted that could be verified a second time")
}
