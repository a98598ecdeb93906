package pds

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/xrpc"
)

const (
	deletionLife  = 15 * time.Minute
	deletionTries = 5
)

// requestAccountDelete sends the account's owner a word by mail. An account without an address needs none: its password is all there is.
func (s *Server) requestAccountDelete(c *xrpc.Call) (any, error) {
	acc, err := s.signedIn(c)
	if err != nil {
		return nil, err
	}
	if acc.Email == nil {
		return nil, refused("NoEmail", "the account has no e-mail address; its password deletes it")
	}
	if s.mail == nil {
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, "MailNotConfigured", "this server sends no mail; ask its operator to delete the account")
	}
	word := strings.ToUpper(randomID(7)[:5] + "-" + randomID(7)[:5])
	const keep = `insert into deletion (did, word, expires) values ($1, $2, $3)
		on conflict (did) do update set word = excluded.word, expires = excluded.expires, tries = 0`
	hash := sha256.Sum256([]byte(word))
	if _, err := s.pool.Exec(c.Context(), keep, acc.DID, hash[:], s.clock.Now().Add(deletionLife)); err != nil {
		return nil, fmt.Errorf("ask to delete %s: %w", acc.DID, err)
	}
	text := fmt.Sprintf("Somebody who is signed in as %s asked to delete that account.\n\nTo delete it, give this word: %s\n\n"+
		"It is good for %d minutes. If it was not you, do nothing and change your password.\n", acc.Handle, word, int(deletionLife/time.Minute))
	if err := s.mail(c.Context(), *acc.Email, "Delete your account", text); err != nil {
		s.log.Error("mail not sent", "error", err)
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, "MailNotSent", "the mail could not be sent now")
	}
	return nil, nil
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
	ip := remoteIP(c.R, s.cfg.TrustedProxies)
	if err := s.addresses.take(ip); err != nil {
		return nil, err
	}
	if err := s.logins.take(did.String() + " " + ip); err != nil {
		return nil, err
	}
	ctx := c.Context()
	acc, err := s.findAccount(ctx, did.String())
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	stored := ""
	if acc != nil {
		stored = acc.Password
	}
	same, err := s.passwords.Matches(ctx, stored, in.Password)
	if err != nil {
		return nil, err
	}
	if !same {
		return nil, errLogin()
	}
	if acc.Email != nil {
		if err := s.confirmDeletion(ctx, acc.DID, in.Token); err != nil {
			return nil, err
		}
	}
	return nil, s.delete(ctx, acc.DID)
}

// confirmDeletion counts a try before it compares, so that a word is guessed a few times at most.
func (s *Server) confirmDeletion(ctx context.Context, did syntax.DID, word string) error {
	var want []byte
	var expires time.Time
	const try = `update deletion set tries = tries + 1 where did = $1 and tries < $2 returning word, expires`
	err := s.pool.QueryRow(ctx, try, did, deletionTries).Scan(&want, &expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return refused("InvalidToken", "the word is not the one that was sent")
	}
	if err != nil {
		return fmt.Errorf("confirm deletion of %s: %w", did, err)
	}
	if !s.clock.Now().Before(expires) {
		return refused("ExpiredToken", "the word is over; ask for another one")
	}
	hash := sha256.Sum256([]byte(strings.ToUpper(strings.TrimSpace(word))))
	if subtle.ConstantTimeCompare(hash[:], want) != 1 {
		return refused("InvalidToken", "the word is not the one that was sent")
	}
	return nil
}

// adminDelete is deleteAccount by the operator, for an owner who lost the password or a court that orders it.
func (s *Server) adminDelete(c *xrpc.Call) (any, error) {
	if !s.isAdmin(c) {
		c.W.Header().Set("WWW-Authenticate", "Basic")
		return nil, errNotAdmin()
	}
	var in struct {
		DID string `json:"did"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	did, err := syntax.ParseDID(in.DID)
	if err != nil {
		return nil, invalid("did %q is not a DID", in.DID)
	}
	if _, err := s.findAccount(c.Context(), did.String()); errors.Is(err, pgx.ErrNoRows) {
		return nil, errRepoNotFound(did.String())
	} else if err != nil {
		return nil, err
	}
	return nil, s.delete(c.Context(), did)
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
	if err := os.RemoveAll(s.files.folder(did)); err != nil {
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
		for _, table := range []string{"record_blob", "blob", "record", "block", "repo", "session", "deletion", "signup", "event", "account"} {
			batch.Queue(`delete from `+table+` where did = $1`, did)
		}
		rows, err := s.emit(ctx, tx, &batch, now, &firehose.Account{DID: did, Active: false, Status: "deleted", Time: eventTime(now)})
		if err != nil {
			return err
		}
		return tx.commit(ctx, rows)
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", did, err)
	}
	s.log.Info("account deleted")
	return nil
}
