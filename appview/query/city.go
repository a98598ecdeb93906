package query

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// City is what a city's account says of itself.
type City struct {
	DID       string
	CID       string
	Name      string
	TZ        string
	Langs     []string
	Ledger    string // DID
	LogOrigin string
	LogVkey   string
	LogURL    string
}

// CityRecord gives the city's own record, or ErrNotFound before the index has seen it.
func (db *DB) CityRecord(ctx context.Context) (City, error) {
	return one[City](ctx, db, "city", `
select did, cid, name, tz, langs, ledger, log_origin, log_vkey, log_url from city where did = @city and rkey = 'self'`,
		pgx.NamedArgs{"city": db.city})
}
