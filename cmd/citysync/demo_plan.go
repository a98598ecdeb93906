package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// slotsUnplanned is how many slots a task gets where nobody said how many.
const slotsUnplanned = 20

// planFromNetwork makes a plan for a ready file that has none. How many slots an entry
// is to get is in no record: for a city that the program carries its folder says so,
// for any other each task gets a few.
func (d *demo) planFromNetwork(ctx context.Context) (*readyPlan, error) {
	rec, err := d.pds.get(ctx, d.city, lexicons.ActorCity, "self")
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return nil, errors.New("the city has not published itself")
	}
	var self citysync.ActorCity
	if err := json.Unmarshal(rec.Value, &self); err != nil {
		return nil, fmt.Errorf("%s: %w", rec.URI, err)
	}
	folder, err := carried(self.Name)
	if err != nil {
		return nil, err
	}
	plan := &readyPlan{TZ: self.Tz}
	copies, err := d.pds.list(ctx, d.city, lexicons.CatalogEntry)
	if err != nil {
		return nil, err
	}
	for _, c := range copies {
		row, err := d.planned(c, folder)
		if err != nil {
			return nil, err
		}
		if row != nil {
			plan.Entries = append(plan.Entries, *row)
		}
	}
	if folder != nil {
		for _, t := range folder.Tries {
			plan.Tries = append(plan.Tries, plannedTry(t))
		}
	}
	return plan, nil
}

// carried is the folder of a city of this name that the program carries, nil for none.
func carried(name string) (*city.City, error) {
	for _, dir := range city.Embedded() {
		folder, err := city.Folder(dir)
		if err != nil {
			return nil, err
		}
		c, err := city.Load(folder)
		if err != nil {
			return nil, err
		}
		if c.Name == name {
			return c, nil
		}
	}
	return nil, nil
}

// planned gives nil for an entry whose issuer is no account of the ready file.
func (d *demo) planned(rec record, folder *city.City) (*plannedRow, error) {
	var e citysync.CatalogEntry
	if err := json.Unmarshal(rec.Value, &e); err != nil {
		return nil, fmt.Errorf("%s: %w", rec.URI, err)
	}
	if e.Origin == nil || d.orgs[authorOf(e.Origin.Uri)] == nil {
		return nil, nil
	}
	issuer := d.orgs[syntax.DID(authorOf(e.Origin.Uri))].ID
	row := &plannedRow{ID: rec.URI.RecordKey().String(), Issuer: issuer, Entry: rec.URI.String(), Minutes: 60, Slots: slotsUnplanned}
	if e.MaxMinutes != nil {
		row.Minutes = int(*e.MaxMinutes)
	}
	row.Credits = e.CreditsPerHour * int64(row.Minutes) / 60
	if folder == nil {
		return row, nil
	}
	for _, f := range folder.Catalog {
		if f.Title == e.Title && f.Issuer == issuer {
			row.ID, row.Minutes, row.Credits, row.Slots, row.Place = f.ID, f.Minutes, f.Credits, f.Slots, f.Place
		}
	}
	return row, nil
}
