package witness

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/tlog"
)

const (
	maxProofLines = 63
	maxRequest    = tlog.MaxNote + 8<<10
	answerWithin  = 3 * time.Second // a checkpoint that needs longer is answered with 503 and gone on with when it comes again
	sizeMedia     = "text/x.tlog.size"
	maxServed     = 64 // requests for files at once
	maxBrought    = 16 // checkpoints that wait for their turn
)

func (w *Witness) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /add-checkpoint", xrpc.Limit(maxBrought, http.HandlerFunc(w.addCheckpoint)))
	mux.HandleFunc("GET /copy/checkpoint", w.serveCheckpoint)
	mux.HandleFunc("GET /"+w.originHash()+"/checkpoint", w.serveCheckpoint)
	mux.Handle("GET /copy/tile/", xrpc.Limit(maxServed, http.HandlerFunc(w.serveTile)))
	mux.HandleFunc("GET /proofs", w.serveProofs)
	mux.Handle("GET /proofs/{name}", xrpc.Limit(maxServed, http.HandlerFunc(w.serveProof)))
	mux.HandleFunc("GET /{$}", w.serveStatus)
	return mux
}

// A brought checkpoint is one request of C2SP tlog-witness.
type brought struct {
	old   int64
	proof []tlog.Hash
	note  []byte
}

func parseBrought(body []byte) (*brought, error) {
	head, note, ok := strings.Cut(string(body), "\n\n")
	lines := strings.Split(head, "\n")
	number, ok2 := strings.CutPrefix(lines[0], "old ")
	old, err := strconv.ParseInt(number, 10, 64)
	if !ok || !ok2 || err != nil || old < 0 || strconv.FormatInt(old, 10) != number || len(lines) > 1+maxProofLines {
		return nil, errors.New("the request is: an old size line, at most 63 lines of a proof, an empty line, a signed checkpoint")
	}
	b := &brought{old: old, note: []byte(note)}
	for _, l := range lines[1:] {
		raw, err := base64.StdEncoding.Strict().DecodeString(l)
		var h tlog.Hash
		if err != nil || len(raw) != len(h) {
			return nil, errors.New("a line of the proof is no hash")
		}
		copy(h[:], raw)
		b.proof = append(b.proof, h)
	}
	text, err := tlog.NoteText(b.note)
	if err != nil {
		return nil, err
	}
	if _, err := tlog.ParseCheckpoint(text); err != nil {
		return nil, err
	}
	return b, nil
}

// addCheckpoint answers as C2SP tlog-witness says, and cosigns only what it re-executed.
func (w *Witness) addCheckpoint(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequest))
	if err != nil {
		w.answer(rw, http.StatusBadRequest, "text/plain; charset=utf-8", "the request is too long or broke off\n")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerWithin)
	defer cancel()
	status, media, text := w.judge(ctx, body)
	if status == http.StatusServiceUnavailable {
		rw.Header().Set("Retry-After", "1")
	}
	w.answer(rw, status, media, text)
}

func (w *Witness) answer(rw http.ResponseWriter, status int, media, text string) {
	w.metrics.answers.WithLabelValues(strconv.Itoa(status)).Inc()
	rw.Header().Set("Content-Type", media)
	rw.Header().Set("Cache-Control", "no-store")
	rw.WriteHeader(status)
	_, _ = io.WriteString(rw, text) // the client is gone: nobody to tell
}

func (w *Witness) judge(ctx context.Context, body []byte) (status int, media, text string) {
	const plain = "text/plain; charset=utf-8"
	no := func(status int, format string, args ...any) (int, string, string) {
		return status, plain, fmt.Sprintf(format, args...) + "\n"
	}
	b, err := parseBrought(body)
	if err != nil {
		return no(http.StatusBadRequest, "%v", err)
	}
	if origin, _, _ := strings.Cut(string(b.note), "\n"); origin != w.cfg.Origin {
		return no(http.StatusNotFound, "this is a witness of %s alone", w.cfg.Origin)
	}
	if err := w.take(ctx); err != nil {
		return no(http.StatusServiceUnavailable, "catching up")
	}
	defer w.give()
	c, err := w.openNote(b.note)
	if err != nil {
		return no(http.StatusForbidden, "no key of the log signed this")
	}
	note, err := tlog.Only(b.note, w.logKeys()...)
	if err != nil {
		return no(http.StatusForbidden, "no key of the log signed this")
	}
	if b.old > c.Size {
		return no(http.StatusBadRequest, "the old size %d is above the checkpoint's %d", b.old, c.Size)
	}
	if w.Dispute() != "" {
		return no(http.StatusUnprocessableEntity, "nothing is cosigned any more: %s; see /proofs", w.Dispute())
	}
	if b.old != w.state.Size {
		if err := w.glance(ctx, c, note); errors.Is(err, errDisputed) {
			return no(http.StatusUnprocessableEntity, "%s; see /proofs", w.Dispute())
		}
		return http.StatusConflict, sizeMedia, strconv.FormatInt(w.state.Size, 10) + "\n"
	}
	var root tlog.Hash
	copy(root[:], w.state.Root)
	if b.old == 0 {
		root, _ = tlog.Root(0, nil)
	}
	inconsistent := tlog.CheckConsistency(b.proof, c.Size, c.Root, b.old, root)
	if c.Size == 0 {
		return no(http.StatusUnprocessableEntity, "nothing to re-execute: an empty log is not cosigned here")
	}
	if err := w.advance(ctx, w.source, c, note); err != nil {
		switch {
		case errors.Is(err, errDisputed):
			return no(http.StatusUnprocessableEntity, "%s; see /proofs", w.Dispute())
		case inconsistent != nil:
			return no(http.StatusUnprocessableEntity, "%v", inconsistent)
		}
		w.log.Warn("not cosigned", "size", c.Size, "audited", w.state.Audited, "err", err)
		return no(http.StatusServiceUnavailable, "catching up: %d of %d entries are re-executed", w.state.Audited, c.Size)
	}
	if inconsistent != nil {
		return no(http.StatusUnprocessableEntity, "%v", inconsistent)
	}
	if _, err := w.auditor.CheckCheckpoint(c); err != nil {
		return no(http.StatusUnprocessableEntity, "%v", err)
	}
	line, err := w.cosign(c, note)
	if err != nil {
		w.log.Error("not cosigned", "size", c.Size, "err", err)
		return no(http.StatusInternalServerError, "the cosignature could not be kept")
	}
	return http.StatusOK, plain, line
}

// glance compares a signed checkpoint that is not being cosigned with what we hold, as far as that needs nobody else.
func (w *Witness) glance(ctx context.Context, c tlog.Checkpoint, note []byte) error {
	if w.held == nil || c.Size > w.held.Size || c.Size == 0 {
		return nil
	}
	return w.compare(ctx, c, note, nil)
}

func (w *Witness) serveCheckpoint(rw http.ResponseWriter, _ *http.Request) {
	note := w.newest.Load()
	if note == nil {
		http.Error(rw, "nothing is cosigned yet", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("Cache-Control", "no-store")
	_, _ = rw.Write(*note) // the client is gone: nobody to tell
}

// serveTile gives a tile of the copy: a full one where only that is left of a partial one.
func (w *Witness) serveTile(rw http.ResponseWriter, r *http.Request) {
	t, err := tlog.ParseTilePath(strings.TrimPrefix(r.URL.Path, "/copy/"))
	if err != nil || !t.In(w.size.Load()) {
		http.Error(rw, "no such tile", http.StatusNotFound)
		return
	}
	max := int64(tlog.MaxBundle)
	data, err := w.folder.get(t.Path(), max)
	if data == nil && err == nil {
		data, err = w.cut(t)
	}
	if err != nil || data == nil {
		http.Error(rw, "no such tile", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "application/octet-stream")
	rw.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = rw.Write(data) // the client is gone: nobody to tell
}

// cut makes a partial tile of a wider one, so that a reader of an earlier checkpoint finds it while ours moves on.
func (w *Witness) cut(t tlog.Tile) ([]byte, error) {
	if t.Level == tlog.EntriesLevel {
		list, err := w.folder.bundle(t.N, t.Width)
		if err != nil {
			return nil, err
		}
		return tlog.EncodeBundle(list)
	}
	for width := t.Width + 1; width <= tlog.TileWidth; width++ {
		wide := tlog.Tile{Level: t.Level, N: t.N, Width: width}
		if data, err := w.folder.get(wide.Path(), tlog.MaxBundle); data != nil || err != nil {
			return data[:min(len(data), t.Width*len(tlog.Hash{}))], err
		}
	}
	return nil, nil
}

func (w *Witness) serveProofs(rw http.ResponseWriter, _ *http.Request) {
	names, err := w.folder.proofs()
	if err != nil {
		http.Error(rw, "the proofs are not readable now", http.StatusInternalServerError)
		return
	}
	if names == nil {
		names = []string{}
	}
	writeJSON(rw, map[string]any{"dispute": w.Dispute(), "proofs": names})
}

func (w *Witness) serveProof(rw http.ResponseWriter, r *http.Request) {
	names, err := w.folder.proofs()
	if err == nil {
		for _, name := range names {
			if name == r.PathValue("name") {
				data, err := w.folder.get(folderProofs+"/"+name, MaxProof)
				if err != nil || data == nil {
					break
				}
				rw.Header().Set("Content-Type", "application/json")
				_, _ = rw.Write(data) // the client is gone: nobody to tell
				return
			}
		}
	}
	http.Error(rw, "no such proof", http.StatusNotFound)
}

func (w *Witness) serveStatus(rw http.ResponseWriter, _ *http.Request) {
	writeJSON(rw, map[string]any{
		"witness": w.key.VerifierKey(), "origin": w.cfg.Origin, "cosigned": w.size.Load(), "dispute": w.Dispute(),
	})
}

func writeJSON(rw http.ResponseWriter, v any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(rw).Encode(v) // the client is gone: nobody to tell
}
