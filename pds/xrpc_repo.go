package pds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

func (s *Server) repoRoutes(m *xrpc.Mux) {
	m.Procedure("com.atproto.repo.createRecord", s.createRecord)
	m.Procedure("com.atproto.repo.putRecord", s.putRecord)
	m.Procedure("com.atproto.repo.deleteRecord", s.deleteRecord)
	m.Procedure("com.atproto.repo.applyWrites", s.applyWrites)
	m.Procedure("com.atproto.repo.uploadBlob", s.uploadBlob, xrpc.MaxBody(s.cfg.MaxBlob))
	m.Procedure("com.atproto.repo.importRepo", s.importRepo, xrpc.MaxBody(s.cfg.MaxImport))
	m.Query("com.atproto.repo.listMissingBlobs", s.listMissingBlobs)
	m.Query("com.atproto.repo.getRecord", s.getRecord)
	m.Query("com.atproto.repo.listRecords", s.listRecords)
	m.Query("com.atproto.repo.describeRepo", s.describeRepo)
}

type commitView struct {
	CID string `json:"cid"`
	Rev string `json:"rev"`
}

func viewCommit(h *repo.Head) *commitView {
	if h == nil {
		return nil
	}
	return &commitView{CID: h.Commit.String(), Rev: h.Rev}
}

// writeView answers a write. A write that changed nothing has no commit.
type writeView struct {
	URI    string      `json:"uri"`
	CID    string      `json:"cid"`
	Commit *commitView `json:"commit,omitempty"`
	Status string      `json:"validationStatus,omitempty"`
}

func recordURI(did syntax.DID, collection, rkey string) string {
	return "at://" + did.String() + "/" + collection + "/" + rkey
}

type recordInput struct {
	Repo       string          `json:"repo"`
	Collection string          `json:"collection"`
	RKey       string          `json:"rkey"`
	Validate   *bool           `json:"validate"`
	Record     json.RawMessage `json:"record"`
	SwapCommit string          `json:"swapCommit"`
	SwapRecord json.RawMessage `json:"swapRecord"` // absent: no condition; null: nothing may be there
}

func parseCID(name, raw string) (cid.Cid, error) {
	c, err := cid.Decode(raw)
	if err != nil {
		return cid.Undef, invalid("%s %q is not a CID", name, raw)
	}
	return c, nil
}

func (in recordInput) swapCommit() (*cid.Cid, error) { return optionalCID("swapCommit", in.SwapCommit) }

func optionalCID(name, raw string) (*cid.Cid, error) {
	if raw == "" {
		return nil, nil
	}
	c, err := parseCID(name, raw)
	return &c, err
}

func (in recordInput) swapRecord() (*condition, error) {
	if in.SwapRecord == nil {
		return nil, nil
	}
	if bytes.Equal(in.SwapRecord, []byte("null")) {
		return &condition{}, nil
	}
	var raw string
	if err := json.Unmarshal(in.SwapRecord, &raw); err != nil {
		return nil, invalid("swapRecord is a CID or null")
	}
	c, err := parseCID("swapRecord", raw)
	return &condition{CID: &c}, err
}

func (s *Server) createRecord(c *xrpc.Call) (any, error) {
	var in recordInput
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.RKey == "" {
		in.RKey = s.tids.next().String()
	}
	return s.writeRecord(c, in, toCreate)
}

func (s *Server) putRecord(c *xrpc.Call) (any, error) {
	var in recordInput
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	return s.writeRecord(c, in, toPut)
}

func (s *Server) writeRecord(c *xrpc.Call, in recordInput, what intent) (any, error) {
	a, err := s.writer(c, in.Repo)
	if err != nil {
		return nil, err
	}
	ch := change{Intent: what, Collection: in.Collection, RKey: in.RKey}
	if err := a.mayChange(ch); err != nil {
		return nil, err
	}
	rec, err := newRecord(in.Collection, in.RKey, in.Record, in.Validate)
	if err != nil {
		return nil, err
	}
	ch.Record = rec
	if what == toPut {
		if ch.Swap, err = in.swapRecord(); err != nil {
			return nil, err
		}
	}
	swap, err := in.swapCommit()
	if err != nil {
		return nil, err
	}
	if err := s.limitWrite(c, a.Account.DID, []change{ch}); err != nil {
		return nil, err
	}
	head, err := s.write(c.Context(), a, []change{ch}, swap)
	if err != nil {
		return nil, err
	}
	return writeView{
		URI: recordURI(a.Account.DID, in.Collection, in.RKey), CID: rec.CID.String(),
		Commit: viewCommit(head), Status: rec.Status,
	}, nil
}

func (s *Server) deleteRecord(c *xrpc.Call) (any, error) {
	var in recordInput
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	a, err := s.writer(c, in.Repo)
	if err != nil {
		return nil, err
	}
	if err := checkPath(in.Collection, in.RKey); err != nil {
		return nil, err
	}
	ch := change{Intent: toDrop, Collection: in.Collection, RKey: in.RKey}
	if err := a.mayChange(ch); err != nil {
		return nil, err
	}
	if ch.Swap, err = in.swapRecord(); err != nil {
		return nil, err
	}
	swap, err := in.swapCommit()
	if err != nil {
		return nil, err
	}
	if err := s.limitWrite(c, a.Account.DID, []change{ch}); err != nil {
		return nil, err
	}
	head, err := s.write(c.Context(), a, []change{ch}, swap)
	if err != nil {
		return nil, err
	}
	return struct {
		Commit *commitView `json:"commit,omitempty"`
	}{viewCommit(head)}, nil
}

const applyWritesNSID = "com.atproto.repo.applyWrites"

type writeInput struct {
	Type       string          `json:"$type"`
	Collection string          `json:"collection"`
	RKey       string          `json:"rkey"`
	Value      json.RawMessage `json:"value"`
}

type writeResult struct {
	Type   string `json:"$type"`
	URI    string `json:"uri,omitempty"`
	CID    string `json:"cid,omitempty"`
	Status string `json:"validationStatus,omitempty"`
}

func (s *Server) applyWrites(c *xrpc.Call) (any, error) {
	var in struct {
		Repo       string       `json:"repo"`
		Validate   *bool        `json:"validate"`
		Writes     []writeInput `json:"writes"`
		SwapCommit string       `json:"swapCommit"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	a, err := s.writer(c, in.Repo)
	if err != nil {
		return nil, err
	}
	if len(in.Writes) == 0 || len(in.Writes) > maxWrites {
		return nil, invalid("one to %d writes are taken at once", maxWrites)
	}
	changes := make([]change, 0, len(in.Writes))
	results := make([]writeResult, 0, len(in.Writes))
	for i, w := range in.Writes {
		ch, result, err := s.oneWrite(a, w, in.Validate)
		if err != nil {
			return nil, atWrite(i, err)
		}
		changes, results = append(changes, ch), append(results, result)
	}
	swap, err := optionalCID("swapCommit", in.SwapCommit)
	if err != nil {
		return nil, err
	}
	if err := s.limitWrite(c, a.Account.DID, changes); err != nil {
		return nil, err
	}
	head, err := s.write(c.Context(), a, changes, swap)
	if err != nil {
		return nil, err
	}
	return struct {
		Commit  *commitView   `json:"commit,omitempty"`
		Results []writeResult `json:"results"`
	}{viewCommit(head), results}, nil
}

// atWrite says which of many writes was refused.
func atWrite(i int, err error) error {
	var shown *xrpc.Error
	if !errors.As(err, &shown) {
		return fmt.Errorf("write %d: %w", i, err)
	}
	at := *shown
	at.Message = fmt.Sprintf("write %d: %s", i, shown.Message)
	return &at
}

func (s *Server) oneWrite(a *authority, w writeInput, validate *bool) (change, writeResult, error) {
	ch := change{Collection: w.Collection, RKey: w.RKey}
	kind := strings.TrimPrefix(w.Type, applyWritesNSID)
	switch kind {
	case "#create":
		ch.Intent = toCreate
		if ch.RKey == "" {
			ch.RKey = s.tids.next().String()
		}
	case "#update":
		ch.Intent = toUpdate
	case "#delete":
		ch.Intent = toDelete
		if err := a.mayChange(ch); err != nil {
			return ch, writeResult{}, err
		}
		err := checkPath(ch.Collection, ch.RKey)
		return ch, writeResult{Type: applyWritesNSID + "#deleteResult"}, err
	default:
		return ch, writeResult{}, invalid("$type %q is no write", w.Type)
	}
	if err := a.mayChange(ch); err != nil {
		return ch, writeResult{}, err
	}
	rec, err := newRecord(ch.Collection, ch.RKey, w.Value, validate)
	if err != nil {
		return ch, writeResult{}, err
	}
	ch.Record = rec
	return ch, writeResult{
		Type: applyWritesNSID + kind + "Result", URI: recordURI(a.Account.DID, ch.Collection, ch.RKey),
		CID: rec.CID.String(), Status: rec.Status,
	}, nil
}

// declaredType is what the sender says the body is.
func declaredType(r *http.Request) string {
	word, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return anyBytes
	}
	return word
}

func (s *Server) uploadBlob(c *xrpc.Call) (any, error) {
	a, err := s.callerFor(c, c.Param("repo")) // a service token may be a controller's
	if err != nil {
		return nil, err
	}
	acc := a.Account
	if err := acc.mustBeOwned(); err != nil {
		return nil, err
	}
	if err := a.mayUpload(declaredType(c.R)); err != nil {
		return nil, err
	}
	if acc.Status == statusActive { // one that moves in brings years of them in a day
		if err := s.limitAccount(c, limitUploadBlob, acc.DID, 1); err != nil {
			return nil, err
		}
	}
	leave, err := s.uploads.enter(acc.DID.String())
	if err != nil {
		return nil, err
	}
	defer leave()
	up, err := s.files.receive(c.R.Body, c.R.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	defer func() { up.discard() }() // gone already when it was kept
	if up.size == 0 {
		return nil, invalid("the blob is empty")
	}
	if acc.Status == statusActive && c.R.Header.Get(keepMetadata) != "true" {
		if up, err = s.stripped(c.Context(), acc.DID, up); err != nil {
			return nil, err
		}
	}
	if err := a.mayUpload(up.mime); err != nil { // the bytes may be other than was said
		return nil, err
	}
	if err := s.logAct(c.Context(), a, "upload", up.mime, &up.cid); err != nil {
		return nil, err
	}
	mimeType, err := s.keep(c.Context(), acc.DID, up)
	if err != nil {
		return nil, err
	}
	type link struct {
		Link string `json:"$link"`
	}
	type blob struct {
		Type string `json:"$type"`
		Ref  link   `json:"ref"`
		Mime string `json:"mimeType"`
		Size int64  `json:"size"`
	}
	return struct {
		Blob blob `json:"blob"`
	}{blob{Type: "blob", Ref: link{up.cid.String()}, Mime: mimeType, Size: up.size}}, nil
}

type recordView struct {
	URI   string          `json:"uri"`
	CID   string          `json:"cid"`
	Value json.RawMessage `json:"value"`
}

func viewRecord(did syntax.DID, collection, rkey string, rawCID, data []byte) (recordView, error) {
	c, err := cid.Cast(rawCID)
	if err != nil {
		return recordView{}, fmt.Errorf("stored CID %x: %w", rawCID, err)
	}
	value, err := lexicons.CBORToJSON(data)
	if err != nil {
		return recordView{}, fmt.Errorf("stored record %s: %w", c, err)
	}
	return recordView{URI: recordURI(did, collection, rkey), CID: c.String(), Value: value}, nil
}

func (s *Server) getRecord(c *xrpc.Call) (any, error) {
	collection, rkey := c.Param("collection"), c.Param("rkey")
	if err := checkPath(collection, rkey); err != nil {
		return nil, err
	}
	want, err := optionalCID("cid", c.Param("cid"))
	if err != nil {
		return nil, err
	}
	acc, err := s.readable(c.Context(), c.Param("repo"))
	if errors.Is(err, errNoRepo) {
		return s.elsewhere(c)
	}
	if err != nil {
		return nil, err
	}
	const find = `
		select r.cid, b.bytes from record r join block b using (did, cid)
		where r.did = $1 and r.collection = $2 and r.rkey = $3 and ` + notHidden
	var raw, data []byte
	err = s.pool.QueryRow(c.Context(), find, acc.DID, collection, rkey).Scan(&raw, &data)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && want != nil && !bytes.Equal(want.Bytes(), raw) {
		return nil, refused("RecordNotFound", "there is no record %s", recordURI(acc.DID, collection, rkey))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", recordURI(acc.DID, collection, rkey), err)
	}
	return viewRecord(acc.DID, collection, rkey, raw, data)
}

// Newest first, as record keys are mostly times; reverse turns it round.
const (
	listDown = `
		select r.rkey, r.cid, b.bytes from record r join block b using (did, cid)
		where r.did = @did and r.collection = @collection and r.rkey < @cursor and ` + notHidden + `
		order by r.rkey desc limit @limit`
	listUp = `
		select r.rkey, r.cid, b.bytes from record r join block b using (did, cid)
		where r.did = @did and r.collection = @collection and r.rkey > @cursor and ` + notHidden + `
		order by r.rkey limit @limit`
)

// aboveKeys sorts after every record key, which ends in a tilde at most.
const aboveKeys = "\x7f"

// listBytes ends a page early: a hundred records of a megabyte would be a hundred
// megabytes.
const listBytes = 4 << 20

func (s *Server) listRecords(c *xrpc.Call) (any, error) {
	collection := c.Param("collection")
	if _, err := syntax.ParseNSID(collection); err != nil {
		return nil, invalid("collection %q is not an NSID", collection)
	}
	limit, err := c.Int("limit", 50, 1, 100)
	if err != nil {
		return nil, err
	}
	reverse, err := c.Bool("reverse", false)
	if err != nil {
		return nil, err
	}
	acc, err := s.readable(c.Context(), c.Param("repo"))
	if err != nil {
		return nil, err
	}
	list, cursor := listDown, c.Param("cursor")
	switch {
	case reverse:
		list = listUp
	case cursor == "":
		cursor = aboveKeys
	}
	rows, err := s.pool.Query(c.Context(), list, pgx.NamedArgs{
		"did": acc.DID, "collection": collection, "cursor": cursor, "limit": limit,
	})
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", collection, acc.DID, err)
	}
	defer rows.Close()
	out := struct {
		Cursor  string       `json:"cursor,omitempty"`
		Records []recordView `json:"records"`
	}{Records: []recordView{}}
	size := 0
	for rows.Next() {
		var rkey string
		var raw, data []byte
		if err := rows.Scan(&rkey, &raw, &data); err != nil {
			return nil, fmt.Errorf("list %s of %s: %w", collection, acc.DID, err)
		}
		v, err := viewRecord(acc.DID, collection, rkey, raw, data)
		if err != nil {
			return nil, err
		}
		out.Records = append(out.Records, v)
		size += len(v.Value)
		if int64(len(out.Records)) == limit || size > listBytes {
			out.Cursor = rkey
			break
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", collection, acc.DID, err)
	}
	return out, nil
}

func (s *Server) describeRepo(c *xrpc.Call) (any, error) {
	ctx := c.Context()
	acc, err := s.readable(ctx, c.Param("repo"))
	if err != nil {
		return nil, err
	}
	// Steps from one collection to the next in the index instead of reading every record.
	const collections = `
		with recursive step (collection) as (
			(select collection from record where did = $1 order by collection limit 1)
			union all
			select (select r.collection from record r
				where r.did = $1 and r.collection > step.collection order by r.collection limit 1)
			from step where step.collection is not null
		)
		select collection from step where collection is not null`
	rows, err := s.pool.Query(ctx, collections, acc.DID)
	if err != nil {
		return nil, fmt.Errorf("collections of %s: %w", acc.DID, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("collections of %s: %w", acc.DID, err)
	}
	if names == nil {
		names = []string{}
	}
	ident, err := s.directory.LookupDID(ctx, acc.DID)
	if err != nil {
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, "DirectoryUnavailable", "the DID document of %s cannot be read now", acc.DID)
	}
	declared, err := ident.DeclaredHandle()
	return struct {
		Handle      string     `json:"handle"`
		DID         syntax.DID `json:"did"`
		DIDDoc      any        `json:"didDoc"`
		Collections []string   `json:"collections"`
		Correct     bool       `json:"handleIsCorrect"`
	}{acc.Handle, acc.DID, ident.DIDDocument(), names, err == nil && declared.String() == acc.Handle}, nil
}
