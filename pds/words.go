package pds

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

// A word is what an owner reads in a mail and gives back, as proof that the account's mailbox is theirs. It serves one account and one
// purpose, once, for a quarter of an hour and a few tries; a new one takes the place of the last. Only its hash is stored.

const (
	wordLife  = 15 * time.Minute
	wordTries = 5
)

type purpose string

const (
	wordDelete        purpose = "delete"
	wordConfirmEmail  purpose = "confirmEmail"
	wordUpdateEmail   purpose = "updateEmail"
	wordResetPassword purpose = "resetPassword"
	wordPLCOperation  purpose = "plcOperation"
)

func wordHash(word string) []byte {
	hash := sha256.Sum256([]byte(strings.ToUpper(strings.TrimSpace(word))))
	return hash[:]
}

// newWord has fifty random bits, in the form that the network's apps ask for.
func newWord() string { return strings.ToUpper(randomID(7)[:5] + "-" + randomID(7)[:5]) }

func errNoMail() error {
	return xrpc.Errorf(http.StatusServiceUnavailable, "MailNotConfigured", "this server sends no mail; ask its operator")
}

func errWord() error { return refused("InvalidToken", "the code is not the one that was sent") }

// sendWord mails the account a new word. The address is the account's own: callers whose accounts may have none ask first.
func (s *Server) sendWord(ctx context.Context, acc *account, p purpose, l letter) error {
	if s.mail == nil {
		return errNoMail()
	}
	if acc.Email == nil {
		return refused("NoEmail", "the account has no e-mail address")
	}
	rates, err := s.limits.own.of(ctx, s.pool, acc.DID, limitMail, s.limits)
	if err != nil {
		return err
	}
	if err := s.limits.take(nil, limitMail, acc.DID.String()+" "+string(p), rates, 1); err != nil {
		return err
	}
	word := newWord()
	const keep = `
		insert into mail_word (did, purpose, hash, expires) values (@did, @purpose, @hash, @expires)
		on conflict (did, purpose) do update set hash = excluded.hash, expires = excluded.expires, tries = 0`
	_, err = s.pool.Exec(ctx, keep, pgx.NamedArgs{
		"did": acc.DID, "purpose": p, "hash": wordHash(word), "expires": s.clock.Now().Add(wordLife),
	})
	if err != nil {
		return fmt.Errorf("keep word %s of %s: %w", p, acc.DID, err)
	}
	return s.post(ctx, *acc.Email, string(p), l.Subject, l.text(acc.Handle, word))
}

// post sends a mail and says in the log what went wrong without saying to whom: a mail server's own words repeat the address.
func (s *Server) post(ctx context.Context, to, about, subject, text string) error {
	if s.mail == nil {
		return errNoMail()
	}
	if err := s.mail(ctx, to, subject, text); err != nil {
		s.metrics.mails.WithLabelValues(about, "failed").Inc()
		s.log.Error("mail not sent", "about", about, "cause", mailFault(err))
		return xrpc.Errorf(http.StatusServiceUnavailable, "MailNotSent", "the mail could not be sent now").After(time.Minute)
	}
	s.metrics.mails.WithLabelValues(about, "sent").Inc()
	return nil
}

func mailFault(err error) string {
	var reply *textproto.Error
	var network net.Error
	switch {
	case errors.As(err, &reply):
		return fmt.Sprintf("the mail server answered %d", reply.Code)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "the mail server did not answer in time"
	case errors.As(err, &network):
		return "the mail server cannot be reached"
	default:
		return "the mail server refused the session"
	}
}

// useWord takes the word once. A try is counted before it is compared, so that a word is guessed a few times at most.
func (s *Server) useWord(ctx context.Context, did syntax.DID, p purpose, word string) error {
	var want []byte
	var expires time.Time
	const try = `update mail_word set tries = tries + 1 where did = $1 and purpose = $2 and tries < $3 returning hash, expires`
	err := s.pool.QueryRow(ctx, try, did, p, wordTries).Scan(&want, &expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return errWord()
	}
	if err != nil {
		return fmt.Errorf("try word %s of %s: %w", p, did, err)
	}
	if !s.clock.Now().Before(expires) {
		return errWordOver()
	}
	hash := wordHash(word)
	if subtle.ConstantTimeCompare(hash, want) != 1 {
		return errWord()
	}
	// Whoever deletes the row has used it: the same word given twice at once serves once.
	tag, err := s.pool.Exec(ctx, `delete from mail_word where did = $1 and purpose = $2 and hash = $3`, did, p, hash)
	if err != nil {
		return fmt.Errorf("use word %s of %s: %w", p, did, err)
	}
	if tag.RowsAffected() == 0 {
		return errWord()
	}
	return nil
}

func errWordOver() error { return refused("ExpiredToken", "the code is over; ask for another one") }

// claimWord is useWord where only the word is given: it says whose it was.
func (s *Server) claimWord(ctx context.Context, p purpose, word string) (syntax.DID, error) {
	var did syntax.DID
	var expires time.Time
	const claim = `delete from mail_word where purpose = $1 and hash = $2 and tries < $3 returning did, expires`
	err := s.pool.QueryRow(ctx, claim, p, wordHash(word), wordTries).Scan(&did, &expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errWord()
	}
	if err != nil {
		return "", fmt.Errorf("claim word %s: %w", p, err)
	}
	if !s.clock.Now().Before(expires) {
		return "", errWordOver()
	}
	return did, nil
}

// dropWords forgets words that nobody used. They are kept for a day past their end: until then their owner reads that they are over,
// not that they are wrong.
func (s *Server) dropWords(ctx context.Context, now time.Time) error {
	if _, err := s.pool.Exec(ctx, `delete from mail_word where expires < $1`, now.Add(-24*time.Hour)); err != nil {
		return fmt.Errorf("drop old words: %w", err)
	}
	return nil
}
