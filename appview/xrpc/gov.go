package xrpc

import (
	"context"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
)

type disputeView struct {
	recordView
	Author      string           `json:"author"`
	AuthorName  string           `json:"authorName,omitempty"`
	Status      string           `json:"status"`
	Held        bool             `json:"held,omitempty"`
	Resolutions []resolutionView `json:"resolutions"`
}

type resolutionView struct {
	recordView
	Result     string  `json:"result"`
	Ruling     bool    `json:"ruling,omitempty"`
	NotCounted string  `json:"notCounted,omitempty"`
	Seqs       []int64 `json:"seqs,omitempty"`
}

func (s *server) dispute(ctx context.Context, d query.Dispute) (disputeView, error) {
	v := disputeView{Author: d.DID, AuthorName: d.AuthorName, Status: d.Status, Held: d.Held, Resolutions: []resolutionView{}}
	var err error
	if v.recordView, err = s.record(ctx, d.URI, d.CID); err != nil {
		return v, err
	}
	answers, err := s.db.Resolutions(ctx, d.URI)
	if err != nil {
		return v, err
	}
	for _, r := range answers {
		rv := resolutionView{Result: r.Result, Ruling: r.Ruling, NotCounted: r.Refused}
		if rv.recordView, err = s.record(ctx, r.URI, r.CID); err != nil {
			return v, err
		}
		for _, e := range r.Entries {
			rv.Seqs = append(rv.Seqs, e.Seq)
		}
		v.Resolutions = append(v.Resolutions, rv)
	}
	return v, nil
}

func (s *server) listDisputes(c *xrpc.Call) (any, error) {
	p, err := page(c)
	if err != nil {
		return nil, err
	}
	rows, next, err := s.db.Disputes(c.Context(), c.Param("subject"), c.Param("status"), p)
	if err != nil {
		return nil, named(err)
	}
	views, err := viewed(rows, func(d query.Dispute) (disputeView, error) { return s.dispute(c.Context(), d) })
	if err != nil {
		return nil, err
	}
	return struct {
		Disputes []disputeView `json:"disputes"`
		Cursor   string        `json:"cursor,omitempty"`
	}{views, next}, nil
}

func (s *server) getDispute(c *xrpc.Call) (any, error) {
	uri, err := c.Required("uri")
	if err != nil {
		return nil, err
	}
	d, err := s.db.Dispute(c.Context(), uri)
	if err != nil {
		return nil, named(err)
	}
	view, err := s.dispute(c.Context(), d)
	if err != nil {
		return nil, named(err)
	}
	return view, nil
}
