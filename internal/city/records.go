package city

import (
	"slices"
	"strings"
	"time"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// Book is the id of the city's standard book.
const Book = "standard"

// FoundingKey is the record key of the one decision that stands before any proposal.
const FoundingKey = "founding"

// Activation is the accreditation category of those who may activate residents.
const Activation = "activation"

// Ref is a strong reference to a record.
type Ref = comatproto.RepoStrongRef

// Services are the parties that actor.city names.
type Services struct {
	Ledger  syntax.DID
	AppView syntax.DID
	LogURL  string
	LogVKey string
}

// Datetime writes a moment as records do: UTC, milliseconds.
func Datetime(t time.Time) string { return t.UTC().Format(syntax.AtprotoDatetimeLayout) }

// Key is the record key of the n-th record that the founding writes into one
// repository. It follows from the founding's time alone, so that a founding that
// was cut short writes the same records again, and the PDS sees nothing to do.
func Key(founded time.Time, n int) string {
	return syntax.NewTID(founded.UnixMicro()+int64(n), 0).String()
}

// CityRecord is the city's own description.
func (c *City) CityRecord(s Services, parameters syntax.ATURI) *citysync.ActorCity {
	uri := parameters.String()
	return &citysync.ActorCity{
		LexiconTypeID: lexicons.ActorCity,
		Name:          c.Name,
		Tz:            c.TZ,
		Langs:         c.Langs,
		Ledger:        s.Ledger.String(),
		Log:           &citysync.ActorCity_Log{Origin: s.Ledger.String(), Vkey: s.LogVKey, Url: s.LogURL},
		Appviews:      []string{s.AppView.String()},
		Books:         []*citysync.ActorCity_Book{{Id: Book, Symbol: c.Symbol, Kind: "standard"}},
		Disclosure:    &citysync.ActorCity_Disclosure{KMin: c.Params.KMin},
		Parameters:    &uri,
	}
}

// RuleSet is the rules by which a city judges what may enter its catalog.
func (c *City) RuleSet() *citysync.CatalogRuleSet {
	rule := func(id, text, test string) *citysync.CatalogRuleSet_Rule {
		return &citysync.CatalogRuleSet_Rule{Id: id, Text: text, Test: &test}
	}
	return &citysync.CatalogRuleSet{
		LexiconTypeID: lexicons.CatalogRuleSet,
		Title:         "What may enter the catalog",
		Langs:         []string{"en"},
		Rules: []*citysync.CatalogRuleSet_Rule{
			rule("no-displacement", "The task does not replace paid work.",
				"No paid position did this work in the last year or is planned to do it."),
			rule("public-good", "The task delivers a public good or service.",
				"Whom it serves is named, and it is open to them without payment."),
			rule("rate-of-tier", "The credits are the rate of the entry's tier for its hours, within the tier's band.",
				"Credits = hours × rate of the tier in the parameter set in force, within the band."),
			rule("verifiable", "It can be checked that the work was done.",
				"The success criteria can be observed by those who verify at the entry's level."),
			rule("never-a-condition", "Taking part is never a condition for aid, services, voting or work.",
				"Nobody loses anything by not taking part."),
		},
	}
}

// FoundingDecision is the decision that the first parameters, accreditations and
// catalog rest on.
func (c *City) FoundingDecision() *citysync.GovDecision {
	return &citysync.GovDecision{
		LexiconTypeID:  lexicons.GovDecision,
		Result:         "adopted",
		EffectiveEpoch: c.Epoch.Key,
		Langs:          []string{"en"},
		Rationale: "The city starts with these rules, these parameters and these organizations. " +
			"Once the first epoch is open, parameters and rules change by the committees only.",
	}
}

// ParameterSet is the city's first parameter set, in force from its first epoch.
func (c *City) ParameterSet(decision *Ref) *citysync.GovParameterSet {
	p := c.Params
	epoch := &citysync.GovParameterSet_Epoch{
		Key: c.Epoch.Key, Tz: c.TZ, Phase: c.Epoch.Phase,
		StartsAt: Datetime(c.Epoch.StartsAt), EndsAt: Datetime(c.Epoch.EndsAt),
	}
	for _, m := range c.Epoch.Months {
		epoch.Months = append(epoch.Months, &citysync.GovParameterSet_Month{StartsAt: Datetime(m.StartsAt), EndsAt: Datetime(m.EndsAt)})
	}
	set := &citysync.GovParameterSet{
		LexiconTypeID:  lexicons.GovParameterSet,
		EffectiveEpoch: c.Epoch.Key,
		Epochs:         []*citysync.GovParameterSet_Epoch{epoch},
		CapPolicy: &citysync.GovParameterSet_CapPolicy{GovParameterSet_CapFormula: &citysync.GovParameterSet_CapFormula{
			LexiconTypeID: lexicons.GovParameterSet + "#capFormula",
			CapPhaseBps:   p.CapPhaseBps, CapShareBps: p.CapShareBps, AscrMaxMilli: p.ASCRMaxMilli,
			DeltaCapBps: p.DeltaCapBps, RStartBps: p.RStartBps, DeltaStartBps: p.DeltaStartBps,
		}},
		IssuerSplit:    &citysync.GovParameterSet_IssuerSplit{Kind: "equal"},
		DormancyMonths: p.DormancyMonths,
		WarmUpMonths:   &p.WarmUpMonths,
		ClaimLimit:     &p.ClaimLimit,
		ClaimLapseDays: &p.ClaimLapseDays,
		VotesPerCredit: &p.VotesPerCredit,
		KMin:           p.KMin,
		Decision:       decision,
	}
	for _, t := range p.Tiers {
		set.Tiers = append(set.Tiers, &citysync.GovParameterSet_Tier{N: int64(t.N), CreditsPerHour: t.CreditsPerHour, BandBps: t.BandBps})
	}
	return set
}

// CredentialTypes are the phrases of the catalog's credential column, each once.
func (c *City) CredentialTypes() []string {
	var out []string
	for _, e := range c.Catalog {
		for _, phrase := range e.Credentials {
			if !slices.Contains(out, phrase) {
				out = append(out, phrase)
			}
		}
	}
	return out
}

// CredentialType is the record of one credential that entries ask for.
func (c *City) CredentialType(title string) *citysync.RegistryCredentialType {
	check := "The issuer looks at it when the person comes, and keeps no copy."
	return &citysync.RegistryCredentialType{LexiconTypeID: lexicons.RegistryCredentialType, Title: title, CheckMethod: &check}
}

// Accreditation is the city's accreditation of one organization for its first year.
// The delegates are those who may verify for it.
func (c *City) Accreditation(o Organization, org syntax.DID, delegates []syntax.DID, decision *Ref) *citysync.RegistryAccreditation {
	start := c.Epoch.StartsAt.In(c.Location())
	until := Datetime(start.AddDate(1, 0, 0))
	a := &citysync.RegistryAccreditation{
		LexiconTypeID: lexicons.RegistryAccreditation,
		Org:           org.String(),
		Roles:         RoleTokens(c.accreditedRoles(o)),
		Status:        "active",
		FunctionType:  functionType(o.FunctionType),
		ValidFrom:     Datetime(start),
		ValidUntil:    &until,
		Decision:      decision,
	}
	if o.Is(RoleIssuer) {
		a.Categories = []string{Activation, o.FunctionType}
		if token := *a.FunctionType; token != o.FunctionType {
			a.Categories = append(a.Categories, token) // entries say it by token
		}
	}
	for _, d := range delegates {
		a.Delegates = append(a.Delegates, d.String())
	}
	return a
}

// Verifiers names, for each issuer, the organization whose staff also verifies for
// it: the next issuer of the folder, or where there is only one the first other
// organization. Without one no entry of level 4 could ever be verified.
func (c *City) Verifiers() map[string]string {
	issuers := c.WithRole(RoleIssuer)
	out := map[string]string{}
	for i, o := range issuers {
		if next := issuers[(i+1)%len(issuers)]; next.ID != o.ID {
			out[o.ID] = next.ID
			continue
		}
		for _, other := range c.Organizations {
			if other.ID != o.ID {
				out[o.ID] = other.ID
				break
			}
		}
	}
	return out
}

// accreditedRoles are the folder's roles, and verifier for an organization that
// verifies for an issuer without being one.
func (c *City) accreditedRoles(o Organization) []string {
	roles := slices.Clone(o.Roles)
	for _, verifier := range c.Verifiers() {
		if verifier == o.ID && !o.Is(RoleIssuer) && !o.Is(RoleVerifier) {
			return append(roles, RoleVerifier)
		}
	}
	return roles
}

// Declaration is an organization's own word that it takes part in the city.
func (o Organization) Declaration(city syntax.DID, at time.Time) *citysync.ActorDeclaration {
	return &citysync.ActorDeclaration{
		LexiconTypeID: lexicons.ActorDeclaration,
		Roles:         RoleTokens(o.Roles),
		Cities:        []string{city.String()},
		CreatedAt:     Datetime(at),
	}
}

// Profile is how an organization shows itself.
func (o Organization) Profile(city syntax.DID, langs []string, at time.Time) *citysync.ActorOrganization {
	return &citysync.ActorOrganization{
		LexiconTypeID: lexicons.ActorOrganization,
		Name:          o.Name,
		Summary:       &o.Summary,
		Langs:         langs[:1],
		FunctionTypes: []string{*functionType(o.FunctionType)},
		Places:        places(o.Place),
		Cities:        []string{city.String()},
		CreatedAt:     Datetime(at),
	}
}

// Draft is the issuer's own version of a catalog entry, before the city's approval.
func (c *City) Draft(e Entry, ruleSet *Ref, credentials map[string]syntax.ATURI) *citysync.CatalogEntry {
	rate := int64(0)
	if t, ok := c.Params.Tier(e.Tier); ok {
		rate = t.CreditsPerHour
	}
	minutes := int64(e.Minutes)
	issuer, _ := c.Organization(e.Issuer)
	draft := &citysync.CatalogEntry{
		LexiconTypeID:     lexicons.CatalogEntry,
		Title:             e.Title,
		Summary:           e.Summary,
		Langs:             c.Langs[:1],
		SuccessCriteria:   []*citysync.CatalogEntry_Criterion{{Id: "done", Text: e.Success}},
		Tier:              int64(e.Tier),
		CreditsPerHour:    rate,
		MaxMinutes:        &minutes,
		FunctionType:      functionType(issuer.FunctionType),
		ReservedFor:       e.ReservedFor,
		Sensitivity:       e.Sensitivity,
		VerificationLevel: int64(e.VerificationLevel),
		Methods:           Methods(e.VerificationLevel),
		RuleSet:           ruleSet,
	}
	if e.Benefit != "" {
		draft.Benefit = &e.Benefit
	}
	for _, phrase := range e.Credentials {
		if uri, ok := credentials[phrase]; ok {
			draft.RequiredCredentials = append(draft.RequiredCredentials, uri.String())
		}
	}
	return draft
}

// Approve is the city's copy of a draft, which is the entry that counts.
func Approve(draft *citysync.CatalogEntry, origin, decision *Ref) *citysync.CatalogEntry {
	approved := *draft
	approved.Origin, approved.Decision = origin, decision
	return &approved
}

// Methods are the verification methods a level asks for.
func Methods(level int) []string {
	switch level {
	case 1:
		return []string{lexicons.MethodCheckIn}
	case 2:
		return []string{lexicons.MethodEvidenceReview}
	default:
		return []string{lexicons.MethodCheckIn, lexicons.MethodEvidenceReview}
	}
}

// OfferingRecord is what a redeemer commits for the epoch. The offering must have a
// public price: RefuseOffering says so for those without.
func (c *City) OfferingRecord(o Offering) *citysync.OfferOffering {
	rec := &citysync.OfferOffering{
		LexiconTypeID:  lexicons.OfferOffering,
		Title:          o.Title,
		Summary:        &o.Summary,
		Langs:          c.Langs[:1],
		CreditsPerUnit: o.Cost,
		UnitLabel:      o.Unit,
		Capacity: &citysync.OfferOffering_Capacity{
			PhysicalMonth: o.PhysicalMonth, MarginalMonth: o.MarginalMonth, CommittedMonth: o.CommittedMonth,
		},
		Epoch:     c.Epoch.Key,
		Book:      Book,
		Places:    places(o.Place),
		Currency:  o.Currency,
		FreeFor:   o.FreeFor,
		Essential: &o.Essential,
	}
	if o.PublicPriceMinor != nil {
		rec.PublicPriceMinor = *o.PublicPriceMinor
	}
	for _, w := range o.Windows {
		var days []string
		for _, d := range w.Days {
			days = append(days, strings.ToLower(DayName(d)))
		}
		rec.Windows = append(rec.Windows, &citysync.OfferOffering_Window{Days: days, From: HHMM(w.From), To: HHMM(w.To)})
	}
	return rec
}

// RoleTokens writes a folder's roles as the tokens of records.
func RoleTokens(roles []string) []string {
	tokens := map[string]string{
		RoleIssuer: lexicons.RoleIssuer, RoleRedeemer: lexicons.RoleRedeemer, RoleSponsor: lexicons.RoleSponsor,
		RoleVerifier: lexicons.RoleVerifier, RoleWitness: lexicons.RoleWitness,
	}
	var out []string
	for _, r := range roles {
		out = append(out, tokens[r])
	}
	return out
}

// functionType is one of our tokens where the word has one, otherwise the city's own word.
func functionType(word string) *string {
	tokens := map[string]string{
		"library": lexicons.FunctionLibrary, "parks": lexicons.FunctionParks, "food": lexicons.FunctionFood,
		"preparedness": lexicons.FunctionPreparedness, "seniors": lexicons.FunctionSeniors,
		"community": lexicons.FunctionCommunity, "mobility": lexicons.FunctionMobility,
		"transit": lexicons.FunctionTransit, "recreation": lexicons.FunctionRecreation, "museum": lexicons.FunctionMuseum,
		"culture": lexicons.FunctionCulture, "nature": lexicons.FunctionNature, "education": lexicons.FunctionEducation,
		"childcare": lexicons.FunctionChildcare,
	}
	if token, ok := tokens[word]; ok {
		return &token
	}
	return &word
}

func places(name string) []*citysync.Defs_Place {
	if name == "" {
		return nil
	}
	return []*citysync.Defs_Place{{Name: name}}
}
