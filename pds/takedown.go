package pds

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
)

const (
	statusSuspended = "suspended"
	maxTakedownRef  = 256
)

// takeDown closes an account against its owner's will, or suspends it; what it was before comes back with restore. Taking down what is down
// changes the moderator's reference alone.
func (s *Server) takeDown(ctx context.Context, did syntax.DID, status, ref string) error {
	if status != statusTakendown && status != statusSuspended {
		return fmt.Errorf("%w: %q is no way to close an account", errBroken, status)
	}
	now := s.clock.Now()
	return s.moderate(ctx, did, func(tx pgx.Tx, was string) (string, error) {
		const keep = `
			insert into takedown (did, ref, was, at) values (@did, @ref, @was, @now)
			on conflict (did, collection, rkey) do update set ref = excluded.ref, at = excluded.at`
		if _, err := tx.Exec(ctx, keep, pgx.NamedArgs{"did": did, "ref": ref, "was": was, "now": now}); err != nil {
			return "", err
		}
		for _, table := range []string{"session", "device"} { // nobody goes on in its name
			if _, err := tx.Exec(ctx, `delete from `+table+` where did = $1`, did); err != nil {
				return "", err
			}
		}
		return status, endGrants(ctx, tx, did)
	})
}

// liftTakedown gives an account its former status back. Nothing changes where nothing was taken down.
func (s *Server) liftTakedown(ctx context.Context, did syntax.DID) error {
	return s.moderate(ctx, did, func(tx pgx.Tx, now string) (string, error) {
		var was string
		err := tx.QueryRow(ctx, `delete from takedown where did = $1 and collection = '' returning was`, did).Scan(&was)
		if errors.Is(err, pgx.ErrNoRows) {
			return now, nil
		}
		return was, err
	})
}

// moderate changes an account's status under its repository's lock, and tells the network.
func (s *Server) moderate(ctx context.Context, did syntax.DID, change func(tx pgx.Tx, was string) (status string, err error)) error {
	err := s.locked(ctx, did, func(tx pgx.Tx, head repo.Head, was string) error {
		status, err := change(tx, was)
		if err != nil || status == was {
			return err
		}
		if _, err := tx.Exec(ctx, `update account set status = $2 where did = $1`, did, status); err != nil {
			return err
		}
		return s.tellStatus(ctx, tx, did, head, status, s.clock.Now())
	})
	if err != nil {
		return wrapUnlessShown(err, "moderate %s", did)
	}
	return nil
}

// tellStatus is the last of a transaction that changed an account's status. Of one that is open again the stream says where it stands.
func (s *Server) tellStatus(ctx context.Context, tx pgx.Tx, did syntax.DID, head repo.Head, status string, now time.Time) error {
	ev := &firehose.Account{DID: did, Active: status == statusActive, Time: eventTime(now)}
	events := []firehose.Event{ev}
	if ev.Active {
		commit, err := s.storedBlock(ctx, tx, did, head.Commit)
		if err != nil {
			return err
		}
		sync, err := syncOf(did, head, commit, now)
		if err != nil {
			return err
		}
		events = append(events, sync)
	} else {
		ev.Status = status
	}
	return tell(ctx, tx, now, events...)
}

// takenDown is the moderator's reference of an account, or of a record where path is given; empty where it stands.
func (s *Server) takenDown(ctx context.Context, did syntax.DID, collection, rkey string) (ref string, err error) {
	const find = `select ref from takedown where did = $1 and collection = $2 and rkey = $3`
	err = s.pool.QueryRow(ctx, find, did, collection, rkey).Scan(&ref)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for takedown: %w", err)
	}
	return ref, nil
}

// notHidden leaves out records that were taken down.
const notHidden = `not exists (select from takedown t where t.did = r.did and t.collection = r.collection and t.rkey = r.rkey)`

// hideRecord keeps a record from being shown by itself; it stays in its signed repository, which nobody but its owner can change.
func (s *Server) hideRecord(ctx context.Context, did syntax.DID, collection, rkey, ref string) error {
	const keep = `
		insert into takedown (did, collection, rkey, ref, at)
		select @did, @collection, @rkey, @ref, @now where exists (select from record where did = @did and collection = @collection and rkey = @rkey)
		on conflict (did, collection, rkey) do update set ref = excluded.ref, at = excluded.at`
	tag, err := s.pool.Exec(ctx, keep, pgx.NamedArgs{"did": did, "collection": collection, "rkey": rkey, "ref": ref, "now": s.clock.Now()})
	if err != nil {
		return fmt.Errorf("take down %s: %w", recordURI(did, collection, rkey), err)
	}
	if tag.RowsAffected() == 0 {
		return refused("RecordNotFound", "there is no record %s", recordURI(did, collection, rkey))
	}
	return nil
}

func (s *Server) showRecord(ctx context.Context, did syntax.DID, collection, rkey string) error {
	const drop = `delete from takedown where did = $1 and collection = $2 and rkey = $3 and collection <> ''`
	if _, err := s.pool.Exec(ctx, drop, did, collection, rkey); err != nil {
		return fmt.Errorf("restore %s: %w", recordURI(did, collection, rkey), err)
	}
	return nil
}
