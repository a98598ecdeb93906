package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"time"
	"unicode"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

// normalEmail is an address as it is stored.
func normalEmail(raw string) (string, error) {
	a, err := mail.ParseAddress(raw)
	if err != nil || a.Address != raw || len(raw) > 254 || strings.ContainsFunc(raw, unicode.IsControl) {
		return "", invalid("the e-mail address is malformed")
	}
	return strings.ToLower(raw), nil
}

// changeEmail gives the account another address, which nobody has confirmed yet. Codes that went to the last one are worth nothing from then on.
func (s *Server) changeEmail(ctx context.Context, did syntax.DID, email string) error {
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		const set = `update account set email = $2, email_confirmed = null where did = $1 and email is distinct from $2`
		tag, err := tx.Exec(ctx, set, did, email)
		if err != nil {
			return takenError(err)
		}
		if tag.RowsAffected() == 0 {
			return nil // it is the same
		}
		var promised bool
		if err := tx.QueryRow(ctx, `select exists (select from signup where email = $1)`, email).Scan(&promised); err != nil {
			return err
		}
		if promised {
			return errEmailTaken()
		}
		_, err = tx.Exec(ctx, `delete from mail_word where did = $1`, did)
		return err
	})
	if err != nil {
		return wrapUnlessShown(err, "change address of %s", did)
	}
	return nil
}

// confirmAddress takes the word that was mailed to the address.
func (s *Server) confirmAddress(ctx context.Context, did syntax.DID, email, word string, now time.Time) error {
	if err := s.useWord(ctx, did, wordConfirmEmail, word); err != nil {
		return err
	}
	const set = `update account set email_confirmed = $3 where did = $1 and email = $2`
	if _, err := s.pool.Exec(ctx, set, did, email, now); err != nil {
		return fmt.Errorf("confirm address of %s: %w", did, err)
	}
	return nil
}

// resetQueue bounds the requests for a new password that wait for their mail.
const resetQueue = 256

// askReset takes an address for which somebody wants a new password. What follows happens elsewhere, so that neither the answer nor the
// time it takes tells whether an account has that address.
func (s *Server) askReset(email string) error {
	if s.mail == nil {
		return errNoMail()
	}
	select {
	case s.resets <- email:
		return nil
	default:
		return xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "too many requests at once").After(time.Minute)
	}
}

// sendResets mails the words of askReset until ctx ends.
func (s *Server) sendResets(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case email := <-s.resets:
			if err := s.sendReset(ctx, email); err != nil && ctx.Err() == nil {
				s.log.Error("password reset", "error", err)
			}
		}
	}
}

func (s *Server) sendReset(ctx context.Context, email string) error {
	acc, err := s.oneAccount(ctx, selectAccount+`where email = $1`, email)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	err = s.sendWord(ctx, acc, wordResetPassword, letterResetPassword)
	if refusalName(err) != "" {
		return nil // too many for this account, or a mail server that is away, which post has told
	}
	return err
}

// resetByWord sets a new password by the word that was mailed, and ends all that the last one opened: sessions, browsers, apps and their
// passwords. Whoever reads the account's mail has shown that the address is theirs.
func (s *Server) resetByWord(ctx context.Context, word, password string, now time.Time) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	did, err := s.claimWord(ctx, wordResetPassword, word)
	if err != nil {
		return err
	}
	return s.setPassword(ctx, did, password, &now)
}

// setPassword gives the account another password and ends all that the last one opened. A time says that its address is confirmed by it.
func (s *Server) setPassword(ctx context.Context, did syntax.DID, password string, confirmed *time.Time) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	hash, err := s.passwords.Hash(ctx, password)
	if err != nil {
		return err
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		const set = `update account set password = $2, email_confirmed = coalesce(email_confirmed, $3) where did = $1`
		if _, err := tx.Exec(ctx, set, did, hash, confirmed); err != nil {
			return err
		}
		return endAll(ctx, tx, did)
	})
	if err != nil {
		return fmt.Errorf("set password of %s: %w", did, err)
	}
	s.log.Info("password reset", "did", did)
	return nil
}

// endAll signs an account out of everything: sessions, app passwords, browsers, apps.
func endAll(ctx context.Context, tx pgx.Tx, did syntax.DID) error {
	for _, table := range []string{"session", "device"} {
		if _, err := tx.Exec(ctx, `delete from `+table+` where did = $1`, did); err != nil {
			return fmt.Errorf("end what is open in %s: %w", table, err)
		}
	}
	return endApps(ctx, tx, did)
}
