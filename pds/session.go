package pds

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

// A session is a row with a generation number. Each refresh raises it; the tokens of a
// generation can be made again at any time, so a client that lost the answer, or two
// processes that refresh at once, get the same generation within the grace. A refresh
// token used after that is a copy in other hands: the session ends.

type sessionTokens struct {
	Access  string
	Refresh string
}

func randomID(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// openSession takes the app password that opens it, or nil.
func (s *Server) openSession(ctx context.Context, did syntax.DID, app *appPassword, now time.Time) (sessionTokens, error) {
	tok := token{DID: did, Session: randomID(15), Generation: 1, App: app}
	var name *string
	if app != nil {
		name = &app.Name
	}
	const insert = `
		insert into session (id, did, generation, rotated, expires, app_password)
		values (@id, @did, 1, @now, @expires, @app)`
	_, err := s.pool.Exec(ctx, insert, pgx.NamedArgs{
		"id": tok.Session, "did": did, "now": now, "expires": now.Add(s.cfg.RefreshTTL), "app": name,
	})
	if err != nil {
		return sessionTokens{}, fmt.Errorf("open session of %s: %w", did, err)
	}
	return s.signSession(tok, now)
}

func (s *Server) signSession(tok token, now time.Time) (sessionTokens, error) {
	access, err := s.tokens.sign(typAccess, tok, now, now.Add(s.cfg.AccessTTL))
	if err != nil {
		return sessionTokens{}, err
	}
	refresh, err := s.tokens.sign(typRefresh, tok, now, now.Add(s.cfg.RefreshTTL))
	if err != nil {
		return sessionTokens{}, err
	}
	return sessionTokens{Access: access, Refresh: refresh}, nil
}

// rotateSession answers with the next generation's tokens.
func (s *Server) rotateSession(ctx context.Context, tok token, now time.Time) (sessionTokens, error) {
	ended := false
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		var generation int64
		var rotated time.Time
		var app sessionApp
		const lock = `
			select s.generation, s.rotated, p.name, p.privileged
			from session s left join app_password p on p.did = s.did and p.name = s.app_password
			where s.id = @id and s.did = @did and s.expires > @now for update of s`
		err := tx.QueryRow(ctx, lock, pgx.NamedArgs{"id": tok.Session, "did": tok.DID, "now": now}).
			Scan(&generation, &rotated, &app.AppName, &app.AppPrivileged)
		if errors.Is(err, pgx.ErrNoRows) {
			return errExpiredToken()
		}
		if err != nil {
			return fmt.Errorf("lock session of %s: %w", tok.DID, err)
		}
		tok.App = app.password()
		switch {
		case tok.Generation == generation:
			tok.Generation++
			const raise = `update session set generation = @gen, rotated = @now, expires = @expires where id = @id`
			_, err = tx.Exec(ctx, raise, pgx.NamedArgs{
				"gen": tok.Generation, "now": now, "expires": now.Add(s.cfg.RefreshTTL), "id": tok.Session,
			})
		case tok.Generation == generation-1 && now.Before(rotated.Add(s.cfg.RefreshGrace)):
			tok.Generation = generation
		default:
			ended = true // the row must go, so this is no error of the transaction
			_, err = tx.Exec(ctx, `delete from session where id = $1`, tok.Session)
		}
		if err != nil {
			return fmt.Errorf("rotate session of %s: %w", tok.DID, err)
		}
		return nil
	})
	if err != nil {
		return sessionTokens{}, err
	}
	if ended {
		s.log.Warn("refresh token replayed, session ended", "did", tok.DID)
		return sessionTokens{}, errExpiredToken()
	}
	return s.signSession(tok, now)
}

func (s *Server) closeSession(ctx context.Context, tok token) error {
	if _, err := s.pool.Exec(ctx, `delete from session where id = $1 and did = $2`, tok.Session, tok.DID); err != nil {
		return fmt.Errorf("close session of %s: %w", tok.DID, err)
	}
	return nil
}

// bearer reads the token of one type from the request.
func (s *Server) bearer(c *xrpc.Call, typ string) (token, error) {
	raw, ok := c.Bearer()
	if !ok {
		return token{}, errAuthMissing()
	}
	tok, err := s.tokens.read(typ, raw, s.clock.Now())
	if errors.Is(err, errTokenExpired) {
		return token{}, errExpiredToken()
	}
	if err != nil {
		return token{}, errBadToken()
	}
	return tok, nil
}

// session answers with the account whose open session the request carries.
func (s *Server) session(c *xrpc.Call) (*account, token, error) {
	tok, err := s.bearer(c, typAccess)
	if err != nil {
		return nil, token{}, err
	}
	const find = `
		select ` + accountColumns + `, p.name as app_name, p.privileged as app_privileged
		from session s join account using (did)
		left join (select did as app_did, name, privileged from app_password) p on p.app_did = s.did and p.name = s.app_password
		where s.id = $1 and did = $2 and s.expires > $3`
	rows, err := s.pool.Query(c.Context(), find, tok.Session, tok.DID, s.clock.Now())
	if err != nil {
		return nil, token{}, fmt.Errorf("find session of %s: %w", tok.DID, err)
	}
	type openSession struct {
		account
		sessionApp
	}
	open, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[openSession])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, token{}, errExpiredToken()
	}
	if err != nil {
		return nil, token{}, fmt.Errorf("find session of %s: %w", tok.DID, err)
	}
	if open.Status == statusTakendown && !whileTakendown[c.NSID] {
		return nil, token{}, errTakendown()
	}
	tok.App = open.sessionApp.password()
	return &open.account, tok, nil
}

// sessionApp is the app password in a session's row.
type sessionApp struct {
	AppName       *string
	AppPrivileged *bool
}

func (a sessionApp) password() *appPassword {
	if a.AppName == nil || a.AppPrivileged == nil {
		return nil
	}
	return &appPassword{Name: *a.AppName, Privileged: *a.AppPrivileged}
}

// signedIn is session without more: no app's grant passes it.
func (s *Server) signedIn(c *xrpc.Call) (*account, error) {
	acc, _, err := s.session(c)
	return acc, err
}
