package pds

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
)

// resyncPage bounds what is read at once of the repositories that begin anew.
const resyncPage = 200

// resyncRetry is how long those wait that could not begin anew.
const resyncRetry = time.Minute

// resync begins each repository of a restored server anew in the stream: one commit that changes nothing, above whatever revision consumers
// have seen, and a #sync of it, by which they drop what they had. What cannot begin holds up no other, and is tried again; a crash in between
// leaves the rest to the next start.
func (s *Server) resync(ctx context.Context) error {
	for {
		begun, failed, err := s.resyncAll(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.log.Error("repositories of the restored server wait to begin anew", "error", err)
		case begun > 0:
			s.log.Info("repositories of the restored server begin anew in the stream", "repositories", begun, "failed", failed)
		}
		if err == nil && failed == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(resyncRetry):
		}
	}
}

func (s *Server) resyncAll(ctx context.Context) (begun, failed int, err error) {
	for after := ""; ; {
		rows, err := s.pool.Query(ctx, `select did from resync where did > $1 order by did limit $2`, after, resyncPage)
		if err != nil {
			return begun, failed, fmt.Errorf("find repositories to begin anew: %w", err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[syntax.DID])
		if err != nil {
			return begun, failed, fmt.Errorf("find repositories to begin anew: %w", err)
		}
		for _, did := range list {
			if err := s.beginAnew(ctx, did); err != nil {
				if ctx.Err() != nil {
					return begun, failed, err
				}
				failed++
				s.log.Error("repository does not begin anew", "did", did, "error", err)
				continue
			}
			begun++
		}
		if len(list) < resyncPage {
			return begun, failed, nil
		}
		after = list[len(list)-1].String()
	}
}

// beginAnew is for one repository. Of an account that is closed only its status is told: its repository is told of when it opens.
func (s *Server) beginAnew(ctx context.Context, did syntax.DID) error {
	now := s.clock.Now()
	err := s.locked(ctx, did, func(tx pgx.Tx, head repo.Head, status string) error {
		if _, err := tx.Exec(ctx, `delete from resync where did = $1`, did); err != nil {
			return err
		}
		acc := account{DID: did}
		if err := tx.QueryRow(ctx, `select handle, signing_key from account where did = $1`, did).Scan(&acc.Handle, &acc.SigningKey); err != nil {
			return err
		}
		key, err := s.signingKey(&acc)
		if err != nil {
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
	if errors.Is(err, errNoRepo) {
		return nil // deleted meanwhile, and its row with it
	}
	if err != nil {
		return fmt.Errorf("begin %s anew: %w", did, err)
	}
	crash.Point("pds/resync/after-commit")
	return nil
}

// executor is a transaction or a pool.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// settle marks a restored schema: everybody signs in again, and every repository begins anew. A table that the schema does not have yet is empty.
func settle(ctx context.Context, q executor) error {
	there := func(table string) (yes bool, err error) {
		return yes, q.QueryRow(ctx, `select to_regclass($1) is not null`, table).Scan(&yes)
	}
	for _, table := range signedInTables {
		yes, err := there(table)
		if err == nil && yes {
			_, err = q.Exec(ctx, `delete from `+table)
		}
		if err != nil {
			return fmt.Errorf("end sign-ins: %w", err)
		}
	}
	yes, err := there("resync")
	if err == nil && yes {
		_, err = q.Exec(ctx, `insert into resync (did) select did from repo on conflict do nothing`)
	}
	if err != nil {
		return fmt.Errorf("note repositories: %w", err)
	}
	return nil
}

// signedInTables are what lets somebody in without a password.
var signedInTables = []string{"session", "app_password", "device", "mail_word", "oauth_request", "oauth_session", "operator_token", "operator_device"}
