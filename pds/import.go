package pds

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// A repository comes in as it is sent: block by block into repo_import_block. Then all of it is checked and taken over in one transaction, with one
// commit of ours on top. Whatever stops that leaves the account as it was, and the same request begins anew; a repository that is here already is
// not taken twice.

const (
	maxImports    = 2             // taken over at once; each has a connection and a long transaction
	importLife    = 6 * time.Hour // what is older was given up
	importRows    = 500
	importBytes   = 1 << 20 // of blocks sent to the database at once
	leastBlock    = 40      // bytes that a block takes in a CAR, at least
	maxBlobTokens = 255     // of a media type
)

func (s *Server) importRepo(c *xrpc.Call) (any, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	if err := a.mayAccount("repo", scope.Manage); err != nil {
		return nil, err
	}
	if word, _, err := mime.ParseMediaType(c.R.Header.Get("Content-Type")); err != nil || word != carType {
		return nil, xrpc.Errorf(http.StatusUnsupportedMediaType, xrpc.NameUnsupportedMedia, "the body must be %s", carType)
	}
	if a.Account.Status != statusDeactivated {
		return nil, refused("AccountNotDeactivated", "a repository is taken into a deactivated account only")
	}
	ctx, acc := c.Context(), a.Account
	leave, err := s.importing.enter(acc.DID)
	if err != nil {
		return nil, err
	}
	defer leave()
	creds, err := s.credentialsOf(acc)
	if err != nil {
		return nil, err
	}
	keys, err := s.importKeys(ctx, creds)
	if err != nil {
		return nil, err
	}
	im := &repoImport{s: s, acc: acc, id: randomID(15)}
	defer im.clear(context.WithoutCancel(ctx))
	root, err := im.receive(ctx, c)
	if err != nil {
		return nil, importError(err)
	}
	crash.Point("pds/import/received")
	if err := im.take(ctx, root, keys); err != nil {
		return nil, importError(err)
	}
	return nil, nil
}

// onePerAccount lets each account do one thing at a time, and refuses a second one.
type onePerAccount struct {
	mu   sync.Mutex // guards busy
	busy map[syntax.DID]bool
}

func (o *onePerAccount) enter(did syntax.DID) (leave func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy[did] {
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "another import of this account is under way").After(10 * time.Second)
	}
	if o.busy == nil {
		o.busy = map[syntax.DID]bool{}
	}
	o.busy[did] = true
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.busy, did)
	}, nil
}

// importError names what is wrong with a repository; other errors stay as they are.
func importError(err error) error {
	var bad *repo.Reject
	if !errors.As(err, &bad) {
		return err
	}
	if bad.Reason == repo.TooBig {
		return xrpc.Errorf(http.StatusRequestEntityTooLarge, "RepoTooLarge", "%v", bad.Err)
	}
	return refused("InvalidRepo", "%s: %v", bad.Reason, bad.Err)
}

type repoImport struct {
	s   *Server
	acc *account
	id  string
}

// receive stores the blocks as they come and answers with the root's CID.
func (im *repoImport) receive(ctx context.Context, c *xrpc.Call) (cid.Cid, error) {
	const begin = `insert into repo_import (id, did, begun) values ($1, $2, $3)`
	if _, err := im.s.pool.Exec(ctx, begin, im.id, im.acc.DID, im.s.clock.Now()); err != nil {
		return cid.Undef, fmt.Errorf("begin import of %s: %w", im.acc.DID, err)
	}
	const store = `
		insert into repo_import_block (import, did, cid, bytes)
		select $1, $2, u.cid, u.bytes from unnest($3::bytea[], $4::bytea[]) as u (cid, bytes)
		on conflict do nothing`
	var pack blockPack
	flush := func() error {
		_, err := im.s.pool.Exec(ctx, store, im.id, im.acc.DID, pack.cids, pack.bytes)
		pack.reset()
		if err != nil {
			return fmt.Errorf("store import of %s: %w", im.acc.DID, err)
		}
		return nil
	}
	lim := repo.Limits{MaxBytes: im.s.cfg.MaxImport, MaxBlocks: int(im.s.cfg.MaxImport / leastBlock)}
	root, err := repo.StreamCAR(c.R.Body, lim, func(b repo.Block) error {
		if pack.add(b) {
			return flush()
		}
		return nil
	})
	if err != nil {
		return cid.Undef, err
	}
	return root, flush()
}

// blockPack gathers blocks until they are worth a round trip.
type blockPack struct {
	cids, bytes [][]byte
	size        int
}

func (p *blockPack) add(b repo.Block) (full bool) {
	p.cids, p.bytes = append(p.cids, b.CID.Bytes()), append(p.bytes, b.Data)
	p.size += len(b.Data)
	return len(p.cids) >= importRows || p.size >= importBytes
}

func (p *blockPack) reset() { *p = blockPack{} }

// clear forgets what was received: by then it was taken over or refused.
func (im *repoImport) clear(ctx context.Context) {
	var batch pgx.Batch
	batch.Queue(`delete from repo_import_block where import = $1`, im.id)
	batch.Queue(`delete from repo_import where id = $1`, im.id)
	if err := im.s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		im.s.log.Warn("import not cleared away", "did", im.acc.DID, "error", err) // housekeeping does it
	}
}

// dropImports clears away what crashes left.
func (s *Server) dropImports(ctx context.Context, now time.Time) error {
	var batch pgx.Batch
	batch.Queue(`delete from repo_import where begun < $1`, now.Add(-importLife))
	batch.Queue(`delete from repo_import_block b where not exists (select from repo_import i where i.id = b.import)`)
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("drop old imports: %w", err)
	}
	return nil
}

// received reads the blocks of one import.
type received struct {
	q  querier
	id string
}

// Get implements repo.Blocks.
func (r received) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	var data []byte
	err := r.q.QueryRow(ctx, `select bytes from repo_import_block where import = $1 and cid = $2`, r.id, c.Bytes()).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", repo.ErrBlockMissing, c)
	}
	if err != nil {
		return nil, fmt.Errorf("read imported block %s: %w", c, err)
	}
	return data, nil
}

// take checks the repository and makes it the account's.
func (im *repoImport) take(ctx context.Context, root cid.Cid, keys []atcrypto.PublicKey) error {
	s, did := im.s, im.acc.DID
	raw, err := received{s.pool, im.id}.Get(ctx, root)
	if errors.Is(err, repo.ErrBlockMissing) {
		return refused("InvalidRepo", "%s: the root's block is missing", repo.BadStructure)
	}
	if err != nil {
		return err
	}
	came, err := repo.OpenCommit(raw, did, keys...)
	if err != nil {
		return err
	}
	if err := repo.CheckRev(came.Rev, repo.State{}, s.clock.Now()); err != nil {
		return err
	}
	select { // whoever sends slowly holds up nobody: what is sent has come by now
	case s.imports <- struct{}{}:
		defer func() { <-s.imports }()
	case <-ctx.Done():
		return ctx.Err()
	}
	taken := false
	err = s.locked(ctx, did, func(tx pgx.Tx, head repo.Head, status string) error {
		if status != statusDeactivated {
			return refused("AccountNotDeactivated", "a repository is taken into a deactivated account only")
		}
		if head.Data == came.Data && head.Rev > came.Rev {
			return nil // sent again: all of it is here, under a commit of ours
		}
		acc := account{DID: did} // its key as it is now: the repository may have come for hours
		if err := tx.QueryRow(ctx, `select signing_key from account where did = $1`, did).Scan(&acc.SigningKey); err != nil {
			return fmt.Errorf("find key of %s: %w", did, err)
		}
		key, err := s.signingKey(&acc)
		if err != nil {
			return err
		}
		rev, err := s.tids.nextRev(max(head.Rev, came.Rev))
		if err != nil {
			return fmt.Errorf("rev after %s of %s: %w", came.Rev, did, err)
		}
		t := &takeover{tx: tx, did: did, rev: rev, from: received{tx, im.id}, now: s.clock.Now()}
		if err := t.run(ctx, came); err != nil {
			return err
		}
		commit, err := repo.Apply(ctx, t.from, did, &came, nil, key, rev)
		if err != nil {
			return fmt.Errorf("commit on the import of %s: %w", did, err)
		}
		var batch pgx.Batch
		queueHead(&batch, did, commit)
		queueBlocks(&batch, did, nil, nil, commit)
		batch.Queue(`insert into arrival (did, since) values ($1, $2) on conflict (did) do update set since = excluded.since`, did, came.Rev)
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return fmt.Errorf("store import of %s: %w", did, err)
		}
		crash.Point("pds/import/before-commit")
		taken = true
		return nil
	})
	if err == nil && taken {
		crash.Point("pds/import/after-commit")
		s.log.Info("repository imported", "did", did)
	}
	return err
}

// takeover puts another repository in the place of an account's own, piece by piece within one transaction.
type takeover struct {
	tx   pgx.Tx
	did  syntax.DID
	rev  string
	from received
	now  time.Time

	nodes  blockPack
	leaves []importLeaf
}

type importLeaf struct {
	path string
	cid  cid.Cid
}

func (t *takeover) run(ctx context.Context, came repo.Head) error {
	var batch pgx.Batch
	for _, table := range []string{"record_blob", "missing_blob", "record", "block"} {
		batch.Queue(`delete from `+table+` where did = $1`, t.did)
	}
	batch.Queue(`update blob set touched = $2 where did = $1`, t.did, t.now) // referred to again below, or collected after the grace
	if err := t.tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("clear repository of %s: %w", t.did, err)
	}
	node := func(b repo.Block) error {
		if t.nodes.add(b) {
			return t.flushNodes(ctx)
		}
		return nil
	}
	leaf := func(path string, c cid.Cid) error {
		t.leaves = append(t.leaves, importLeaf{path, c})
		if len(t.leaves) >= importRows {
			return t.flushLeaves(ctx)
		}
		return nil
	}
	if err := repo.CheckTree(ctx, t.from, came.Data, node, leaf); err != nil {
		return err
	}
	if err := t.flushLeaves(ctx); err != nil {
		return err
	}
	return t.flushNodes(ctx)
}

func (t *takeover) flushNodes(ctx context.Context) error {
	const store = `
		insert into block (did, cid, rev, bytes)
		select $1, u.cid, $2, u.bytes from unnest($3::bytea[], $4::bytea[]) as u (cid, bytes)
		on conflict (did, cid) do nothing`
	_, err := t.tx.Exec(ctx, store, t.did, t.rev, t.nodes.cids, t.nodes.bytes)
	t.nodes.reset()
	if err != nil {
		return fmt.Errorf("store blocks of %s: %w", t.did, err)
	}
	return nil
}

// flushLeaves checks the records of some paths and stores them. Records of the same value share a block.
func (t *takeover) flushLeaves(ctx context.Context) error {
	rows := make(map[cid.Cid][]blobRef, len(t.leaves))
	var wanted [][]byte
	for _, l := range t.leaves {
		if _, ok := rows[l.cid]; !ok {
			rows[l.cid] = nil
			wanted = append(wanted, l.cid.Bytes())
		}
	}
	for start := 0; start < len(wanted); start += recordsAtOnce {
		if err := t.loadRecords(ctx, wanted[start:min(start+recordsAtOnce, len(wanted))], rows); err != nil {
			return err
		}
	}
	return t.storeLeaves(ctx, rows)
}

// recordsAtOnce bounds the records that stand in memory: a megabyte each at most.
const recordsAtOnce = 25

func (t *takeover) loadRecords(ctx context.Context, wanted [][]byte, refs map[cid.Cid][]blobRef) error {
	const load = `select cid, bytes from repo_import_block where import = $1 and cid = any($2::bytea[])`
	found, err := t.tx.Query(ctx, load, t.from.id, wanted)
	if err != nil {
		return fmt.Errorf("read records of %s: %w", t.did, err)
	}
	type row struct{ CID, Bytes []byte }
	list, err := pgx.CollectRows(found, pgx.RowToStructByPos[row])
	if err != nil {
		return fmt.Errorf("read records of %s: %w", t.did, err)
	}
	if len(list) < len(wanted) {
		return refused("InvalidRepo", "%s: %d records are missing", repo.BadStructure, len(wanted)-len(list))
	}
	for _, r := range list {
		c, err := cid.Cast(r.CID)
		if err != nil {
			return fmt.Errorf("stored CID %x: %w", r.CID, err)
		}
		if refs[c], err = importedRecord(c, r.Bytes); err != nil {
			return err
		}
		if t.nodes.add(repo.Block{CID: c, Data: r.Bytes}) {
			if err := t.flushNodes(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// blobRef is a record's reference to a blob, as it names it.
type blobRef struct {
	cid  cid.Cid
	mime string
}

// importedRecord checks a record that was written elsewhere. Its schema is not asked: it was valid when it was written, or it is not and indexers
// pass it over. The legacy form of a blob is taken here, and only here.
func importedRecord(c cid.Cid, data []byte) ([]blobRef, error) {
	if err := repo.CheckRecord(c, data); err != nil {
		return nil, err
	}
	fields, err := lexicons.DecodeCBOR(data)
	if err != nil {
		return nil, &repo.Reject{Reason: repo.BadRecord, Err: fmt.Errorf("record %s: %w", c, err)}
	}
	refs := importedBlobs(fields, nil)
	if len(refs) > maxRecordBlobs {
		return nil, &repo.Reject{Reason: repo.BadRecord, Err: fmt.Errorf("record %s refers to %d blobs", c, len(refs))}
	}
	return refs, nil
}

func (t *takeover) storeLeaves(ctx context.Context, refs map[cid.Cid][]blobRef) error {
	const records = `
		insert into record (did, collection, rkey, cid, rev)
		select $1, u.collection, u.rkey, u.cid, $5
		from unnest($2::text[], $3::text[], $4::bytea[]) as u (collection, rkey, cid)`
	// A blob that is here already is referred to; the others are waited for.
	const here = `
		insert into record_blob (did, collection, rkey, cid)
		select $1, u.collection, u.rkey, u.cid
		from unnest($2::text[], $3::text[], $4::bytea[]) as u (collection, rkey, cid)
		join blob b on b.did = $1 and b.cid = u.cid
		on conflict do nothing`
	const missing = `
		insert into missing_blob (did, collection, rkey, cid, mime)
		select $1, u.collection, u.rkey, u.cid, u.mime
		from unnest($2::text[], $3::text[], $4::bytea[], $5::text[]) as u (collection, rkey, cid, mime)
		where not exists (select from blob b where b.did = $1 and b.cid = u.cid)
		on conflict do nothing`
	var collections, rkeys, refCollections, refRKeys, mimes []string
	var cids, refCIDs [][]byte
	for _, l := range t.leaves {
		collection, rkey, _ := strings.Cut(l.path, "/")
		collections, rkeys, cids = append(collections, collection), append(rkeys, rkey), append(cids, l.cid.Bytes())
		for _, ref := range refs[l.cid] {
			refCollections, refRKeys = append(refCollections, collection), append(refRKeys, rkey)
			refCIDs, mimes = append(refCIDs, ref.cid.Bytes()), append(mimes, ref.mime)
		}
	}
	t.leaves = t.leaves[:0]
	var batch pgx.Batch
	batch.Queue(records, t.did, collections, rkeys, cids, t.rev)
	if len(refCIDs) > 0 {
		batch.Queue(here, t.did, refCollections, refRKeys, refCIDs)
		batch.Queue(missing, t.did, refCollections, refRKeys, refCIDs, mimes)
	}
	if err := t.tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("store records of %s: %w", t.did, err)
	}
	return nil
}
