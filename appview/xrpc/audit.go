package xrpc

import (
	"encoding/json"
	"errors"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
)

type nodeView struct {
	Step string `json:"step"`
	URI  string `json:"uri,omitempty"`
	CID  string `json:"cid,omitempty"`
	DID  string `json:"did,omitempty"`
	Seq  *int64 `json:"seq,omitempty"`

	Withdrawn bool `json:"withdrawn,omitempty"` // the author's repository holds it no more
	Reversed  bool `json:"reversed,omitempty"`
}

func (s *server) listTimeline(c *xrpc.Call) (any, error) {
	uri, err := c.Required("uri")
	if err != nil {
		return nil, err
	}
	nodes, cut, err := s.db.Timeline(c.Context(), uri)
	if err != nil {
		return nil, named(err)
	}
	views, err := viewed(nodes, func(n query.Node) (nodeView, error) {
		v := nodeView{Step: n.Step, URI: n.URI, CID: n.CID, DID: n.DID, Withdrawn: n.Withdrawn, Reversed: n.Reversed}
		if n.Seq >= 0 {
			v.Seq = &n.Seq
		}
		return v, nil
	})
	if err != nil {
		return nil, err
	}
	return struct {
		Nodes []nodeView `json:"nodes"`
		Cut   bool       `json:"cut,omitempty"`
	}{views, cut}, nil
}

// explainRecord says what the index holds and, as the ledger's own statement, whether the ledger counts it.
func (s *server) explainRecord(c *xrpc.Call) (any, error) {
	uri, err := c.Required("uri")
	if err != nil {
		return nil, err
	}
	out := struct {
		URI     string          `json:"uri"`
		CID     string          `json:"cid,omitempty"`
		Indexed bool            `json:"indexed"`
		Current bool            `json:"current"`
		Invalid string          `json:"invalid,omitempty"`
		Ledger  json.RawMessage `json:"ledger,omitempty"`
	}{URI: uri, CID: c.Param("cid")}
	rec, err := s.db.Record(c.Context(), uri, out.CID)
	switch {
	case err == nil:
		out.CID, out.Indexed, out.Current, out.Invalid = rec.CID, true, rec.Current, rec.Invalid
	case !errors.Is(err, query.ErrNotFound):
		return nil, err
	}
	answer, err := s.ledger.Explain(c.Context(), uri, out.CID)
	var refused *xrpc.Error
	switch {
	case err == nil:
		out.Ledger = answer
	case errors.As(err, &refused) && refused.Status == 404:
		if !out.Indexed {
			return nil, xrpc.Errorf(404, "NotFound", "no such record was seen")
		}
	default:
		return nil, xrpc.Errorf(502, "LedgerUnavailable", "the ledger did not answer")
	}
	return out, nil
}
