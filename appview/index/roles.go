package index

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
)

// GrantTo gives the AppView's role its rights in the pool's schema, whose owner the pool's user is. The copy of the ledger's log only
// grows. It is called after each migration.
func GrantTo(ctx context.Context, pool *pgxpool.Pool, role string) error {
	return pg.Grant(ctx, pool, role, pg.Rights{Append: []string{"log_entry", "log_cause", "log_node"}})
}
