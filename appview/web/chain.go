package web

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/lexicons"
)

type taskPage struct {
	Task  query.Task
	Nodes []query.Node
	Cut   bool
}

func (p *Pages) task(ctx context.Context, r *http.Request) (any, error) {
	uri := "at://" + r.PathValue("did") + "/" + lexicons.WorkTask + "/" + r.PathValue("rkey")
	task, err := p.db.Task(ctx, uri)
	if err != nil {
		return nil, err
	}
	nodes, cut, err := p.db.Timeline(ctx, uri)
	if err != nil {
		return nil, err
	}
	return taskPage{Task: task, Nodes: nodes, Cut: cut}, nil
}

type recordPage struct {
	Record      query.Record
	JSON        string
	EvidenceURL string
}

func (p *Pages) record(ctx context.Context, r *http.Request) (any, error) {
	uri := "at://" + r.PathValue("did") + "/" + r.PathValue("coll") + "/" + r.PathValue("rkey")
	rec, err := p.db.Record(ctx, uri, r.URL.Query().Get("cid"))
	if err != nil {
		return nil, err
	}
	raw, err := lexicons.CBORToJSON(rec.CBOR)
	if err != nil {
		return nil, err
	}
	page := recordPage{Record: rec, JSON: indent(raw)}
	if p.cfg.LedgerURL != "" {
		page.EvidenceURL = p.cfg.LedgerURL + "/evidence/" + rec.CID + ".car?did=" + url.QueryEscape(rec.DID)
	}
	return page, nil
}

type entryPage struct {
	query.LogEntry
	JSON string
}

func (p *Pages) entry(ctx context.Context, r *http.Request) (any, error) {
	seq, err := strconv.ParseInt(r.PathValue("seq"), 10, 64)
	if err != nil || seq < 0 {
		return nil, query.ErrNotFound
	}
	e, err := p.db.LogEntry(ctx, seq)
	if err != nil {
		return nil, err
	}
	raw, err := lexicons.CBORToJSON(e.Leaf)
	if err != nil {
		return nil, err
	}
	return entryPage{LogEntry: e, JSON: indent(raw)}, nil
}

func indent(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return string(raw)
	}
	return b.String()
}
