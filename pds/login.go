package pds

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

// byPassword finds the account that an identifier and a password open together, unless it was taken down.
func (s *Server) byPassword(ctx context.Context, ip, identifier, password string) (*account, error) {
	acc, err := s.ownerByPassword(ctx, nil, ip, identifier, password)
	if err != nil {
		return nil, err
	}
	if acc.Status == statusTakendown {
		return nil, errTakendown()
	}
	return acc, nil
}

// ownerByPassword is byPassword whatever the account's status, and tells h, an answer's header, what is left of the allowance.
func (s *Server) ownerByPassword(ctx context.Context, h http.Header, ip, identifier, password string) (*account, error) {
	acc, err := s.mayTry(ctx, h, ip, identifier)
	if err != nil {
		return nil, err
	}
	return acc, s.ownPassword(ctx, acc, password)
}

// byAnyPassword also takes an app's password, and then says which.
func (s *Server) byAnyPassword(ctx context.Context, h http.Header, ip, identifier, password string) (*account, *appPassword, error) {
	acc, err := s.mayTry(ctx, h, ip, identifier)
	if err != nil {
		return nil, nil, err
	}
	if appPasswordForm.MatchString(password) {
		var did syntax.DID
		if acc != nil {
			did = acc.DID
		}
		app, err := s.findAppPassword(ctx, did, password)
		if err == nil {
			return acc, app, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return nil, nil, err
		}
	}
	return acc, nil, s.ownPassword(ctx, acc, password)
}

// mayTry takes one try of the allowance and finds the account, nil where there is none: who asks learns it only by a password.
func (s *Server) mayTry(ctx context.Context, h http.Header, ip, identifier string) (*account, error) {
	identifier = normalIdentifier(identifier)
	if err := s.limitAddress(h, ip, limitSignIn, ""); err != nil {
		return nil, err
	}
	if err := s.limitAddress(h, ip, limitCreateSession, identifier); err != nil {
		return nil, err
	}
	acc, err := s.findAccount(ctx, identifier)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return acc, err
}

// ownPassword gives a wrong password and an unknown account the same answer after the same work.
func (s *Server) ownPassword(ctx context.Context, acc *account, password string) error {
	stored := ""
	if acc != nil {
		stored = acc.Password
	}
	same, err := s.passwords.Matches(ctx, stored, password)
	if err != nil {
		return err
	}
	if !same {
		return errLogin()
	}
	return nil
}

// maxIdentifier is the length of the longest DID.
const maxIdentifier = 2048

// normalIdentifier brings what somebody typed into the form that is stored, each kind by its own rule: a handle, an address and a did:plc
// are of lower case, but the %3A before a port in a did:web is not.
func normalIdentifier(raw string) string {
	text := strings.TrimPrefix(strings.TrimSpace(raw), "@")
	low := strings.ToLower(text)
	switch {
	case strings.HasPrefix(low, "did:web:"):
		return percentCase.ReplaceAllStringFunc(low, strings.ToUpper)
	case strings.HasPrefix(low, "did:plc:"), !strings.HasPrefix(low, "did:"):
		return low
	default:
		return text
	}
}

var percentCase = regexp.MustCompile(`%[0-9a-f]{2}`)

// refusalName is what an error of ours is called, empty for every other.
func refusalName(err error) string {
	var known *xrpc.Error
	if errors.As(err, &known) {
		return known.Name
	}
	return ""
}
