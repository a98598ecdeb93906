package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
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
	Notice      string // key of a phrase about its standing, or ""
	JSON        string // "" when no content is kept here
	Citations   []query.Citation
	EvidenceURL string
}

// record shows one version. Where none is kept here, but the log rests on one, the page says so and leads to the signed evidence.
func (p *Pages) record(ctx context.Context, r *http.Request) (any, error) {
	did, coll, rkey := r.PathValue("did"), r.PathValue("coll"), r.PathValue("rkey")
	uri, cid := "at://"+did+"/"+coll+"/"+rkey, r.URL.Query().Get("cid")
	rec, err := p.db.Record(ctx, uri, cid)
	if err != nil && !errors.Is(err, query.ErrNotFound) {
		return nil, err
	}
	seen := err == nil
	if seen {
		cid = rec.CID
	}
	cited, err := p.db.Citations(ctx, uri, cid)
	if err != nil {
		return nil, err
	}
	page := recordPage{Record: rec, Citations: cited}
	switch {
	case !seen && len(cited) == 0:
		return nil, query.ErrNotFound
	case !seen:
		page.Record = query.Record{DID: did, Coll: coll, RKey: rkey, CID: cited[0].CID}
		page.Notice = "notKept"
		if cited[0].Withdrawn {
			page.Notice = "withdrawnUnseen"
		}
	case rec.CBOR == nil:
		page.Notice = "purged"
	case rec.Withdrawn:
		page.Notice = "withdrawn"
	case !rec.Current:
		page.Notice = "superseded"
	}
	if rec.CBOR != nil {
		raw, err := lexicons.CBORToJSON(rec.CBOR)
		if err != nil {
			return nil, err
		}
		page.JSON = indent(raw)
	}
	if p.cfg.LedgerURL != "" && coll != lexicons.WorkClaim && coll != lexicons.WorkProof { // of a person's records it keeps none for others
		page.EvidenceURL = p.cfg.LedgerURL + "/evidence/" + url.PathEscape(page.Record.CID) + ".car?did=" + url.QueryEscape(did)
	}
	return page, nil
}

type logPage struct {
	Kind    string
	Entries []query.LogEntry
	Next    string
}

// logKinds are the kinds of entry that a figure of the city's page opens to.
var logKinds = []string{"reserve", "mint", "burn"}

func (p *Pages) log(ctx context.Context, r *http.Request) (any, error) {
	page := logPage{Kind: r.PathValue("kind")}
	if !slices.Contains(logKinds, page.Kind) {
		return nil, query.ErrNotFound
	}
	var err error
	page.Entries, page.Next, err = p.db.LogEntries(ctx, page.Kind, query.Page{Limit: 100, Cursor: r.URL.Query().Get("from")})
	return page, err
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
