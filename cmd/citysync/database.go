package main

import (
	"context"
	"encoding/hex"
	"fmt"

	"city-sync.org/citysync/internal/pg"
)

// Schemas of the services. A database is known as this program's by one more,
// citysync, with its mark.
const (
	schemaPDS     = "pds"
	schemaAppView = "appview"
	schemaLedger  = "ledger"
	schemaPDS2    = "pds2" // of a city's second PDS
)

// claimDatabase makes sure that the database belongs to this city: an empty one is
// marked, one that carries the mark of another city or none is refused. With fresh a
// marked database loses this program's schemas first; nothing else in it is touched.
func claimDatabase(ctx context.Context, dsn, instance string, fresh bool) error {
	pool, err := pg.Open(ctx, dsn, "public")
	if err != nil {
		return err
	}
	defer pool.Close()
	var schemas int
	const count = `select count(*) from pg_namespace where nspname in ('pds', 'pds2', 'appview', 'ledger', 'citysync')`
	if err := pool.QueryRow(ctx, count).Scan(&schemas); err != nil {
		return fmt.Errorf("read the database's mark: %w", err)
	}
	var marked bool
	if err := pool.QueryRow(ctx, `select to_regclass('citysync.mark') is not null`).Scan(&marked); err != nil {
		return fmt.Errorf("read the database's mark: %w", err)
	}
	mark := ""
	if marked {
		if err := pool.QueryRow(ctx, `select instance from citysync.mark`).Scan(&mark); err != nil {
			return fmt.Errorf("read the database's mark: %w", err)
		}
	}
	switch {
	case mark == "" && schemas > 0:
		return refuse("NotOurs", "the database has schemas named as this program's, but not its mark; nothing in it was touched")
	case mark != "" && fresh:
		const drop = `drop schema if exists pds, pds2, appview, ledger, citysync cascade`
		if _, err := pool.Exec(ctx, drop); err != nil {
			return fmt.Errorf("empty the database: %w", err)
		}
		if _, err := hex.DecodeString(mark); err == nil && len(mark) >= 8 { // as every mark of ours
			if _, err := pool.Exec(ctx, fmt.Sprintf(dropRoles, mark[:8])); err != nil {
				return fmt.Errorf("end the roles of the city before: %w", err)
			}
		}
	case mark == instance:
		return nil
	case mark != "":
		return refuse("CityMismatch", "the database belongs to another city than the data folder; --fresh empties both")
	}
	// One implicit transaction: a crash leaves no mark without its city. The instance is
	// hex digits of our own making.
	write := fmt.Sprintf(`create schema citysync; create table citysync.mark as select '%s'::text as instance`, instance)
	if _, err := pool.Exec(ctx, write); err != nil {
		return fmt.Errorf("mark the database: %w", err)
	}
	return nil
}
