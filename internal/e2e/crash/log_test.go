//go:build crash

package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
)

// watcher keeps every checkpoint that it was served.
type watcher struct {
	ledger string
	vkey   string
	roots  map[int64]tlog.Hash
	size   atomic.Int64 // of the last one
}

func newWatcher(t *testing.T, ledger string) *watcher {
	t.Helper()
	status, raw, err := get(t.Context(), ledger+"/.well-known/citysync.json")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	var told struct {
		Log struct {
			VKey string `json:"vkey"`
		} `json:"log"`
	}
	require.NoError(t, json.Unmarshal(raw, &told))
	return &watcher{ledger: ledger, vkey: told.Log.VKey, roots: map[int64]tlog.Hash{}}
}

// run asks until ctx ends; an error is a checkpoint that contradicts an earlier one.
func (w *watcher) run(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last int64
	for {
		if status, raw, err := get(ctx, w.ledger+"/checkpoint"); err == nil && status == http.StatusOK {
			cp, err := tlog.Open(raw, w.vkey)
			if err != nil {
				return fmt.Errorf("checkpoint: %w", err)
			}
			if have, seen := w.roots[cp.Size]; seen && have != cp.Root {
				return fmt.Errorf("two checkpoints of size %d: %s and %s", cp.Size, have, cp.Root)
			}
			if cp.Size < last {
				return fmt.Errorf("the log went back from %d to %d", last, cp.Size)
			}
			w.roots[cp.Size], last = cp.Root, cp.Size
			w.size.Store(last)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// check holds the whole log as it is now against all that was served, and looks for anything done twice.
func (w *watcher) check(t *testing.T) (mints, burns, receipts int, tills map[string][]int64) {
	t.Helper()
	status, raw, err := get(t.Context(), w.ledger+"/checkpoint")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	head, err := tlog.Open(raw, w.vkey)
	require.NoError(t, err)
	tree, err := tlog.NewTree(0, nil)
	require.NoError(t, err)
	tills = map[string][]int64{} // by key
	minted, causes := map[string]int64{}, map[string]int64{}
	for _, tile := range tlog.Tiles(tlog.EntriesLevel, head.Size) {
		status, raw, err := get(t.Context(), w.ledger+"/"+tile.Path())
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, "%s", tile.Path())
		leaves, err := tlog.DecodeBundle(raw, tile.Width)
		require.NoError(t, err)
		for _, leaf := range leaves {
			require.NoError(t, tree.Append(leaf))
			e, err := entry.Decode(leaf)
			require.NoError(t, err)
			if e.Kind.Receipt() != "" {
				receipts++
			}
			switch e.Kind {
			case entry.KindBind:
				if e.Bind.What == entry.BindTill {
					tills[e.Bind.Key] = append(tills[e.Bind.Key], e.Seq)
				}
			case entry.KindMint:
				mints++
				if first, twice := minted[string(e.Nullifier)]; twice {
					assert.Fail(t, "minted twice", "entries %d and %d", first, e.Seq)
				}
				minted[string(e.Nullifier)] = e.Seq
				for _, c := range e.Causes {
					if first, twice := causes[c.URI]; twice && len(e.Causes) == 1 {
						assert.Fail(t, "minted twice", "entries %d and %d for %s", first, e.Seq, c.URI)
					}
					causes[c.URI] = e.Seq
				}
			case entry.KindBurn, entry.KindCapture:
				burns++
			}
		}
	}
	require.Equal(t, head.Size, tree.Size())
	root, err := tree.Root(head.Size)
	require.NoError(t, err)
	require.Equal(t, head.Root, root)
	for size, root := range w.roots {
		proof, err := tlog.ProveConsistency(head.Size, size, tree)
		require.NoError(t, err)
		assert.NoError(t, tlog.CheckConsistency(proof, head.Size, head.Root, size, root), "the checkpoint of size %d that was served", size)
	}
	return mints, burns, receipts, tills
}

// published counts a collection of the ledger's own repository.
func published(t *testing.T, pds, did, collection string) int {
	t.Helper()
	n, cursor := 0, ""
	for {
		var page struct {
			Records []json.RawMessage `json:"records"`
			Cursor  string            `json:"cursor"`
		}
		params := url.Values{"repo": {did}, "collection": {collection}, "limit": {"100"}, "cursor": {cursor}}
		if cursor == "" {
			params.Del("cursor")
		}
		require.NoError(t, (&xrpc.Client{Base: pds}).Query(t.Context(), "com.atproto.repo.listRecords", params, &page))
		n += len(page.Records)
		if page.Cursor == "" || page.Cursor == cursor {
			return n
		}
		cursor = page.Cursor
	}
}
