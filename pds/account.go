package pds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
)

const (
	statusActive    = "active"
	statusTakendown = "takendown"
)

type account struct {
	DID        syntax.DID
	Handle     string
	Email      *string
	Password   string
	Status     string
	SigningKey []byte // sealed
	Created    time.Time

	EmailConfirmed *time.Time // nil: never, or not since the address changed
}

// accountColumns are the fields of account. Each name stands in that table alone, so joins need no prefix but for did.
const accountColumns = `did, handle, email, password, status, signing_key, account.created, email_confirmed`

const selectAccount = `select ` + accountColumns + ` from account `

// oneAccount returns pgx.ErrNoRows as it is.
func (s *Server) oneAccount(ctx context.Context, sql string, args ...any) (*account, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("find account: %w", err)
	}
	acc, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[account])
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("find account: %w", err)
	}
	return acc, err
}

// findAccount takes a DID, a handle or an e-mail address. A DID is compared as it is,
// the others in lower case.
func (s *Server) findAccount(ctx context.Context, identifier string) (*account, error) {
	switch {
	case !storable(identifier):
		return nil, pgx.ErrNoRows
	case strings.HasPrefix(identifier, "did:"):
		return s.oneAccount(ctx, selectAccount+`where did = $1`, identifier)
	case strings.Contains(identifier, "@"):
		return s.oneAccount(ctx, selectAccount+`where email = $1`, strings.ToLower(identifier))
	default:
		return s.oneAccount(ctx, selectAccount+`where handle = $1`, strings.ToLower(identifier))
	}
}

// hosted finds the account of a repo parameter.
func (s *Server) hosted(ctx context.Context, repo string) (*account, error) {
	if _, err := syntax.ParseAtIdentifier(repo); err != nil {
		return nil, invalid("%q is neither a DID nor a handle", repo)
	}
	acc, err := s.findAccount(ctx, repo)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errRepoNotFound(repo)
	}
	return acc, err
}

// readable is hosted for public reads: only an active account's repository is shown.
func (s *Server) readable(ctx context.Context, repo string) (*account, error) {
	acc, err := s.hosted(ctx, repo)
	if err != nil {
		return nil, err
	}
	return acc, acc.mustBeActive()
}

func (a *account) mustBeActive() error {
	switch a.Status {
	case statusActive:
		return nil
	case "deactivated":
		return refused("RepoDeactivated", "account %s is deactivated", a.DID)
	case statusTakendown:
		return refused("RepoTakendown", "account %s has been taken down", a.DID)
	case "suspended":
		return refused("RepoSuspended", "account %s is suspended", a.DID)
	default:
		return errRepoNotFound(a.DID.String())
	}
}

// inactive is the status word of answers, absent while the account is active.
func (a *account) inactive() string {
	if a.Status == statusActive {
		return ""
	}
	return a.Status
}

func (s *Server) signingKey(a *account) (atcrypto.PrivateKey, error) {
	plain, err := s.sealer.open(a.DID.String(), a.SigningKey)
	if err != nil {
		return nil, fmt.Errorf("signing key of %s: %w", a.DID, err)
	}
	key, err := atcrypto.ParsePrivateBytesK256(plain)
	if err != nil {
		return nil, fmt.Errorf("signing key of %s: %w", a.DID, err)
	}
	return key, nil
}

// ownHandle checks a handle asked for here: one label under a domain of this server.
func (c Config) ownHandle(raw string) (string, error) {
	h, err := syntax.ParseHandle(raw)
	if err != nil {
		return "", refused("InvalidHandle", "%q is not a handle", raw)
	}
	handle := h.Normalize().String()
	for _, domain := range c.HandleDomains {
		label, ok := strings.CutSuffix(handle, domain)
		if !ok {
			continue
		}
		if strings.Contains(label, ".") {
			return "", refused("InvalidHandle", "a handle under %s has one label before it", domain)
		}
		if slices.Contains(c.ReservedNames, label) {
			return "", refused("HandleNotAvailable", "the name %s is reserved", label)
		}
		return handle, nil
	}
	return "", refused("UnsupportedDomain", "handles here end in %s", strings.Join(c.HandleDomains, ", "))
}

func checkPassword(p string) error {
	if len(p) < passwordMin || len(p) > passwordMax {
		return refused("InvalidPassword", "a password has %d to %d bytes", passwordMin, passwordMax)
	}
	return nil
}
