package pds

import (
	"context"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

// resyncPage bounds what is read at once of the repositories that begin anew.
const resyncPage = 200

// resync begins each repository of a restored server anew in the stream: one commit that changes nothing, above whatever revision consumers
// have seen, and a #sync of it, by which they drop what they had. A crash in between leaves the rest to the next start.
func (s *Server) resync(ctx context.Context) error {
	total := 0
	for {
		rows, err := s.pool.Query(ctx, `select did from resync order by did limit $1`, resyncPage)
		if err != nil {
			return fmt.Errorf("find repositories to begin anew: %w", err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[syntax.DID])
		if err != nil {
			return fmt.Errorf("find repositories to begin anew: %w", err)
		}
		for _, did := range list {
			if err := s.beginAnew(ctx, did); err != nil {
				return err
			}
		}
		if total += len(list); len(list) < resyncPage {
			break
		}
	}
	if total > 0 {
		s.log.Info("repositories of the restored server begin anew in the stream", "repositories", total)
	}
	return nil
}

// beginAnew is for one repository. Of an account that is closed only its status is told: its repository is told of when it opens.
func (s *Server) beginAnew(ctx context.Context, did syntax.DID) error {
	acc, err := s.findAccount(ctx, did.String())
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // deleted meanwhile, and its row with it
	}
	if err != nil {
		return err
	}
	key, err := s.signingKey(acc)
	if err != nil {
		return err
	}
	now := s.clock.Now()
	err = s.locked(ctx, did, func(tx pgx.Tx, head repo.Head, status string) error {
		if _, err := tx.Exec(ctx, `delete from resync where did = $1`, did); err != nil {
			return err
		}
		events := []firehose.Event{&firehose.Account{DID: did, Active: status == statusActive, Status: (&account{Status: status}).inactive(), Time: eventTime(now)}}
		rev, err := s.tids.nextRev(head.Rev)
		if err != nil {
			return err
		}
		commit, err := repo.Apply(ctx, blocks{q: tx, did: did, cache: s.cache}, did, &head, nil, key, rev)
		if err != nil {
			return err
		}
		var batch pgx.Batch
		queueHead(&batch, did, commit)
		queueBlocks(&batch, did, &current{head: head}, nil, commit)
		if status == statusActive {
			sync, err := syncOf(did, commit.Head, commit.New[0], now)
			if err != nil {
				return err
			}
			events = append(events, &firehose.Identity{DID: did, Handle: acc.Handle, Time: eventTime(now)}, sync)
		}
		if err := queueEvents(&batch, now, events...); err != nil {
			return err
		}
		err = tx.SendBatch(ctx, &batch).Close()
		crash.Point("pds/resync/before-commit")
		return err
	})
	var gone *xrpc.Error
	if errors.As(err, &gone) && gone.Name == "RepoNotFound" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("begin %s anew: %w", did, err)
	}
	crash.Point("pds/resync/after-commit")
	return nil
}

// settle marks a restored schema: everybody signs in again, and every repository begins anew.
func settle(ctx context.Context, q *pgxpool.Pool) error {
	for _, table := range signedInTables {
		if _, err := q.Exec(ctx, `delete from `+table); err != nil {
			return fmt.Errorf("end sign-ins: %w", err)
		}
	}
	if _, err := q.Exec(ctx, `insert into resync (did) select did from repo on conflict do nothing`); err != nil {
		return fmt.Errorf("note repositories: %w", err)
	}
	return nil
}

// signedInTables are what lets somebody in without a password.
var signedInTables = []string{"session", "app_password", "device", "mail_word", "oauth_request", "oauth_session", "operator_token", "operator_device"}
