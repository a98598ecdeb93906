package web

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"time"

	"rsc.io/qr"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/qrsvg"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// hasReceipt says whether an entry is something that a person may hold on paper.
func hasReceipt(e *entry.Entry) bool {
	switch e.Kind {
	case entry.KindMint, entry.KindBurn, entry.KindCapture, entry.KindVoid, entry.KindReverse, entry.KindExpire:
		return true
	}
	return false
}

type receiptPage struct {
	query.LogEntry
	Name, Says string // keys of phrases
	Facts      []fact
	Referring  []query.SeqKind
	Differing  []query.Differing
	LeafHash   string
	QR         template.HTML // "" where no proof fits
	Holds      string        // key of the phrase that says what the code holds
	ProofSize  int
	Origin     string
}

func (p *Pages) receipt(ctx context.Context, r *http.Request, l layout) (any, error) {
	e, decoded, err := p.readEntry(ctx, r.PathValue("seq"))
	if err != nil {
		return nil, err
	}
	if !hasReceipt(decoded) {
		return nil, query.ErrNotFound
	}
	page := receiptPage{LogEntry: e, Origin: l.City.LogOrigin}
	if page.Name, page.Says, page.Facts, err = p.told(ctx, l, decoded); err != nil {
		return nil, err
	}
	page.Facts = slices.DeleteFunc(page.Facts, func(f fact) bool { return !f.Short })
	if page.Referring, err = p.db.Referring(ctx, e.Seq); err != nil {
		return nil, err
	}
	if page.Differing, err = p.db.DiffersFrom(ctx, e.Seq); err != nil {
		return nil, err
	}
	hash := tlog.LeafHash(e.Leaf)
	page.LeafHash = hex.EncodeToString(hash[:])
	proof, err := p.db.Proof(ctx, e.Seq)
	if err != nil {
		return nil, err
	}
	page.ProofSize = len(proof.Encode())
	file, holds, err := p.forCode(ctx, proof, page.Origin)
	if err != nil {
		return nil, fmt.Errorf("receipt %d: %w", e.Seq, err)
	}
	if page.Holds = holds; holds != "" {
		code, err := qr.Encode(string(file), qr.L)
		if err != nil {
			return nil, fmt.Errorf("receipt %d: %w", e.Seq, err)
		}
		page.QR = qrsvg.Draw(code, l.T("qrAlt"))
	}
	return page, nil
}

// proof serves the proof file of a receipt.
func (p *Pages) proof(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	e, decoded, err := p.readEntry(ctx, r.PathValue("seq"))
	if err == nil && !hasReceipt(decoded) {
		err = query.ErrNotFound
	}
	var file *tlog.ProofFile
	if err == nil {
		file, err = p.db.Proof(ctx, e.Seq)
	}
	switch {
	case errors.Is(err, query.ErrNotFound):
		http.Error(w, "no such receipt", http.StatusNotFound)
		return
	case err != nil:
		p.cfg.Log.Error("proof", "path", r.URL.Path, "err", err)
		http.Error(w, "the proof cannot be made now", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="receipt-`+strconv.FormatInt(e.Seq, 10)+`.tlog-proof"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache") // it changes when the entry is cosigned
	_, _ = w.Write(file.Encode())      // the reader went away; there is nobody left to tell
}
