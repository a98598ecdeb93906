package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Replay remembers which one-time tokens were used. Its table is made by the migrations
// of the schema that the pool sees:
//
//	create table service_auth_jti (
//		key   text collate "C" primary key,
//		until timestamptz not null
//	);
//	create index service_auth_jti_until on service_auth_jti (until);
type Replay struct{ pool *pgxpool.Pool }

// NewReplay returns the replay table of the pool's schema.
func NewReplay(pool *pgxpool.Pool) *Replay { return &Replay{pool: pool} }

// Use marks key as used and tells whether this was its first use. The key is kept at
// least until the given moment, when the token has expired and cannot come again. After
// an error the token must be treated as used.
func (r *Replay) Use(ctx context.Context, key string, until time.Time) (fresh bool, err error) {
	// Each use sweeps out a few that are long over, so the table needs no janitor. An hour
	// of slack keeps the database's clock out of the decision; skip locked keeps two
	// sweeps from waiting for each other.
	const use = `
		with over as (
			delete from service_auth_jti where key in (
				select key from service_auth_jti
				where until < now() - interval '1 hour' and key <> $1
				order by until limit 50 for update skip locked
			)
		)
		insert into service_auth_jti (key, until) values ($1, $2)
		on conflict (key) do nothing`
	tag, err := r.pool.Exec(ctx, use, key, until)
	if err != nil {
		return false, fmt.Errorf("mark token as used: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}
