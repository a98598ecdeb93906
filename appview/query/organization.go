package query

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Organization is an organization that the city accredited, with its own words about itself.
type Organization struct {
	DID           string // the organization
	Name          string // its profile's name, or "" before it published one
	Summary       string
	FunctionType  string
	Roles         []string // tokens, as accredited
	Status        string   // active | conditional | suspended | revoked
	ValidFrom     time.Time
	ValidUntil    *time.Time
	AccreditedURI string
	AccreditedCID string
	ProfileURI    string // "" before it published one
	ProfileCID    string
	Declared      bool // it declared itself a participant
}

const organizationColumns = `
	a.org as did, coalesce(o.name, '') as name, coalesce(o.summary, '') as summary, a.function_type,
	a.roles, a.status, a.valid_from, a.valid_until,
	'at://' || a.did || '/org.city-sync.registry.accreditation/' || a.rkey as accredited_uri, a.cid as accredited_cid,
	coalesce('at://' || o.did || '/org.city-sync.actor.organization/' || o.rkey, '') as profile_uri, coalesce(o.cid, '') as profile_cid,
	d.did is not null as declared
from accreditation a
left join organization o on o.did = a.org and o.rkey = 'self'
left join declaration d on d.did = a.org and d.rkey = 'self'`

// Organizations lists what the city accredited, by DID. role is a token to filter by, or "".
func (db *DB) Organizations(ctx context.Context, role string, page Page) ([]Organization, string, error) {
	keys, err := parseCursor(page.Cursor, 1)
	if err != nil {
		return nil, "", err
	}
	rows, err := list[Organization](ctx, db, "organizations", `select `+organizationColumns+`
where a.did = @city and a.org > @after and (@role = '' or @role = any(a.roles))
order by a.org limit @limit`, pgx.NamedArgs{"city": db.city, "after": keys[0], "role": role, "limit": page.Limit + 1})
	if err != nil {
		return nil, "", err
	}
	rows, next := trim(rows, page.Limit, func(o Organization) []string { return []string{o.DID} })
	return rows, next, nil
}

// Organization gives one accredited organization, or ErrNotFound.
func (db *DB) Organization(ctx context.Context, did string) (Organization, error) {
	return one[Organization](ctx, db, "organization", `select `+organizationColumns+`
where a.did = @city and a.org = @did limit 1`, pgx.NamedArgs{"city": db.city, "did": did})
}

// Names gives the names of organizations, by DID; of one without a profile there is none.
func (db *DB) Names(ctx context.Context, dids ...string) (map[string]string, error) {
	type named struct{ DID, Name string }
	rows, err := list[named](ctx, db, "names", "select did, name from organization where rkey = 'self' and did = any(@dids)", pgx.NamedArgs{"dids": dids})
	out := map[string]string{}
	for _, n := range rows {
		out[n.DID] = n.Name
	}
	return out, err
}
