package ledger

import (
	"context"
	"net/http"
	"strings"

	"city-sync.org/citysync/ledger/tlog"
)

// serveTile answers /tile/<L>/<N>[.p/<W>] and /tile/entries/<N>[.p/<W>] as C2SP tlog-tiles writes them.
func (l *Ledger) serveTile(w http.ResponseWriter, r *http.Request) {
	t, err := tlog.ParseTilePath(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.Error(w, "no such tile", http.StatusNotFound)
		return
	}
	size := l.seq.log.size()
	if !t.In(size) {
		http.Error(w, "the log has not grown this far", http.StatusNotFound)
		return
	}
	var data []byte
	if t.Level == tlog.EntriesLevel {
		data, err = l.entryBundle(r.Context(), t)
	} else {
		data, err = tlog.ReadTile(t, size, l.seq.log)
	}
	if err != nil {
		l.log.ErrorContext(r.Context(), "tile not readable", "path", r.URL.Path, "err", err)
		http.Error(w, "the tile is not readable now", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(data) // the client is gone: nobody to tell
}

func (l *Ledger) serveCheckpoint(w http.ResponseWriter, _ *http.Request) {
	cp := l.seq.latest.Load()
	if cp == nil {
		http.Error(w, "the log is empty", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(cp.Note) // the client is gone: nobody to tell
}

// entryBundle gives the leaves as they stand in the database.
func (l *Ledger) entryBundle(ctx context.Context, t tlog.Tile) ([]byte, error) {
	from, to := t.Leaves()
	leaves, err := l.store.leaves(ctx, from, to-from)
	if err != nil {
		return nil, err
	}
	if len(leaves) != t.Width {
		// Somebody took leaves out of the database. They are served as they are: whoever checks the log then names the entry.
		l.metrics.alarms.WithLabelValues("leaf_missing").Inc()
		l.log.ErrorContext(ctx, "leaves are missing", "bundle", t.N, "has", len(leaves), "of", t.Width)
	}
	if len(leaves) == 0 {
		return nil, nil // tlog makes no bundle of nothing
	}
	return tlog.EncodeBundle(leaves)
}
