package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// Places in the run of record keys of one founding. Each collection has its own, so
// that a folder's rows never meet.
const (
	keyRuleSet     = 0
	keyParameters  = 1
	keyCredentials = 10_000
	keyDrafts      = 20_000
	keyCopies      = 30_000
	keyOfferings   = 40_000
)

// How long the ledger may take to read what the founding wrote.
const (
	seenLimit = 2 * time.Minute
	pollEvery = 100 * time.Millisecond
)

// founding sets a city up as records, by public methods only: each account writes
// into its own repository, the ledger opens the epoch on the city's word. Every
// record has a key that follows from the founding's time, so a founding that was cut
// short is simply done again: what stands already is put a second time and changes
// nothing.
type founding struct {
	plan     *city.City
	at       time.Time
	pds      *pdsClient
	ledger   *ledgerClient
	services city.Services
	city     *session
	orgs     map[string]*session // by the folder's id
	log      *slog.Logger

	ruleSet     *city.Ref
	decision    *city.Ref
	credentials map[string]syntax.ATURI
	entries     map[string]city.Ref // catalog row → the city's copy
	refused     []refusedRow
}

// run does the whole set-up in the order in which each step may rely on the one
// before, and returns when the epoch is open.
func (f *founding) run(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"city", f.publishCity},
		{"accreditations", f.accredit},
		{"organizations", f.introduce},
		{"catalog", f.fillCatalog},
		{"offerings", f.offer},
		{"epoch", f.openEpoch},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("set up the %s: %w", step.name, err)
		}
		f.log.Debug("set up", "step", step.name)
	}
	return nil
}

func (f *founding) key(n int) string { return city.Key(f.at, n) }

// publishCity writes what only the city can say: itself, its rules, the one founding
// decision and its parameters.
func (f *founding) publishCity(ctx context.Context) error {
	parameters := atURI(f.city.DID, lexicons.GovParameterSet, f.key(keyParameters))
	if _, err := f.city.put(ctx, lexicons.ActorCity, "self", f.plan.CityRecord(f.services, parameters)); err != nil {
		return err
	}
	var err error
	if f.ruleSet, err = f.city.put(ctx, lexicons.CatalogRuleSet, f.key(keyRuleSet), f.plan.RuleSet()); err != nil {
		return err
	}
	if f.decision, err = f.city.put(ctx, lexicons.GovDecision, city.FoundingKey, f.plan.FoundingDecision()); err != nil {
		return err
	}
	_, err = f.city.put(ctx, lexicons.GovParameterSet, f.key(keyParameters), f.plan.ParameterSet(f.decision))
	return err
}

func (f *founding) accredit(ctx context.Context) error {
	verifiers := f.plan.Verifiers()
	for _, o := range f.plan.Organizations {
		var delegates []syntax.DID
		if id, ok := verifiers[o.ID]; ok {
			delegates = append(delegates, f.orgs[id].DID)
		}
		did := f.orgs[o.ID].DID
		rec := f.plan.Accreditation(o, did, delegates, f.decision)
		if _, err := f.city.put(ctx, lexicons.RegistryAccreditation, lexicons.AccreditationKey(did.String()), rec); err != nil {
			return err
		}
	}
	f.credentials = map[string]syntax.ATURI{}
	for i, title := range f.plan.CredentialTypes() {
		ref, err := f.city.put(ctx, lexicons.RegistryCredentialType, f.key(keyCredentials+i), f.plan.CredentialType(title))
		if err != nil {
			return err
		}
		f.credentials[title] = syntax.ATURI(ref.Uri)
	}
	return nil
}

func (f *founding) introduce(ctx context.Context) error {
	for _, o := range f.plan.Organizations {
		s := f.orgs[o.ID]
		if _, err := s.put(ctx, lexicons.ActorDeclaration, "self", o.Declaration(f.city.DID, f.at)); err != nil {
			return err
		}
		if _, err := s.put(ctx, lexicons.ActorOrganization, "self", o.Profile(f.city.DID, f.plan.Langs, f.at)); err != nil {
			return err
		}
	}
	return nil
}

// fillCatalog is step 1 of the credit lifecycle: issuers draft, the city approves
// what its rules allow, and says which rule refused the rest.
func (f *founding) fillCatalog(ctx context.Context) error {
	drafts := make([]*citysync.CatalogEntry, len(f.plan.Catalog))
	origins := make([]*city.Ref, len(f.plan.Catalog))
	for i, e := range f.plan.Catalog {
		drafts[i] = f.plan.Draft(e, f.ruleSet, f.credentials)
		var err error
		if origins[i], err = f.orgs[e.Issuer].put(ctx, lexicons.CatalogEntry, f.key(keyDrafts+i), drafts[i]); err != nil {
			return err
		}
	}
	f.entries = map[string]city.Ref{}
	for i, e := range f.plan.Catalog {
		if r := f.plan.RefuseEntry(e); r != nil {
			f.refuse(r)
			continue
		}
		ref, err := f.city.put(ctx, lexicons.CatalogEntry, f.key(keyCopies+i), city.Approve(drafts[i], origins[i], f.decision))
		if err != nil {
			return err
		}
		f.entries[e.ID] = *ref
	}
	return nil
}

func (f *founding) offer(ctx context.Context) error {
	for i, o := range f.plan.Offerings {
		if r := city.RefuseOffering(o); r != nil {
			f.refuse(r)
			continue
		}
		if _, err := f.orgs[o.Redeemer].put(ctx, lexicons.OfferOffering, f.key(keyOfferings+i), f.plan.OfferingRecord(o)); err != nil {
			return err
		}
	}
	return nil
}

func (f *founding) refuse(r *city.Refusal) {
	f.log.Warn("row refused", "row", r.Row, "rule", r.Name, "why", r.Message)
	f.refused = append(f.refused, refusedRow{ID: r.Row, Name: r.Name, Message: r.Message})
}

// seen says up to which revision the ledger must have read a repository.
type seen struct {
	DID syntax.DID `json:"did"`
	Rev string     `json:"rev"`
}

// openEpoch asks the ledger, on the city's word, to count what was written. The
// ledger answers NotYetSeen until it has read each repository up to the named
// revision: so no offering is left out because the firehose was slow.
func (f *founding) openEpoch(ctx context.Context) error {
	sessions := []*session{f.city}
	for _, o := range f.plan.Organizations {
		sessions = append(sessions, f.orgs[o.ID])
	}
	var upTo []seen
	for _, s := range sessions {
		rev, err := f.pds.rev(ctx, s.DID)
		if err != nil {
			return err
		}
		upTo = append(upTo, seen{s.DID, rev})
	}
	return openEpoch(ctx, f.ledger, f.city, f.plan.Epoch.Key, upTo)
}

func openEpoch(ctx context.Context, ledger *ledgerClient, citySession *session, epoch string, upTo []seen) error {
	ctx, cancel := context.WithTimeout(ctx, seenLimit)
	defer cancel()
	in := map[string]any{"epoch": epoch, "book": city.Book, "seen": upTo}
	for {
		err := ledger.procedure(ctx, ledger.as(citySession), "org.city-sync.ledger.openEpoch", in, nil)
		if err == nil || named(err, "EpochAlreadyOpen") {
			return nil
		}
		if !named(err, "NotYetSeen", "NotEnoughResources") {
			return err
		}
		if waitErr := pause(ctx, 2*pollEvery); waitErr != nil {
			return errors.Join(err, waitErr)
		}
	}
}

// capacity is the ledger's account of the open epoch.
type capacity struct {
	City           syntax.DID `json:"city"`
	Book           string     `json:"book"`
	Epoch          string     `json:"epoch"`
	StartsAt       time.Time  `json:"startsAt"`
	EndsAt         time.Time  `json:"endsAt"`
	CapacityMonth  int64      `json:"capacityMonth"`
	CapEpoch       int64      `json:"capEpoch"`
	CapUnallocated int64      `json:"capUnallocated"`
	BoundBy        string     `json:"boundBy"`
	Reserved       int64      `json:"reserved"`
	Outstanding    int64      `json:"outstanding"`
	Claims         int64      `json:"claims"`
	Verifications  int64      `json:"verifications"`
	Minted         int64      `json:"minted"`
	Votes          int64      `json:"votes"`
	Burned         int64      `json:"burned"`
	Expired        int64      `json:"expired"`
	Supply         int64      `json:"supply"`
	Tasks          int64      `json:"tasks"`
	Issuers        []struct {
		DID         syntax.DID `json:"did"`
		Allocation  int64      `json:"allocation"`
		Reserved    int64      `json:"reserved"`
		Outstanding int64      `json:"outstanding"`
		Minted      int64      `json:"minted"`
	} `json:"issuers"`
	Checkpoint struct {
		Size int64  `json:"size"`
		Root string `json:"root"`
	} `json:"checkpoint"`
}

func (l *ledgerClient) capacity(ctx context.Context) (*capacity, error) {
	var out capacity
	if err := l.query(ctx, nil, "org.city-sync.ledger.getCapacity", nil, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// explanation is what the ledger says about one record.
type explanation struct {
	URI        string         `json:"uri"`
	CID        string         `json:"cid"`
	Status     string         `json:"status"`
	WaitingFor []string       `json:"waitingFor,omitempty"`
	Error      string         `json:"error,omitempty"`
	Message    string         `json:"message,omitempty"`
	Figures    map[string]any `json:"figures,omitempty"`
	Seq        *int64         `json:"seq,omitempty"`
}

// explain gives nil where the ledger has not seen the record.
func (l *ledgerClient) explain(ctx context.Context, ref *city.Ref) (*explanation, error) {
	params := url.Values{"uri": {ref.Uri}}
	if ref.Cid != "" {
		params.Set("cid", ref.Cid)
	}
	var out explanation
	err := l.query(ctx, nil, "org.city-sync.ledger.explain", params, &out)
	if named(err, "NotSeen") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// shownEpoch is the epoch that the AppView shows as open, "" while it shows none.
func shownEpoch(ctx context.Context, web *endpoint, did syntax.DID) (string, error) {
	var out struct {
		Epoch *struct {
			Key string `json:"key"`
		} `json:"epoch"`
	}
	var raw json.RawMessage
	if err := web.query(ctx, nil, "org.city-sync.actor.getCity", url.Values{"city": {did.String()}}, &raw); err != nil {
		return "", err
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return "", fmt.Errorf("getCity: %w", err)
	}
	if out.Epoch == nil {
		return "", nil
	}
	return out.Epoch.Key, nil
}
