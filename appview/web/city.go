package web

import (
	"context"
	"errors"
	"net/http"

	"city-sync.org/citysync/appview/query"
)

// cards is how many tasks or offerings the city's page shows at once.
const cards = 30

type cityPage struct {
	Totals        *query.Totals // nil before the first epoch opened
	Tasks         []query.Task
	Refused       bool // the tasks are those that the ledger does not count
	TasksNext     string
	Offerings     []query.Offering
	OfferingsNext string
	Pauses        map[string]query.Pause // of these tasks and offerings, by uri
	Epochs        []query.Epoch          // of every book, newest first
}

func (p *Pages) city(ctx context.Context, r *http.Request, _ layout) (any, error) {
	var page cityPage
	totals, err := p.db.Totals(ctx)
	switch {
	case err == nil:
		page.Totals = &totals
	case !errors.Is(err, query.ErrNotFound):
		return nil, err
	}
	q := r.URL.Query()
	page.Refused = q.Get("show") == "refused"
	filter := query.TaskFilter{Accepted: !page.Refused, Refused: page.Refused}
	if page.Tasks, page.TasksNext, err = p.db.Tasks(ctx, filter, query.Page{Limit: cards, Cursor: q.Get("tasks")}); err != nil {
		return nil, err
	}
	if page.Offerings, page.OfferingsNext, err = p.db.Offerings(ctx, "", query.Page{Limit: cards, Cursor: q.Get("offerings")}); err != nil {
		return nil, err
	}
	var uris []string
	for _, t := range page.Tasks {
		uris = append(uris, t.URI)
	}
	for _, o := range page.Offerings {
		uris = append(uris, o.URI)
	}
	if page.Pauses, err = p.db.PausesOf(ctx, p.cfg.Clock.Now(), uris...); err != nil {
		return nil, err
	}
	page.Epochs, err = p.db.Epochs(ctx)
	return page, err
}
