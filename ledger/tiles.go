package ledger

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

// serveTile answers /tile/<L>/<N>[.p/<W>] and /tile/entries/<N>[.p/<W>] as C2SP tlog-tiles writes them.
func (l *Ledger) serveTile(w http.ResponseWriter, r *http.Request) {
	t, err := parseTile(r.URL.Path)
	if err != nil {
		http.Error(w, "no such tile", http.StatusNotFound)
		return
	}
	size := l.seq.log.size()
	if !tileCommitted(t, size) {
		http.Error(w, "the log has not grown this far", http.StatusNotFound)
		return
	}
	var data []byte
	if t.L == -1 {
		data, err = l.entryBundle(r, t)
	} else {
		data, err = tlog.ReadTileData(t, l.seq.log)
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

// parseTile reads our path as x/mod's: there the height stands before the level and entries are called data.
func parseTile(path string) (tlog.Tile, error) {
	rest, ok := strings.CutPrefix(path, "/tile/")
	if !ok || len(rest) > 100 {
		return tlog.Tile{}, fmt.Errorf("%q is no tile path", path)
	}
	if entries, ok := strings.CutPrefix(rest, "entries/"); ok {
		rest = "data/" + entries
	} else if strings.HasPrefix(rest, "data/") {
		return tlog.Tile{}, fmt.Errorf("%q is no tile path", path)
	}
	return tlog.ParseTilePath("tile/" + strconv.Itoa(tileHeight) + "/" + rest)
}

func tileCommitted(t tlog.Tile, size int64) bool {
	level := max(t.L, 0)
	if level > 6 || t.N > 1<<40 {
		return false
	}
	return t.N<<tileHeight+int64(t.W) <= size>>(tileHeight*level)
}

// entryBundle is the leaves one after the other, each after its length in two bytes.
func (l *Ledger) entryBundle(r *http.Request, t tlog.Tile) ([]byte, error) {
	leaves, err := l.store.leaves(r.Context(), t.N<<tileHeight, int64(t.W))
	if err != nil {
		return nil, err
	}
	if len(leaves) != t.W {
		// Somebody took leaves out of the database. They are served as they are: whoever checks the log then names the entry.
		l.metrics.alarms.WithLabelValues("leaf_missing").Inc()
		l.log.ErrorContext(r.Context(), "leaves are missing", "bundle", t.N, "has", len(leaves), "of", t.W)
	}
	var out []byte
	for _, leaf := range leaves { // at most 60 KiB each, by the table's check
		out = binary.BigEndian.AppendUint16(out, uint16(len(leaf)))
		out = append(out, leaf...)
	}
	return out, nil
}
