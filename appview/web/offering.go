package web

import (
	"context"
	"net/http"
	"slices"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/lexicons"
)

type offeringPage struct {
	Offering query.Offering
	Pause    *query.Pause  // nil while codes can be made for it
	Stopped  []query.Pause // of its redeemer
	Cited    []query.Citation
}

func (p *Pages) offering(ctx context.Context, r *http.Request, _ layout) (any, error) {
	uri := "at://" + r.PathValue("did") + "/" + lexicons.OfferOffering + "/" + r.PathValue("rkey")
	var page offeringPage
	var err error
	if page.Offering, err = p.db.Offering(ctx, uri); err != nil {
		return nil, err
	}
	paused, err := p.db.PausesOf(ctx, p.cfg.Clock.Now(), uri)
	if err != nil {
		return nil, err
	}
	if s, ok := paused[uri]; ok {
		page.Pause = &s
	}
	if page.Stopped, err = p.stopped(ctx, page.Offering.DID); err != nil {
		return nil, err
	}
	page.Cited, err = p.db.Citations(ctx, uri, "")
	return page, err
}

// stopped gives the pauses of one organization that stand now.
func (p *Pages) stopped(ctx context.Context, org string) ([]query.Pause, error) {
	all, err := p.db.CityPauses(ctx, p.cfg.Clock.Now())
	return slices.DeleteFunc(all, func(s query.Pause) bool { return s.Org != org }), err
}
