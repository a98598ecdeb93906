package pds

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
)

// GrantTo gives a server's role its rights in the pool's schema, whose owner the pool's user is. It is called after each migration.
func GrantTo(ctx context.Context, pool *pgxpool.Pool, role string) error {
	return pg.Grant(ctx, pool, role, pg.Rights{})
}
