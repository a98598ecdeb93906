package oauth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/pg"
)

const (
	accessLife   = 15 * time.Minute
	refreshGrace = 2 * time.Minute
	// How long a session lasts in all, and how long without a refresh.
	publicSession       = 14 * 24 * time.Hour
	publicRefresh       = 14 * 24 * time.Hour
	confidentialSession = 2 * 365 * 24 * time.Hour
	confidentialRefresh = 90 * 24 * time.Hour

	challengeMemory = 24 * time.Hour
	minVerifier     = 43
	maxVerifier     = 128
)

// grantRow is a session as its tokens are made from it.
type grantRow struct {
	ID         string
	DID        syntax.DID
	Actor      syntax.DID
	Client     string
	ClientKey  string
	JKT        string
	Scope      string
	Seed       []byte
	Generation int64
	Rotated    time.Time
	Expires    time.Time
	Ends       time.Time
}

const grantColumns = `id, did, actor, client, client_key, jkt, scope, seed, generation, rotated, expires, ends`

// token is the token endpoint (RFC 6749, 3.2).
func (s *Server) token(r *http.Request, f form, now time.Time) (int, any, error) {
	ctx := r.Context()
	p, err := s.checkProof(r, "", now)
	if err != nil {
		return 0, nil, err
	}
	if err := s.useProof(ctx, p, now); err != nil {
		return 0, nil, err
	}
	c, err := s.authenticate(ctx, f, p, now)
	if err != nil {
		return 0, nil, err
	}
	var row *grantRow
	switch f["grant_type"] {
	case "":
		return 0, nil, refuse(CodeInvalidRequest, "grant_type is missing")
	case "authorization_code":
		row, err = s.exchange(ctx, c, p, f, now)
	case "refresh_token":
		row, err = s.refresh(ctx, c, p, f, now)
	default:
		return 0, nil, refuse(codeUnsupportedGrant, "grant_type must be authorization_code or refresh_token")
	}
	if err != nil {
		return 0, nil, err
	}
	expires := now.Add(accessLife)
	if row.Ends.Before(expires) {
		expires = row.Ends
	}
	access, err := s.signAccess(row, now, expires)
	if err != nil {
		return 0, nil, err
	}
	refresh := ""
	if c.refreshes {
		refresh = s.refreshToken(row)
	}
	return http.StatusOK, struct {
		Access  string     `json:"access_token"`
		Type    string     `json:"token_type"`
		Seconds int64      `json:"expires_in"`
		Refresh string     `json:"refresh_token,omitempty"`
		Scope   string     `json:"scope"`
		Sub     syntax.DID `json:"sub"`
	}{access, "DPoP", int64(expires.Sub(now) / time.Second), refresh, row.Scope, row.DID}, nil
}

// exchange gives a session for a code. Whatever is wrong with the request, the code is used up: a client in order makes no
// such mistake, and whoever else holds the code must not try twice.
func (s *Server) exchange(ctx context.Context, c *caller, p *proof, f form, now time.Time) (*grantRow, error) {
	if f["code"] == "" || f["redirect_uri"] == "" || f["code_verifier"] == "" {
		return nil, refuse(CodeInvalidRequest, "code, redirect_uri and code_verifier are needed")
	}
	code := hashOf(f["code"])
	var account, actor syntax.DID
	err := s.pool.QueryRow(ctx, `select did, actor from oauth_request where code = $1`, code).Scan(&account, &actor)
	may := false
	if err == nil {
		may, err = s.cfg.Accounts.MayAct(ctx, account, actor)
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("look at code: %w", err)
	}
	var row *grantRow
	var refusal error // kept apart from err: the transaction that finds a reason to refuse must commit what it ended
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		row, refusal = nil, nil
		var req struct {
			client, key, jkt, redirect, challenge, scope, device string
			expires                                              time.Time
		}
		const take = `
			delete from oauth_request where code = $1
			returning client, client_key, jkt, redirect, challenge, scope, device, expires`
		err := tx.QueryRow(ctx, take, code).Scan(&req.client, &req.key, &req.jkt, &req.redirect, &req.challenge, &req.scope, &req.device, &req.expires)
		if errors.Is(err, pgx.ErrNoRows) {
			tag, err := tx.Exec(ctx, `delete from oauth_session where code = $1`, code)
			if err == nil && tag.RowsAffected() > 0 {
				s.log.Warn("authorization code used again, session ended", "client", c.ID)
			}
			refusal = refuse(codeInvalidGrant, "the code is unknown, over, or was used before")
			return err
		}
		if err != nil {
			return err
		}
		switch {
		case !now.Before(req.expires):
			refusal = refuse(codeInvalidGrant, "the code is over")
		case req.client != c.ID || req.key != c.key:
			refusal = refuse(codeInvalidGrant, "the code was given to another client, or for another of its keys")
		case req.jkt != p.JKT:
			refusal = refuse(codeInvalidGrant, "the request was pushed with another DPoP key")
		case req.redirect != f["redirect_uri"]:
			refusal = refuse(codeInvalidGrant, "redirect_uri is not the one of the request")
		case !verifies(f["code_verifier"], req.challenge):
			refusal = refuse(codeInvalidGrant, "code_verifier does not fit the challenge")
		case !may:
			refusal = refuse(codeInvalidGrant, "the account cannot be used now")
		}
		if refusal != nil {
			return nil
		}
		fresh, err := s.once(ctx, tx, hashOf("challenge "+req.challenge), now.Add(challengeMemory), now)
		if err != nil {
			return err
		}
		if !fresh {
			refusal = refuse(codeInvalidGrant, "code_challenge was used before")
			return nil
		}
		row = &grantRow{
			ID: randomToken(16), DID: account, Actor: actor, Client: c.ID, ClientKey: c.key, JKT: p.JKT, Scope: req.scope,
			Seed: randomBytes(16), Generation: 1, Rotated: now,
		}
		whole, idle := lives(c.key)
		row.Ends = now.Add(whole)
		row.Expires = earlier(row.Ends, now.Add(idle))
		const insert = `
			insert into oauth_session (` + grantColumns + `, device, code, client_name, client_uri, created)
			values (@id, @did, @actor, @client, @key, @jkt, @scope, @seed, @generation, @now, @expires, @ends, @device, @code, @name, @uri, @now)`
		_, err = tx.Exec(ctx, insert, pgx.NamedArgs{
			"id": row.ID, "did": row.DID, "actor": row.Actor, "client": row.Client, "key": row.ClientKey, "jkt": row.JKT,
			"scope": row.Scope, "seed": row.Seed, "generation": row.Generation, "now": now, "expires": row.Expires,
			"ends": row.Ends, "device": req.device, "code": code, "name": c.Name, "uri": c.URI,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("exchange code: %w", err)
	}
	crash.Point("pds/oauth/exchanged")
	if refusal != nil {
		return nil, refusal
	}
	return row, nil
}

// refresh gives the next generation of a session (O4).
func (s *Server) refresh(ctx context.Context, c *caller, p *proof, f form, now time.Time) (*grantRow, error) {
	if !c.refreshes {
		return nil, refuse(codeUnauthorizedClient, "the client's metadata does not name the grant type refresh_token")
	}
	if f["refresh_token"] == "" {
		return nil, refuse(CodeInvalidRequest, "refresh_token is missing")
	}
	id, generation, ok := parseRefresh(f["refresh_token"])
	if !ok {
		return nil, refuse(codeInvalidGrant, "the refresh token is malformed")
	}
	row := &grantRow{}
	err := s.scanGrant(s.pool.QueryRow(ctx, `select `+grantColumns+` from oauth_session where id = $1`, id), row)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errSessionOver()
	}
	if err != nil {
		return nil, fmt.Errorf("look at session: %w", err)
	}
	if !s.isRefreshToken(row, generation, f["refresh_token"]) {
		return nil, refuse(codeInvalidGrant, "the refresh token is not one of this server")
	}
	may, err := s.cfg.Accounts.MayAct(ctx, row.DID, row.Actor)
	if err != nil {
		return nil, fmt.Errorf("look at account: %w", err)
	}
	if !may {
		return nil, refuse(codeInvalidGrant, "the account cannot be used now")
	}
	ended := ""
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		ended = ""
		if err := s.scanGrant(tx.QueryRow(ctx, `select `+grantColumns+` from oauth_session where id = $1 for update`, id), row); err != nil {
			return err
		}
		switch {
		case !now.Before(row.Expires):
			ended = "the session is over"
		case row.Client != c.ID || (row.ClientKey != "" && row.ClientKey != c.key):
			ended = "the session is another client's, or was begun with another of its keys"
		case row.JKT != p.JKT:
			ended = "the session is bound to another DPoP key"
		case generation == row.Generation:
			row.Generation++
			row.Rotated = now
			_, idle := lives(row.ClientKey)
			row.Expires = earlier(row.Ends, now.Add(idle))
			const raise = `update oauth_session set generation = $2, rotated = $3, expires = $4 where id = $1`
			_, err := tx.Exec(ctx, raise, id, row.Generation, row.Rotated, row.Expires)
			return err
		case generation == row.Generation-1 && now.Before(row.Rotated.Add(refreshGrace)):
			return nil // a retry: the same generation again
		default:
			ended = "the refresh token was used before"
		}
		_, err := tx.Exec(ctx, `delete from oauth_session where id = $1`, id)
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errSessionOver()
	case err != nil:
		return nil, fmt.Errorf("refresh session: %w", err)
	case ended != "":
		s.log.Warn("session of an app ended at refresh", "client", c.ID, "reason", ended)
		return nil, refuse(codeInvalidGrant, "%s", ended)
	}
	crash.Point("pds/oauth/refreshed")
	return row, nil
}

func errSessionOver() *Error { return refuse(codeInvalidGrant, "the session is over") }

func (s *Server) scanGrant(r pgx.Row, g *grantRow) error {
	return r.Scan(&g.ID, &g.DID, &g.Actor, &g.Client, &g.ClientKey, &g.JKT, &g.Scope, &g.Seed, &g.Generation, &g.Rotated, &g.Expires, &g.Ends)
}

func lives(clientKey string) (whole, idle time.Duration) {
	if clientKey == "" {
		return publicSession, publicRefresh
	}
	return confidentialSession, confidentialRefresh
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func verifies(verifier, challenge string) bool {
	if len(verifier) < minVerifier || len(verifier) > maxVerifier {
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	return hmac.Equal([]byte(b64.EncodeToString(sum[:])), []byte(challenge))
}

const refreshPrefix = "ref-"

// refreshToken is the token of a row's generation. It can be made again at any time, so a client that lost an answer, or two
// of its processes that refresh at once, get the same one. It takes both the row and the secret to make it (O5).
func (s *Server) refreshToken(g *grantRow) string {
	n := strconv.FormatInt(g.Generation, 10)
	m := hmac.New(sha256.New, s.refreshKey)
	m.Write(g.Seed)
	m.Write([]byte(g.ID + "." + n))
	return refreshPrefix + g.ID + "." + n + "." + b64.EncodeToString(m.Sum(nil))
}

func (s *Server) isRefreshToken(g *grantRow, generation int64, raw string) bool {
	at := *g
	at.Generation = generation
	return hmac.Equal([]byte(raw), []byte(s.refreshToken(&at)))
}

func parseRefresh(raw string) (id string, generation int64, ok bool) {
	rest, ok := strings.CutPrefix(raw, refreshPrefix)
	parts := strings.Split(rest, ".")
	if !ok || len(raw) > 256 || len(parts) != 3 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	return parts[0], n, err == nil && n > 0
}
