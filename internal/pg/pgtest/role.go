package pgtest

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// AsRole makes a role of its own, lets grant give it its rights, and returns a pool of that role on the owner's schema.
// Services under test run with it as in production; tests look with the owner's pool.
func AsRole(t testing.TB, owner *pgxpool.Pool, grant func(ctx context.Context, pool *pgxpool.Pool, role string) error) *pgxpool.Pool {
	t.Helper()
	role := "r_" + strings.ToLower(rand.Text())
	if _, err := owner.Exec(t.Context(), "create role "+role+" login"); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := owner.Exec(ctx, "drop owned by "+role+"; drop role "+role); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	if err := grant(t.Context(), owner, role); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	cfg := owner.Config()
	cfg.ConnConfig.User = role
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}
