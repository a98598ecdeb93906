package index

import (
	"context"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/lexicons"
)

// Statuses of a repository. A host may name others; whatever is not active is not shown.
const (
	statusActive  = "active"
	statusDeleted = "deleted"
	maxStatus     = 40 // bytes kept of a host's own word
)

// Account notes what the host says of one of its accounts. One that is not active is not shown: its rows leave the typed tables, its
// records stay and make the rows anew when it comes back. A deleted one loses its content for good: of an organization uri, cid
// and rev of each version stay, so that receipts and log entries that cite it still lead somewhere; of a person nothing stays. The follower has checked that the host is the account's own.
func (x *Index) Account(ctx context.Context, host string, seq int64, did syntax.DID, active bool, status string) error {
	switch {
	case active:
		status = statusActive
	case status == "" || status == statusActive:
		status = "inactive"
	}
	args := pgx.NamedArgs{"did": did.String(), "status": bounded(status, maxStatus)}
	return x.tx(ctx, host, seq, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "update repo set status = @status where did = @did and status <> @status", args)
		if err != nil {
			return fmt.Errorf("status of %s: %w", did, err)
		}
		switch {
		case tag.RowsAffected() == 0: // nothing was seen of it, or nothing changes
			return nil
		case active:
			return show(ctx, tx, did)
		}
		if err := hide(ctx, tx, did); err != nil {
			return err
		}
		if status != statusDeleted {
			return nil
		}
		known, err := accredited(ctx, tx, did)
		if err != nil {
			return err
		}
		if !known {
			return forget(ctx, tx, did)
		}
		for _, purge := range []string{
			"update record set cid = null, cbor = null, invalid = null, edited = false where did = @did",
			"update record_version set cbor = null where did = @did",
		} {
			if _, err := tx.Exec(ctx, purge, args); err != nil {
				return fmt.Errorf("purge %s: %w", did, err)
			}
		}
		return nil
	})
}

// accredited says whether the log may cite the account: the city, the ledger, or one that was ever accredited.
func accredited(ctx context.Context, tx pgx.Tx, did syntax.DID) (known bool, err error) {
	const find = `select exists (select from record_version where coll = 'org.city-sync.actor.city' and did = @did)
		or exists (select from city where ledger = @did)
		or exists (select from record_version 
			where did in (select did from city) and coll = 'org.city-sync.registry.accreditation' and rkey in (@did, @key))`
	args := pgx.NamedArgs{"did": did.String(), "key": lexicons.Key(lexicons.RegistryAccreditation, did.String())}
	if err := tx.QueryRow(ctx, find, args).Scan(&known); err != nil {
		return false, fmt.Errorf("accreditation of %s: %w", did, err)
	}
	return known, nil
}

// forget deletes all that was seen of a person. Nothing of the log cites it, so nothing leads nowhere.
func forget(ctx context.Context, tx pgx.Tx, did syntax.DID) error {
	for table, column := range map[string]string{"evidence": "owner", "record_version": "did", "record": "did", "repo": "did"} {
		if _, err := tx.Exec(ctx, "delete from "+table+" where "+column+" = @did", pgx.NamedArgs{"did": did.String()}); err != nil {
			return fmt.Errorf("forget %s of %s: %w", table, did, err)
		}
	}
	if _, err := tx.Exec(ctx, "update dropped set did = '' where did = @did", pgx.NamedArgs{"did": did.String()}); err != nil {
		return fmt.Errorf("forget what was dropped of %s: %w", did, err)
	}
	return nil
}

// hide takes an account's rows out of every typed table.
func hide(ctx context.Context, tx pgx.Tx, did syntax.DID) error {
	for _, h := range Handlers {
		if _, err := tx.Exec(ctx, "delete from "+h.Table+" where did = @did", pgx.NamedArgs{"did": did.String()}); err != nil {
			return fmt.Errorf("hide %s of %s: %w", h.Table, did, err)
		}
	}
	return nil
}

// show makes an account's rows from its records.
func show(ctx context.Context, tx pgx.Tx, did syntax.DID) error {
	return projectAll(ctx, tx, did.String())
}

// appear makes an account active again that came back without a word of its host.
func appear(ctx context.Context, tx pgx.Tx, did syntax.DID) error {
	tag, err := tx.Exec(ctx, "update repo set status = 'active' where did = @did and status <> 'active'", pgx.NamedArgs{"did": did.String()})
	if err != nil {
		return fmt.Errorf("status of %s: %w", did, err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	return show(ctx, tx, did)
}

// shown says whether an account's records have rows. One that nothing was said of is active.
func shown(ctx context.Context, tx pgx.Tx, did syntax.DID) (bool, error) {
	var hidden bool
	err := tx.QueryRow(ctx, "select exists (select from repo where did = @did and status <> 'active')", pgx.NamedArgs{"did": did.String()}).Scan(&hidden)
	if err != nil {
		return false, fmt.Errorf("status of %s: %w", did, err)
	}
	return !hidden, nil
}
