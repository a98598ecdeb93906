package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/internal/obs"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// admin acts as the city's account: what it does is a record in the city's own
// repository or a call of the ledger on the city's word, never a back door.
type admin struct {
	city   *session
	pds    *pdsClient
	ledger *ledgerClient
	s      streams
}

func adminCommand(s streams) *cli.Command {
	act := func(do func(*admin, context.Context, *cli.Command) error) cli.ActionFunc {
		return func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			a, err := newAdmin(ctx, c, s)
			if err != nil {
				return err
			}
			return do(a, ctx, c)
		}
	}
	cityFlag := stringFlag("city", defaultCity, "city `FOLDER`: "+strings.Join(city.Embedded(), ", ")+" or a directory")
	calendar := stringFlag("calendar", calendarAsWritten, "as-written, or now to move the folder's dates by whole weeks")
	return &cli.Command{
		Name:  "admin",
		Usage: "do the city's part of its set-up, as the city's account",
		Flags: []cli.Flag{
			stringFlag("ready-file", "", "`FILE` that dev wrote; it stands for the six flags below"),
			stringFlag("pds-url", "", "`URL` of the city's PDS"),
			stringFlag("plc-url", "", "`URL` of the did:plc directory, where organizations live on other PDSs too"),
			stringFlag("ledger-url", "", "`URL` of the ledger"),
			stringFlag("ledger-did", "", "`DID` of the ledger"),
			stringFlag("city-handle", "", "`HANDLE` of the city's account"),
			stringFlag("city-password-file", "", "`FILE` with its password, mode 0600"),
		},
		Commands: append(adminLogCommands(act), []*cli.Command{
			{
				Name: "found", Usage: "publish the city, its rules, the founding decision and its parameters",
				Flags: []cli.Flag{
					cityFlag, calendar,
					stringFlag("appview-did", "", "`DID` of the AppView"),
					stringFlag("log-vkey", "", "`KEY` that verifies the ledger's log, as signed notes write it"),
				},
				Action: act((*admin).found),
			},
			{
				Name: "parameters", Usage: "publish the folder's parameter set in place of the one that stands",
				Flags:  []cli.Flag{cityFlag, calendar},
				Action: act((*admin).parameters),
			},
			{
				Name: "accredit", Usage: "accredit an organization, or change its accreditation",
				Flags: []cli.Flag{
					stringFlag("org", "", "`DID` of the organization"),
					stringFlag("roles", "", "`ROLES` by comma: issuer, redeemer, sponsor, verifier, witness"),
					stringFlag("status", "active", "active, conditional, suspended or revoked"),
					stringFlag("delegates", "", "`DIDS` of the organizations that verify for it, by comma"),
					stringFlag("categories", "", "`CATEGORIES` it works in, by comma; activation lets it activate residents"),
					stringFlag("valid-from", "", "first `DATE`, such as 2027-01-04T00:00:00-08:00 (default: now)"),
					stringFlag("valid-until", "", "last `DATE`; none without it"),
				},
				Action: act((*admin).accredit),
			},
			{
				Name: "approve", Usage: "approve an issuer's draft by the city's copy",
				Flags:  []cli.Flag{stringFlag("draft", "", "`AT-URI` of the draft")},
				Action: act((*admin).approve),
			},
			{
				Name: "retire", Usage: "retire a catalog entry",
				Flags:  []cli.Flag{stringFlag("entry", "", "`AT-URI` of the city's copy"), stringFlag("reason", "", "why")},
				Action: act((*admin).retire),
			},
			{
				Name: "open-epoch", Usage: "have the ledger count the offerings and open an epoch",
				Flags:  []cli.Flag{stringFlag("epoch", "", "`KEY` of the epoch"), stringFlag("organizations", "", "`DIDS` whose repositories must have been read, by comma")},
				Action: act((*admin).openEpoch),
			},
		}...),
	}
}

func newAdmin(ctx context.Context, c *cli.Command, s streams) (*admin, error) {
	hc := httpClient()
	at := func(base string) endpoint {
		return endpoint{base: strings.TrimRight(base, "/"), http: hc, patience: startPatience}
	}
	if path := c.String("ready-file"); path != "" {
		ready, err := readReady(path)
		if err != nil {
			return nil, err
		}
		account, ok := ready.account(idCity)
		if !ok {
			return nil, fmt.Errorf("ready file %s: no account %s", path, idCity)
		}
		p := newNetworkClient(at(ready.PDS), ready.PLC)
		return &admin{
			city: p.session(syntax.DID(account.DID), account.Handle, account.Password), pds: p,
			ledger: &ledgerClient{endpoint: at(ready.Ledger), did: syntax.DID(ready.LedgerDID)}, s: s,
		}, nil
	}
	for _, flag := range []string{"pds-url", "ledger-url", "ledger-did", "city-handle", "city-password-file"} {
		if c.String(flag) == "" {
			return nil, fmt.Errorf("--%s or --ready-file is needed", flag)
		}
	}
	password, err := readSecretFile(c.String("city-password-file"))
	if err != nil {
		return nil, err
	}
	p := newNetworkClient(at(c.String("pds-url")), c.String("plc-url"))
	did, err := p.resolve(ctx, c.String("city-handle"))
	if err != nil {
		return nil, err
	}
	if did == "" {
		return nil, fmt.Errorf("nobody has the handle %s", c.String("city-handle"))
	}
	return &admin{
		city: p.session(did, c.String("city-handle"), strings.TrimSpace(string(password))), pds: p,
		ledger: &ledgerClient{endpoint: at(c.String("ledger-url")), did: syntax.DID(c.String("ledger-did"))}, s: s,
	}, nil
}

// mustBeFounding refuses what only the committees may change once an epoch is open.
func (a *admin) mustBeFounding(ctx context.Context) error {
	_, err := a.ledger.capacity(ctx)
	switch {
	case err == nil:
		return refuse("FoundingClosed", "the first epoch is open: parameters and rules change by decision of the committees")
	case named(err, "NotFound", "EpochClosed", "EpochMissing"):
		return nil
	default:
		return fmt.Errorf("ask the ledger whether an epoch is open: %w", err)
	}
}

func plan(c *cli.Command) (*city.City, error) {
	folder, err := city.Folder(c.String("city"))
	if err != nil {
		return nil, err
	}
	p, err := city.Load(folder)
	if err != nil {
		return nil, err
	}
	switch c.String("calendar") {
	case calendarNow:
		p.Shift(p.Weeks(time.Now()))
	case calendarAsWritten:
	default:
		return nil, fmt.Errorf("--calendar %q is neither now nor as-written", c.String("calendar"))
	}
	return p, nil
}

func (a *admin) found(ctx context.Context, c *cli.Command) error {
	if err := a.mustBeFounding(ctx); err != nil {
		return err
	}
	p, err := plan(c)
	if err != nil {
		return err
	}
	if c.String("appview-did") == "" || c.String("log-vkey") == "" {
		return errors.New("--appview-did and --log-vkey are needed: actor.city names them")
	}
	at, err := a.foundedAt(ctx)
	if err != nil {
		return err
	}
	f := &founding{
		plan: p, at: at, pds: a.pds, ledger: a.ledger, city: a.city, log: obs.Logger(a.s.err, false, slog.LevelInfo),
		services: city.Services{
			Ledger: a.ledger.did, AppView: syntax.DID(c.String("appview-did")), LogURL: a.ledger.base, LogVKey: c.String("log-vkey"),
		},
	}
	if err := f.publishCity(ctx); err != nil {
		return err
	}
	fmt.Fprintf(a.s.out, "%s is founded: %s\n", p.Name, atURI(a.city.DID, lexicons.ActorCity, "self"))
	return nil
}

// foundedAt is the time of the founding as the parameter set's key tells it; now for a
// city that was not founded.
func (a *admin) foundedAt(ctx context.Context) (time.Time, error) {
	sets, err := a.pds.list(ctx, a.city.DID, lexicons.GovParameterSet)
	if err != nil || len(sets) == 0 {
		return time.Now().Truncate(time.Millisecond), err
	}
	key, err := syntax.ParseTID(sets[0].URI.RecordKey().String())
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", sets[0].URI, err)
	}
	return key.Time().Add(-keyParameters * time.Microsecond), nil
}

func (a *admin) parameters(ctx context.Context, c *cli.Command) error {
	if err := a.mustBeFounding(ctx); err != nil {
		return err
	}
	p, err := plan(c)
	if err != nil {
		return err
	}
	decision, err := a.pds.get(ctx, a.city.DID, lexicons.GovDecision, city.FoundingKey)
	if err != nil {
		return err
	}
	sets, err := a.pds.list(ctx, a.city.DID, lexicons.GovParameterSet)
	if err != nil {
		return err
	}
	if decision == nil || len(sets) == 0 {
		return errors.New("the city is not founded: run citysync admin found")
	}
	set := p.ParameterSet(decision.ref())
	set.Supersedes = sets[len(sets)-1].ref()
	ref, err := a.city.create(ctx, lexicons.GovParameterSet, set)
	return a.wrote(ref, err)
}

func (a *admin) accredit(ctx context.Context, c *cli.Command) error {
	org, err := syntax.ParseDID(c.String("org"))
	if err != nil {
		return fmt.Errorf("--org %q: %w", c.String("org"), err)
	}
	decision, err := a.pds.get(ctx, a.city.DID, lexicons.GovDecision, city.FoundingKey)
	if err != nil {
		return err
	}
	if decision == nil {
		return errors.New("the city is not founded: run citysync admin found")
	}
	roles := list(c.String("roles"))
	known := []string{city.RoleIssuer, city.RoleRedeemer, city.RoleSponsor, city.RoleVerifier, city.RoleWitness}
	for _, r := range roles {
		if !slices.Contains(known, r) {
			return fmt.Errorf("--roles: %q is none of %s", r, strings.Join(known, ", "))
		}
	}
	if len(roles) == 0 {
		return errors.New("--roles is needed")
	}
	rec := &citysync.RegistryAccreditation{
		LexiconTypeID: lexicons.RegistryAccreditation, Org: org.String(), Roles: city.RoleTokens(roles), Status: c.String("status"),
		Delegates: list(c.String("delegates")), Categories: list(c.String("categories")), Decision: decision.ref(),
		ValidFrom: city.Datetime(time.Now()),
	}
	for flag, set := range map[string]func(string){
		"valid-from": func(s string) { rec.ValidFrom = s }, "valid-until": func(s string) { rec.ValidUntil = &s },
	} {
		if v := c.String(flag); v != "" {
			at, err := time.Parse(time.RFC3339, v)
			if err != nil {
				return fmt.Errorf("--%s %q: %w", flag, v, err)
			}
			set(city.Datetime(at))
		}
	}
	ref, err := a.city.put(ctx, lexicons.RegistryAccreditation, lexicons.AccreditationKey(org.String()), rec)
	return a.wrote(ref, err)
}

func (a *admin) approve(ctx context.Context, c *cli.Command) error {
	uri, err := recordURI(c, "draft", lexicons.CatalogEntry)
	if err != nil {
		return err
	}
	rec, err := a.pds.get(ctx, syntax.DID(uri.Authority().String()), lexicons.CatalogEntry, uri.RecordKey().String())
	if err != nil {
		return err
	}
	decision, err := a.pds.get(ctx, a.city.DID, lexicons.GovDecision, city.FoundingKey)
	if err != nil {
		return err
	}
	if rec == nil || decision == nil {
		return fmt.Errorf("the draft %s or the city's founding decision does not exist", uri)
	}
	var draft citysync.CatalogEntry
	if err := json.Unmarshal(rec.Value, &draft); err != nil {
		return fmt.Errorf("%s: %w", uri, err)
	}
	if err := a.checkRate(ctx, &draft); err != nil {
		return err
	}
	ref, err := a.city.create(ctx, lexicons.CatalogEntry, city.Approve(&draft, rec.ref(), decision.ref()))
	return a.wrote(ref, err)
}

// checkRate is the one criterion of the rule set that figures decide: the draft's rate
// is that of its tier, within the tier's band.
func (a *admin) checkRate(ctx context.Context, draft *citysync.CatalogEntry) error {
	sets, err := a.pds.list(ctx, a.city.DID, lexicons.GovParameterSet)
	if err != nil {
		return err
	}
	if len(sets) == 0 {
		return errors.New("the city has no parameters: run citysync admin found")
	}
	var set citysync.GovParameterSet
	if err := json.Unmarshal(sets[len(sets)-1].Value, &set); err != nil {
		return fmt.Errorf("%s: %w", sets[len(sets)-1].URI, err)
	}
	for _, t := range set.Tiers {
		tier := city.Tier{N: int(t.N), CreditsPerHour: t.CreditsPerHour, BandBps: t.BandBps}
		if t.N == draft.Tier && tier.InBand(draft.CreditsPerHour, 60) {
			return nil
		}
	}
	return refuse("OutsideTierBand", "%d credits an hour is not the rate of tier %d", draft.CreditsPerHour, draft.Tier)
}

func (a *admin) retire(ctx context.Context, c *cli.Command) error {
	uri, err := recordURI(c, "entry", lexicons.CatalogEntry)
	if err != nil {
		return err
	}
	rec, err := a.pds.get(ctx, a.city.DID, lexicons.CatalogEntry, uri.RecordKey().String())
	if err != nil {
		return err
	}
	if rec == nil || rec.URI != uri {
		return fmt.Errorf("%s is not in the city's catalog", uri)
	}
	status := &citysync.CatalogEntryStatus{LexiconTypeID: lexicons.CatalogEntryStatus, Status: "retired", Entry: rec.ref()}
	if reason := c.String("reason"); reason != "" {
		status.Reason = &reason
	}
	ref, err := a.city.put(ctx, lexicons.CatalogEntryStatus, uri.RecordKey().String(), status)
	return a.wrote(ref, err)
}

func (a *admin) openEpoch(ctx context.Context, c *cli.Command) error {
	if c.String("epoch") == "" {
		return errors.New("--epoch is needed")
	}
	var upTo []seen
	for _, did := range append([]string{a.city.DID.String()}, list(c.String("organizations"))...) {
		rev, err := a.pds.rev(ctx, syntax.DID(did))
		if err != nil {
			return err
		}
		upTo = append(upTo, seen{syntax.DID(did), rev})
	}
	if err := openEpoch(ctx, a.ledger, a.city, c.String("epoch"), upTo); err != nil {
		return err
	}
	fmt.Fprintf(a.s.out, "epoch %s is open\n", c.String("epoch"))
	return nil
}

func (a *admin) wrote(ref *city.Ref, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprintf(a.s.out, "%s %s\n", ref.Uri, ref.Cid)
	return nil
}

func recordURI(c *cli.Command, flag, collection string) (syntax.ATURI, error) {
	uri, err := syntax.ParseATURI(c.String(flag))
	if err != nil || uri.Collection().String() != collection || !uri.Authority().IsDID() {
		return "", fmt.Errorf("--%s %q is not at://DID/%s/KEY", flag, c.String(flag), collection)
	}
	return uri, nil
}
