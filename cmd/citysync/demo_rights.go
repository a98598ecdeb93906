package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
)

// Guests of the demonstration: one whose mint an objection holds, one whose work is rejected, one who is forgotten.
const (
	guestObjection = "objection"
	guestRejection = "rejection"
	guestForgotten = "forgotten"
)

// guestKey is the record key of something that a guest's step writes into an organization's repository: one a seed.
func (d *demo) guestKey(n int) string { return d.key(n + int(d.seed%10_000)*100) }

func (d *demo) isGuests(rkey string) bool {
	for n := keyGuests; n < keyGuests+10; n++ {
		if rkey == d.guestKey(n) {
			return true
		}
	}
	return false
}

// findGuests learns who they are where an earlier run made them.
func (d *demo) findGuests(ctx context.Context) error {
	for _, name := range []string{guestObjection, guestRejection, guestForgotten} {
		did, err := d.pds.resolve(ctx, d.randomHandle("guest "+name))
		if err != nil {
			return err
		}
		if did != "" {
			d.guests = append(d.guests, did)
		}
	}
	return nil
}

// ofGuest tells a claim whose verification is a guest's own step.
func (d *demo) ofGuest(c *heldClaim) bool {
	for _, did := range d.guests {
		if c.Claim != "" && authorOf(c.Claim) == did {
			return true
		}
	}
	return false
}

func (d *demo) showRights(ctx context.Context) error {
	r := d.guestRow()
	if r == nil {
		return errors.New("no task is there that one organization alone may verify")
	}
	if err := d.showObjection(ctx, r); err != nil {
		return fmt.Errorf("objection: %w", err)
	}
	if err := d.showUpheld(ctx, r); err != nil {
		return fmt.Errorf("upheld dispute: %w", err)
	}
	return nil
}

// dispute writes one and the city's answer that it is heard.
func (d *demo) dispute(ctx context.Context, by *session, n int, kind string, subject *city.Ref, summary string) (*city.Ref, error) {
	ref, err := d.once(ctx, by, lexicons.GovDispute, d.guestKey(n), func() (any, error) {
		return map[string]any{
			"$type": lexicons.GovDispute, "subject": subject, "kind": "org.city-sync.defs#" + kind, "summary": summary,
			"createdAt": city.Datetime(time.Now().Truncate(time.Hour)),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return ref, d.rules(ctx, ref, "admitted", lexicons.AdmissionSuffix)
}

// rules lets the city say one thing of a dispute, and waits until the ledger has taken it.
func (d *demo) rules(ctx context.Context, dispute *city.Ref, result, suffix string, remedies ...any) error {
	key := lexicons.ResolutionKey(dispute.Uri) + suffix
	ref, err := d.once(ctx, d.orgs[d.city].session, lexicons.GovResolution, key, func() (any, error) {
		out := map[string]any{
			"$type": lexicons.GovResolution, "dispute": dispute, "result": result, "reasons": "The demonstration shows that an answer counts.",
			"createdAt": city.Datetime(time.Now().Truncate(time.Hour)),
		}
		if len(remedies) > 0 {
			out["remedies"] = remedies
		}
		return out, nil
	})
	if err != nil {
		return err
	}
	_, err = d.must(ctx, ref)
	return err
}

// becomes waits until the ledger says a word of a record.
func (d *demo) becomes(ctx context.Context, ref *city.Ref, want func(*explanation) bool) (*explanation, error) {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	for {
		e, err := d.ledger.explain(ctx, ref)
		if err != nil {
			return nil, err
		}
		if e != nil && want(e) {
			return e, nil
		}
		if pause(ctx, decidePoll) != nil {
			return nil, fmt.Errorf("the ledger says of %s: %+v", ref.Uri, e)
		}
	}
}

func minted(e *explanation) bool { return e.Status == "minted" && e.Seq != nil }

// showObjection lets somebody object to a task. While the city has not ruled, nothing of it mints; what was held mints by itself afterwards.
func (d *demo) showObjection(ctx context.Context, r *row) error {
	const what = "an objection that the city admits holds a task's mints until it rules"
	g, err := d.guest(ctx, guestObjection, r.issuer)
	if err != nil {
		return err
	}
	claim, err := d.guestClaim(ctx, g, r)
	if err != nil || claim == nil {
		return err
	}
	if claim.minted() {
		d.show(what, map[string]any{"before": "done"})
		return nil
	}
	about, err := d.dispute(ctx, d.outsider.session, keyGuests, "disputeNonDisplacement", &r.ref, "Somebody says that this was paid work.")
	if err != nil {
		return err
	}
	v, err := d.verificationOf(ctx, r.issuer.session, keyGuests+1, d.verification(toVerify{r, claim, r.terms(claim)}, ""))
	if err != nil {
		return err
	}
	held, err := d.becomes(ctx, v, func(e *explanation) bool { return e.Status == "refused" || e.Status == "minted" })
	if err != nil {
		return err
	}
	if held.Status == "refused" && held.Error != "HeldByDispute" {
		return fmt.Errorf("the mint is refused as %s, not HeldByDispute", held.Error)
	}
	if err := d.rules(ctx, about, "dismissed", ""); err != nil {
		return err
	}
	e, err := d.becomes(ctx, v, minted)
	if err != nil {
		return err
	}
	d.show(what, map[string]any{"held": held.Error, "ruling": "dismissed", "entry": *e.Seq, "credits": r.task.CreditsPerCompletion})
	return nil
}

// showUpheld lets an issuer reject what was done. The city upholds the resident's dispute and names another organization, which verifies
// anew; the pay comes out of the issuer's allocation.
func (d *demo) showUpheld(ctx context.Context, r *row) error {
	const what = "a rejection is disputed, the dispute is upheld, and the work is paid"
	g, err := d.guest(ctx, guestRejection, r.issuer)
	if err != nil {
		return err
	}
	claim, err := d.guestClaim(ctx, g, r)
	if err != nil || claim == nil {
		return err
	}
	if claim.minted() {
		d.show(what, map[string]any{"before": "done"})
		return nil
	}
	var other *organization
	for _, a := range d.ready.Accounts {
		o := d.orgs[syntax.DID(a.DID)]
		if o.DID != r.issuer.DID && slices.Contains(a.Roles, city.RoleIssuer) {
			other = o
			break
		}
	}
	if other == nil {
		return errors.New("the city has one issuer only: nobody else can verify")
	}
	w := toVerify{r, claim, r.terms(claim)}
	no := d.verification(w, "")
	no.Outcome, no.Credits, no.Methods, no.Criteria = "rejected", 0, []string{}, nil
	no.Subject = blind(claim.Token) // whose work was rejected is nobody's business
	rejection, err := d.verificationOf(ctx, r.issuer.session, keyGuests+2, no)
	if err != nil {
		return err
	}
	if _, err := d.must(ctx, rejection); err != nil {
		return err
	}
	about, err := d.dispute(ctx, g.session, keyGuests+3, "disputeIssuance", rejection, "The work was done.")
	if err != nil {
		return err
	}
	if err := d.rules(ctx, about, "upheld", "", map[string]any{"kind": "verify-anew", "org": other.DID}); err != nil {
		return err
	}
	anew := d.verification(w, "")
	anew.Supersedes = rejection
	v, err := d.verificationOf(ctx, other.session, keyGuests+4, anew)
	if err != nil {
		return err
	}
	e, err := d.becomes(ctx, v, minted)
	if err != nil {
		return err
	}
	has, err := d.balance(ctx, g)
	if err != nil {
		return err
	}
	if has.Credits != r.task.CreditsPerCompletion {
		return fmt.Errorf("the resident has %d credits, not %d", has.Credits, r.task.CreditsPerCompletion)
	}
	d.show(what, map[string]any{"issuer": r.issuer.ID, "verifier": other.ID, "entry": *e.Seq, "credits": has.Credits})
	return nil
}

// erase asks, gets a word, and says it. A ledger that went away between has forgotten the word or the person.
func (d *demo) erase(ctx context.Context, g *resident) error {
	const method = "org.city-sync.ledger.eraseAccount"
	for try := 1; ; try++ {
		var word struct{ Status, Confirm string }
		err := d.ledger.procedure(ctx, d.ledger.as(g.session), method, map[string]any{}, &word)
		if err == nil {
			err = d.ledger.procedure(ctx, d.ledger.as(g.session), method, map[string]any{"confirm": word.Confirm}, &word)
		}
		switch {
		case named(err, "NotActivated"):
			return nil
		case named(err, "NotConfirmed") && try < 5:
			continue
		case err == nil && word.Status != "erased":
			err = fmt.Errorf("the ledger answered %s", word.Status)
		}
		return err
	}
}

// showForgotten lets somebody earn and then ask to be forgotten: the credits expire, and the ledger does not know them any more.
func (d *demo) showForgotten(ctx context.Context) error {
	const what = "a person is forgotten, and the log still holds"
	r := d.guestRow()
	s, err := d.account(ctx, d.ready.PDS, "guest "+guestForgotten)
	if err != nil {
		return err
	}
	g := &resident{session: s, n: -1, claims: map[string]*row{}}
	shift := r.task.Shifts[len(r.task.Shifts)-1]
	before, err := d.pds.get(ctx, g.DID, lexicons.WorkClaim, lexicons.ClaimKey(r.ref.Uri, shift.Id))
	if err != nil {
		return err
	}
	if before != nil {
		if _, err := d.balance(ctx, g); named(err, "NotActivated") {
			d.show(what, map[string]any{"before": "done"})
			return nil
		}
	}
	if err := d.activate(ctx, r.issuer.session, g.session); err != nil {
		return err
	}
	claim, err := d.guestClaim(ctx, g, r)
	if err != nil || claim == nil {
		return err
	}
	v, err := d.verificationOf(ctx, r.issuer.session, keyGuests+5, d.verification(toVerify{r, claim, r.terms(claim)}, ""))
	if err != nil {
		return err
	}
	if _, err := d.becomes(ctx, v, minted); err != nil {
		return err
	}
	has, err := d.balance(ctx, g)
	if err != nil {
		return err
	}
	if err := d.erase(ctx, g); err != nil {
		return err
	}
	if _, err := d.balance(ctx, g); !named(err, "NotActivated") {
		return fmt.Errorf("the ledger still answers for one who was forgotten: %w", err)
	}
	d.show(what, map[string]any{"expired": has.Credits})
	return nil
}
