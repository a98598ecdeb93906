package pds

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/pds/pages"
)

const blobsAtOnce = 100

// dataPage hands an account its own data, whatever its status: nobody should have to ask before leaving.
func (s *Server) dataPage(v *visit, in signIn) error {
	after := []byte{}
	if text := v.r.URL.Query().Get("after"); text != "" {
		id, err := cid.Decode(text)
		if err != nil {
			return v.fail(http.StatusNotFound, "notFound")
		}
		after = id.Bytes()
	}
	const list = `
		select b.cid, b.mime, b.size from blob b
		where b.did = $1 and b.cid > $2 and exists (select from record_blob r where r.did = b.did and r.cid = b.cid)
		order by b.cid limit $3`
	rows, err := s.pool.Query(v.r.Context(), list, in.DID, after, blobsAtOnce+1)
	if err != nil {
		return fmt.Errorf("list blobs of %s: %w", in.DID, err)
	}
	type row struct {
		CID  []byte
		Mime string
		Size int64
	}
	blobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return fmt.Errorf("list blobs of %s: %w", in.DID, err)
	}
	page := pages.Data{Who: in.who()}
	for i, b := range blobs {
		id, err := cid.Cast(b.CID)
		if err != nil {
			return fmt.Errorf("stored CID %x: %w", b.CID, err)
		}
		if i == blobsAtOnce {
			page.More = in.path() + "/data?after=" + page.Blobs[i-1].CID
			break
		}
		page.Blobs = append(page.Blobs, pages.Blob{CID: id.String(), Mime: b.Mime, Bytes: b.Size, Path: in.path() + "/data/blob/" + id.String()})
	}
	return v.show(http.StatusOK, "", page)
}

// dataRepo gives the account's repository as a file that every server of the network takes.
func (s *Server) dataRepo(v *visit, in signIn) error {
	out, err := s.export(v.r.Context(), in.DID, "")
	if err != nil {
		return err
	}
	defer out.close()
	h := v.w.Header()
	h.Set("Content-Type", carType)
	h.Set("Content-Disposition", `attachment; filename="`+fileName(in.DID)+`.car"`)
	h.Set("Content-Length", strconv.FormatInt(out.size, 10))
	_ = out.copyTo(v.w) // the reader has gone if this errs
	return nil
}

// fileName is a DID as every system takes it in a file's name.
func fileName(did syntax.DID) string {
	return strings.Map(func(r rune) rune {
		if r == ':' || r == '%' {
			return '-'
		}
		return r
	}, did.String())
}

func (s *Server) dataBlob(v *visit, in signIn) error {
	id, err := cid.Decode(v.r.PathValue("cid"))
	if err != nil {
		return v.fail(http.StatusNotFound, "notFound")
	}
	mimeType, err := s.visibleBlob(v.r.Context(), in.DID, id)
	if refusalName(err) == "BlobNotFound" {
		return v.fail(http.StatusNotFound, "notFound")
	}
	if err != nil {
		return err
	}
	f, err := os.Open(s.files.path(in.DID, id))
	if err != nil {
		return fmt.Errorf("blob %s of %s has a row but no file: %w", id, in.DID, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("blob %s of %s: %w", id, in.DID, err)
	}
	h := v.w.Header()
	h.Set("Content-Type", mimeType)
	h.Set("Content-Security-Policy", blobPolicy) // what somebody uploaded is no page of this host
	h.Set("Content-Disposition", `attachment; filename="`+id.String()+`"`)
	http.ServeContent(v.w, v.r, "", info.ModTime(), f)
	return nil
}
