package pds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

// maxWrites is the protocol's limit on the operations of one commit.
const maxWrites = 200

// intent is what a client wants of one record.
type intent int

const (
	toCreate intent = iota // it must not exist
	toPut                  // either; the same value is no change
	toUpdate               // it must exist
	toDelete               // it must exist
	toDrop                 // its absence is no error
)

// change is one record's part of a write.
type change struct {
	Intent     intent
	Collection string
	RKey       string
	Record     *record    // nil for deletes
	Swap       *condition // on the record as it is now
}

func (c change) path() string { return c.Collection + "/" + c.RKey }

// condition compares with what is there; a nil CID means nothing must be there.
type condition struct{ CID *cid.Cid }

func (c *condition) holds(now *cid.Cid) bool {
	if c == nil {
		return true
	}
	if c.CID == nil || now == nil {
		return c.CID == nil && now == nil
	}
	return c.CID.Equals(*now)
}

// decide turns changes into repository writes, given the CIDs that are there now. What
// changes nothing is left out.
func decide(there map[string]cid.Cid, changes []change) ([]repo.Write, error) {
	var out []repo.Write
	seen := make(map[string]bool, len(changes))
	for _, ch := range changes {
		path := ch.path()
		if seen[path] {
			return nil, invalid("%s is named twice", path)
		}
		seen[path] = true
		var now *cid.Cid
		if c, ok := there[path]; ok {
			now = &c
		}
		if !ch.Swap.holds(now) {
			return nil, refused("InvalidSwap", "record %s is not what swapRecord says", path)
		}
		w := repo.Write{Collection: ch.Collection, RKey: ch.RKey}
		switch {
		case ch.Intent == toCreate && now != nil:
			return nil, xrpc.Errorf(http.StatusConflict, "RecordAlreadyExists", "record %s exists", path)
		case (ch.Intent == toUpdate || ch.Intent == toDelete) && now == nil:
			return nil, refused("RecordNotFound", "there is no record %s", path)
		case ch.Record == nil && now == nil:
			continue
		case ch.Record == nil:
			w.Action = repo.Delete
		case now == nil:
			w.Action, w.Record = repo.Create, ch.Record.CBOR
		case now.Equals(ch.Record.CID):
			continue
		default:
			w.Action, w.Record = repo.Update, ch.Record.CBOR
		}
		out = append(out, w)
	}
	return out, nil
}

// current is what a write finds under the lock of its repository.
type current struct {
	head      repo.Head
	key       []byte // sealed; the account's as it is now, which may not be the one that the request found
	there     map[string]cid.Cid
	delegated bool // several people act for the account: what is done is noted
}

// write applies the changes as one commit, in one transaction with its event. It answers
// nil when nothing changes. The same write may be tried again after an error.
func (s *Server) write(ctx context.Context, a *authority, changes []change, swapCommit *cid.Cid) (*repo.Head, error) {
	acc := a.Account
	if len(changes) > maxWrites {
		return nil, invalid("a commit has at most %d writes", maxWrites)
	}
	leave, err := s.queue.enter(ctx, acc.DID)
	if err != nil {
		return nil, err
	}
	defer leave()
	commit, err := s.writeKnown(ctx, a, changes, swapCommit)
	if err != nil {
		return nil, err
	}
	if commit == nil {
		if a, err = a.sure(); err != nil {
			return nil, err
		}
		if commit, err = s.writeAsked(ctx, a, changes, swapCommit); err != nil || commit == nil {
			return nil, err
		}
	}
	crash.Point("pds/write/after-commit")
	s.cacheNodes(commit)
	s.metrics.commits.Inc()
	return &commit.Head, nil
}

// writeAsked is the long way of a write: it reads what there is under the lock of the repository and decides by that. It answers nil when
// nothing changes.
func (s *Server) writeAsked(ctx context.Context, a *authority, changes []change, swapCommit *cid.Cid) (commit *repo.Commit, err error) {
	acc := a.Account
	s.standings.drop(acc.DID) // known again once this ends well
	var known standing
	delegated := false
	err = inPipeTx(ctx, s.pool, func(tx *pipeTx) error {
		now, err := lockRepo(ctx, tx, a, changes)
		if err != nil {
			return err
		}
		if swapCommit != nil && !swapCommit.Equals(now.head.Commit) {
			return refused("InvalidSwap", "the repository is at commit %s", now.head.Commit)
		}
		writes, err := decide(now.there, changes)
		if err != nil || len(writes) == 0 {
			return err
		}
		if err := s.files.haveAll(acc.DID, blobsWanted(changes)); err != nil {
			return err
		}
		known.key, delegated = now.key, now.delegated
		if known.signer, err = s.signingKey(&account{DID: acc.DID, SigningKey: known.key}); err != nil {
			return err
		}
		rev, err := s.tids.nextRev(now.head.Rev)
		if err != nil {
			return fmt.Errorf("rev after %s of %s: %w", now.head.Rev, acc.DID, err)
		}
		commit, err = repo.Apply(ctx, blocks{q: tx, did: acc.DID, cache: s.cache}, acc.DID, &now.head, writes, known.signer, rev)
		if err != nil {
			return applyError(acc.DID, err)
		}
		return s.store(ctx, tx, a, now, changes, commit)
	})
	if err != nil || commit == nil {
		return nil, err
	}
	if !delegated { // who writes for others is asked for, and noted, the long way
		known.head = commit.Head
		s.standings.put(acc.DID, known)
	}
	return commit, nil
}

// cacheNodes keeps what the next write to the same repository will ask for.
func (s *Server) cacheNodes(c *repo.Commit) {
	skip := make(map[cid.Cid]bool, len(c.Ops)+1)
	skip[c.Head.Commit] = true
	for _, op := range c.Ops {
		if op.CID != nil {
			skip[*op.CID] = true
		}
	}
	for _, b := range c.New {
		if !skip[b.CID] {
			s.cache.put(b.CID, b.Data)
		}
	}
}

func applyError(did syntax.DID, err error) error {
	if errors.Is(err, repo.ErrTooBig) || errors.Is(err, repo.ErrTooManyOps) {
		return refused("CommitTooBig", "%v", err)
	}
	return fmt.Errorf("apply writes to %s: %w", did, err)
}

// lockRepo begins, takes the repository's lock and reads, in the same round trip, what the
// changes touch: records that are there, and blobs, which it locks against collection.
// A controller's role is asked for again under a lock of its own: one that was ended or changed since the request came is refused.
func lockRepo(ctx context.Context, tx *pipeTx, a *authority, changes []change) (*current, error) {
	const lock = `select commit_cid, data_cid, rev from repo where did = $1 for update`
	// A statement of its own: what stood beside the lock would be as old as the wait for it.
	const owner = `
		select status, signing_key, exists (select from controller where did = $1) from account where did = $1`
	const touched = `
		select u.collection, u.rkey, r.cid from unnest($2::text[], $3::text[]) as u (collection, rkey),
		lateral (select cid from record
			where did = $1 and collection = u.collection and rkey = u.rkey offset 0) r`
	const role = `
		select true from controller
		where did = $1 and controller = $2 and mark = $3 and accepted is not null for share`
	did := a.Account.DID
	cur := &current{there: make(map[string]cid.Cid, len(changes))}
	collections, rkeys := paths(changes)
	var batch pgx.Batch
	batch.Queue(lock, did).QueryRow(func(row pgx.Row) error {
		var commit, data []byte
		if err := row.Scan(&commit, &data, &cur.head.Rev); err != nil {
			return err
		}
		return castCIDs(commit, &cur.head.Commit, data, &cur.head.Data)
	})
	batch.Queue(owner, did).QueryRow(func(row pgx.Row) error {
		acc := account{DID: did}
		if err := row.Scan(&acc.Status, &cur.key, &cur.delegated); err != nil {
			return err
		}
		return acc.mustBeActive()
	})
	if a.role != nil {
		batch.Queue(role, did, a.Actor, a.role.Mark).QueryRow(func(row pgx.Row) error {
			err := row.Scan(new(bool))
			if errors.Is(err, pgx.ErrNoRows) {
				return errNotController(did)
			}
			return err
		})
	}
	batch.Queue(touched, did, collections, rkeys).Query(func(rows pgx.Rows) error {
		var collection, rkey string
		var raw []byte
		_, err := pgx.ForEachRow(rows, []any{&collection, &rkey, &raw}, func() error {
			c, err := cid.Cast(raw)
			cur.there[collection+"/"+rkey] = c
			return err
		})
		return err
	})
	if wanted := blobsWanted(changes); len(wanted) > 0 {
		queueBlobCheck(&batch, did, wanted)
	}
	err := tx.first(ctx, &batch)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errRepoNotFound(did.String())
	}
	if err != nil {
		return nil, wrapUnlessShown(err, "lock repository of %s", did)
	}
	return cur, nil
}

// wrapUnlessShown adds context to our own faults and leaves refusals as they are.
func wrapUnlessShown(err error, format string, a ...any) error {
	var shown *xrpc.Error
	if errors.As(err, &shown) {
		return shown
	}
	return fmt.Errorf(format+": %w", append(a, err)...)
}

func castCIDs(raw1 []byte, c1 *cid.Cid, raw2 []byte, c2 *cid.Cid) (err error) {
	if *c1, err = cid.Cast(raw1); err != nil {
		return fmt.Errorf("stored CID %x: %w", raw1, err)
	}
	if *c2, err = cid.Cast(raw2); err != nil {
		return fmt.Errorf("stored CID %x: %w", raw2, err)
	}
	return nil
}

func paths(changes []change) (collections, rkeys []string) {
	for _, ch := range changes {
		collections = append(collections, ch.Collection)
		rkeys = append(rkeys, ch.RKey)
	}
	return collections, rkeys
}

func blobsWanted(changes []change) map[cid.Cid]atdata.Blob {
	wanted := map[cid.Cid]atdata.Blob{}
	for _, ch := range changes {
		if ch.Record == nil {
			continue
		}
		for _, b := range ch.Record.Blobs {
			wanted[b.Ref.CID()] = b
		}
	}
	return wanted
}

func queueBlobCheck(batch *pgx.Batch, did syntax.DID, wanted map[cid.Cid]atdata.Blob) {
	const lock = `
		select cid, mime, size from blob
		where did = $1 and cid = any($2::bytea[]) and not quarantined order by cid for key share`
	ids := make([][]byte, 0, len(wanted))
	for c := range wanted {
		ids = append(ids, c.Bytes())
	}
	batch.Queue(lock, did, ids).Query(func(rows pgx.Rows) error {
		found := 0
		var raw []byte
		var mime string
		var size int64
		_, err := pgx.ForEachRow(rows, []any{&raw, &mime, &size}, func() error {
			c, err := cid.Cast(raw)
			if err != nil {
				return fmt.Errorf("stored CID %x: %w", raw, err)
			}
			found++
			if w := wanted[c]; w.MimeType != mime || w.Size != size {
				return refused("InvalidBlob", "blob %s is %s of %d bytes, not %s of %d", c, mime, size, w.MimeType, w.Size)
			}
			return nil
		})
		if err == nil && found < len(wanted) {
			return refused("BlobNotFound", "%d of the record's blobs were not uploaded", len(wanted)-found)
		}
		return err
	})
}

// store writes the commit and, last, its event.
func (s *Server) store(ctx context.Context, tx *pipeTx, a *authority, before *current, changes []change, c *repo.Commit) error {
	now, did := s.clock.Now(), a.Account.DID
	var batch pgx.Batch
	queueHead(&batch, did, c)
	queueRecords(&batch, did, before, changes, c, now)
	queueBlocks(&batch, did, before, changes, c)
	if before.delegated {
		queueActs(&batch, a, c, now)
	}
	if err := queueEvents(&batch, now, commitEvent(c, now)); err != nil {
		return err
	}
	crash.Point("pds/write/before-commit")
	if err := tx.commit(ctx, &batch); err != nil {
		return fmt.Errorf("commit %s of %s: %w", c.Head.Rev, did, err)
	}
	return nil
}

func commitEvent(c *repo.Commit, now time.Time) *firehose.Commit {
	ev := &firehose.Commit{
		DID: c.DID, Commit: c.Head.Commit, Rev: c.Head.Rev, Since: c.Since,
		PrevData: c.PrevData, Blocks: c.CAR, Time: eventTime(now),
	}
	for _, op := range c.Ops {
		ev.Ops = append(ev.Ops, firehose.Op{Action: string(op.Action), Path: op.Path, CID: op.CID, Prev: op.Prev})
	}
	return ev
}

// In the statements below, "offset 0" makes the planner look each row up by its key.
// Left free it joins, and until a table has statistics it takes every repository for a
// small one and reads all of it. Rows are named by ctid for the same reason; the lock of
// the repository keeps others from moving them.

func queueRecords(batch *pgx.Batch, did syntax.DID, before *current, changes []change, c *repo.Commit, now time.Time) {
	const unref = `
		with unmissed as (
			delete from missing_blob where ctid = any (array(
				select r.ctid from unnest($2::text[], $3::text[]) as u (collection, rkey),
				lateral (select ctid from missing_blob
					where did = $1 and collection = u.collection and rkey = u.rkey offset 0) r))
		), gone as (
			delete from record_blob where ctid = any (array(
				select r.ctid from unnest($2::text[], $3::text[]) as u (collection, rkey),
				lateral (select ctid from record_blob
					where did = $1 and collection = u.collection and rkey = u.rkey offset 0) r))
			returning cid
		)
		update blob set touched = $4 where did = $1 and cid in (select cid from gone)`
	const remove = `
		delete from record where ctid = any (array(
			select r.ctid from unnest($2::text[], $3::text[]) as u (collection, rkey),
			lateral (select ctid from record
				where did = $1 and collection = u.collection and rkey = u.rkey offset 0) r))`
	const upsert = `
		insert into record (did, collection, rkey, cid, rev)
		select $1, u.collection, u.rkey, u.cid, $5
		from unnest($2::text[], $3::text[], $4::bytea[]) as u (collection, rkey, cid)
		on conflict (did, collection, rkey) do update set cid = excluded.cid, rev = excluded.rev`
	const ref = `
		insert into record_blob (did, collection, rkey, cid)
		select $1, u.collection, u.rkey, u.cid
		from unnest($2::text[], $3::text[], $4::bytea[]) as u (collection, rkey, cid)
		on conflict do nothing`

	var replaced, removed, set, refs struct {
		collections, rkeys []string
		cids               [][]byte
	}
	for _, ch := range changes {
		old, existed := before.there[ch.path()]
		switch {
		case ch.Record == nil && !existed, ch.Record != nil && existed && old.Equals(ch.Record.CID):
			continue // no part of the commit
		case existed:
			replaced.collections = append(replaced.collections, ch.Collection)
			replaced.rkeys = append(replaced.rkeys, ch.RKey)
		}
		if ch.Record == nil {
			removed.collections = append(removed.collections, ch.Collection)
			removed.rkeys = append(removed.rkeys, ch.RKey)
			continue
		}
		set.collections = append(set.collections, ch.Collection)
		set.rkeys = append(set.rkeys, ch.RKey)
		set.cids = append(set.cids, ch.Record.CID.Bytes())
		for _, b := range ch.Record.Blobs {
			refs.collections = append(refs.collections, ch.Collection)
			refs.rkeys = append(refs.rkeys, ch.RKey)
			refs.cids = append(refs.cids, b.Ref.CID().Bytes())
		}
	}
	if len(replaced.rkeys) > 0 {
		batch.Queue(unref, did, replaced.collections, replaced.rkeys, now)
	}
	if len(removed.rkeys) > 0 {
		batch.Queue(remove, did, removed.collections, removed.rkeys)
	}
	if len(set.rkeys) > 0 {
		batch.Queue(upsert, did, set.collections, set.rkeys, set.cids, c.Head.Rev)
	}
	if len(refs.rkeys) > 0 {
		batch.Queue(ref, did, refs.collections, refs.rkeys, refs.cids)
	}
}

// queueBlocks keeps P3: first out with what the new head no longer reaches, then in with
// what is new. Two records of the same value share a block, so a record's block goes only
// with its last record.
func queueBlocks(batch *pgx.Batch, did syntax.DID, before *current, changes []change, c *repo.Commit) {
	const out = `
		delete from block where ctid = any (array(
			select b.ctid from unnest($2::bytea[]) as u (cid),
			lateral (select ctid from block where did = $1 and cid = u.cid
				and not exists (select from record where did = $1 and cid = u.cid) offset 0) b))`
	const in = `
		insert into block (did, cid, rev, bytes)
		select $1, u.cid, $2, u.bytes from unnest($3::bytea[], $4::bytea[]) as u (cid, bytes)
		on conflict (did, cid) do nothing`
	var gone, cids, bodies [][]byte
	if before != nil {
		gone = append(gone, before.head.Commit.Bytes())
		for _, ch := range changes {
			if old, ok := before.there[ch.path()]; ok {
				gone = append(gone, old.Bytes())
			}
		}
	}
	for _, u := range c.Unreachable {
		gone = append(gone, u.Bytes())
	}
	for _, b := range c.New {
		cids = append(cids, b.CID.Bytes())
		bodies = append(bodies, b.Data)
	}
	if len(gone) > 0 {
		batch.Queue(out, did, gone)
	}
	batch.Queue(in, did, c.Head.Rev, cids, bodies)
}

// queueHead moves the head. A rev that is not above the last would be none, which the column
// refuses: the error is the database's, so that the commit may travel in the same batch.
func queueHead(batch *pgx.Batch, did syntax.DID, c *repo.Commit) {
	const move = `
		insert into repo (did, commit_cid, data_cid, rev) values ($1, $2, $3, $4)
		on conflict (did) do update
		set commit_cid = excluded.commit_cid, data_cid = excluded.data_cid,
			rev = case when repo.rev < excluded.rev then excluded.rev end`
	batch.Queue(move, did, c.Head.Commit.Bytes(), c.Head.Data.Bytes(), c.Head.Rev)
}
