package pds

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
)

// An app password lets one application write in the account's name. It changes nothing of the account itself, is made up by this server, and
// goes, with every session it opened, when its owner revokes it.

const (
	maxAppPasswords = 100 // of one account
	maxAppName      = 100 // bytes
)

type appPassword struct {
	Name       string
	Privileged bool // also private messages, and accounts elsewhere
	Created    time.Time
}

// appPasswordForm is how the network's apps know one. Whatever else is typed is not looked for among them.
var appPasswordForm = regexp.MustCompile(`^[a-z2-7]{4}(-[a-z2-7]{4}){3}$`)

func newAppPassword() string {
	raw := make([]byte, 10)
	_, _ = rand.Read(raw) // never errs
	text := strings.ToLower(base32.StdEncoding.EncodeToString(raw))
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

func appPasswordHash(did syntax.DID, password string) []byte {
	hash := sha256.Sum256([]byte(did.String() + "\x00" + password))
	return hash[:]
}

// findAppPassword answers pgx.ErrNoRows as it is. An unknown account, whose DID is empty, costs the same look.
func (s *Server) findAppPassword(ctx context.Context, did syntax.DID, password string) (*appPassword, error) {
	const find = `select name, privileged, created from app_password where did = $1 and hash = $2`
	rows, err := s.pool.Query(ctx, find, did, appPasswordHash(did, password))
	if err != nil {
		return nil, fmt.Errorf("find app password: %w", err)
	}
	app, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[appPassword])
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("find app password: %w", err)
	}
	return app, err
}

func checkAppName(name string) error {
	if name == "" || len(name) > maxAppName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return invalid("a name has 1 to %d bytes and no control characters", maxAppName)
	}
	return nil
}

// makeAppPassword answers with the password, which is never to be had again.
func (s *Server) makeAppPassword(ctx context.Context, did syntax.DID, name string, privileged bool, now time.Time) (string, error) {
	if err := checkAppName(name); err != nil {
		return "", err
	}
	password := newAppPassword()
	const insert = `
		insert into app_password (did, name, hash, privileged, created)
		select @did, @name, @hash, @privileged, @now
		where (select count(*) from app_password where did = @did) < @max`
	tag, err := s.pool.Exec(ctx, insert, pgx.NamedArgs{
		"did": did, "name": name, "hash": appPasswordHash(did, password), "privileged": privileged, "now": now, "max": maxAppPasswords,
	})
	switch {
	case uniqueViolation(err, "app_password_pkey"):
		return "", xrpc.Errorf(http.StatusConflict, "AppPasswordExists", "there is an app password of that name")
	case err != nil:
		return "", fmt.Errorf("make app password of %s: %w", did, err)
	case tag.RowsAffected() == 0:
		return "", refused("TooManyAppPasswords", "an account has at most %d app passwords", maxAppPasswords)
	}
	return password, nil
}

func (s *Server) appPasswords(ctx context.Context, did syntax.DID) ([]appPassword, error) {
	rows, err := s.pool.Query(ctx, `select name, privileged, created from app_password where did = $1 order by created, name`, did)
	if err != nil {
		return nil, fmt.Errorf("app passwords of %s: %w", did, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[appPassword])
	if err != nil {
		return nil, fmt.Errorf("app passwords of %s: %w", did, err)
	}
	return list, nil
}

// dropAppPassword ends its sessions with it. Revoking what is not there is no error: it is what was wanted.
func (s *Server) dropAppPassword(ctx context.Context, did syntax.DID, name string) error {
	if _, err := s.pool.Exec(ctx, `delete from app_password where did = $1 and name = $2`, did, name); err != nil {
		return fmt.Errorf("revoke app password of %s: %w", did, err)
	}
	return nil
}

type appPasswordView struct {
	Name       string `json:"name"`
	Password   string `json:"password,omitempty"`
	CreatedAt  string `json:"createdAt"`
	Privileged bool   `json:"privileged"`
}

func (s *Server) createAppPassword(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Name       string `json:"name"`
		Privileged bool   `json:"privileged"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	now := s.clock.Now()
	password, err := s.makeAppPassword(c.Context(), a.Account.DID, in.Name, in.Privileged, now)
	if err != nil {
		return nil, err
	}
	return appPasswordView{Name: in.Name, Password: password, CreatedAt: eventTime(now), Privileged: in.Privileged}, nil
}

func (s *Server) listAppPasswords(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	list, err := s.appPasswords(c.Context(), a.Account.DID)
	if err != nil {
		return nil, err
	}
	out := struct {
		Passwords []appPasswordView `json:"passwords"`
	}{[]appPasswordView{}}
	for _, p := range list {
		out.Passwords = append(out.Passwords, appPasswordView{Name: p.Name, CreatedAt: eventTime(p.Created), Privileged: p.Privileged})
	}
	return out, nil
}

func (s *Server) revokeAppPassword(c *xrpc.Call) (any, error) {
	a, err := s.owner(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Name string `json:"name"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if err := checkAppName(in.Name); err != nil {
		return nil, err
	}
	return nil, s.dropAppPassword(c.Context(), a.Account.DID, in.Name)
}

// needsPrivilege tells the methods for which an app password gets a service token only when its owner said so. Some services do not look at
// case, so this does not.
func needsPrivilege(lxm string) bool {
	lxm = strings.ToLower(lxm)
	return lxm == "*" || lxm == "com.atproto.server.createaccount" || strings.HasPrefix(lxm, "chat.bsky.")
}
