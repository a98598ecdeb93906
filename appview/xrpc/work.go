package xrpc

import (
	"context"
	"errors"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
)

type taskView struct {
	recordView
	Issuer      string `json:"issuer"`
	IssuerName  string `json:"issuerName,omitempty"`
	Tier        int    `json:"tier,omitempty"`
	Level       int    `json:"level,omitempty"`
	Sensitivity string `json:"sensitivity,omitempty"`
	Status      string `json:"status"`
	Accepted    bool   `json:"accepted"` // the ledger reserved it
	Slots       int64  `json:"slots"`
	Claims      int64  `json:"claims"`
	Mints       int64  `json:"mints"`
	Minted      int64  `json:"minted"`
}

func (s *server) task(ctx context.Context, t query.Task) (taskView, error) {
	rec, err := s.record(ctx, t.URI, t.CID)
	return taskView{recordView: rec, Issuer: t.DID, IssuerName: t.IssuerName, Tier: t.Tier, Level: t.Level, Sensitivity: t.Sensitivity,
		Status: t.Status, Accepted: t.Accepted, Slots: t.Slots, Claims: t.Claims, Mints: t.Mints, Minted: t.Minted}, err
}

type taskList struct {
	Tasks  []taskView `json:"tasks"`
	Cursor string     `json:"cursor,omitempty"`
}

func (s *server) queryTasks(c *xrpc.Call) (any, error) {
	p, err := page(c)
	if err != nil {
		return nil, err
	}
	accepted, err := c.Bool("accepted", false)
	if err != nil {
		return nil, err
	}
	rows, next, err := s.db.Tasks(c.Context(), query.TaskFilter{Issuer: c.Param("issuer"), EntryURI: c.Param("entry"), Epoch: c.Param("epoch"), Accepted: accepted}, p)
	if err != nil {
		return nil, named(err)
	}
	views, err := viewed(rows, func(t query.Task) (taskView, error) { return s.task(c.Context(), t) })
	if err != nil {
		return nil, err
	}
	return taskList{views, next}, nil
}

// getTasks leaves out what the index does not hold.
func (s *server) getTasks(c *xrpc.Call) (any, error) {
	uris, err := c.Strings("uris", maxURIs)
	if err != nil {
		return nil, err
	}
	out := taskList{Tasks: []taskView{}}
	for _, uri := range uris {
		t, err := s.db.Task(c.Context(), uri)
		if errors.Is(err, query.ErrNotFound) || t.Standing != "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		view, err := s.task(c.Context(), t)
		if err != nil {
			return nil, named(err)
		}
		out.Tasks = append(out.Tasks, view)
	}
	return out, nil
}
