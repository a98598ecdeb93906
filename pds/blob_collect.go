package pds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"city-sync.org/citysync/internal/pg"
)

// Collected says what a collection removed, or would remove.
type Collected struct {
	Blobs   int   // that no record has referred to for the grace
	Bytes   int64 // of them
	Uploads int   // that broke off
	Strays  int   // files whose blob is not known: those of an account that was deleted while it uploaded
}

// collector clears away blobs. It needs no server: an operator may run it beside one.
type collector struct {
	pool  *pgxpool.Pool
	files blobFiles
	grace time.Duration
	dry   bool // counts only
}

// CollectBlobs removes from the folder and the database what nobody needs any more; with dry it only counts it.
func CollectBlobs(ctx context.Context, pool *pgxpool.Pool, dir string, grace time.Duration, now time.Time, dry bool) (Collected, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return Collected{}, fmt.Errorf("blob folder %s is not there", dir)
	}
	c := collector{pool: pool, files: blobFiles{dir: dir}, grace: grace, dry: dry}
	out, err := c.blobs(ctx, now)
	if err != nil {
		return out, err
	}
	if out.Uploads, err = c.uploads(now); err != nil {
		return out, err
	}
	out.Strays, err = c.strays(ctx, now)
	return out, err
}

// SetBlobQuota lets the blobs of one account take so many bytes; with 0 as many as those of every account.
func SetBlobQuota(ctx context.Context, pool *pgxpool.Pool, did syntax.DID, bytes int64) error {
	const set = `
		insert into blob_use (did, quota) select did, nullif($2::bigint, 0) from account where did = $1
		on conflict (did) do update set quota = excluded.quota`
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, set, did, bytes)
		if err != nil {
			return fmt.Errorf("set quota of %s: %w", did, err)
		}
		if tag.RowsAffected() == 0 {
			return errRepoNotFound(did.String())
		}
		return commanded(ctx, tx, "blobs quota", fmt.Sprintf("%d bytes", bytes), &did)
	})
}

// strayEvery is how often a server looks at every file it has.
const strayEvery = 24 * time.Hour

// collect is the blobs' part of housekeeping.
func (s *Server) collect(ctx context.Context, now time.Time) error {
	c := collector{pool: s.pool, files: s.files, grace: s.cfg.BlobGrace}
	_, err := c.blobs(ctx, now)
	_, lost := c.uploads(now)
	if now.Sub(s.strayed) < strayEvery {
		return errors.Join(err, lost)
	}
	n, astray := c.strays(ctx, now)
	if n > 0 {
		s.log.Warn("files without a blob removed", "files", n)
	}
	if astray == nil {
		s.strayed = now
	}
	return errors.Join(err, lost, astray)
}

const collectBatch = 100

// unused are blobs that no record refers to, in the order in which they became so. What is quarantined stays known, so that it stays refused.
const unused = `
	from blob b where touched < @before and not quarantined
	and not exists (select from record_blob r where r.did = b.did and r.cid = b.cid)`

// blobs removes unreferenced blobs, one account's at a time.
func (c collector) blobs(ctx context.Context, now time.Time) (out Collected, err error) {
	args := pgx.NamedArgs{"before": now.Add(-c.grace), "batch": collectBatch}
	if c.dry {
		err := c.pool.QueryRow(ctx, `select count(*), coalesce(sum(size), 0)`+unused, args).Scan(&out.Blobs, &out.Bytes)
		if err != nil {
			return out, fmt.Errorf("count unused blobs: %w", err)
		}
		return out, nil
	}
	for {
		rows, err := c.pool.Query(ctx, `select distinct did from (select did`+unused+` order by touched limit @batch) b`, args)
		if err != nil {
			return out, fmt.Errorf("find unused blobs: %w", err)
		}
		accounts, err := pgx.CollectRows(rows, pgx.RowTo[syntax.DID])
		if err != nil {
			return out, fmt.Errorf("find unused blobs: %w", err)
		}
		before := out.Blobs
		for _, did := range accounts {
			n, bytes, err := c.ofAccount(ctx, did, now)
			if err != nil {
				return out, fmt.Errorf("collect blobs of %s: %w", did, err)
			}
			out.Blobs, out.Bytes = out.Blobs+n, out.Bytes+bytes
		}
		if out.Blobs == before { // nothing is left, or others are at it
			return out, nil
		}
	}
}

// ofAccount removes a few blobs of one account. The file goes before the row is gone for good: a crash between leaves a row to collect again,
// never a file that nobody knows.
func (c collector) ofAccount(ctx context.Context, did syntax.DID, now time.Time) (n int, bytes int64, err error) {
	const pick = `
		delete from blob where did = @did and cid in (
			select cid` + unused + ` and did = @did order by touched limit @batch for update skip locked
		) returning cid, size`
	type gone struct {
		CID  []byte
		Size int64
	}
	err = pg.InTx(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select from blob_use where did = $1 for update`, did); err != nil { // first, as uploads do
			return err
		}
		rows, err := tx.Query(ctx, pick, pgx.NamedArgs{"did": did, "before": now.Add(-c.grace), "batch": collectBatch})
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[gone])
		if err != nil {
			return err
		}
		for _, g := range list {
			id, err := cid.Cast(g.CID)
			if err != nil {
				return err
			}
			if err := os.Remove(c.files.path(did, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			bytes += g.Size
		}
		n = len(list)
		_, err = tx.Exec(ctx, `update blob_use set used = greatest(used - $2, 0) where did = $1`, did, bytes)
		return err
	})
	return n, bytes, err
}

// uploads removes what broken uploads left behind.
func (c collector) uploads(now time.Time) (n int, err error) {
	err = c.old(filepath.Join(c.files.dir, tmpDir), now.Add(-uploadLife), func(path string) error {
		n++
		return c.remove(path)
	})
	return n, err
}

// strays removes files whose blob is not known to the database.
func (c collector) strays(ctx context.Context, now time.Time) (n int, err error) {
	folders, err := os.ReadDir(c.files.dir)
	if err != nil {
		return 0, fmt.Errorf("read blob folder: %w", err)
	}
	for _, folder := range folders {
		did, err := syntax.ParseDID(strings.ReplaceAll(folder.Name(), "=", ":"))
		if err != nil || !folder.IsDir() {
			continue
		}
		known, err := c.known(ctx, did)
		if err != nil {
			return n, err
		}
		path := filepath.Join(c.files.dir, folder.Name())
		err = c.old(path, now.Add(-max(c.grace, uploadLife)), func(file string) error {
			if known[filepath.Base(file)] {
				return nil
			}
			n++
			return c.remove(file)
		})
		if err != nil {
			return n, err
		}
		if !c.dry {
			_ = os.Remove(path) // only an empty folder goes
		}
	}
	return n, nil
}

func (c collector) known(ctx context.Context, did syntax.DID) (map[string]bool, error) {
	rows, err := c.pool.Query(ctx, `select cid from blob where did = $1`, did)
	if err != nil {
		return nil, fmt.Errorf("blobs of %s: %w", did, err)
	}
	known := map[string]bool{}
	var raw []byte
	_, err = pgx.ForEachRow(rows, []any{&raw}, func() error {
		id, err := cid.Cast(raw)
		known[id.String()] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("blobs of %s: %w", did, err)
	}
	return known, nil
}

// old calls fn for the files of a folder that were last changed before a time.
func (c collector) old(dir string, before time.Time, fn func(path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read blob folder: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !info.ModTime().Before(before) {
			continue // gone meanwhile, or still being written
		}
		if err := fn(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (c collector) remove(path string) error {
	if c.dry {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear blob folder: %w", err)
	}
	return nil
}
