package web

import (
	"context"
	"net/http"
	"strings"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/lexicons"
)

type disputesPage struct {
	Disputes []query.Dispute
	Next     string
}

func (p *Pages) disputes(ctx context.Context, r *http.Request, _ layout) (any, error) {
	var page disputesPage
	var err error
	page.Disputes, page.Next, err = p.db.Disputes(ctx, "", "", query.Page{Limit: cards, Cursor: r.URL.Query().Get("from")})
	return page, err
}

type disputePage struct {
	Dispute query.Dispute
	Task    string // path of the page of the task that it is about, or ""
	Answers []query.Resolution
}

func (p *Pages) dispute(ctx context.Context, r *http.Request, _ layout) (any, error) {
	uri := "at://" + r.PathValue("did") + "/" + lexicons.GovDispute + "/" + r.PathValue("rkey")
	var page disputePage
	var err error
	if page.Dispute, err = p.db.Dispute(ctx, uri); err != nil {
		return nil, err
	}
	if strings.Contains(page.Dispute.Subject, "/"+lexicons.WorkTask+"/") {
		page.Task = taskPath(page.Dispute.Subject)
	}
	page.Answers, err = p.db.Resolutions(ctx, uri)
	return page, err
}

// disputeKind is the bare name of a dispute's token.
func disputeKind(token string) string {
	return strings.TrimPrefix(token, "org.city-sync.defs#")
}
