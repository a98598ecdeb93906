package pds

import (
	"context"
	"fmt"
	"mime"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
)

// importedBlobs lists the blobs that a record's value refers to, in both forms.
func importedBlobs(v any, refs []blobRef) []blobRef {
	switch v := v.(type) {
	case atdata.Blob:
		return append(refs, blobRef{cid: v.Ref.CID(), mime: mediaType(v.MimeType)})
	case []any:
		for _, below := range v {
			refs = importedBlobs(below, refs)
		}
	case map[string]any:
		raw, isCID := v["cid"].(string)
		word, isMime := v["mimeType"].(string)
		if len(v) == 2 && isCID && isMime {
			if c, err := cid.Decode(raw); err == nil {
				return append(refs, blobRef{cid: c, mime: mediaType(word)})
			}
		}
		for _, below := range v {
			refs = importedBlobs(below, refs)
		}
	}
	return refs
}

func mediaType(word string) string {
	if got, _, err := mime.ParseMediaType(word); err == nil && len(got) <= maxBlobTokens {
		return got
	}
	return anyBytes
}

// awaited says whether an imported record waits for exactly these bytes. Then they must stay as they are.
func (s *Server) awaited(ctx context.Context, did syntax.DID, c cid.Cid) (yes bool, err error) {
	err = s.pool.QueryRow(ctx, `select exists (select from missing_blob where did = $1 and cid = $2)`, did, c.Bytes()).Scan(&yes)
	if err != nil {
		return false, fmt.Errorf("look for awaited blob %s of %s: %w", c, did, err)
	}
	return yes, nil
}

// found lets the records that waited for a blob refer to it, under the type that they give it. Its file is in place: before this nobody sees it.
// The repository's lock keeps a record that is being deleted from getting a reference.
func (s *Server) found(ctx context.Context, did syntax.DID, c cid.Cid) error {
	yes, err := s.awaited(ctx, did, c)
	if err != nil || !yes {
		return err
	}
	const refer = `
		with here as (delete from missing_blob where did = $1 and cid = $2 returning collection, rkey, mime),
		typed as (update blob set mime = (select min(mime) from here) where did = $1 and cid = $2 and exists (select from here))
		insert into record_blob (did, cid, collection, rkey)
		select $1, $2, collection, rkey from here on conflict do nothing`
	return pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select from repo where did = $1 for update`, did); err != nil {
			return fmt.Errorf("lock %s: %w", did, err)
		}
		if _, err := tx.Exec(ctx, refer, did, c.Bytes()); err != nil {
			return fmt.Errorf("refer to blob %s of %s: %w", c, did, err)
		}
		return nil
	})
}

// listMissingBlobs names the blobs that an imported repository still waits for, each with one record that refers to it.
func (s *Server) listMissingBlobs(c *xrpc.Call) (any, error) {
	a, err := s.caller(c)
	if err != nil {
		return nil, err
	}
	limit, after, err := blobPageOf(c)
	if err != nil {
		return nil, err
	}
	const list = `
		select distinct on (cid) cid, collection, rkey from missing_blob
		where did = $1 and cid > $2 order by cid, collection, rkey limit $3`
	rows, err := s.pool.Query(c.Context(), list, a.Account.DID, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list missing blobs of %s: %w", a.Account.DID, err)
	}
	type view struct {
		CID string `json:"cid"`
		URI string `json:"recordUri"`
	}
	out := struct {
		Cursor string `json:"cursor,omitempty"`
		Blobs  []view `json:"blobs"`
	}{Blobs: []view{}}
	var raw []byte
	var collection, rkey string
	_, err = pgx.ForEachRow(rows, []any{&raw, &collection, &rkey}, func() error {
		id, err := cid.Cast(raw)
		if err != nil {
			return fmt.Errorf("stored CID %x: %w", raw, err)
		}
		out.Blobs = append(out.Blobs, view{CID: id.String(), URI: recordURI(a.Account.DID, collection, rkey)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list missing blobs of %s: %w", a.Account.DID, err)
	}
	if int64(len(out.Blobs)) == limit {
		out.Cursor = out.Blobs[len(out.Blobs)-1].CID
	}
	return out, nil
}

// mustBeOwned refuses what an operator closed. An account that rests, or is moving in, is its owner's to fill and to name.
func (a *account) mustBeOwned() error {
	if a.Status == statusDeactivated {
		return nil
	}
	return a.mustBeActive()
}
