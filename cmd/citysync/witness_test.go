package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/witness"
	"city-sync.org/citysync/lexicons"
)

// An institution's witness writes what it cosigned into the institution's own repository, at a PDS like any other, once the ledger has
// published the checkpoint: signed words of its own, that anybody can hold against the ledger's record.
func TestWitnessPublishesItsCosignaturesInItsOwnRepository(t *testing.T) {
	t.Parallel()
	base := reachable(t)
	c := startTown(t, devConfig{
		Data: filepath.Join(base, "data"), City: writeTown(t), CitySet: true, Calendar: calendarNow, ReadyFile: filepath.Join(base, "ready.json"),
	})
	d := newDemo(c.ready, minResidents, 1, newProgress(io.Discard))
	require.NoError(t, d.look(t.Context()))
	require.NoError(t, d.readKey(t.Context()))
	i := slices.IndexFunc(c.ready.Accounts, func(a readyAccount) bool { return a.ID == "LIB" })
	require.GreaterOrEqual(t, i, 0)
	library := c.ready.Accounts[i]
	key, err := tlog.NewCosigner(strings.NewReader(strings.Repeat("w", 32)), "library.test")
	require.NoError(t, err)
	w, err := witness.New(t.Context(), witness.Config{
		Folder: t.TempDir(), LogURL: c.ready.Ledger, Origin: c.ready.LedgerDID, LogKeys: []string{d.vkey}, Every: 50 * time.Millisecond,
		PDS: c.ready.PDS, Identifier: library.Handle,
	}, witness.Deps{
		Key: key, HTTP: httpClient(), Clock: clock.System(), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Password: library.Password,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() { cancel(); assert.NoError(t, <-ended) })

	// The ledger brings what it has published.
	type published struct {
		URI, CID string
		Value    struct {
			TreeSize   int64
			Note       string
			Checkpoint struct{ URI, CID string }
			Origin     string
			Signature  string
		}
	}
	list := func(did, collection string) []published {
		var out struct{ Records []published }
		params := url.Values{"repo": {did}, "collection": {collection}, "limit": {"20"}}
		require.NoError(t, newPDSClient(endpoint{base: c.ready.PDS, http: httpClient()}).query(t.Context(), nil, "com.atproto.repo.listRecords", params, &out))
		return out.Records
	}
	var of published
	require.Eventually(t, func() bool {
		for _, r := range list(c.ready.LedgerDID, lexicons.LedgerCheckpoint) {
			if r.Value.TreeSize > of.Value.TreeSize {
				of = r
			}
		}
		return of.URI != ""
	}, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/add-checkpoint", strings.NewReader("old 0\n\n"+of.Value.Note)))
		return rec.Code == http.StatusOK
	}, time.Minute, 50*time.Millisecond)

	var own []published
	require.Eventually(t, func() bool { own = list(library.DID, lexicons.LedgerCosignature); return len(own) > 0 }, time.Minute, 50*time.Millisecond)
	require.Len(t, own, 1)
	assert.Equal(t, "at://"+library.DID+"/"+lexicons.LedgerCosignature+"/"+fmt.Sprintf("%012d", of.Value.TreeSize), own[0].URI)
	assert.Equal(t, [2]string{of.URI, of.CID}, [2]string{own[0].Value.Checkpoint.URI, own[0].Value.Checkpoint.CID})
	assert.Equal(t, c.ready.LedgerDID, own[0].Value.Origin)
	text, err := tlog.NoteText([]byte(of.Value.Note))
	require.NoError(t, err)
	at, err := tlog.CheckCosignature(own[0].Value.Signature, text, w.VerifierKey())
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), at.At, time.Hour)
	_, err = syntax.ParseCID(own[0].CID)
	require.NoError(t, err)
}
