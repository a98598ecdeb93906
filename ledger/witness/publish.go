package witness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

const (
	publishEvery  = 5 * time.Second
	publishWithin = 20 * time.Second
	keptLines     = 256 // cosignatures that wait for the ledger's record of their checkpoint
)

// The publisher writes cosignatures as records into the institution's repository: one for each checkpoint that the ledger has
// published as a record and we cosigned. The cosignature counts without it; the record is for those who read repositories.
type publisher struct {
	w                          *Witness
	base, identifier, password string
	http                       *http.Client

	mu    sync.Mutex
	lines map[int64]cosigned // guarded by mu: by size, until published
	order []int64            // guarded by mu

	did, access string // of the publisher's goroutine alone
}

type cosigned struct {
	text, line string
	at         time.Time
}

// cosigned remembers a cosignature until its checkpoint is a record.
func (p *publisher) cosigned(size int64, c cosigned) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.lines[size]; !ok {
		p.order = append(p.order, size)
	}
	p.lines[size] = c
	if len(p.order) > keptLines {
		delete(p.lines, p.order[0])
		p.order = p.order[1:]
	}
}

func (p *publisher) run(ctx context.Context) {
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		within, cancel := context.WithTimeout(ctx, publishWithin)
		err := p.step(within)
		cancel()
		if err != nil && ctx.Err() == nil {
			p.access = ""
			p.w.metrics.failures.WithLabelValues("repository").Inc()
			p.w.log.WarnContext(ctx, "cosignatures wait to be published", "err", err)
		}
	}
}

type checkpointRecord struct {
	URI   string `json:"uri"`
	CID   string `json:"cid"`
	Value struct {
		TreeSize int64  `json:"treeSize"`
		Note     string `json:"note"`
	} `json:"value"`
}

// step publishes what the ledger's newest checkpoint records allow.
func (p *publisher) step(ctx context.Context) error {
	p.mu.Lock()
	waiting := len(p.lines)
	p.mu.Unlock()
	if waiting == 0 {
		return nil
	}
	var said struct {
		Addresses struct {
			PDS string `json:"pds"`
		} `json:"addresses"`
	}
	if err := p.w.source.json(ctx, ".well-known/citysync.json", &said); err != nil {
		return err
	}
	var out struct {
		Records []checkpointRecord `json:"records"`
	}
	ledger := &xrpc.Client{Base: said.Addresses.PDS, HTTP: p.http}
	params := url.Values{"repo": {p.w.cfg.Origin}, "collection": {lexicons.LedgerCheckpoint}, "limit": {"20"}}
	if err := ledger.Query(ctx, "com.atproto.repo.listRecords", params, &out); err != nil {
		return fmt.Errorf("checkpoints as records: %w", err)
	}
	for _, r := range out.Records {
		p.mu.Lock()
		c, ok := p.lines[r.Value.TreeSize]
		p.mu.Unlock()
		if text, err := tlog.NoteText([]byte(r.Value.Note)); !ok || err != nil || text != c.text {
			continue
		}
		if err := p.put(ctx, r, c); err != nil {
			return err
		}
		p.mu.Lock()
		delete(p.lines, r.Value.TreeSize)
		p.mu.Unlock()
	}
	return nil
}

func (p *publisher) put(ctx context.Context, r checkpointRecord, c cosigned) error {
	if p.access == "" {
		var out struct {
			DID       string `json:"did"`
			AccessJwt string `json:"accessJwt"`
		}
		in := map[string]any{"identifier": p.identifier, "password": p.password}
		if err := p.client().Procedure(ctx, "com.atproto.server.createSession", in, &out); err != nil {
			return fmt.Errorf("open session of %s: %w", p.identifier, err)
		}
		p.did, p.access = out.DID, out.AccessJwt
	}
	in := map[string]any{
		"repo": p.did, "collection": lexicons.LedgerCosignature, "rkey": fmt.Sprintf("%012d", r.Value.TreeSize), "validate": true,
		"record": map[string]any{
			"$type": lexicons.LedgerCosignature, "checkpoint": map[string]any{"uri": r.URI, "cid": r.CID}, "origin": p.w.cfg.Origin,
			"treeSize": r.Value.TreeSize, "signature": c.line, "at": entry.FormatTime(c.at),
		},
	}
	var out struct {
		URI string `json:"uri"`
	}
	err := p.client().Procedure(ctx, "com.atproto.repo.putRecord", in, &out)
	if answer := (*xrpc.Error)(nil); errors.As(err, &answer) && answer.Status < 500 && answer.Status != http.StatusUnauthorized {
		p.w.log.WarnContext(ctx, "a cosignature is no record of this repository", "size", r.Value.TreeSize, "err", err)
		return nil // the next one may be
	}
	return err
}

func (p *publisher) client() *xrpc.Client {
	return &xrpc.Client{Base: p.base, HTTP: p.http, Auth: func(context.Context, string) (string, error) {
		if p.access == "" {
			return "", nil
		}
		return "Bearer " + p.access, nil
	}}
}
