package pds

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/xrpc"
)

// requestAccountDelete sends the account's owner a word by mail. An account without an address needs none: its password is all there is.
func (s *Server) requestAccountDelete(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	acc := a.Account
	if acc.Email == nil {
		return nil, refused("NoEmail", "the account has no e-mail address; its password deletes it")
	}
	return nil, s.sendWord(c.Context(), acc, wordDelete, letterDelete)
}

// deleteAccount takes the password, and the word sent by mail where there is an address.
func (s *Server) deleteAccount(c *xrpc.Call) (any, error) {
	var in struct {
		DID      string `json:"did"`
		Password string `json:"password"`
		Token    string `json:"token"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	did, err := syntax.ParseDID(in.DID)
	if err != nil {
		return nil, invalid("did %q is not a DID", in.DID)
	}
	if err := s.limitAddress(c.W.Header(), s.ip(c.R), limitDeleteAccount, ""); err != nil {
		return nil, err
	}
	ctx := c.Context()
	acc, err := s.ownerByPassword(ctx, c.W.Header(), s.ip(c.R), did.String(), in.Password)
	if err != nil {
		return nil, err
	}
	if acc.Email != nil {
		if err := s.useWord(ctx, acc.DID, wordDelete, in.Token); err != nil {
			return nil, err
		}
	} else if err := s.needFactor(ctx, acc.DID, in.Token); err != nil {
		return nil, err
	}
	return nil, s.delete(ctx, acc.DID)
}

// accountTables are what is kept by an account's DID, those that refer to others first.
var accountTables = []string{
	"record_blob",
	"missing_blob",
	"repo_import_block",
	"repo_import",
	"arrival",
	"departure",
	"handle_change",
	"key_change",
	"blob_use", // before blob, as uploads lock them
	"blob",
	"record",
	"block",
	"repo",
	"session",
	"oauth_request",
	"oauth_session",
	"app_password",
	"device",
	"deletion",
	"mail_word",
	"account_limit",
	"takedown",
	"resync",
	"invite",
	"invite_use",
	"report",
	"preference",
	"controller",
	"act_log",
	"signup",
	"event",
	"account",
}

// delete destroys all of an account: records, blocks, blobs, sessions, its key, and what the firehose still held of it. What stays, until the
// firehose's window is over, is the one event that tells everybody else to do the same. Files go before the rows: a crash in between leaves an
// account without blobs, which is deleted when it is asked for again.
func (s *Server) delete(ctx context.Context, did syntax.DID) error { return s.deleteIf(ctx, did, nil) }

// errSpared says that an account is not to be deleted after all.
var errSpared = errors.New("spared")

// deleteDue is delete for an account whose owner asked for it by a date that has come, unless the owner has come back since it was looked for.
func (s *Server) deleteDue(ctx context.Context, did syntax.DID, now time.Time) error {
	err := s.deleteIf(ctx, did, func(status string, due *time.Time) bool {
		return status == statusDeactivated && due != nil && !due.After(now)
	})
	if errors.Is(err, errSpared) || errors.Is(err, errNoRepo) {
		return nil
	}
	return err
}

// deleteIf asks under the account's locks whether it is to go; nil: it is.
func (s *Server) deleteIf(ctx context.Context, did syntax.DID, goes func(status string, due *time.Time) bool) error {
	leave, err := s.queue.enter(ctx, did)
	if err != nil {
		return err
	}
	defer leave()
	s.standings.drop(did)
	now := s.clock.Now()
	err = inPipeTx(ctx, s.pool, func(tx *pipeTx) error {
		var lock pgx.Batch
		found, status := false, ""
		var due *time.Time
		lock.Queue(`select true from repo where did = $1 for update`, did).QueryRow(func(row pgx.Row) error { return scanned(row, &found) })
		// Whoever changes what belongs to an account holds its row first. Uploads refer to it meanwhile, and end.
		lock.Queue(`select status from account where did = $1 for no key update`, did).QueryRow(func(row pgx.Row) error { return scanned(row, &status) })
		lock.Queue(`select delete_after from departure where did = $1`, did).QueryRow(func(row pgx.Row) error { return scanned(row, &due) })
		if err := tx.first(ctx, &lock); err != nil {
			return fmt.Errorf("lock %s: %w", did, err)
		}
		switch {
		case !found:
			return errRepoNotFound(did.String())
		case goes != nil && !goes(status, due):
			return errSpared
		}
		if err := s.files.empty(did); err != nil {
			return fmt.Errorf("blobs: %w", err)
		}
		crash.Point("pds/delete/after-files")
		var batch pgx.Batch
		for _, table := range accountTables {
			batch.Queue(`delete from `+table+` where did = $1`, did)
		}
		batch.Queue(`delete from report where subject = $1`, did)
		queueForgetting(&batch, did)
		batch.Queue(`update operator_log set did = null, detail = '' where did = $1`, did) // a detail names records and blobs
		batch.Queue(`delete from second_factor where owner = $1`, did)
		gone := &firehose.Account{DID: did, Active: false, Status: "deleted", Time: eventTime(now)}
		if err := queueEvents(&batch, now, gone); err != nil {
			return err
		}
		return tx.commit(ctx, &batch)
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", did, err)
	}
	crash.Point("pds/delete/after-commit")
	if err := s.files.empty(did); err != nil { // of an upload that ended meanwhile
		s.log.Error("blobs of a deleted account stay until the collector finds them", "error", err)
	}
	s.log.Info("account deleted")
	return nil
}

// scanned leaves v as it is where there is no row.
func scanned(row pgx.Row, v any) error {
	if err := row.Scan(v); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return nil
}
