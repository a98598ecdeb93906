package pds

import (
	"context"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

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
// firehose's window is over, is the one event that tells everybody else to do the same. Files go first: a crash in between leaves an account
// without blobs, which is deleted when it is asked for again.
func (s *Server) delete(ctx context.Context, did syntax.DID) error {
	leave, err := s.queue.enter(ctx, did)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.files.empty(did); err != nil {
		return fmt.Errorf("delete blobs of %s: %w", did, err)
	}
	now := s.clock.Now()
	err = inPipeTx(ctx, s.pool, func(tx *pipeTx) error {
		var lock pgx.Batch
		found := false
		lock.Queue(`select true from repo where did = $1 for update`, did).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&found)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			return err
		})
		if err := tx.first(ctx, &lock); err != nil {
			return fmt.Errorf("lock %s: %w", did, err)
		}
		if !found {
			return errRepoNotFound(did.String())
		}
		var batch pgx.Batch
		for _, table := range accountTables {
			batch.Queue(`delete from `+table+` where did = $1`, did)
		}
		batch.Queue(`delete from report where subject = $1`, did)
		queueForgetting(&batch, did)
		batch.Queue(`update operator_log set did = null where did = $1`, did)
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
	if err := s.files.empty(did); err != nil { // of an upload that ended meanwhile
		s.log.Error("blobs of a deleted account stay until the collector finds them", "error", err)
	}
	s.log.Info("account deleted")
	return nil
}
