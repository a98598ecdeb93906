package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	lexutil "github.com/bluesky-social/indigo/lex/util"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// heldClaim is a claim as the ledger shows it to the issuer.
type heldClaim struct {
	Task     string           `json:"task"`
	TaskCID  string           `json:"taskCid"`
	ShiftID  string           `json:"shiftId"`
	Token    lexutil.LexBytes `json:"claimToken"`
	Claim    string           `json:"claim"`
	ClaimCID string           `json:"claimCid"`
	Status   string           `json:"status"`
	Proof    string           `json:"proof"`

	ProofCommitment json.RawMessage `json:"proofCommitment"` // of a sealed claim
}

func (c *heldClaim) minted() bool { return c.Status == "minted" }
func (c *heldClaim) proved() bool { return c.Proof != "" || c.ProofCommitment != nil }
func (c *heldClaim) stands() bool { return c.Status == "held" || c.Status == "entered" }

// issuerClaims asks the ledger for the claims of a row's task, as its issuer.
func (d *demo) issuerClaims(ctx context.Context, r *row) ([]heldClaim, error) {
	var all []heldClaim
	cursor := ""
	for {
		params := url.Values{"task": {r.ref.Uri}, "limit": {"100"}}
		if cursor != "" {
			params.Set("cursor", cursor)
		}
		var page struct {
			Claims []heldClaim `json:"claims"`
			Cursor string      `json:"cursor"`
		}
		if err := d.ledger.query(ctx, d.ledger.as(r.issuer.session), "org.city-sync.ledger.listClaims", params, &page); err != nil {
			return nil, fmt.Errorf("claims of task %s: %w", r.ID, err)
		}
		all = append(all, page.Claims...)
		if page.Cursor == "" || page.Cursor == cursor || len(all) > maxListed {
			return all, nil
		}
		cursor = page.Cursor
	}
}

// toVerify is a verification that is to be written: whose claim, on which row.
type toVerify struct {
	row   *row
	claim *heldClaim
	terms *citysync.WorkTask // the version the claim froze
}

// verifyAll lets each issuer verify what was proved, in shuffled batches, so that the
// time of a verification pairs it with no proof. Where the entry's level asks for it
// the organization that its accreditation names verifies too, in its own repository.
func (d *demo) verifyAll(ctx context.Context) error {
	byIssuer := map[syntax.DID][]toVerify{}
	var issuers []*organization
	for _, r := range d.rows {
		if !r.claimable() {
			continue
		}
		claims, err := d.issuerClaims(ctx, r)
		if err != nil {
			return err
		}
		if !slices.Contains(issuers, r.issuer) {
			issuers = append(issuers, r.issuer)
		}
		for i := range claims {
			if c := &claims[i]; c.stands() && c.proved() && !d.ofGuest(c) {
				byIssuer[r.issuer.DID] = append(byIssuer[r.issuer.DID], toVerify{r, c, r.terms(c)})
			}
		}
	}
	for _, issuer := range issuers {
		if err := d.verifyFor(ctx, issuer, byIssuer[issuer.DID]); err != nil {
			return fmt.Errorf("%s: %w", issuer.ID, err)
		}
	}
	return nil
}

// terms are the version of the task that a claim froze. An edited task's older version
// is no longer in the repository; its pay is that of the catalog's row.
func (r *row) terms(c *heldClaim) *citysync.WorkTask {
	if c.TaskCID == r.ref.Cid {
		return r.task
	}
	older := *r.task
	older.CreditsPerCompletion = r.Credits
	return &older
}

func (d *demo) verifyFor(ctx context.Context, issuer *organization, work []toVerify) error {
	if len(work) == 0 {
		return nil
	}
	cosigner, err := d.cosigner(ctx, issuer)
	if err != nil {
		return err
	}
	own, err := d.verified(ctx, issuer.DID)
	if err != nil {
		return err
	}
	var theirs map[string]*city.Ref
	if cosigner != nil {
		if theirs, err = d.verified(ctx, cosigner.DID); err != nil {
			return err
		}
	}
	shuffle(work)
	var first, second []newRecord
	var written []*city.Ref
	for _, w := range work {
		name := subjectOf(w)
		level := w.row.entry.VerificationLevel
		if level >= 3 && cosigner != nil && theirs[name] == nil {
			second = append(second, newRecord{collection: lexicons.WorkVerification, value: d.verification(w, "")})
		}
		if ref := own[name]; ref != nil {
			written = append(written, ref)
		} else {
			named := ""
			if level >= 3 && cosigner != nil {
				named = cosigner.DID.String()
			}
			first = append(first, newRecord{collection: lexicons.WorkVerification, value: d.verification(w, named)})
		}
	}
	refs, err := issuer.createAll(ctx, first)
	if err != nil {
		return err
	}
	if len(second) > 0 {
		shuffle(second)
		if _, err := cosigner.createAll(ctx, second); err != nil {
			return err
		}
	}
	return together(ctx, d, append(refs, written...), func(ctx context.Context, ref *city.Ref) error {
		e, err := d.must(ctx, ref)
		if err == nil && e.Status != "minted" {
			err = fmt.Errorf("verification %s is %s, not minted", ref.Uri, e.Status)
		}
		return err
	})
}

// shuffle does not follow from the seed: an order that anyone can compute hides nothing.
func shuffle[T any](items []T) {
	//nolint:gosec // the runtime's generator is seeded by the system for every process
	rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
}

// cosigner is the first organization that the issuer's accreditation names as verifier.
func (d *demo) cosigner(ctx context.Context, issuer *organization) (*organization, error) {
	rec, err := d.pds.get(ctx, d.city, lexicons.RegistryAccreditation, lexicons.AccreditationKey(issuer.DID.String()))
	if err != nil || rec == nil {
		return nil, err
	}
	var a citysync.RegistryAccreditation
	if err := json.Unmarshal(rec.Value, &a); err != nil {
		return nil, fmt.Errorf("%s: %w", rec.URI, err)
	}
	for _, did := range a.Delegates {
		if o := d.orgs[syntax.DID(did)]; o != nil {
			return o, nil
		}
	}
	return nil, nil
}

// verified are an organization's verifications by the subject they name, without our tries.
func (d *demo) verified(ctx context.Context, org syntax.DID) (map[string]*city.Ref, error) {
	list, err := d.pds.list(ctx, org, lexicons.WorkVerification)
	if err != nil {
		return nil, err
	}
	out := map[string]*city.Ref{}
	for _, rec := range list {
		if key := rec.URI.RecordKey().String(); key == d.key(keyTryLowerPay) || key == d.key(keyTrySecond) || d.isGuests(key) {
			continue
		}
		var v citysync.WorkVerification
		if err := json.Unmarshal(rec.Value, &v); err != nil {
			return nil, fmt.Errorf("%s: %w", rec.URI, err)
		}
		switch {
		case v.Subject.WorkVerification_PublicClaim != nil:
			out[v.Subject.WorkVerification_PublicClaim.Claim.Uri] = rec.ref()
		case v.Subject.WorkVerification_BlindClaim != nil:
			out[string(v.Subject.WorkVerification_BlindClaim.BlindedSubject.Value)] = rec.ref()
		}
	}
	return out, nil
}

// subjectOf is how a verification of the claim names it: openly for a public task, by
// its token otherwise.
func subjectOf(w toVerify) string {
	if w.row.entry.Sensitivity == city.Public {
		return w.claim.Claim
	}
	return string(w.claim.Token)
}

func (d *demo) verification(w toVerify, cosigner string) *citysync.WorkVerification {
	v := &citysync.WorkVerification{
		LexiconTypeID: lexicons.WorkVerification,
		Task:          &city.Ref{Uri: w.claim.Task, Cid: w.claim.TaskCID},
		ShiftId:       w.claim.ShiftID,
		Outcome:       "approved",
		Credits:       w.terms.CreditsPerCompletion,
		Level:         w.row.entry.VerificationLevel,
		Methods:       city.Methods(int(w.row.entry.VerificationLevel)),
		CreatedAt:     city.Datetime(time.Now().Truncate(time.Hour)),
	}
	for _, c := range w.row.entry.SuccessCriteria {
		v.Criteria = append(v.Criteria, &citysync.Defs_CriterionResult{Id: c.Id, Met: true})
	}
	if cosigner != "" {
		v.CoSigners = []string{cosigner}
	}
	if w.row.entry.Sensitivity == city.Public {
		open := &citysync.WorkVerification_PublicClaim{
			LexiconTypeID: lexicons.WorkVerification + "#publicClaim", Claim: &city.Ref{Uri: w.claim.Claim, Cid: w.claim.ClaimCID},
		}
		v.Subject = &citysync.WorkVerification_Subject{WorkVerification_PublicClaim: open}
		return v
	}
	v.Subject = blind(w.claim.Token)
	return v
}

// blind names a claim by its token.
func blind(token lexutil.LexBytes) *citysync.WorkVerification_Subject {
	return &citysync.WorkVerification_Subject{WorkVerification_BlindClaim: &citysync.WorkVerification_BlindClaim{
		LexiconTypeID: lexicons.WorkVerification + "#blindClaim",
		BlindedSubject: &citysync.Defs_BlindedSubject{
			LexiconTypeID: "org.city-sync.defs#blindedSubject", Alg: "hmac-sha256-context-v1", Value: token,
		},
	}}
}
