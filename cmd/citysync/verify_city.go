package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"golang.org/x/mod/sumdb/note"

	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

const publicPLC = "https://plc.directory"

// maxHops bounds how far a resident's record is followed to a city: review, proof, claim, task, organization.
const maxHops = 5

// maxCities bounds how many cities of one organization are tried.
const maxCities = 8

// verifiedCity is what a city's own signed record says of its ledger.
type verifiedCity struct {
	did    syntax.DID
	ledger syntax.DID
	vkey   string
	url    string // of the log, without a final slash
}

// cityOf reads a city's signed actor.city, which is the only thing believed about its ledger.
func (as *authors) cityOf(ctx context.Context, did syntax.DID) (*verifiedCity, error) {
	raw, err := as.record(ctx, did, lexicons.ActorCity, "self")
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, nil
	}
	if err := lexicons.Validate(lexicons.ActorCity, "self", raw); err != nil {
		return nil, fmt.Errorf("actor.city of %s: %w", did, err)
	}
	var r citysync.ActorCity
	if err := r.UnmarshalCBOR(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("actor.city of %s: %w", did, err)
	}
	address, err := baseURL(r.Log.Url)
	if err != nil {
		return nil, fmt.Errorf("actor.city of %s: log %w", did, err)
	}
	ledger, err := syntax.ParseDID(r.Ledger)
	if err != nil {
		return nil, fmt.Errorf("actor.city of %s: ledger: %w", did, err)
	}
	if r.Log.Origin != r.Ledger {
		return nil, fmt.Errorf("actor.city of %s: the log's origin is %s, the ledger %s", did, r.Log.Origin, ledger)
	}
	return &verifiedCity{did: did, ledger: ledger, vkey: r.Log.Vkey, url: address}, nil
}

// confirm holds what the services say against the city's own word, as the check of the log key. A false answer means that
// nothing further can be believed.
func (v *verifier) confirm(ctx context.Context, said *wellKnown, did syntax.DID) (bool, error) {
	if _, err := v.authors.get(ctx, did); err != nil {
		return false, couldNot("the city: %w", err)
	}
	city, err := v.authors.cityOf(ctx, did)
	if errors.Is(err, errCouldNot) {
		return false, err
	}
	uri := "at://" + did.String() + "/" + lexicons.ActorCity + "/self"
	if err != nil {
		v.report.fail(checkLogKey, noEntry, uri, "%v", err)
		return false, nil
	}
	if city == nil {
		return false, couldNot("%s is no city: it has no %s", did, lexicons.ActorCity)
	}
	v.city = city
	if slices.Contains(said.Log.VKeys, city.vkey) {
		said.Log.VKey = city.vkey
	}
	facts := []struct{ what, said, signed string }{
		{"ledger", said.Ledger, city.ledger.String()},
		{"log origin", said.Log.Origin, city.ledger.String()},
		{"log key", said.Log.VKey, city.vkey},
		{"log address", strings.TrimRight(said.Log.URL, "/"), city.url},
	}
	for _, f := range facts {
		if f.said != f.signed {
			v.report.fail(checkLogKey, noEntry, uri, "the service says %s %q, the city signed %q", f.what, f.said, f.signed)
		}
	}
	ledger, err := v.authors.get(ctx, city.ledger)
	switch {
	case errors.Is(err, errCouldNot):
		return false, err
	case err != nil:
		v.report.fail(checkLogKey, noEntry, uri, "ledger: %v", err)
		return false, nil
	case ledger.ledger != city.url:
		v.report.fail(checkLogKey, noEntry, uri, "the ledger's DID document has its service at %q, the city signed %q", ledger.ledger, city.url)
	}
	v.report.looked(checkLogKey, len(facts)+1, fmt.Sprintf("log of %s, ledger of %s", city.ledger, did))
	return !v.report.failed(checkLogKey), nil
}

// fromAddress begins at a service's address.
func (v *verifier) fromAddress(ctx context.Context, address string) (*wellKnown, syntax.DID, error) {
	said, err := v.web.wellKnown(ctx, address)
	if err != nil {
		return nil, "", err
	}
	did, err := syntax.ParseDID(said.City)
	if err != nil {
		return nil, "", couldNot("%s names no city: %w", address, err)
	}
	return said, did, nil
}

// fromRecord finds the city that a record belongs to, then begins at that city's ledger.
func (v *verifier) fromRecord(ctx context.Context, u syntax.ATURI) (*wellKnown, syntax.DID, error) {
	candidates, err := v.citiesOf(ctx, u, maxHops)
	if err != nil {
		return nil, "", err
	}
	var last error
	for _, did := range candidates {
		city, err := v.authors.cityOf(ctx, did)
		if err != nil || city == nil {
			last = err
			continue
		}
		said, err := v.web.wellKnown(ctx, city.url)
		if err != nil {
			last = err
			continue
		}
		if said.City != did.String() {
			return nil, "", couldNot("the ledger at %s is not of %s", city.url, did)
		}
		return said, did, nil
	}
	if last != nil {
		return nil, "", couldNot("no city of %s can be asked: %w", u, last)
	}
	return nil, "", couldNot("%s leads to no city", u)
}

// citiesOf follows a record to cities: its author is one, is a city's ledger, names cities, or wrote about a record whose
// author does.
func (v *verifier) citiesOf(ctx context.Context, u syntax.ATURI, hops int) ([]syntax.DID, error) {
	did, err := u.Authority().AsDID()
	if err != nil {
		return nil, couldNot("%s: give the author's DID, not a handle", u)
	}
	a, err := v.authors.get(ctx, did)
	if err != nil {
		return nil, couldNot("author of %s: %w", u, err)
	}
	if a.ledger != "" {
		if said, err := v.web.wellKnown(ctx, a.ledger); err == nil {
			if city, err := syntax.ParseDID(said.City); err == nil {
				return []syntax.DID{city}, nil
			}
		}
	}
	if city, err := v.authors.cityOf(ctx, did); err == nil && city != nil {
		return []syntax.DID{did}, nil
	}
	for _, nsid := range []string{lexicons.ActorOrganization, lexicons.ActorDeclaration} {
		raw, err := v.authors.record(ctx, did, nsid, "self")
		if err != nil || raw == nil {
			continue
		}
		if cities := citiesIn(raw); len(cities) > 0 {
			return cities, nil
		}
	}
	if hops == 0 {
		return nil, couldNot("%s leads to no city", u)
	}
	raw, err := v.authors.record(ctx, did, u.Collection().String(), u.RecordKey().String())
	if err != nil {
		return nil, couldNot("%w", err)
	}
	if raw == nil {
		return nil, couldNot("%s does not exist, and its author names no city", u)
	}
	for _, parent := range parentsIn(raw) {
		if parent.Authority() == u.Authority() && parent.Collection() == u.Collection() {
			continue
		}
		if cities, err := v.citiesOf(ctx, parent, hops-1); err == nil {
			return cities, nil
		}
	}
	return nil, couldNot("%s leads to no city", u)
}

func citiesIn(raw []byte) []syntax.DID {
	r, err := lexicons.DecodeCBOR(raw)
	if err != nil {
		return nil
	}
	list, _ := r["cities"].([]any)
	var out []syntax.DID
	for _, c := range list[:min(len(list), maxCities)] {
		text, _ := c.(string)
		if did, err := syntax.ParseDID(text); err == nil {
			out = append(out, did)
		}
	}
	return out
}

// citedRef is a record that another one cites.
type citedRef struct {
	field string
	uri   syntax.ATURI
	cid   string // "" where only the address is cited
}

// refsIn lists what a record cites, in the order of these fields.
func refsIn(raw []byte) []citedRef {
	r, err := lexicons.DecodeCBOR(raw)
	if err != nil {
		return nil
	}
	var out []citedRef
	add := func(field string, v any) {
		m, _ := v.(map[string]any)
		uri, _ := m["uri"].(string)
		id, _ := m["cid"].(string)
		if u, err := syntax.ParseATURI(uri); err == nil && u.Authority().IsDID() && u.RecordKey() != "" {
			out = append(out, citedRef{field, u, id})
		}
	}
	for _, field := range []string{"task", "claim", "proof", "entry", "origin", "decision", "ruleSet", "offering", "receipt", "review", "parameterSet", "previous"} {
		add(field, r[field])
	}
	subject, _ := r["subject"].(map[string]any)
	add("subject", subject)
	add("claim", subject["claim"])
	add("proof", subject["proof"])
	add("record", subject["ref"])
	return out
}

func parentsIn(raw []byte) []syntax.ATURI {
	var out []syntax.ATURI
	for _, r := range refsIn(raw) {
		out = append(out, r.uri)
	}
	if r, err := lexicons.DecodeCBOR(raw); err == nil {
		subject, _ := r["subject"].(map[string]any)
		if text, _ := subject["did"].(string); text != "" {
			if did, err := syntax.ParseDID(text); err == nil {
				out = append(out, syntax.ATURI("at://"+did.String()+"/"+lexicons.ActorOrganization+"/self"))
			}
		}
	}
	return out
}

// checkpoint fetches the newest checkpoint. One that the city's key did not sign may be signed by a key that the log names: it is
// followed, and judged when the log was read.
func (v *verifier) checkpoint(ctx context.Context) (*tlog.Checkpoint, error) {
	address := v.city.url + "/checkpoint"
	raw, err := v.web.get(ctx, address, tlog.MaxNote)
	if err != nil {
		return nil, couldNot("newest checkpoint: %w", err)
	}
	v.newest = raw
	c, err := tlog.Open(raw, v.city.vkey)
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		c, err = tlog.ParseCheckpoint(unverified.Note.Text)
	}
	if err == nil && c.Origin != v.city.ledger.String() {
		err = fmt.Errorf("it is of the log %q", c.Origin)
	}
	v.report.looked(checkSignature, 1, "")
	if err != nil {
		v.report.fail(checkSignature, noEntry, "", "the checkpoint at %s: %v", address, err)
		return nil, nil
	}
	if c.Size == 0 {
		return nil, couldNot("the log is empty")
	}
	if c.Size > maxVerifyLog {
		return nil, couldNot("a log of %d entries is more than this program holds in memory", c.Size)
	}
	v.report.looked(checkSignature, 0, fmt.Sprintf("%d entries, root %s", c.Size, c.Root))
	return &c, nil
}

// recordAddress parses the at-uri of one record.
func recordAddress(text string) (syntax.ATURI, error) {
	u, err := syntax.ParseATURI(text)
	if err != nil {
		return "", err
	}
	if !u.Authority().IsDID() || u.Collection() == "" || u.RecordKey() == "" {
		return "", fmt.Errorf("%q names no record by its author's DID", text)
	}
	return u, nil
}
