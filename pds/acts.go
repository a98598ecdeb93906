package pds

import (
	"context"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/repo"
)

// act is one thing that was done in the name of an account that several people act for. The
// log is for the account alone: no public answer names who acted.
type act struct {
	DID     syntax.DID
	N       int64
	At      time.Time
	Actor   *syntax.DID // nil: that person's account here was deleted
	Client  string
	Method  string
	Action  string // create, update, delete of a record; upload; call of a service; invite, accept, remove of a controller
	Path    string // of the record; what was called; the role
	Subject *syntax.DID
	CID     []byte
	Rev     *string
}

// logChange notes a change of who acts for the account, in the change's own transaction.
func logChange(ctx context.Context, tx pgx.Tx, a act) error {
	const note = `
		insert into act_log (did, at, actor, client, method, action, path, subject)
		values ($1, $2, $3, $4, $5, $6, $7, $8)`
	if _, err := tx.Exec(ctx, note, a.DID, a.At, a.Actor, a.Client, a.Method, a.Action, a.Path, a.Subject); err != nil {
		return fmt.Errorf("note what was done for %s: %w", a.DID, err)
	}
	return nil
}

// queueActs notes the operations of a commit beside it.
func queueActs(batch *pgx.Batch, a *authority, c *repo.Commit, now time.Time) {
	const note = `
		insert into act_log (did, at, actor, client, method, action, path, cid, rev)
		select $1, $2, $3, $4, $5, u.action, u.path, u.cid, $9
		from unnest($6::text[], $7::text[], $8::bytea[]) as u (action, path, cid)`
	var actions, paths []string
	var cids [][]byte
	for _, op := range c.Ops {
		actions, paths = append(actions, string(op.Action)), append(paths, op.Path)
		var id []byte
		if op.CID != nil {
			id = op.CID.Bytes()
		}
		cids = append(cids, id)
	}
	batch.Queue(note, a.Account.DID, now, a.Actor, a.Client, a.Method, actions, paths, cids, c.Head.Rev)
}

// logAct notes what a controller does besides writing records, and refuses one whose role
// ended or changed meanwhile. What an owner does so is not noted.
func (s *Server) logAct(ctx context.Context, a *authority, action, path string, blob *cid.Cid) error {
	if a.role == nil {
		return nil
	}
	const note = `
		insert into act_log (did, at, actor, client, method, action, path, cid)
		select c.did, $4, c.controller, $5, $6, $7, $8, $9 from controller c
		where c.did = $1 and c.controller = $2 and c.mark = $3 and c.accepted is not null for share of c`
	var id []byte
	if blob != nil {
		id = blob.Bytes()
	}
	tag, err := s.pool.Exec(ctx, note, a.Account.DID, a.Actor, a.role.Mark, s.clock.Now(), a.Client, a.Method, action, path, id)
	if err != nil {
		return fmt.Errorf("note what was done for %s: %w", a.Account.DID, err)
	}
	if tag.RowsAffected() == 0 {
		return errNotController(a.Account.DID)
	}
	return nil
}

// acts lists what was done, newest first, below the number before.
func (s *Server) acts(ctx context.Context, account syntax.DID, before, limit int64) ([]act, error) {
	const list = `
		select did, n, at, actor, client, method, action, path, subject, cid, rev from act_log
		where did = $1 and n < $2 order by n desc limit $3`
	rows, err := s.pool.Query(ctx, list, account, before, limit)
	if err != nil {
		return nil, fmt.Errorf("list what was done for %s: %w", account, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByName[act])
	if err != nil {
		return nil, fmt.Errorf("list what was done for %s: %w", account, err)
	}
	return out, nil
}

// queueForgetting takes a deleted account out of other accounts' lists and logs. What it did
// for them stays, without its name.
func queueForgetting(batch *pgx.Batch, did syntax.DID) {
	batch.Queue(`delete from controller where controller = $1`, did)
	batch.Queue(`delete from oauth_session where actor = $1`, did)
	batch.Queue(`delete from oauth_request where actor = $1`, did)
	batch.Queue(`update act_log set actor = null where actor = $1 and actor <> did`, did)
	batch.Queue(`update act_log set subject = null where subject = $1`, did)
}
