package xrpc

import (
	"context"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
)

type entryView struct {
	recordView
	Author string `json:"author"`
	Status string `json:"status"`
}

func (s *server) entry(ctx context.Context, e query.Entry) (entryView, error) {
	rec, err := s.record(ctx, e.URI, e.CID)
	return entryView{recordView: rec, Author: e.DID, Status: e.Status}, err
}

func (s *server) listEntries(c *xrpc.Call) (any, error) {
	p, err := page(c)
	if err != nil {
		return nil, err
	}
	rows, next, err := s.db.Entries(c.Context(), query.EntryFilter{Author: c.Param("author"), OriginURI: c.Param("origin"), Status: c.Param("status")}, p)
	if err != nil {
		return nil, named(err)
	}
	views, err := viewed(rows, func(e query.Entry) (entryView, error) { return s.entry(c.Context(), e) })
	if err != nil {
		return nil, err
	}
	return struct {
		Entries []entryView `json:"entries"`
		Cursor  string      `json:"cursor,omitempty"`
	}{views, next}, nil
}

func (s *server) getEntry(c *xrpc.Call) (any, error) {
	uri, err := c.Required("uri")
	if err != nil {
		return nil, err
	}
	e, err := s.db.Entry(c.Context(), uri)
	if err != nil {
		return nil, named(err)
	}
	view, err := s.entry(c.Context(), e)
	if err != nil {
		return nil, named(err)
	}
	return view, nil
}
