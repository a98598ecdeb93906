package ledger

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

const nsid = "org.city-sync.ledger."

const (
	maxBody  = 64 << 10
	maxFiles = 128 // tiles and proofs that are served at once; each may be of megabytes
)

func (l *Ledger) routes() http.Handler {
	mux := xrpc.NewMux(xrpc.Config{Log: l.log, MaxBody: maxBody, Metrics: l.metrics.registerer, Away: pg.Away})
	mux.Query(nsid+"getCapacity", l.getCapacity)
	mux.Query(nsid+"getCheckpoint", l.getCheckpoint)
	mux.Query(nsid+"getInclusionProof", l.getInclusionProof)
	mux.Query(nsid+"getConsistencyProof", l.getConsistencyProof)
	mux.Query(nsid+"listReceipts", l.listReceipts)
	mux.Query(nsid+"getReceipt", l.getReceipt)
	mux.Query(nsid+"explain", l.explain)
	mux.Query(nsid+"getBalance", l.getBalance)
	mux.Query(nsid+"getBalanceProof", l.getBalanceProof)
	mux.Query(nsid+"listClaims", l.listClaims)
	mux.Procedure(nsid+"activate", l.activate)
	mux.Procedure(nsid+"bindTill", l.bindTill)
	mux.Procedure(nsid+"createRedemption", l.createRedemption)
	mux.Procedure(nsid+"updateRedemption", l.updateRedemption)
	mux.Procedure(nsid+"openTill", l.openTill)
	mux.Procedure(nsid+"closeTill", l.closeTill)
	mux.Procedure(nsid+"resetTill", l.resetTill)
	mux.Procedure(nsid+"getTillSlip", l.getTillSlip)
	mux.Procedure(nsid+"createHold", l.createHold)
	mux.Procedure(nsid+"captureHold", l.captureHold)
	mux.Procedure(nsid+"endHold", l.endHold)
	mux.Procedure(nsid+"issueCard", l.issueCard)
	mux.Procedure(nsid+"endCard", l.endCard)
	mux.Procedure(nsid+"createCardRedemption", l.createCardRedemption)
	mux.Procedure(nsid+"openEpoch", l.openEpoch)
	mux.Procedure(nsid+"bindWitnesses", l.bindWitnesses)
	mux.Procedure(nsid+"addCosignature", l.addCosignature)
	mux.Procedure(nsid+"listOpenings", l.listOpenings)
	mux.Procedure(nsid+"pause", l.pause)
	mux.Procedure(nsid+"resume", l.resume)
	mux.Procedure(nsid+"bindStaff", l.bindStaff)
	mux.Procedure(workNSID+"createSealedClaim", l.createSealedClaim)
	mux.Procedure(workNSID+"createSealedProof", l.createSealedProof)
	mux.Procedure(workNSID+"deleteSealedClaim", l.deleteSealedClaim)
	mux.Query(nsid+"getOpening", l.getOpening)
	mux.Procedure(nsid+"eraseAccount", l.eraseAccount)
	mux.Handle("GET /checkpoint", http.HandlerFunc(l.serveCheckpoint))
	mux.Handle("GET /checkpoint/cosigned", http.HandlerFunc(l.serveCosigned))
	mux.Handle("GET /checkpoint/open", http.HandlerFunc(l.serveRound))
	mux.Handle("GET /policy", http.HandlerFunc(l.servePolicy))
	mux.Handle("GET /tile/", xrpc.Limit(maxFiles, http.HandlerFunc(l.serveTile)))
	mux.Handle("GET /evidence/{name}", xrpc.Limit(maxFiles, http.HandlerFunc(l.serveEvidence)))
	mux.Handle("GET /.well-known/citysync.json", http.HandlerFunc(l.serveWellKnown))
	mux.Handle("GET /xrpc/_health", http.HandlerFunc(l.serveHealth))
	return mux
}

// ask hands work to the sequencer and turns its refusals into answers.
func (l *Ledger) ask(ctx context.Context, name string, run func(ctx context.Context, b *batch) (any, error)) (any, error) {
	answer, err := l.seq.do(ctx, name, run)
	var refusal *rules.Refusal
	switch {
	case errors.Is(err, errBusy):
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "the ledger is busy; nothing happened").After(time.Second)
	case errors.Is(err, errStopped):
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "the ledger restarts; ask again with the same key").After(2 * time.Second)
	case errors.As(err, &refusal):
		return nil, refused(refusal)
	}
	return answer, err
}

func refused(r *rules.Refusal) *xrpc.Error {
	status := http.StatusBadRequest
	switch r.Name {
	case rules.NotAccredited, rules.NotAuthorized, rules.NotActivated, rules.TillUnknown:
		status = http.StatusForbidden
	case rules.HoldUnknown:
		status = http.StatusNotFound
	case rules.AlreadyRedeemed, rules.AlreadyActivated, rules.EpochAlreadyOpen, rules.AlreadyReversed, rules.HoldEnded:
		status = http.StatusConflict
	}
	return xrpc.Errorf(status, r.Name, "%s", r.Error()).With(r.Figures)
}

// isAnswer tells errors that are for the caller from those that end the batch.
func isAnswer(err error) bool {
	if errors.Is(err, errBroken) || errors.Is(err, rules.ErrBroken) {
		return false
	}
	var refusal *rules.Refusal
	var named *xrpc.Error
	return errors.As(err, &refusal) || errors.As(err, &named)
}

func (l *Ledger) serveHealth(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-l.seq.ended:
		xrpc.WriteError(w, xrpc.Errorf(http.StatusServiceUnavailable, xrpc.NameBusy, "the sequencer stopped"))
	default:
		writeJSON(w, map[string]any{"version": l.cfg.Version, "size": l.seq.log.size()})
	}
}

func (l *Ledger) serveWellKnown(w http.ResponseWriter, _ *http.Request) {
	out := map[string]any{
		"city": l.cfg.City, "ledger": l.cfg.DID,
		"addresses": map[string]any{"web": l.cfg.WebURL, "pds": l.cfg.PDSURL, "ledger": l.cfg.PublicURL},
		"log":       map[string]any{"origin": l.cfg.DID, "vkey": l.VerifierKey(), "vkeys": l.logKeys(), "url": l.cfg.PublicURL},
	}
	if l.cfg.PLCURL != "" {
		out["plc"] = l.cfg.PLCURL
	}
	writeJSON(w, out)
}

func (l *Ledger) getCheckpoint(*xrpc.Call) (any, error) {
	cp := l.seq.latest.Load()
	if cp == nil {
		return nil, notFound("the log is empty")
	}
	return l.finality(map[string]any{
		"origin": l.cfg.DID, "treeSize": cp.Size, "rootHash": b64(cp.Root), "note": string(cp.Note), "at": stamp(cp.At),
	}), nil
}

func (l *Ledger) getInclusionProof(c *xrpc.Call) (any, error) {
	newest := l.seq.log.size()
	seq, err := c.Int("seq", -1, 0, 1<<40)
	if err != nil {
		return nil, err
	}
	size, err := c.Int("treeSize", newest, 1, 1<<40)
	if err != nil {
		return nil, err
	}
	if seq < 0 || seq >= size || size > newest {
		return nil, notFound("the log has no such entry or size")
	}
	proof, err := tlog.ProveInclusion(size, seq, l.seq.log)
	if err != nil {
		return nil, err
	}
	leaf, err := tlog.ReadLeaf(seq, l.seq.log)
	if err != nil {
		return nil, err
	}
	return map[string]any{"seq": seq, "treeSize": size, "leafHash": b64(leaf), "hashes": b64s(proof)}, nil
}

func (l *Ledger) getConsistencyProof(c *xrpc.Call) (any, error) {
	newest := l.seq.log.size()
	from, err := c.Int("from", 0, 1, 1<<40)
	if err != nil {
		return nil, err
	}
	to, err := c.Int("to", newest, 1, 1<<40)
	if err != nil {
		return nil, err
	}
	if from == 0 || from > to || to > newest {
		return nil, notFound("the log has no such size")
	}
	proof, err := tlog.ProveConsistency(to, from, l.seq.log)
	if err != nil {
		return nil, err
	}
	return map[string]any{"from": from, "to": to, "hashes": b64s(proof)}, nil
}

func notFound(format string, a ...any) *xrpc.Error {
	return xrpc.Errorf(http.StatusNotFound, xrpc.NameNotFound, format, a...)
}

func b64(h tlog.Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }

func b64s(hashes []tlog.Hash) []string {
	out := make([]string, len(hashes))
	for i, h := range hashes {
		out[i] = b64(h)
	}
	return out
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
