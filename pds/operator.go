package pds

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

// An operator is a person who runs this server, under a name of their own, so that what was done has somebody who did it. On the pages an
// operator signs in with a password and a second factor; a program gives NAME:TOKEN by Basic. The operator admin is whoever holds the secret
// file: it makes the others and is then put away.

// Role is what an operator may do; each includes those after it.
type Role string

// Roles.
const (
	RoleAdministrator Role = "administrator" // all, operators and secrets of accounts too
	RoleModerator     Role = "moderator"     // takes down and suspends, answers reports, invites
	RoleReader        Role = "reader"        // looks
)

var roleRank = map[Role]int{RoleAdministrator: 3, RoleModerator: 2, RoleReader: 1}

func (r Role) includes(need Role) bool { return roleRank[r] >= roleRank[need] && roleRank[need] > 0 }

// bootstrapOperator is the name of whoever holds the secret file.
const bootstrapOperator = "admin"

// Operator is one of the people who run a server.
type Operator struct {
	Name     string
	Role     Role
	Created  time.Time
	Disabled *time.Time
}

var operatorName = regexp.MustCompile(`^[a-z][a-z0-9-]{1,31}$`)

func errNotAdmin() error {
	return xrpc.Errorf(http.StatusUnauthorized, "AuthenticationRequired", "this method needs an operator's name and token")
}

// operatorOf tells which operator a request comes from. Every failure is one answer.
func (s *Server) operatorOf(c *xrpc.Call, need Role) (*Operator, error) {
	name, given, ok := c.Basic()
	if !ok {
		c.W.Header().Set("WWW-Authenticate", "Basic")
		return nil, errNotAdmin()
	}
	if err := s.limitAddress(c.W.Header(), s.ip(c.R), limitSignIn, ""); err != nil {
		return nil, err
	}
	var op *Operator
	var err error
	if name == bootstrapOperator {
		op = s.bootstrap(given)
	} else {
		op, err = s.operatorByToken(c.Context(), name, given)
	}
	switch {
	case err != nil:
		return nil, err
	case op == nil:
		c.W.Header().Set("WWW-Authenticate", "Basic")
		return nil, errNotAdmin()
	case !op.Role.includes(need):
		return nil, xrpc.Errorf(http.StatusForbidden, "Forbidden", "this needs the role %s, %s has %s", need, op.Name, op.Role)
	}
	return op, nil
}

// bootstrap compares digests, so that neither content nor length of the password shows in the time taken.
func (s *Server) bootstrap(password string) *Operator {
	given, want := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(s.admin))
	if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
		return nil
	}
	return &Operator{Name: bootstrapOperator, Role: RoleAdministrator}
}

func tokenHash(token string) []byte {
	hash := sha256.Sum256([]byte(token))
	return hash[:]
}

// operatorByToken answers nil for a token that is unknown, over, or somebody else's. A token has 160 random bits: looking for its hash tells
// nobody anything.
func (s *Server) operatorByToken(ctx context.Context, name, token string) (*Operator, error) {
	const find = `
		select o.name, o.role, o.created, o.disabled from operator_token t join operator o on o.name = t.operator
		where t.hash = $1 and o.name = $2 and t.expires > $3 and o.disabled is null`
	rows, err := s.pool.Query(ctx, find, tokenHash(token), name, s.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("find operator: %w", err)
	}
	op, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[Operator])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find operator: %w", err)
	}
	return op, nil
}

// deed is one thing that an operator does or looks at.
type deed struct {
	Operator *Operator
	Method   string
	DID      string // of the account concerned, if one is
	Detail   string // which of several; never what a person wrote, nor an address
}

const maxDetail = 500

// operate writes the act down, does it, and writes down how it ended. A row says "begun" for good where the process ended in between.
func (s *Server) operate(ctx context.Context, a deed, do func() error) error {
	const begin = `insert into operator_log (at, operator, method, did, detail) values ($1, $2, $3, $4, $5) returning id`
	var id int64
	detail := a.Detail
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "")
	}
	err := s.pool.QueryRow(ctx, begin, s.clock.Now(), a.Operator.Name, a.Method, orNull(a.DID), detail).Scan(&id)
	if err != nil {
		return fmt.Errorf("write down %s: %w", a.Method, err)
	}
	done := do()
	// The request may have been cancelled meanwhile; what was done was done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomePatience)
	defer cancel()
	// Who was deleted while an operator was about to look leaves the log as all who are deleted.
	const end = `update operator_log set outcome = $2, did = case when $3 then null else did end where id = $1`
	if _, err := s.pool.Exec(ctx, end, id, outcome(done), errors.Is(done, errNoRepo)); err != nil {
		return errors.Join(done, fmt.Errorf("write down the end of %s: %w", a.Method, err))
	}
	return done
}

const outcomePatience = 5 * time.Second

func outcome(err error) string {
	var shown *xrpc.Error
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &shown):
		return shown.Name
	default:
		return "failed"
	}
}

// logLife is how long what operators did is kept.
const logLife = 400 * 24 * time.Hour

func (s *Server) sweepOperators(ctx context.Context, now time.Time) error {
	for _, q := range []struct {
		sql string
		arg time.Time
	}{
		{`delete from operator_token where expires <= $1`, now},
		{`delete from operator_device where expires <= $1`, now},
		{`delete from operator_log where at < $1`, now.Add(-logLife)},
	} {
		if _, err := s.pool.Exec(ctx, q.sql, q.arg); err != nil {
			return fmt.Errorf("sweep operators: %w", err)
		}
	}
	return nil
}
