package pds

import (
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"city-sync.org/citysync/internal/xrpc"
)

// All of these are final: the same request fails again.

func invalid(format string, a ...any) error {
	return xrpc.Errorf(http.StatusBadRequest, "InvalidRequest", format, a...)
}

func refused(name, format string, a ...any) error {
	return xrpc.Errorf(http.StatusBadRequest, name, format, a...)
}

func errExpiredToken() error {
	return xrpc.Errorf(http.StatusBadRequest, "ExpiredToken", "token has expired")
}

func errBadToken() error {
	return xrpc.Errorf(http.StatusUnauthorized, "InvalidToken", "token could not be verified")
}

func errAuthMissing() error {
	return xrpc.Errorf(http.StatusUnauthorized, "AuthMissing", "this method needs an access token")
}

// errLogin is the one answer to a wrong password and to an unknown account.
func errLogin() error {
	return xrpc.Errorf(http.StatusUnauthorized, "AuthenticationRequired", "invalid identifier or password")
}

// errNoRepo is what errors.Is knows errRepoNotFound by.
var errNoRepo = &xrpc.Error{Name: "RepoNotFound"}

func errRepoNotFound(repo string) error {
	return refused("RepoNotFound", "no repository of %s is here", repo)
}

// uniqueViolation tells whether err is a conflict on the named constraint.
func uniqueViolation(err error, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23505" && pg.ConstraintName == constraint
}

// foreignKeyViolation tells whether err is of a row that refers to one that is not there.
func foreignKeyViolation(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23503"
}

// storable tells whether the database can hold the text at all: it knows no zero byte. What it cannot hold is not there either, and is no
// fault of this server.
func storable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}
