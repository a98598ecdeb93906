package appview

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// serviceDID is what this AppView is called in service tokens: the did:web of its address.
func serviceDID(publicURL string) string {
	u, err := url.Parse(publicURL)
	if err != nil {
		return "did:web:localhost"
	}
	return "did:web:" + strings.ReplaceAll(u.Host, ":", "%3A")
}

// cityWords reads from the index what the evidence store asks.
type cityWords struct {
	db   *query.DB
	city string
}

// Verifiers implements evidence.City.
func (w *cityWords) Verifiers(ctx context.Context, task string) ([]syntax.DID, bool, error) {
	rec, err := w.db.Record(ctx, task, "")
	if errors.Is(err, query.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	who := []syntax.DID{syntax.DID(rec.DID)}
	var a citysync.RegistryAccreditation
	uri := "at://" + w.city + "/" + lexicons.RegistryAccreditation + "/" + lexicons.AccreditationKey(rec.DID)
	found, err := w.current(ctx, uri, lexicons.RegistryAccreditation, &a)
	if err != nil || !found || (a.Status != "active" && a.Status != "conditional") {
		return who, true, err
	}
	for _, d := range a.Delegates {
		who = append(who, syntax.DID(d))
	}
	return who, true, nil
}

// Retention implements evidence.City.
func (w *cityWords) Retention(ctx context.Context) (string, error) {
	var c citysync.ActorCity
	found, err := w.current(ctx, "at://"+w.city+"/"+lexicons.ActorCity+"/self", lexicons.ActorCity, &c)
	if err != nil || !found || c.Disclosure == nil || c.Disclosure.Retention == nil {
		return "", err
	}
	return *c.Disclosure.Retention, nil
}

// current decodes the version of a record that stands.
func (w *cityWords) current(ctx context.Context, uri, coll string, into interface{ UnmarshalCBOR(r io.Reader) error }) (bool, error) {
	rec, err := w.db.Record(ctx, uri, "")
	if errors.Is(err, query.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !rec.Current || rec.CBOR == nil || lexicons.Validate(coll, uri[strings.LastIndexByte(uri, '/')+1:], rec.CBOR) != nil {
		return false, nil
	}
	if err := into.UnmarshalCBOR(bytes.NewReader(rec.CBOR)); err != nil {
		return false, fmt.Errorf("record %s: %w", uri, err)
	}
	return true, nil
}

const evidenceSweep = time.Hour

// forgetEvidence destroys evidence whose time is over, until ctx ends.
func (a *AppView) forgetEvidence(ctx context.Context) error {
	tick := time.NewTicker(evidenceSweep)
	defer tick.Stop()
	for {
		n, err := a.deps.Evidence.Sweep(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			a.deps.Log.ErrorContext(ctx, "evidence that is over still stands", "err", err) // the next round tries again
		case n > 0:
			a.deps.Log.InfoContext(ctx, "evidence destroyed, its time was over", "objects", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
