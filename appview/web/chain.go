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
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

type taskPage struct {
	Task     query.Task
	Pause    *query.Pause  // nil while nothing holds its mints
	Stopped  []query.Pause // of its issuer
	Disputes []query.Dispute
	Nodes    []query.Node
	Cut      bool
}

func (p *Pages) task(ctx context.Context, r *http.Request, _ layout) (any, error) {
	uri := "at://" + r.PathValue("did") + "/" + lexicons.WorkTask + "/" + r.PathValue("rkey")
	task, err := p.db.Task(ctx, uri)
	if err != nil {
		return nil, err
	}
	nodes, cut, err := p.db.Timeline(ctx, uri)
	if err != nil {
		return nil, err
	}
	page := taskPage{Task: task, Nodes: nodes, Cut: cut}
	held, err := p.db.PausesOf(ctx, p.cfg.Clock.Now(), uri)
	if err != nil {
		return nil, err
	}
	if h, ok := held[uri]; ok {
		page.Pause = &h
	}
	if page.Stopped, err = p.stopped(ctx, task.DID); err != nil {
		return nil, err
	}
	page.Disputes, _, err = p.db.Disputes(ctx, uri, "", query.Page{Limit: cards})
	return page, err
}

type recordPage struct {
	Record      query.Record
	Notice      string // key of a phrase about its standing, or ""
	JSON        string // "" when no content is kept here
	Citations   []query.Citation
	EvidenceURL string
	Seq         string // of the entry that it is the receipt of, or ""
	Referring   []query.SeqKind
	Differing   []query.Differing // it, where it is not what the log says
}

// record shows one version. Where none is kept here, but the log rests on one, the page says so and leads to the signed evidence.
func (p *Pages) record(ctx context.Context, r *http.Request, l layout) (any, error) {
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
	if seen {
		if page.Differing, err = p.db.Differs(ctx, rec); err != nil {
			return nil, err
		}
	}
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
	if seq, err := strconv.ParseInt(rkey, 10, 64); err == nil && coll == lexicons.LedgerReceipt && did == l.City.Ledger {
		page.Seq = strconv.FormatInt(seq, 10)
		if page.Referring, err = p.db.Referring(ctx, seq); err != nil {
			return nil, err
		}
	}
	if p.cfg.LedgerURL != "" && coll != lexicons.WorkClaim && coll != lexicons.WorkProof { // of a person's records it keeps none for others
		page.EvidenceURL = p.cfg.LedgerURL + "/evidence/" + url.PathEscape(page.Record.CID) + ".car?did=" + url.QueryEscape(did)
	}
	return page, nil
}

type logPage struct {
	Kind    string
	Entries []query.Listed
	Next    string

	Differing []query.Differing // on the first page
}

// logKinds are the figures of the city's page that open to their entries.
var logKinds = []string{"reserve", "mint", "burn", "hold", "expire"}

func (p *Pages) log(ctx context.Context, r *http.Request, _ layout) (any, error) {
	page := logPage{Kind: r.PathValue("kind")}
	if !slices.Contains(logKinds, page.Kind) {
		return nil, query.ErrNotFound
	}
	var err error
	from := r.URL.Query().Get("from")
	if page.Entries, page.Next, err = p.db.LogEntries(ctx, page.Kind, query.Page{Limit: 100, Cursor: from}); err != nil {
		return nil, err
	}
	if from == "" {
		page.Differing, err = p.db.AllDiffering(ctx)
	}
	return page, err
}

type entryPage struct {
	query.LogEntry
	Name, Says string // keys of phrases
	Facts      []fact
	Referring  []query.SeqKind
	Reversed   bool
	Differing  []query.Differing // what the ledger published about it
	Receipt    bool
	JSON       string
}

func (p *Pages) entry(ctx context.Context, r *http.Request, l layout) (any, error) {
	e, decoded, err := p.readEntry(ctx, r.PathValue("seq"))
	if err != nil {
		return nil, err
	}
	page := entryPage{LogEntry: e, Receipt: hasReceipt(decoded)}
	if page.Name, page.Says, page.Facts, err = p.told(ctx, l, decoded); err != nil {
		return nil, err
	}
	if page.Referring, err = p.db.Referring(ctx, e.Seq); err != nil {
		return nil, err
	}
	if page.Differing, err = p.db.DiffersFrom(ctx, e.Seq); err != nil {
		return nil, err
	}
	page.Reversed = slices.ContainsFunc(page.Referring, func(s query.SeqKind) bool { return s.Kind == string(entry.KindReverse) })
	raw, err := lexicons.CBORToJSON(e.Leaf)
	if err != nil {
		return nil, err
	}
	page.JSON = indent(raw)
	return page, nil
}

// readEntry gives the entry that a path names.
func (p *Pages) readEntry(ctx context.Context, path string) (query.LogEntry, *entry.Entry, error) {
	seq, err := strconv.ParseInt(path, 10, 64)
	if err != nil || seq < 0 || strconv.FormatInt(seq, 10) != path {
		return query.LogEntry{}, nil, query.ErrNotFound
	}
	e, err := p.db.LogEntry(ctx, seq)
	if err != nil {
		return e, nil, err
	}
	decoded, err := entry.Decode(e.Leaf)
	return e, decoded, err
}

// told puts an entry into words, with the names of the organizations in it.
func (p *Pages) told(ctx context.Context, l layout, e *entry.Entry) (name, says string, facts []fact, err error) {
	dids := []string{e.Org.String()}
	if e.Mint != nil {
		dids = append(dids, e.Mint.Verifier.String())
	}
	names, err := p.db.Names(ctx, dids...)
	name, says, facts = tell(l, e, names)
	return name, says, facts, err
}

func indent(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return string(raw)
	}
	return b.String()
}
