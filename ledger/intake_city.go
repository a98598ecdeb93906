package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// What only the city can say counts from the city's DID alone.
func (t *turn) cityOnly(ctx context.Context, f *fact, then func(context.Context, *fact) error) error {
	if f.DID != t.cfg.City.String() {
		return xrpc.Errorf(403, rules.NotAuthorized, "only %s can say this", t.cfg.City)
	}
	return then(ctx, f)
}

// plain records are known and cited; they make no entry.
func (t *turn) plain(ctx context.Context, f *fact) error {
	return t.accept(ctx, f, statusAccepted, nil)
}

func (t *turn) parameterSet(ctx context.Context, f *fact) error {
	var r citysync.GovParameterSet
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	if err := t.decided(ctx, r.Decision.Uri, r.Decision.Cid); err != nil {
		return err
	}
	founding := "at://" + t.cfg.City.String() + "/" + lexicons.GovDecision + "/founding"
	if r.Decision.Uri == founding && len(t.b.state.Epochs()) > 0 {
		return xrpc.Errorf(403, "FoundingClosed", "an epoch is open: parameters change by a committee's decision")
	}
	p, err := parameters(&r)
	if err != nil {
		return err
	}
	entries, err := t.decide(ctx, rules.SetParameters{Now: t.b.now, Record: cause(f), Parameters: *p})
	if err != nil {
		return err
	}
	return t.accept(ctx, f, statusAccepted, seqOf(entries))
}

// decided waits for a decision of the city.
func (t *turn) decided(ctx context.Context, uri, cid string) error {
	u, err := syntax.ParseATURI(uri)
	if err != nil || u.Authority().String() != t.cfg.City.String() || u.Collection().String() != lexicons.GovDecision {
		return xrpc.Errorf(403, rules.NotAuthorized, "the record cites no decision of %s", t.cfg.City)
	}
	d, err := t.counted(ctx, uri, cid)
	if err == nil && d == nil {
		err = xrpc.Errorf(403, rules.NotAuthorized, "the decision it cites was refused")
	}
	return err
}

func (t *turn) accreditation(ctx context.Context, f *fact) error {
	var r citysync.RegistryAccreditation
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	if f.RKey != r.Org && f.RKey != lexicons.Key(lexicons.RegistryAccreditation, r.Org) {
		return xrpc.InvalidRequest("the key is not that of %s", r.Org)
	}
	// Who accredits is nobody's issuer, redeemer or verifier: it would mint by its own word alone.
	if r.Org == t.cfg.City.String() || slices.Contains(r.Delegates, t.cfg.City.String()) {
		return xrpc.Errorf(403, "SelfAccreditation", "the city accredits others, never itself")
	}
	if err := t.decided(ctx, r.Decision.Uri, r.Decision.Cid); err != nil {
		return err
	}
	_, known := t.b.seq.bound[syntax.DID(r.Org)]
	if err := t.bindRole(ctx, f, &r); err != nil || known {
		return err
	}
	return t.crossed(ctx, r.Org)
}

// crossing is how much later than an organization's records its first accreditation may come and still count for them: hosts are read side
// by side, and neither waits for the other.
const crossing = time.Hour

// crossed decides anew on what an organization published shortly before the ledger read that it is accredited.
func (t *turn) crossed(ctx context.Context, org string) error {
	const list = `delete from status s using fact f where f.did = $1 and (s.uri, s.cid) = (f.uri, f.cid) and s.name = $2 and s.at > $3
		and exists (select from current c where c.did = f.did and c.coll = f.coll and c.rkey = f.rkey and c.cid = f.cid)
		returning f.uri, f.cid, f.ord`
	rows, err := t.b.tx.Query(ctx, list, org, rules.NotAccredited, t.b.now.Add(-crossing))
	if err != nil {
		return fmt.Errorf("records of %s before its accreditation: %w", org, err)
	}
	type early struct {
		URI, CID string
		Ord      int64
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[early])
	if err != nil {
		return fmt.Errorf("records of %s before its accreditation: %w", org, err)
	}
	slices.SortFunc(found, func(a, b early) int { return cmp.Compare(a.Ord, b.Ord) })
	for _, e := range found {
		f, err := getFact(ctx, t.b.tx, e.URI, e.CID)
		if err != nil {
			return err
		}
		if err := t.process(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (t *turn) bindRole(ctx context.Context, f *fact, r *citysync.RegistryAccreditation) error {
	cmd := rules.BindRole{
		Now: t.b.now, Record: cause(f), Org: syntax.DID(r.Org), Roles: r.Roles, Status: r.Status, Categories: r.Categories,
		PerEpochLimit: value(r.PerEpochLimit),
	}
	for _, d := range r.Delegates {
		cmd.Delegates = append(cmd.Delegates, syntax.DID(d))
	}
	var err error
	if cmd.ValidFrom, err = instant(r.ValidFrom); err != nil {
		return err
	}
	if cmd.ValidUntil, err = instantOrNone(r.ValidUntil); err != nil {
		return err
	}
	entries, err := t.decide(ctx, cmd)
	if err != nil {
		return err
	}
	return t.accept(ctx, f, statusAccepted, seqOf(entries))
}

// catalogEntry: a draft is only known. The city's copy counts once its rules, its decision and the draft it copies are here.
func (t *turn) catalogEntry(ctx context.Context, f *fact) error {
	if f.DID != t.cfg.City.String() {
		return t.accept(ctx, f, statusAccepted, nil)
	}
	var r citysync.CatalogEntry
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	if r.Decision == nil || r.Origin == nil {
		return xrpc.Errorf(400, rules.EntryNotActive, "a copy of the city names its decision and the draft it approves")
	}
	if err := t.decided(ctx, r.Decision.Uri, r.Decision.Cid); err != nil {
		return err
	}
	for _, ref := range []struct{ uri, cid string }{{r.RuleSet.Uri, r.RuleSet.Cid}, {r.Origin.Uri, r.Origin.Cid}} {
		parent, err := t.counted(ctx, ref.uri, ref.cid)
		if err != nil {
			return err
		}
		if parent == nil {
			return xrpc.Errorf(400, rules.EntryNotActive, "a record it rests on was refused")
		}
	}
	return t.accept(ctx, f, statusAccepted, nil)
}

// entryTerms are what a task needs of the entry it cites. Only the city's copy can be active.
func (t *turn) entryTerms(ctx context.Context, uri, cid, epoch string) (rules.CatalogEntry, error) {
	// What is not an active copy of the city's has no terms. The rules refuse it for that, not for the terms it lacks.
	out := rules.CatalogEntry{Ref: entry.Ref{URI: uri, CID: cid}, Level: 1, Sensitivity: entry.SensitivityPseudonymous}
	u, err := syntax.ParseATURI(uri)
	if err != nil || u.Authority().String() != t.cfg.City.String() || u.Collection().String() != lexicons.CatalogEntry {
		return out, nil
	}
	f, err := t.counted(ctx, uri, cid)
	if err != nil || f == nil {
		return out, err
	}
	var r citysync.CatalogEntry
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return out, err
	}
	out.Tier, out.Level, out.Sensitivity = r.Tier, r.VerificationLevel, r.Sensitivity
	out.MinMinutes, out.MaxMinutes = value(r.MinMinutes), value(r.MaxMinutes)
	if r.FunctionType != nil { // the kind of work: a token by its name, or the city's own word
		out.Category = (*r.FunctionType)[strings.LastIndexByte(*r.FunctionType, '#')+1:]
	}
	if out.Active, err = t.stands(ctx, f); err != nil || !out.Active {
		return out, err
	}
	side, err := currentFact(ctx, t.b.tx, f.DID, lexicons.CatalogEntryStatus, f.RKey)
	if err != nil || side == nil {
		return out, err
	}
	var s citysync.CatalogEntryStatus
	if checkRecord(side.Coll, side.RKey, side.CBOR) != nil || decodeRecord(side.CBOR, &s) != nil {
		return out, nil // refused when it came: it says nothing
	}
	later := s.EffectiveEpoch != nil && *s.EffectiveEpoch > epoch // keys of epochs sort by time
	out.Active = s.Status == "active" || later
	return out, nil
}

func parameters(r *citysync.GovParameterSet) (*entry.Parameters, error) {
	if r.CapPolicy == nil || r.CapPolicy.GovParameterSet_CapFormula == nil {
		return nil, xrpc.Errorf(400, rules.ParametersInvalid, "no rule of this version computes that cap policy")
	}
	c := r.CapPolicy.GovParameterSet_CapFormula
	p := &entry.Parameters{
		EffectiveEpoch: r.EffectiveEpoch, DormancyMonths: r.DormancyMonths, KMin: r.KMin,
		WarmUpMonths: valueOr(r.WarmUpMonths, 5), ClaimLimit: valueOr(r.ClaimLimit, 5),
		ClaimLapseDays: valueOr(r.ClaimLapseDays, 14), VotesPerCredit: valueOr(r.VotesPerCredit, 1),
		CapPolicy: entry.CapPolicy{
			CapPhaseBps: c.CapPhaseBps, CapShareBps: c.CapShareBps, AscrMaxMilli: c.AscrMaxMilli, DeltaCapBps: c.DeltaCapBps,
			RStartBps: c.RStartBps, DeltaStartBps: c.DeltaStartBps,
		},
	}
	for _, e := range r.Epochs {
		plan := entry.EpochPlan{Key: e.Key, TZ: e.Tz, Phase: e.Phase}
		if e.Book != nil {
			plan.Book = *e.Book
		}
		var err error
		if plan.StartsAt, plan.EndsAt, err = span(e.StartsAt, e.EndsAt); err != nil {
			return nil, err
		}
		for _, m := range e.Months {
			var month entry.Month
			if month.StartsAt, month.EndsAt, err = span(m.StartsAt, m.EndsAt); err != nil {
				return nil, err
			}
			plan.Months = append(plan.Months, month)
		}
		p.Epochs = append(p.Epochs, plan)
	}
	for _, t := range r.Tiers {
		p.Tiers = append(p.Tiers, entry.Tier{N: t.N, CreditsPerHour: t.CreditsPerHour, BandBps: t.BandBps})
	}
	if r.IssuerSplit != nil && r.IssuerSplit.Kind != "equal" {
		if r.IssuerSplit.Kind != "weights" || len(r.IssuerSplit.Weights) == 0 {
			return nil, xrpc.Errorf(400, rules.ParametersInvalid, "issuers share by %q, which no rule computes", r.IssuerSplit.Kind)
		}
		for _, w := range r.IssuerSplit.Weights {
			p.Weights = append(p.Weights, entry.Weight{DID: syntax.DID(w.Org), Weight: w.Weight})
		}
	}
	return p, nil
}

func span(from, to string) (string, string, error) {
	a, err := instant(from)
	if err != nil {
		return "", "", err
	}
	b, err := instant(to)
	if err != nil {
		return "", "", err
	}
	return entry.FormatTime(a), entry.FormatTime(b), nil
}

func instant(s string) (time.Time, error) {
	d, err := syntax.ParseDatetime(s)
	if err != nil {
		return time.Time{}, xrpc.Errorf(400, rules.InvalidRecord, "%s", fmt.Sprintf("time %.40q: %v", s, err))
	}
	return d.Time().UTC().Truncate(time.Second), nil
}

func instantOrNone(s *string) (time.Time, error) {
	if s == nil {
		return time.Time{}, nil
	}
	return instant(*s)
}

func value(n *int64) int64 { return valueOr(n, 0) }

func valueOr(n *int64, def int64) int64 {
	if n == nil {
		return def
	}
	return *n
}

// seqOf is the index of the first of the entries that a record made, if it made one.
func seqOf(entries []*entry.Entry) *int64 {
	if len(entries) == 0 {
		return nil
	}
	return &entries[0].Seq
}
