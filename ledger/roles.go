package ledger

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
)

// GrantTo gives the ledger's role its rights in the pool's schema, whose owner the pool's user is. Leaves, the hashes of their tree (the
// tiles) and checkpoints can only be added: by permission, and once more by the triggers that bind their owner too. It is called after
// each migration.
func GrantTo(ctx context.Context, pool *pgxpool.Pool, role string) error {
	return pg.Grant(ctx, pool, role, pg.Rights{Append: []string{"entry", "node", "checkpoint", "policy"}})
}
