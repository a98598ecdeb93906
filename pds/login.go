package pds

import (
	"context"
	"errors"
	"net/http"
	"strings"

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
		return nil, refused("AccountTakedown", "the account has been taken down")
	}
	return acc, nil
}

// ownerByPassword is byPassword whatever the account's status. A wrong password and an unknown account get the same answer after the same
// work, and use up the same allowance, of which h is told where it is an answer's header.
func (s *Server) ownerByPassword(ctx context.Context, h http.Header, ip, identifier, password string) (*account, error) {
	if err := s.limitAddress(h, ip, limitSignIn, ""); err != nil {
		return nil, err
	}
	if err := s.limitAddress(h, ip, limitCreateSession, strings.ToLower(identifier)); err != nil {
		return nil, err
	}
	acc, err := s.findAccount(ctx, identifier)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	stored := "" // an unknown account costs the same work
	if acc != nil {
		stored = acc.Password
	}
	same, err := s.passwords.Matches(ctx, stored, password)
	if err != nil {
		return nil, err
	}
	if !same {
		return nil, errLogin()
	}
	return acc, nil
}

// refusalName is what an error of ours is called, empty for every other.
func refusalName(err error) string {
	var known *xrpc.Error
	if errors.As(err, &known) {
		return known.Name
	}
	return ""
}
