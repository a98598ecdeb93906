package oauth

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"city-sync.org/citysync/pds/scope"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never errs
	return b
}

// tokenLetters are those of randomToken.
const tokenLetters = "abcdefghijklmnopqrstuvwxyz234567"

func randomToken(n int) string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(randomBytes(n)))
}

func hashOf(v string) []byte {
	sum := sha256.Sum256([]byte(v))
	return sum[:]
}

// salt is what every nonce of this moment is made with. It stands beside the memory of used proofs (O2).
func (s *Server) salt(ctx context.Context) ([]byte, error) {
	if v := s.salted.Load(); v != nil {
		return *v, nil
	}
	var v []byte
	err := s.pool.QueryRow(ctx, `select salt from oauth_salt`).Scan(&v)
	if errors.Is(err, pgx.ErrNoRows) { // two processes that make one at once read the same
		if _, err = s.pool.Exec(ctx, `insert into oauth_salt (salt) values ($1) on conflict do nothing`, randomBytes(16)); err == nil {
			err = s.pool.QueryRow(ctx, `select salt from oauth_salt`).Scan(&v)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("salt of nonces: %w", err)
	}
	s.salted.Store(&v)
	return v, nil
}

// useProof uses p up, unless it was used before.
func (s *Server) useProof(ctx context.Context, p *proof, now time.Time) error {
	var batch pgx.Batch
	s.queueProof(&batch, p, now)
	res := s.pool.SendBatch(ctx, &batch)
	return errors.Join(s.judgeProof(p, res.QueryRow()), res.Close())
}

func (s *Server) queueProof(batch *pgx.Batch, p *proof, now time.Time) {
	const use = `
		with used as (
			insert into oauth_proof (key, until) select @key, @until where exists (select from oauth_salt where salt = @salt)
			on conflict do nothing returning 1
		)
		select exists (select from oauth_salt where salt = @salt), exists (select from used)`
	batch.Queue(use, pgx.NamedArgs{"key": p.key, "until": now.Add(proofMemory), "salt": p.salt})
}

func (s *Server) judgeProof(p *proof, row pgx.Row) error {
	var salted, fresh bool
	if err := row.Scan(&salted, &fresh); err != nil {
		return fmt.Errorf("use up proof: %w", err)
	}
	switch {
	case !salted: // the database lost its memory; nonces from before it are void
		if v := s.salted.Load(); v != nil && bytes.Equal(*v, p.salt) {
			s.salted.CompareAndSwap(v, nil)
		}
		return errUseNonce()
	case !fresh:
		return refuse(codeInvalidProof, "the proof was used before")
	}
	return nil
}

type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// once tells whether a name is used for the first time. It is remembered until the moment given.
func (s *Server) once(ctx context.Context, q querier, name []byte, until, now time.Time) (bool, error) {
	const use = `
		insert into oauth_once (key, until) values ($1, $2)
		on conflict (key) do update set until = excluded.until where oauth_once.until <= $3`
	tag, err := q.Exec(ctx, use, name, until, now)
	if err != nil {
		return false, fmt.Errorf("remember what is used once: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Session is what a client was granted, as long as it lasts.
type Session struct {
	ID      string
	Account syntax.DID // in whose name the client acts
	Actor   syntax.DID // who allowed it
	Client  string     // client id
	Scope   *scope.Set
	Name    string // what the client called itself and where it said it lives, when it was granted; either may be empty
	URI     string
	Device  string // the browser in which it was allowed
	Created time.Time
	Used    time.Time // last refresh
	Expires time.Time // unless it is refreshed before
}

type sessionRow struct {
	ID         string
	DID        syntax.DID
	Actor      syntax.DID
	Client     string
	Scope      string
	ClientName string
	ClientURI  string
	Device     string
	Created    time.Time
	Rotated    time.Time
	Expires    time.Time
}

const sessionColumns = `id, did, actor, client, scope, client_name, client_uri, device, created, rotated, expires`

func (s *Server) session(r sessionRow) (*Session, error) {
	set, err := s.scopes(r.Scope)
	if err != nil { // it was in order when it was granted: a permission set has gone since
		return nil, unauthorized(refuse(codeInvalidToken, "the scope of the session is not known any more"))
	}
	return &Session{
		ID: r.ID, Account: r.DID, Actor: r.Actor, Client: r.Client, Scope: set, Name: r.ClientName, URI: r.ClientURI,
		Device: r.Device, Created: r.Created, Used: r.Rotated, Expires: r.Expires,
	}, nil
}

// Sessions lists the sessions that are not over of an account, and those that it allowed on another's, newest first.
func (s *Server) Sessions(ctx context.Context, did syntax.DID) ([]Session, error) {
	const list = `select ` + sessionColumns + ` from oauth_session where (did = $1 or actor = $1) and expires > $2 order by created desc, id limit 500`
	rows, err := s.pool.Query(ctx, list, did, s.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", did, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[sessionRow])
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", did, err)
	}
	out := make([]Session, 0, len(found))
	for _, r := range found {
		ses, err := s.session(r)
		if err != nil { // it opens nothing any more, and is listed so that it can be ended
			ses = &Session{ID: r.ID, Account: r.DID, Actor: r.Actor, Client: r.Client, Scope: &scope.Set{}, Name: r.ClientName, URI: r.ClientURI,
				Device: r.Device, Created: r.Created, Used: r.Rotated, Expires: r.Expires}
		}
		out = append(out, *ses)
	}
	return out, nil
}

// End ends one session of an account, or one that it allowed on another's, at once. It is no error when it was over.
func (s *Server) End(ctx context.Context, did syntax.DID, id string) error {
	if _, err := s.pool.Exec(ctx, `delete from oauth_session where (did = $1 or actor = $1) and id = $2`, did, id); err != nil {
		return fmt.Errorf("end session of %s: %w", did, err)
	}
	return nil
}

// EndAll ends every session of an account and every one that it allowed, and takes back the codes that are on their way.
func (s *Server) EndAll(ctx context.Context, did syntax.DID) error {
	var batch pgx.Batch
	batch.Queue(`delete from oauth_request where did = $1 or actor = $1`, did)
	batch.Queue(`delete from oauth_session where did = $1 or actor = $1`, did)
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("end sessions of %s: %w", did, err)
	}
	return nil
}

// Collect clears away what is over. What a code used again could still end stands in its session, so requests go at once.
func (s *Server) Collect(ctx context.Context, now time.Time) error {
	var errs []error
	for _, table := range []string{"oauth_request", "oauth_session"} {
		_, err := s.pool.Exec(ctx, `delete from `+table+` where expires <= $1`, now)
		errs = append(errs, err)
	}
	for _, table := range []string{"oauth_proof", "oauth_once"} {
		_, err := s.pool.Exec(ctx, `delete from `+table+` where until <= $1`, now)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("collect what is over of OAuth: %w", err)
	}
	return nil
}
