package pds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
)

const carType = "application/vnd.ipld.car"

func (s *Server) syncRoutes(m *xrpc.Mux) {
	m.Query("com.atproto.sync.getBlob", s.getBlob)
	m.Query("com.atproto.sync.getBlocks", s.getBlocks)
	m.Query("com.atproto.sync.getLatestCommit", s.getLatestCommit)
	m.Query("com.atproto.sync.getRecord", s.getRecordProof)
	m.Query("com.atproto.sync.getRepo", s.getRepo)
	m.Query("com.atproto.sync.getRepoStatus", s.getRepoStatus)
	m.Query("com.atproto.sync.listBlobs", s.listBlobs)
	m.Query("com.atproto.sync.listRepos", s.listRepos)
	m.Query("com.atproto.sync.listReposByCollection", s.listReposByCollection)
	m.Handle("/xrpc/com.atproto.sync.subscribeRepos", s.eachAddress(s.stream))
}

func paramDID(c *xrpc.Call) (string, error) {
	did, err := syntax.ParseDID(c.Param("did"))
	if err != nil {
		return "", invalid("did %q is not a DID", c.Param("did"))
	}
	return did.String(), nil
}

// readableDID is readable for the methods of sync, which take a DID only. An account that is not active is shown to its owner all
// the same: who moves away or was put out takes the repository along.
func (s *Server) readableDID(c *xrpc.Call) (*account, error) {
	did, err := paramDID(c)
	if err != nil {
		return nil, err
	}
	acc, err := s.hosted(c.Context(), did)
	if err != nil {
		return nil, err
	}
	refusal := acc.mustBeActive()
	if refusal == nil {
		return acc, nil
	}
	if _, ok := c.Bearer(); ok {
		if own, err := s.signedIn(c); err == nil && own.DID == acc.DID {
			return acc, nil
		}
	}
	return nil, refusal
}

func readHead(ctx context.Context, q querier, did syntax.DID) (repo.Head, error) {
	var h repo.Head
	var commit, data []byte
	err := q.QueryRow(ctx, `select commit_cid, data_cid, rev from repo where did = $1`, did).Scan(&commit, &data, &h.Rev)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, errRepoNotFound(did.String())
	}
	if err != nil {
		return h, fmt.Errorf("read head of %s: %w", did, err)
	}
	return h, castCIDs(commit, &h.Commit, data, &h.Data)
}

// snapshot runs fn on one state of the database, so that a head and its blocks belong
// together while writers go on.
func (s *Server) snapshot(ctx context.Context, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, fn)
}

func (s *Server) getLatestCommit(c *xrpc.Call) (any, error) {
	acc, err := s.readableDID(c)
	if err != nil {
		return nil, err
	}
	h, err := readHead(c.Context(), s.pool, acc.DID)
	if err != nil {
		return nil, err
	}
	return viewCommit(&h), nil
}

func (s *Server) getRepoStatus(c *xrpc.Call) (any, error) {
	did, err := paramDID(c)
	if err != nil {
		return nil, err
	}
	acc, err := s.hosted(c.Context(), did)
	if err != nil {
		return nil, err
	}
	out := struct {
		DID    syntax.DID `json:"did"`
		Active bool       `json:"active"`
		Status string     `json:"status,omitempty"`
		Rev    string     `json:"rev,omitempty"`
	}{DID: acc.DID, Active: acc.Status == statusActive, Status: acc.inactive()}
	if out.Active {
		h, err := readHead(c.Context(), s.pool, acc.DID)
		if err != nil {
			return nil, err
		}
		out.Rev = h.Rev
	}
	return out, nil
}

func (s *Server) listRepos(c *xrpc.Call) (any, error) {
	limit, err := c.Int("limit", 500, 1, 1000)
	if err != nil {
		return nil, err
	}
	const list = `
		select r.did, r.commit_cid, r.rev, a.status from repo r join account a using (did)
		where r.did > $1 and not exists (select from arrival where did = r.did) order by r.did limit $2`
	rows, err := s.pool.Query(c.Context(), list, c.Param("cursor"), limit)
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	type view struct {
		DID    syntax.DID `json:"did"`
		Head   string     `json:"head"`
		Rev    string     `json:"rev"`
		Active bool       `json:"active"`
		Status string     `json:"status,omitempty"`
	}
	repos, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (view, error) {
		var raw []byte
		var acc account
		var v view
		if err := row.Scan(&v.DID, &raw, &v.Rev, &acc.Status); err != nil {
			return v, err
		}
		head, err := cid.Cast(raw)
		v.Head, v.Active, v.Status = head.String(), acc.Status == statusActive, acc.inactive()
		return v, err
	})
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	out := struct {
		Cursor string `json:"cursor,omitempty"`
		Repos  []view `json:"repos"`
	}{Repos: repos}
	if out.Repos == nil {
		out.Repos = []view{}
	}
	if int64(len(repos)) == limit {
		out.Cursor = repos[len(repos)-1].DID.String()
	}
	return out, nil
}

// getRecordProof answers with the CAR that proves a record, or its absence.
func (s *Server) getRecordProof(c *xrpc.Call) (any, error) {
	collection, rkey := c.Param("collection"), c.Param("rkey")
	if err := checkPath(collection, rkey); err != nil {
		return nil, err
	}
	acc, err := s.readableDID(c)
	if err != nil {
		return nil, err
	}
	var car []byte
	err = s.snapshot(c.Context(), func(tx pgx.Tx) error {
		h, err := readHead(c.Context(), tx, acc.DID)
		if err != nil {
			return err
		}
		car, err = repo.Proof(c.Context(), blocks{q: tx, did: acc.DID, cache: s.cache}, h, collection+"/"+rkey)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.W.Header().Set("Content-Type", carType)
	_, _ = c.W.Write(car) // the reader has gone if this errs
	return xrpc.Written, nil
}

// getRepo answers with a repository, or with what came after the commit named by since.
func (s *Server) getRepo(c *xrpc.Call) (any, error) {
	acc, err := s.readableDID(c)
	if err != nil {
		return nil, err
	}
	since := c.Param("since")
	if since != "" {
		if _, err := syntax.ParseTID(since); err != nil {
			return nil, invalid("since %q is not a revision", since)
		}
	}
	if err := c.Err(); err != nil {
		return nil, err
	}
	out, err := s.export(c.Context(), acc.DID, since)
	if err != nil {
		return nil, err
	}
	return sendCAR(c, out)
}

// sendCAR is the last that is done with the spool.
func sendCAR(c *xrpc.Call, out *spool) (any, error) {
	defer out.close()
	c.W.Header().Set("Content-Type", carType)
	c.W.Header().Set("Content-Length", strconv.FormatInt(out.size, 10))
	_ = out.copyTo(c.W) // the reader has gone if this errs
	return xrpc.Written, nil
}

func (s *Server) getBlob(c *xrpc.Call) (any, error) {
	acc, err := s.readableDID(c)
	if err != nil {
		return nil, err
	}
	id, err := parseCID("cid", c.Param("cid"))
	if err != nil {
		return nil, err
	}
	mimeType, err := s.visibleBlob(c.Context(), acc.DID, id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(s.files.path(acc.DID, id))
	if err != nil {
		return nil, fmt.Errorf("blob %s of %s has a row but no file: %w", id, acc.DID, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("blob %s of %s: %w", id, acc.DID, err)
	}
	h := c.W.Header()
	h.Set("Content-Type", mimeType)
	// A stranger's bytes: never a page of this host, whatever they claim to be.
	h.Set("Content-Security-Policy", blobPolicy)
	h.Set("Content-Disposition", `attachment; filename="`+id.String()+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("ETag", `"`+id.String()+`"`)
	h.Set("Cache-Control", "public, max-age=300") // not long: what is deleted or taken down is to go
	http.ServeContent(c.W, c.R, "", info.ModTime(), f)
	return xrpc.Written, nil
}

// blobPageOf reads which page of a list of blobs is asked for: how many, after which CID.
func blobPageOf(c *xrpc.Call) (limit int64, after []byte, err error) {
	if limit, err = c.Int("limit", 500, 1, 1000); err != nil {
		return 0, nil, err
	}
	cursor := c.Param("cursor")
	if cursor == "" {
		return limit, []byte{}, nil
	}
	id, err := parseCID("cursor", cursor)
	return limit, id.Bytes(), err
}

// listBlobs lists the blobs that records refer to; since names a revision after which
// the referring record was written.
func (s *Server) listBlobs(c *xrpc.Call) (any, error) {
	acc, err := s.readableDID(c)
	if err != nil {
		return nil, err
	}
	limit, after, err := blobPageOf(c)
	if err != nil {
		return nil, err
	}
	const list = `
		select distinct b.cid from record_blob b join record r using (did, collection, rkey)
			join blob f on f.did = b.did and f.cid = b.cid
		where b.did = $1 and b.cid > $2 and r.rev > $3 and not f.quarantined order by b.cid limit $4`
	rows, err := s.pool.Query(c.Context(), list, acc.DID, after, c.Param("since"), limit)
	if err != nil {
		return nil, fmt.Errorf("list blobs of %s: %w", acc.DID, err)
	}
	ids, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var raw []byte
		if err := row.Scan(&raw); err != nil {
			return "", err
		}
		id, err := cid.Cast(raw)
		return id.String(), err
	})
	if err != nil {
		return nil, fmt.Errorf("list blobs of %s: %w", acc.DID, err)
	}
	out := struct {
		Cursor string   `json:"cursor,omitempty"`
		CIDs   []string `json:"cids"`
	}{CIDs: ids}
	if out.CIDs == nil {
		out.CIDs = []string{}
	}
	if int64(len(ids)) == limit {
		out.Cursor = ids[len(ids)-1]
	}
	return out, nil
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	if err := s.pool.Ping(r.Context()); err != nil {
		s.log.Error("database does not answer", "error", err)
		xrpc.WriteError(w, xrpc.Errorf(http.StatusServiceUnavailable, "ServiceUnavailable", "the database does not answer"))
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = fmt.Fprintf(w, "{\"version\":%q}\n", s.cfg.Version)
}

// wellKnownDID proves a handle by the name the request was sent to.
func (s *Server) wellKnownDID(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	acc, err := s.findAccount(r.Context(), strings.ToLower(host))
	if err == nil && acc.Status == statusActive && !strings.HasPrefix(host, "did:") && !strings.Contains(host, "@") {
		text(acc.DID.String()).ServeHTTP(w, r)
		return
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		s.log.Error("handle lookup", "error", err)
		http.Error(w, "try again later", http.StatusServiceUnavailable)
		return
	}
	http.Error(w, "no account here has this handle", http.StatusNotFound)
}
