package witness

import (
	"context"
	"errors"
	"sync"
	"time"

	"city-sync.org/citysync/ledger/tlog"
)

const (
	lookWithin   = 20 * time.Second // at the log, catching up included
	gossipWithin = 5 * time.Second  // at one other witness
)

// Run follows the log, brings cosignatures to it where nobody reaches us, and compares what other witnesses cosigned with what we hold:
// a log that shows two histories to two of us is found out without its help.
func (w *Witness) Run(ctx context.Context) error {
	if w.publish != nil {
		var wait sync.WaitGroup
		wait.Go(func() { w.publish.run(ctx) })
		defer wait.Wait()
	}
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	for {
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.metrics.failures.WithLabelValues("log").Inc()
			w.log.DebugContext(ctx, "the log was not followed", "err", err)
		}
		w.gossip(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look brings the copy up to the log's own newest checkpoint, and in the push form cosigns it.
func (w *Witness) look(ctx context.Context) error {
	if w.Dispute() != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	path := "checkpoint"
	if w.cfg.Push {
		path = "checkpoint/open"
	}
	raw, err := w.source.get(ctx, path, tlog.MaxNote)
	if err != nil {
		return err
	}
	c, line, err := w.follow(ctx, raw)
	if err != nil || line == "" {
		return err
	}
	var out struct {
		Quorum bool `json:"quorum"`
	}
	return w.source.call(ctx, "addCosignature", map[string]any{"treeSize": c.Size, "signature": line}, &out)
}

func (w *Witness) follow(ctx context.Context, raw []byte) (tlog.Checkpoint, string, error) {
	if err := w.take(ctx); err != nil {
		return tlog.Checkpoint{}, "", err
	}
	defer w.give()
	c, err := w.openNote(raw)
	if err != nil {
		return c, "", err
	}
	note, err := tlog.Only(raw, w.logKeys()...)
	if err != nil || c.Size == 0 {
		return c, "", err
	}
	if err := w.advance(ctx, w.source, c, note); err != nil {
		return c, "", err
	}
	if !w.cfg.Push || c.Size < w.state.Size {
		return c, "", nil
	}
	line, err := w.cosign(c, note)
	return c, line, err
}

// gossip compares our history with that of each other witness. W3
func (w *Witness) gossip(ctx context.Context) {
	for _, peer := range w.peers() {
		if w.Dispute() != "" || ctx.Err() != nil {
			return
		}
		if err := w.meet(ctx, peer); err != nil && !errors.Is(err, errDisputed) && ctx.Err() == nil {
			w.metrics.failures.WithLabelValues("peer").Inc()
			w.log.DebugContext(ctx, "another witness's copy was not compared", "peer", peer, "err", err)
		}
	}
}

func (w *Witness) peers() []string {
	if len(w.cfg.Peers) > 0 {
		return w.cfg.Peers
	}
	text, err := w.folder.get(filePolicy, tlog.MaxPolicy)
	if err != nil || text == nil {
		return nil
	}
	p, err := tlog.ParsePolicy(text)
	if err != nil {
		return nil
	}
	var out []string
	for _, other := range p.Witnesses {
		if other.URL != "" && other.Key != w.key.VerifierKey() {
			out = append(out, other.URL)
		}
	}
	return out
}

// meet compares with one witness. What it serves is believed as far as the log signed it.
func (w *Witness) meet(ctx context.Context, peer string) error {
	ctx, cancel := context.WithTimeout(ctx, gossipWithin)
	defer cancel()
	from := &source{base: peer + "/copy", http: w.source.http}
	raw, err := from.get(ctx, "checkpoint", tlog.MaxNote)
	if err != nil {
		return err
	}
	c, note, size, err := w.heard(ctx, raw)
	if err != nil || size == 0 {
		return err
	}
	nodes := from.nodes(ctx, c)
	if size < c.Size {
		if _, err := tlog.Root(size, nodes); err != nil { // read before the turn is taken: a slow one holds up nobody
			return err
		}
	}
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	return w.compare(ctx, c, note, nodes)
}

// heard opens what another witness cosigned, and says how far we can compare.
func (w *Witness) heard(ctx context.Context, raw []byte) (c tlog.Checkpoint, note []byte, size int64, err error) {
	if err := w.take(ctx); err != nil {
		return c, nil, 0, err
	}
	defer w.give()
	if c, err = w.openNote(raw); err != nil || c.Size == 0 || w.held == nil {
		return c, nil, 0, err
	}
	note, err = tlog.Only(raw, w.logKeys()...)
	return c, note, w.held.Size, err
}
