// Package city reads a city folder: the CSV files that describe one city, its
// organizations, their catalog and their offerings, and turns them into plain
// values and into the records that set the city up.
//
// A folder has city.csv (key,value), organizations.csv, catalog.csv and offerings.csv,
// UTF-8 with a header row; columns and keys that are not known are ignored.
//
//   - city.csv may set numbers of the parameter set by the names they have there
//     (claimLimit, rStartBps, …); what it does not set is DefaultParameters.
//   - catalog.csv may have benefit, success, summary and place, offerings.csv and
//     organizations.csv summary and place.
//   - tries.csv (entry,slots) may name tasks that the demonstration publishes too large
//     on purpose.
//   - The three months of the epoch are runs of whole weeks, see Epoch.
//
// What holds for every City that Load returns:
//
//  1. Every reference resolves: a catalog row names an issuer, an offering a
//     redeemer, a try an entry.
//  2. Ids, handles and the city's own names are unique; CITY, LEDGER, city and
//     ledger are never an organization's.
//  3. Hours are whole minutes, amounts are whole credits, dates are instants in
//     the city's zone. No float is read anywhere.
//  4. A value that a city rule refuses (a public price of 0, pay outside the tier
//     band) is not an error of the folder: the city starts without that row, and
//     Refusals says which rule refused it.
package city

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Roles an organization may hold in a city folder.
const (
	RoleIssuer   = "issuer"
	RoleRedeemer = "redeemer"
	RoleSponsor  = "sponsor"
	RoleVerifier = "verifier"
	RoleWitness  = "witness"
)

// Ids and handle labels that belong to the city and its ledger.
const (
	IDCity       = "CITY"
	IDLedger     = "LEDGER"
	HandleCity   = "city"
	HandleLedger = "ledger"
)

// Sensitivities of a catalog entry.
const (
	Public       = "public"
	Pseudonymous = "pseudonymous"
	Sealed       = "sealed"
)

// City is one city folder, read and checked.
type City struct {
	Name   string
	Symbol string
	TZ     string
	Langs  []string
	Epoch  Epoch
	Params Parameters

	Organizations []Organization
	Catalog       []Entry
	Offerings     []Offering
	Tries         []Try
}

// Epoch is one epoch with the bounds of its three months. Nothing computes with
// months of 30 days: the bounds are stated.
type Epoch struct {
	Key      string
	StartsAt time.Time
	EndsAt   time.Time
	Months   []Span
	Phase    string
}

// Span is a stretch of time, its end excluded.
type Span struct{ StartsAt, EndsAt time.Time }

// Organization is one organization of the folder.
type Organization struct {
	ID           string
	Handle       string // one label; the account's handle is Handle.test
	Name         string
	Roles        []string
	FunctionType string
	Summary      string
	Place        string
}

// Is tells whether the organization holds a role.
func (o Organization) Is(role string) bool {
	for _, r := range o.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// Entry is one row of the catalog.
type Entry struct {
	ID                string
	Issuer            string
	Title             string
	Summary           string
	Success           string
	Benefit           string
	Place             string
	Tier              int
	Minutes           int
	Credits           int64
	Slots             int
	VerificationLevel int
	Sensitivity       string
	Credentials       []string
	ReservedFor       []string
	Note              string
}

// Offering is one row of the offerings.
type Offering struct {
	ID               string
	Redeemer         string
	Title            string
	Summary          string
	Place            string
	Unit             string
	PhysicalMonth    int64
	MarginalMonth    int64
	CommittedMonth   int64
	Cost             int64
	PublicPriceMinor *int64 // nil where the folder states none
	Currency         string
	Windows          []Window
	Essential        bool
	FreeFor          []string
}

// CapacityMonth is what the offering adds to the city's capacity each month:
// min(physical, marginal, committed) units × credits per unit.
func (o Offering) CapacityMonth() int64 {
	return min(o.PhysicalMonth, o.MarginalMonth, o.CommittedMonth) * o.Cost
}

// Try is a task that the demonstration publishes too large on purpose.
type Try struct {
	Entry string
	Slots int
}

// Location is the city's zone. Load has checked that it exists.
func (c *City) Location() *time.Location {
	loc, err := time.LoadLocation(c.TZ)
	if err != nil {
		panic(fmt.Sprintf("city %s was loaded with zone %q: %v", c.Name, c.TZ, err))
	}
	return loc
}

// Organization finds an organization by its id.
func (c *City) Organization(id string) (Organization, bool) {
	for _, o := range c.Organizations {
		if o.ID == id {
			return o, true
		}
	}
	return Organization{}, false
}

// WithRole lists the organizations that hold a role, in the folder's order.
func (c *City) WithRole(role string) []Organization {
	var out []Organization
	for _, o := range c.Organizations {
		if o.Is(role) {
			out = append(out, o)
		}
	}
	return out
}

// Digest names the content of the folder: two folders with the same digest set
// up the same city. Formatting and unknown columns do not count.
func (c *City) Digest() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("city %s: %v", c.Name, err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
