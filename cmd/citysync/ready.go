package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// readyInfo is the ready file: what an outside script needs to act in the city.
type readyInfo struct {
	Web           string         `json:"web"`
	PDS           string         `json:"pds"`
	Ledger        string         `json:"ledger"`
	PLC           string         `json:"plc"`
	AdminPassword string         `json:"adminPassword"`
	City          readyCity      `json:"city"`
	LedgerDID     string         `json:"ledgerDid"`
	AppViewDID    string         `json:"appviewDid"`
	Epoch         readyEpoch     `json:"epoch"`
	Accounts      []readyAccount `json:"accounts"`
	Plan          *readyPlan     `json:"plan,omitempty"`
	// Hosts are the city's PDSs, the one above first, and AdminPasswords those of the others.
	Hosts          []string          `json:"hosts,omitempty"`
	AdminPasswords map[string]string `json:"adminPasswords,omitempty"`
}

type readyCity struct {
	DID    string `json:"did"`
	Handle string `json:"handle"`
}

type readyEpoch struct {
	Key      string    `json:"key"`
	StartsAt time.Time `json:"startsAt"`
	EndsAt   time.Time `json:"endsAt"`
}

type readyAccount struct {
	ID       string   `json:"id"`
	Handle   string   `json:"handle"`
	DID      string   `json:"did"`
	Password string   `json:"password"`
	Roles    []string `json:"roles"`
	PDS      string   `json:"pds,omitempty"` // where it is not the city's first
}

// readyPlan is what the city folder plans and no record says: how many slots each
// catalog entry is to get, and which task is tried too large.
type readyPlan struct {
	TZ      string       `json:"tz"`
	Entries []plannedRow `json:"entries"`
	Tries   []plannedTry `json:"tries,omitempty"`
	Refused []refusedRow `json:"refused,omitempty"`
}

type plannedRow struct {
	ID      string `json:"id"`
	Issuer  string `json:"issuer"`
	Entry   string `json:"entry"`           // at-uri of the city's copy
	Draft   string `json:"draft,omitempty"` // at-uri of the issuer's draft behind it
	Credits int64  `json:"credits"`
	Minutes int    `json:"minutes"`
	Slots   int    `json:"slots"`
	Place   string `json:"place"`
}

type plannedTry struct {
	Entry string `json:"entry"` // id of the row
	Slots int    `json:"slots"`
}

type refusedRow struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Message string `json:"message"`
}

func (r *readyInfo) account(id string) (readyAccount, bool) {
	for _, a := range r.Accounts {
		if a.ID == id {
			return a, true
		}
	}
	return readyAccount{}, false
}

func writeReady(path string, r *readyInfo) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	if err := writeAtomic(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

func removeReady(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the stale ready file: %w", err)
	}
	return nil
}

const maxReadyBytes = 16 << 20

func readReady(path string) (*readyInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("ready file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	var r readyInfo
	if err := json.NewDecoder(io.LimitReader(f, maxReadyBytes)).Decode(&r); err != nil {
		return nil, fmt.Errorf("ready file %s: %w", path, err)
	}
	for name, v := range map[string]string{"web": r.Web, "pds": r.PDS, "ledger": r.Ledger, "ledgerDid": r.LedgerDID, "city.did": r.City.DID, "epoch.key": r.Epoch.Key} {
		if v == "" {
			return nil, fmt.Errorf("ready file %s: %s is missing", path, name)
		}
	}
	return &r, nil
}
