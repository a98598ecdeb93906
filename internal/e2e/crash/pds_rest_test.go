//go:build crash

package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg/pgdev"
	"city-sync.org/citysync/internal/repo"
)

// stored is a repository as the PDS's tables hold it.
type stored struct {
	head     repo.Head
	status   string
	arriving bool
	blocks   repo.MapBlocks
	records  map[string]string // CID by path
}

// snapshot is all of a PDS at one moment.
type snapshot struct {
	seq    int64
	resync int // repositories that are to begin anew in the stream
	repos  map[syntax.DID]*stored
}

func (h *host) snapshot(ctx context.Context) (*snapshot, error) {
	conn, err := pgx.Connect(ctx, h.dsn(pgdev.Database))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	out := &snapshot{repos: map[syntax.DID]*stored{}}
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local search_path = pds`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `select seq, (select count(*) from resync) from event_head`).Scan(&out.seq, &out.resync); err != nil {
			return err
		}
		return out.read(ctx, tx)
	})
	return out, err
}

func (s *snapshot) read(ctx context.Context, tx pgx.Tx) error {
	var did syntax.DID
	var commit, data, bytes []byte
	var rev, status, path string
	var arriving bool
	each := func(sql string, scan []any, fn func() error) error {
		rows, err := tx.Query(ctx, sql)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, scan, fn)
		return err
	}
	const heads = `select did, commit_cid, data_cid, rev, status, exists (select from arrival a where a.did = repo.did) from repo join account using (did)`
	err := each(heads, []any{&did, &commit, &data, &rev, &status, &arriving}, func() (err error) {
		r := &stored{head: repo.Head{Rev: rev}, status: status, arriving: arriving, blocks: repo.MapBlocks{}, records: map[string]string{}}
		if r.head.Commit, err = cid.Cast(commit); err != nil {
			return err
		}
		r.head.Data, err = cid.Cast(data)
		s.repos[did] = r
		return err
	})
	if err != nil {
		return err
	}
	of := func(what string) (*stored, error) {
		if r := s.repos[did]; r != nil {
			return r, nil
		}
		return nil, fmt.Errorf("a %s of %s, which is no account", what, did)
	}
	err = each(`select did, cid, bytes from block`, []any{&did, &commit, &bytes}, func() error {
		r, err := of("block")
		if err != nil {
			return err
		}
		c, err := cid.Cast(commit)
		if err != nil {
			return err
		}
		if repo.CIDForCBOR(bytes) != c {
			return fmt.Errorf("block %s of %s has other bytes", c, did)
		}
		r.blocks[c] = append([]byte(nil), bytes...)
		return nil
	})
	if err != nil {
		return err
	}
	return each(`select did, collection || '/' || rkey, cid from record`, []any{&did, &path, &commit}, func() error {
		r, err := of("record")
		if err != nil {
			return err
		}
		c, err := cid.Cast(commit)
		r.records[path] = c.String()
		return err
	})
}

// whole holds a repository against itself: the head is signed, the table of blocks has what it reaches and nothing else, and the records are
// those of its tree.
func (r *stored) whole(ctx context.Context, did syntax.DID, keys []atcrypto.PublicKey) error {
	if !r.arriving { // the key of one that arrives stands in no document yet
		head, err := repo.OpenCommit(r.blocks[r.head.Commit], did, keys...)
		if err != nil {
			return err
		}
		if head != r.head {
			return fmt.Errorf("the head is %+v and its commit says %+v", r.head, head)
		}
	}
	reached := map[cid.Cid]bool{r.head.Commit: true}
	records := map[string]string{}
	if err := repo.Nodes(ctx, r.blocks, r.head.Data, func(c cid.Cid) error {
		reached[c] = true
		return nil
	}); err != nil {
		return err
	}
	if err := repo.Walk(ctx, r.blocks, r.head.Data, "", func(path string, c cid.Cid) error {
		records[path], reached[c] = c.String(), true
		return nil
	}); err != nil {
		return err
	}
	for c := range reached {
		if r.blocks[c] == nil {
			return fmt.Errorf("block %s is missing", c)
		}
	}
	if len(r.blocks) != len(reached) {
		return fmt.Errorf("%d blocks are stored and the head reaches %d", len(r.blocks), len(reached))
	}
	return sameRecords(records, r.records)
}

func sameRecords(want, have map[string]string) error {
	for path, c := range want {
		if have[path] != c {
			return fmt.Errorf("record %s is %q, not %q", path, have[path], c)
		}
	}
	if len(have) != len(want) {
		return fmt.Errorf("%d records, not %d", len(have), len(want))
	}
	return nil
}

// atRest looks at the PDS while nobody asks it for anything: head, blocks and records of every repository agree, and with what the stream told.
func (h *host) atRest(ctx context.Context, t *testing.T, read *reader) {
	t.Helper()
	var at *snapshot
	require.NoError(t, eventually(ctx, func(ctx context.Context) (err error) {
		if at, err = h.snapshot(ctx); err != nil {
			return err
		}
		if at.resync > 0 { // the one thing that goes on by itself
			return fmt.Errorf("%d repositories are to begin anew", at.resync)
		}
		if have := read.sequence(); have != at.seq {
			return fmt.Errorf("the stream came to event %d, the PDS is at %d", have, at.seq)
		}
		return nil
	}))
	for did, r := range at.repos {
		keys, err := h.keysOf(ctx, did)
		require.NoError(t, err)
		if !assert.NoError(t, r.whole(ctx, did, keys), "repository of %s, %s", did, r.status) || r.status != "active" {
			continue
		}
		state, records := read.at(did)
		assert.Equal(t, r.head.Rev, state.Rev, "%s in the stream", did)
		assert.Equal(t, r.head.Data, state.Data, "%s in the stream", did)
		assert.NoError(t, sameRecords(r.records, records), "records of %s in the stream", did)
	}
	read.mu.Lock()
	defer read.mu.Unlock()
	for did := range read.repos {
		assert.Contains(t, at.repos, did, "the stream tells of a repository that is gone")
	}
}

// nothingHalfway finds no change that nobody finished, where all who began one have finished.
func (h *host) nothingHalfway(t *testing.T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), h.dsn(pgdev.Database))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for what, sql := range map[string]string{
		"sign-ups":               `select count(*) from pds.signup`,
		"handle changes":         `select count(*) from pds.handle_change`,
		"key changes":            `select count(*) from pds.key_change`,
		"repositories to resync": `select count(*) from pds.resync`,
		"arrivals":               `select count(*) from pds.arrival`,
		"accounts whose blobs are counted wrong": `
			select count(*) from pds.blob_use u where used <> (select coalesce(sum(size), 0) from pds.blob b where b.did = u.did)`,
		"references to blobs that are not there": `
			select count(*) from pds.record_blob r where not exists (select from pds.blob b where b.did = r.did and b.cid = r.cid)
			or not exists (select from pds.record c where c.did = r.did and c.collection = r.collection and c.rkey = r.rkey)`,
	} {
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&n))
		assert.Zero(t, n, what)
	}
	rows, err := conn.Query(t.Context(), `select distinct did, cid from pds.record_blob`)
	require.NoError(t, err)
	var did string
	var raw []byte
	_, err = pgx.ForEachRow(rows, []any{&did, &raw}, func() error {
		c, err := cid.Cast(raw)
		if err != nil {
			return err
		}
		_, err = os.Stat(filepath.Join(h.data, "blobs", strings.ReplaceAll(did, ":", "="), c.String()))
		return err
	})
	assert.NoError(t, err, "a blob that a record refers to has its file")
}

// exportsVerify reads every repository as an outside reader does, by its export, and its handle in its document.
func (h *host) exportsVerify(t *testing.T, read *reader) {
	t.Helper()
	at, err := h.snapshot(t.Context())
	require.NoError(t, err)
	for did, r := range at.repos {
		if r.status != "active" {
			continue
		}
		current := func(ctx context.Context, did syntax.DID, do func(atcrypto.PublicKey) error) error {
			keys, err := h.keysOf(ctx, did)
			if err != nil {
				return err
			}
			return do(keys[0])
		}
		full, err := h.export(t.Context(), did, current)
		if !assert.NoError(t, err, "export of %s", did) {
			continue
		}
		records := map[string]string{}
		for rec := range full.Records() {
			records[rec.Path] = rec.CID.String()
		}
		assert.Equal(t, r.head, repo.Head{Commit: full.Commit, Data: full.Data, Rev: full.Rev}, "export of %s", did)
		assert.NoError(t, sameRecords(r.records, records), "export of %s", did)
	}
}

// replayed reads the stream from its start in one go: what comes is what came piece by piece.
func (h *host) replayed(t *testing.T, read *reader) {
	t.Helper()
	again := newReader(h)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- again.run(ctx) }()
	require.NoError(t, eventually(ctx, func(context.Context) error {
		if have, want := again.sequence(), read.sequence(); have < want {
			return fmt.Errorf("the replay is at event %d of %d", have, want)
		}
		return nil
	}))
	stop()
	require.NoError(t, <-done)
	assert.Empty(t, again.wrong, "what the stream says from its start")
	require.Equal(t, len(read.repos), len(again.repos), "repositories")
	for did, want := range read.repos {
		state, records := again.at(did)
		assert.Equal(t, want.state, state, "%s replayed", did)
		assert.NoError(t, sameRecords(want.records, records), "%s replayed", did)
	}
}

var _ firehose.Handler = (*reader)(nil)
