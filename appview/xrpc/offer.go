package xrpc

import (
	"context"
	"errors"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
)

type offeringView struct {
	recordView
	Redeemer     string `json:"redeemer"`
	RedeemerName string `json:"redeemerName,omitempty"`
	Status       string `json:"status"`
	Counted      bool   `json:"counted"` // in the capacity of the open epoch
	Burns        int64  `json:"burns"`
	Burned       int64  `json:"burned"`
}

func (s *server) offering(ctx context.Context, o query.Offering) (offeringView, error) {
	rec, err := s.record(ctx, o.URI, o.CID)
	return offeringView{recordView: rec, Redeemer: o.DID, RedeemerName: o.RedeemerName, Status: o.Status, Counted: o.Counted,
		Burns: o.Burns, Burned: o.Burned}, err
}

type offeringList struct {
	Offerings []offeringView `json:"offerings"`
	Cursor    string         `json:"cursor,omitempty"`
}

func (s *server) queryOfferings(c *xrpc.Call) (any, error) {
	p, err := page(c)
	if err != nil {
		return nil, err
	}
	rows, next, err := s.db.Offerings(c.Context(), c.Param("redeemer"), p)
	if err != nil {
		return nil, named(err)
	}
	views, err := viewed(rows, func(o query.Offering) (offeringView, error) { return s.offering(c.Context(), o) })
	if err != nil {
		return nil, err
	}
	return offeringList{views, next}, nil
}

// getOfferings leaves out what the index does not hold.
func (s *server) getOfferings(c *xrpc.Call) (any, error) {
	uris, err := c.Strings("uris", maxURIs)
	if err != nil {
		return nil, err
	}
	out := offeringList{Offerings: []offeringView{}}
	for _, uri := range uris {
		o, err := s.db.Offering(c.Context(), uri)
		if errors.Is(err, query.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		view, err := s.offering(c.Context(), o)
		if err != nil {
			return nil, named(err)
		}
		out.Offerings = append(out.Offerings, view)
	}
	return out, nil
}
