// Package xrpc answers the AppView's methods: it maps query rows to the views of our lexicons. A view carries the original record verbatim
// and what the index computed beside it.
package xrpc

import (
	"context"
	"encoding/json"
	"errors"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

const (
	maxPage = 100 // rows of one listing
	maxURIs = 25  // records of one batch
)

// Explainer asks the ledger about a public record. Its answer is shown as the ledger's statement.
type Explainer interface {
	Explain(ctx context.Context, uri, cid string) (json.RawMessage, error)
}

// Register adds the AppView's methods to mux.
func Register(mux *xrpc.Mux, db *query.DB, ledger Explainer) {
	s := &server{db: db, ledger: ledger}
	mux.Query("org.city-sync.actor.getCity", s.getCity)
	mux.Query("org.city-sync.actor.getProfile", s.getProfile)
	mux.Query("org.city-sync.actor.listOrganizations", s.listOrganizations)
	mux.Query("org.city-sync.catalog.listEntries", s.listEntries)
	mux.Query("org.city-sync.catalog.getEntry", s.getEntry)
	mux.Query("org.city-sync.work.queryTasks", s.queryTasks)
	mux.Query("org.city-sync.work.getTasks", s.getTasks)
	mux.Query("org.city-sync.offer.queryOfferings", s.queryOfferings)
	mux.Query("org.city-sync.offer.getOfferings", s.getOfferings)
	mux.Query("org.city-sync.audit.listTimeline", s.listTimeline)
	mux.Query("org.city-sync.audit.explainRecord", s.explainRecord)
	mux.Query("org.city-sync.audit.listEpochReports", s.listEpochReports)
	mux.Query("org.city-sync.audit.getFinality", s.getFinality)
	mux.Query("org.city-sync.gov.listDisputes", s.listDisputes)
	mux.Query("org.city-sync.gov.getDispute", s.getDispute)
}

type server struct {
	db     *query.DB
	ledger Explainer
}

// recordView is a record verbatim, beside its address.
type recordView struct {
	URI    string          `json:"uri"`
	CID    string          `json:"cid"`
	Record json.RawMessage `json:"record"`
}

func (s *server) record(ctx context.Context, uri, cid string) (recordView, error) {
	rec, err := s.db.Record(ctx, uri, cid)
	if err != nil {
		return recordView{}, err
	}
	if rec.CBOR == nil {
		return recordView{}, query.ErrNotFound
	}
	raw, err := lexicons.CBORToJSON(rec.CBOR)
	if err != nil {
		return recordView{}, err
	}
	return recordView{URI: rec.URI(), CID: rec.CID, Record: raw}, nil
}

// page reads limit and cursor.
func page(c *xrpc.Call) (query.Page, error) {
	limit, err := c.Int("limit", 50, 1, maxPage)
	if err != nil {
		return query.Page{}, err
	}
	return query.Page{Limit: int(limit), Cursor: c.Param("cursor")}, nil
}

// named gives the errors of the query layer their names on the wire.
func named(err error) error {
	switch {
	case errors.Is(err, query.ErrNotFound):
		return xrpc.Errorf(404, "NotFound", "%s", err)
	case errors.Is(err, query.ErrBadCursor):
		return xrpc.Errorf(400, "BadCursor", "the cursor is not one that this method gave")
	}
	return err
}

// viewed maps rows to views and stops at the first that fails.
func viewed[R, V any](rows []R, view func(R) (V, error)) ([]V, error) {
	out := make([]V, 0, len(rows))
	for _, r := range rows {
		v, err := view(r)
		if err != nil {
			return nil, named(err)
		}
		out = append(out, v)
	}
	return out, nil
}
