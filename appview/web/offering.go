package web

import (
	"context"
	"net/http"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/lexicons"
)

type offeringPage struct {
	Offering query.Offering
	Pause    *query.Pause // nil while codes can be made for it
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
	page.Cited, err = p.db.Citations(ctx, uri, "")
	return page, err
}
