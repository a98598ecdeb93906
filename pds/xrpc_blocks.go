package pds

import (
	"bufio"
	"context"
	"fmt"
	"path/filepath"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

// maxBlocksAsked bounds the blocks of one getBlocks.
const maxBlocksAsked = 500

// getBlocks answers with some blocks of a repository, as a CAR without a root. By P3 what its head does not reach is not found.
func (s *Server) getBlocks(c *xrpc.Call) (any, error) {
	acc, err := s.readableDID(c)
	if err != nil {
		return nil, err
	}
	raw, err := c.Strings("cids", maxBlocksAsked)
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return nil, invalid("cids names no block")
	}
	ids := make([]cid.Cid, len(raw))
	for i, r := range raw {
		if ids[i], err = parseCID("cids", r); err != nil {
			return nil, err
		}
	}
	out, err := s.someBlocks(c.Context(), acc.DID, ids)
	if err != nil {
		return nil, err
	}
	return sendCAR(c, out)
}

// someBlocks is export for blocks that somebody named. One at a time is held in memory: five hundred can be five hundred megabytes.
func (s *Server) someBlocks(ctx context.Context, did syntax.DID, ids []cid.Cid) (*spool, error) {
	leave, err := s.exportSlot(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	const missing = `
		select u.cid from unnest($2::bytea[]) as u (cid)
		where not exists (select from block where did = $1 and cid = u.cid) limit 1`
	const read = `select cid, bytes from block where did = $1 and cid = any($2::bytea[]) order by cid`
	want := make([][]byte, len(ids))
	for i, id := range ids {
		want[i] = id.Bytes()
	}
	out := &spool{dir: filepath.Join(s.files.dir, tmpDir)}
	err = s.snapshot(ctx, func(tx pgx.Tx) error {
		gone, err := tx.Query(ctx, missing, did, want)
		if err != nil {
			return fmt.Errorf("look for blocks of %s: %w", did, err)
		}
		lost, err := pgx.CollectRows(gone, pgx.RowTo[[]byte])
		if err != nil {
			return fmt.Errorf("look for blocks of %s: %w", did, err)
		}
		if len(lost) > 0 {
			id, err := cid.Cast(lost[0])
			if err != nil {
				return fmt.Errorf("look for blocks of %s: %w", did, err)
			}
			return refused("BlockNotFound", "the repository has no block %s", id)
		}
		rows, err := tx.Query(ctx, read, did, want)
		if err != nil {
			return fmt.Errorf("read blocks of %s: %w", did, err)
		}
		var failed error
		w := bufio.NewWriterSize(out, 64<<10)
		err = repo.WriteCAR(w, cid.Undef, func(yield func(repo.Block) bool) { _, _, failed = yieldBlocks(rows, yield) })
		if err == nil {
			err = failed
		}
		if err != nil {
			return fmt.Errorf("read blocks of %s: %w", did, err)
		}
		return w.Flush()
	})
	if err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

// reposLooked bounds the repositories that one page of listReposByCollection looks at. No index leads from a collection to its
// repositories: it would cost every write something. So a page may hold fewer than asked for, or none, and still name a cursor.
const reposLooked = 5000

// listReposByCollection lists the active accounts with at least one record in a collection.
func (s *Server) listReposByCollection(c *xrpc.Call) (any, error) {
	raw, err := c.Required("collection")
	if err != nil {
		return nil, err
	}
	collection, err := syntax.ParseNSID(raw)
	if err != nil {
		return nil, invalid("collection %q is not an NSID", raw)
	}
	limit, err := c.Int("limit", 500, 1, 2000)
	if err != nil {
		return nil, err
	}
	const list = `
		select r.did, a.status = 'active' and exists (select from record where did = r.did and collection = $2)
		from repo r join account a using (did)
		where r.did > $1 order by r.did limit $3`
	rows, err := s.pool.Query(c.Context(), list, c.Param("cursor"), collection, reposLooked)
	if err != nil {
		return nil, fmt.Errorf("list repositories with %s: %w", collection, err)
	}
	defer rows.Close()
	type view struct {
		DID syntax.DID `json:"did"`
	}
	out := struct {
		Cursor string `json:"cursor,omitempty"`
		Repos  []view `json:"repos"`
	}{Repos: []view{}}
	looked := 0
	for rows.Next() {
		var did syntax.DID
		var has bool
		if err := rows.Scan(&did, &has); err != nil {
			return nil, fmt.Errorf("list repositories with %s: %w", collection, err)
		}
		if has {
			out.Repos = append(out.Repos, view{did})
		}
		if looked++; looked == reposLooked || int64(len(out.Repos)) == limit {
			out.Cursor = did.String()
			break
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list repositories with %s: %w", collection, err)
	}
	return out, nil
}
