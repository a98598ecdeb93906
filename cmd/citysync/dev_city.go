package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
)

// openLimit bounds how long the AppView may take to show the open epoch.
const openLimit = 2 * time.Minute

// startPatience lets a service that is just starting answer late.
const startPatience = 30 * time.Second

func (s *stack) endpoint(port int) endpoint {
	return endpoint{base: s.ports.url(port), http: s.http, patience: startPatience}
}

// accountsPart makes the accounts of the city, the ledger and the organizations, and
// writes the ledger's service into its DID document with its recovery key. Each DID
// is saved before the next account is made.
func (s *stack) accountsPart(ctx context.Context, ready func()) error {
	recovery, err := rotationKey(s.secrets[fileRecovery])
	if err != nil {
		return err
	}
	recoveryDID, err := didKey(recovery)
	if err != nil {
		return err
	}
	for i := range s.state.Accounts {
		a := &s.state.Accounts[i]
		if a.DID != "" {
			continue
		}
		place := schemaPDS
		if a.Second {
			place = schemaPDS2
		}
		client := newPDSClient(s.endpoint(portOf(place)))
		// The account may exist: a crash between its making and the line that saves it.
		if a.DID, err = client.resolve(ctx, a.Handle); err != nil {
			return err
		}
		if a.DID == "" {
			asked := newAccount{Handle: a.Handle, Password: a.Password}
			if a.ID == idLedger {
				asked.RecoveryKey = recoveryDID
			}
			if a.DID, err = client.signUp(ctx, s.pdsSecrets(place).adminPassword(), asked); err != nil {
				return err
			}
		}
		if err := s.dir.saveState(s.state); err != nil {
			return err
		}
	}
	if err := addService(ctx, s.plc(), s.state.did(idLedger), recovery, fragmentLedger, typeLedger, s.ports.url(portLedger)); err != nil {
		return err
	}
	ready()
	return nil
}

// runCity sets the city up where that was not done, waits until it shows, tells that
// it is ready, and then only waits for the end.
func (s *stack) runCity(ctx context.Context, mail string, out streams, ready func()) error {
	if !s.state.Founded {
		if err := s.found(ctx); err != nil {
			return err
		}
	}
	if err := s.awaitOpen(ctx, s.plan.Epoch.Key); err != nil {
		return err
	}
	if s.cfg.ReadyFile != "" {
		if err := writeReady(s.cfg.ReadyFile, s.readyInfo()); err != nil {
			return err
		}
	}
	s.ready.Store(true)
	ready()
	s.printAddresses(out.out, mail)
	<-ctx.Done()
	return nil
}

func (s *stack) found(ctx context.Context) error {
	_, vkey, err := logKeys(s.state.did(idLedger), s.secrets[fileLogSeed])
	if err != nil {
		return err
	}
	client := newNetworkClient(s.endpoint(portPDS), s.plcURL)
	f := &founding{
		plan: s.plan, at: s.state.FoundedAt, pds: client, log: s.log,
		ledger: &ledgerClient{endpoint: s.endpoint(portLedger), did: s.state.did(idLedger)},
		services: city.Services{
			Ledger: s.state.did(idLedger), AppView: s.state.AppView, LogURL: s.ports.url(portLedger), LogVKey: vkey,
		},
		orgs: map[string]*session{},
	}
	for _, a := range s.state.Accounts {
		as := client.session(a.DID, a.Handle, a.Password)
		switch a.ID {
		case idCity:
			f.city = as
		case idLedger:
		default:
			f.orgs[a.ID] = as
		}
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	if err := s.bindWitnesses(ctx, f.city, f.ledger); err != nil {
		return fmt.Errorf("bind the witnesses: %w", err)
	}
	s.state.Founded, s.state.Refused, s.state.Entries = true, f.refused, f.entries
	return s.dir.saveState(s.state)
}

// awaitOpen returns when every part answers and the AppView shows the epoch as open.
func (s *stack) awaitOpen(ctx context.Context, epoch string) error {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	web := s.endpoint(portWeb)
	for {
		shown, err := shownEpoch(ctx, &web, s.state.did(idCity))
		if err == nil && shown == epoch {
			err = s.answers(ctx)
			if err == nil {
				return nil
			}
		}
		if waitErr := pause(ctx, pollEvery); waitErr != nil {
			if err == nil {
				err = fmt.Errorf("it shows %q", shown)
			}
			return fmt.Errorf("the AppView does not show epoch %s as open: %w", epoch, err)
		}
	}
}

func (s *stack) answers(ctx context.Context) error {
	urls := []string{s.plcURL + "/_health", s.ports.url(portLedger) + "/checkpoint", s.ports.url(portWeb) + "/"}
	for _, host := range s.hosts() {
		urls = append(urls, host+"/xrpc/_health")
	}
	if s.cfg.PLCURL != "" {
		urls = urls[1:] // an outside directory has its own health
	}
	for _, u := range urls {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return err
		}
		resp, err := s.http.Do(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", u, resp.Status)
		}
	}
	return nil
}

func (s *stack) readyInfo() *readyInfo {
	r := &readyInfo{
		Web: s.ports.url(portWeb), PDS: s.ports.url(portPDS), Ledger: s.ports.url(portLedger), PLC: s.plcURL,
		AdminPassword: s.pdsSecrets(schemaPDS).adminPassword(), LedgerDID: s.state.did(idLedger).String(), AppViewDID: s.state.AppView.String(),
		City:  readyCity{DID: s.state.did(idCity).String(), Handle: s.state.account(idCity).Handle},
		Epoch: readyEpoch{Key: s.plan.Epoch.Key, StartsAt: s.plan.Epoch.StartsAt, EndsAt: s.plan.Epoch.EndsAt},
		Plan:  &readyPlan{TZ: s.plan.TZ, Refused: s.state.Refused},
	}
	r.Hosts = s.hosts()
	if s.state.SecondPDS {
		r.AdminPasswords = map[string]string{s.ports.url(portPDS2): s.pdsSecrets(schemaPDS2).adminPassword()}
	}
	for _, a := range s.state.Accounts {
		account := readyAccount{ID: a.ID, Handle: a.Handle, DID: a.DID.String(), Password: a.Password, Roles: a.Roles}
		if a.Second {
			account.PDS = s.ports.url(portPDS2)
		}
		r.Accounts = append(r.Accounts, account)
	}
	for i, e := range s.plan.Catalog {
		ref, approved := s.state.Entries[e.ID]
		if !approved {
			continue
		}
		r.Plan.Entries = append(r.Plan.Entries, plannedRow{
			ID: e.ID, Issuer: e.Issuer, Entry: ref.Uri,
			Draft: atURI(s.state.did(e.Issuer), lexicons.CatalogEntry, city.Key(s.state.FoundedAt, keyDrafts+i)).String(), Credits: e.Credits, Minutes: e.Minutes, Slots: e.Slots, Place: e.Place,
		})
	}
	for _, t := range s.plan.Tries {
		r.Plan.Tries = append(r.Plan.Tries, plannedTry{Entry: t.Entry, Slots: t.Slots})
	}
	return r
}

func (s *stack) printAddresses(w io.Writer, mail string) {
	fmt.Fprintf(w, "\n%s (%s) is open: epoch %s, %s to %s\n\n", s.plan.Name, s.plan.Symbol, s.plan.Epoch.Key,
		s.plan.Epoch.StartsAt.Format("2006-01-02"), s.plan.Epoch.EndsAt.Format("2006-01-02"))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"web", s.ports.url(portWeb)}, {"pds", strings.Join(s.hosts(), " ")}, {"ledger", s.ports.url(portLedger)}, {"plc", s.plcURL},
		{"private", s.ports.url(portPrivate)}, {"city", s.state.did(idCity).String()}, {"log", s.state.did(idLedger).String()},
		{"data", s.dir.path}, {"mail", mail},
	} {
		fmt.Fprintf(t, "  %s\t%s\n", row[0], row[1])
	}
	_ = t.Flush() // a closed standard output stops no city
	for _, r := range s.state.Refused {
		fmt.Fprintf(w, "  refused  %s  %s: %s\n", r.ID, r.Name, r.Message)
	}
	fmt.Fprintln(w)
}
