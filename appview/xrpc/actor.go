package xrpc

import (
	"context"
	"errors"
	"time"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
)

type cityView struct {
	DID string `json:"did"`
	recordView
	Epoch *epochView `json:"epoch,omitempty"`
}

type epochView struct {
	Key            string       `json:"key"`
	Book           string       `json:"book"`
	StartsAt       string       `json:"startsAt"`
	EndsAt         string       `json:"endsAt"`
	CapacityMonth  int64        `json:"capacityMonth"`
	CapEpoch       int64        `json:"capEpoch"`
	CapUnallocated int64        `json:"capUnallocated"`
	Reserved       int64        `json:"reserved"`
	Minted         int64        `json:"minted"`
	Votes          int64        `json:"votes"`
	Burned         int64        `json:"burned"`
	Expired        int64        `json:"expired"`
	Held           int64        `json:"held"`
	Supply         int64        `json:"supply"`
	Issuers        []issuerView `json:"issuers"`
	Checkpoint     treeView     `json:"checkpoint"`

	Cosigned *cosignedView `json:"cosigned,omitempty"`
}

type issuerView struct {
	DID        string `json:"did"`
	Allocation int64  `json:"allocation"`
	Reserved   int64  `json:"reserved"`
	Minted     int64  `json:"minted"`
}

type treeView struct {
	Size int64  `json:"size"`
	Root string `json:"root"`
}

func (s *server) getCity(c *xrpc.Call) (any, error) {
	ctx := c.Context()
	city, err := s.db.CityRecord(ctx)
	if err != nil {
		return nil, named(err)
	}
	rec, err := s.record(ctx, "at://"+city.DID+"/org.city-sync.actor.city/self", city.CID)
	if err != nil {
		return nil, named(err)
	}
	view := cityView{DID: city.DID, recordView: rec}
	totals, err := s.db.Totals(ctx)
	switch {
	case err == nil:
		f, err := s.db.Finality(ctx)
		if err != nil {
			return nil, named(err)
		}
		view.Epoch = epochOf(totals)
		view.Epoch.Cosigned = cosignedOf(f.Cosigned)
	case !errors.Is(err, query.ErrNotFound):
		return nil, err
	}
	return view, nil
}

func epochOf(t query.Totals) *epochView {
	v := &epochView{Key: t.Epoch, Book: t.Book, StartsAt: t.StartsAt.UTC().Format(time.RFC3339), EndsAt: t.EndsAt.UTC().Format(time.RFC3339),
		CapacityMonth: t.CapacityMonth, CapEpoch: t.CapEpoch, CapUnallocated: t.CapUnallocated, Reserved: t.Reserved, Minted: t.Minted,
		Votes: t.Votes, Burned: t.Burned, Expired: t.Expired, Held: t.Held, Supply: t.Supply, Issuers: []issuerView{}, Checkpoint: treeView{Size: t.LogSize, Root: t.LogRoot}}
	for _, i := range t.Issuers {
		v.Issuers = append(v.Issuers, issuerView{DID: i.DID, Allocation: i.Allocation, Reserved: i.Reserved, Minted: i.Minted})
	}
	return v
}

type organizationView struct {
	DID           string      `json:"did"`
	Name          string      `json:"name"`
	Roles         []string    `json:"roles"`
	Status        string      `json:"status"`
	Declared      bool        `json:"declared"`
	Accreditation recordView  `json:"accreditation"`
	Profile       *recordView `json:"profile,omitempty"`
}

func (s *server) organization(ctx context.Context, o query.Organization) (organizationView, error) {
	v := organizationView{DID: o.DID, Name: o.Name, Roles: o.Roles, Status: o.Status, Declared: o.Declared}
	var err error
	if v.Accreditation, err = s.record(ctx, o.AccreditedURI, o.AccreditedCID); err != nil {
		return v, err
	}
	if o.ProfileURI != "" {
		profile, err := s.record(ctx, o.ProfileURI, o.ProfileCID)
		if err != nil {
			return v, err
		}
		v.Profile = &profile
	}
	return v, nil
}

func (s *server) listOrganizations(c *xrpc.Call) (any, error) {
	p, err := page(c)
	if err != nil {
		return nil, err
	}
	rows, next, err := s.db.Organizations(c.Context(), c.Param("role"), p)
	if err != nil {
		return nil, named(err)
	}
	views, err := viewed(rows, func(o query.Organization) (organizationView, error) { return s.organization(c.Context(), o) })
	if err != nil {
		return nil, err
	}
	return struct {
		Organizations []organizationView `json:"organizations"`
		Cursor        string             `json:"cursor,omitempty"`
	}{views, next}, nil
}

func (s *server) getProfile(c *xrpc.Call) (any, error) {
	actor, err := c.Required("actor")
	if err != nil {
		return nil, err
	}
	o, err := s.db.Organization(c.Context(), actor)
	if err != nil {
		return nil, named(err)
	}
	view, err := s.organization(c.Context(), o)
	if err != nil {
		return nil, named(err)
	}
	return view, nil
}
