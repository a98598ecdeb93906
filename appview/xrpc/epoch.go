package xrpc

import (
	"time"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/xrpc"
)

type reportView struct {
	recordView
	NotCounted string `json:"notCounted,omitempty"`
}

func (s *server) listEpochReports(c *xrpc.Call) (any, error) {
	p, err := page(c)
	if err != nil {
		return nil, err
	}
	rows, next, err := s.db.Reports(c.Context(), c.Param("book"), p)
	if err != nil {
		return nil, named(err)
	}
	views, err := viewed(rows, func(r query.Report) (reportView, error) {
		rec, err := s.record(c.Context(), r.URI, r.CID)
		return reportView{recordView: rec, NotCounted: r.Refused}, err
	})
	if err != nil {
		return nil, err
	}
	return struct {
		Reports []reportView `json:"reports"`
		Cursor  string       `json:"cursor,omitempty"`
	}{views, next}, nil
}

type finalityView struct {
	Committed    treeView          `json:"committed"`
	Cosigned     *cosignedView     `json:"cosigned,omitempty"`
	Entry        string            `json:"entry,omitempty"`
	Cosignatures []cosignatureView `json:"cosignatures,omitempty"`
}

type cosignedView struct {
	Size      int64    `json:"size"`
	At        string   `json:"at"`
	Quorum    bool     `json:"quorum"`
	Witnesses []string `json:"witnesses"`
	Members   int64    `json:"members"`
}

type cosignatureView struct {
	recordView
	NotCounted string `json:"notCounted,omitempty"`
}

func (s *server) getFinality(c *xrpc.Call) (any, error) {
	seq, err := c.Int("seq", -1, 0, 1<<40)
	if err != nil {
		return nil, err
	}
	f, err := s.db.Finality(c.Context())
	if err != nil {
		return nil, named(err)
	}
	out := finalityView{Committed: treeView{Size: f.Size, Root: f.Root}}
	if c.Param("seq") != "" {
		out.Entry = f.Entry(seq)
	}
	if f.Cosigned == nil {
		return out, nil
	}
	out.Cosigned = cosignedOf(f.Cosigned)
	records, err := s.db.Cosignatures(c.Context(), f.Cosigned.Size)
	if err != nil {
		return nil, named(err)
	}
	out.Cosignatures, err = viewed(records, func(r query.Cosignature) (cosignatureView, error) {
		rec, err := s.record(c.Context(), r.URI, r.CID)
		return cosignatureView{recordView: rec, NotCounted: r.Refused}, err
	})
	return out, err
}

// cosignedOf is nil where there is nothing cosigned.
func cosignedOf(c *query.Cosigned) *cosignedView {
	if c == nil {
		return nil
	}
	v := &cosignedView{Size: c.Size, At: c.At.UTC().Format(time.RFC3339), Quorum: true, Witnesses: []string{}, Members: c.Members}
	for _, w := range c.Witnesses {
		v.Witnesses = append(v.Witnesses, firstOf(w.Name, w.Org, w.Key))
	}
	return v
}

func firstOf(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}
