package outside_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

// The running city, as its ready file tells it.
type city struct {
	PDS, Ledger, LedgerDID string

	City struct{ DID string }
}

func running(t *testing.T) (*city, note.Verifier) {
	t.Helper()
	path := os.Getenv("OUTSIDE_READY_FILE")
	require.NotEmpty(t, path, "OUTSIDE_READY_FILE names the ready file of a running city; make outside starts one")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var c city
	require.NoError(t, json.Unmarshal(raw, &c))
	var self struct {
		Value struct {
			Log struct{ Origin, VKey string }
		}
	}
	c.read(t, "com.atproto.repo.getRecord", url.Values{"repo": {c.City.DID}, "collection": {"org.city-sync.actor.city"}, "rkey": {"self"}}, &self)
	require.Equal(t, c.LedgerDID, self.Value.Log.Origin)
	v, err := note.NewVerifier(self.Value.Log.VKey)
	require.NoError(t, err)
	return &c, v
}

func (c *city) read(t *testing.T, method string, params url.Values, out any) {
	t.Helper()
	res, err := http.Get(c.PDS + "/xrpc/" + method + "?" + params.Encode())
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", raw)
	require.NoError(t, json.Unmarshal(raw, out))
}

func fetcher(t *testing.T, base string) *client.HTTPFetcher {
	t.Helper()
	u, err := url.Parse(base + "/")
	require.NoError(t, err)
	f, err := client.NewHTTPFetcher(u, http.DefaultClient)
	require.NoError(t, err)
	return f
}

// leafHashes reads a bundle as Tessera's own logs are read.
func leafHashes(raw []byte) ([][]byte, error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(raw); err != nil {
		return nil, err
	}
	out := make([][]byte, len(b.Entries))
	for i, e := range b.Entries {
		out[i] = rfc6962.DefaultHasher.HashLeaf(e)
	}
	return out, nil
}

func (c *city) check(t *testing.T, base string, v note.Verifier) error {
	t.Helper()
	return fsck.New(c.LedgerDID, v, fetcher(t, base), leafHashes, fsck.Opts{N: 4}).Check(t.Context())
}

func TestTesserasFsckAcceptsTheLog(t *testing.T) {
	c, v := running(t)
	require.NoError(t, c.check(t, c.Ledger, v))
}

// It goes red on one flipped bit in whatever it reads, so it reads what it says.
func TestTesserasFsckRefusesOneFlippedBit(t *testing.T) {
	c, v := running(t)
	cp, _, _, err := client.FetchCheckpoint(t.Context(), fetcher(t, c.Ledger).ReadCheckpoint, v, c.LedgerDID)
	require.NoError(t, err)
	require.Greater(t, cp.Size, uint64(256), "a log of less than one full tile shows less")
	for _, path := range []string{"/checkpoint", "/tile/entries/000", "/tile/entries/001", "/tile/0/000", "/tile/0/001", "/tile/1/000"} {
		flipped := 0
		srv := httptest.NewServer(flipping(t, c.Ledger, path, &flipped))
		assert.Error(t, c.check(t, srv.URL, v), path)
		assert.NotZero(t, flipped, "nobody read %s", path)
		srv.Close()
	}
}

// flipping passes the log on with one bit of one answer changed.
func flipping(t *testing.T, base, prefix string, flipped *int) http.Handler {
	t.Helper()
	u, err := url.Parse(base)
	require.NoError(t, err)
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) },
		ModifyResponse: func(res *http.Response) error {
			if !strings.HasPrefix(res.Request.URL.Path, prefix) || res.StatusCode != http.StatusOK {
				return nil
			}
			raw, err := io.ReadAll(res.Body)
			if err != nil {
				return err
			}
			raw[len(raw)/2] ^= 1
			*flipped++
			res.Body = io.NopCloser(bytes.NewReader(raw))
			return nil
		},
	}
}

// Every checkpoint that the ledger published continues the one before: Tessera's client proves it from the tiles alone.
func TestTesserasClientFollowsTheLogThroughItsPublishedCheckpoints(t *testing.T) {
	c, v := running(t)
	var page struct {
		Records []struct {
			Value struct {
				Note     string
				TreeSize uint64
			}
		}
	}
	params := url.Values{"repo": {c.LedgerDID}, "collection": {"org.city-sync.ledger.checkpoint"}, "limit": {"100"}, "reverse": {"true"}}
	c.read(t, "com.atproto.repo.listRecords", params, &page)
	require.NotEmpty(t, page.Records)
	f := fetcher(t, c.Ledger)
	current := client.UnilateralConsensus(f.ReadCheckpoint)
	for _, r := range page.Records {
		tracker, err := client.NewLogStateTracker(t.Context(), f.ReadTile, []byte(r.Value.Note), v, c.LedgerDID, current)
		require.NoError(t, err, "checkpoint %d", r.Value.TreeSize)
		_, _, _, err = tracker.Update(t.Context())
		require.NoError(t, err, "checkpoint %d", r.Value.TreeSize)
		require.GreaterOrEqual(t, tracker.Latest().Size, r.Value.TreeSize)
	}
}

// The ledger's own proofs and those that Tessera's client builds from the tiles are the same, and hold.
func TestTesserasClientAndTheLedgerGiveTheSameProofs(t *testing.T) {
	c, v := running(t)
	f := fetcher(t, c.Ledger)
	cp, _, _, err := client.FetchCheckpoint(t.Context(), f.ReadCheckpoint, v, c.LedgerDID)
	require.NoError(t, err)
	builder, err := client.NewProofBuilder(t.Context(), cp.Size, f.ReadTile)
	require.NoError(t, err)
	hashes, err := client.FetchLeafHashes(t.Context(), f.ReadTile, 0, cp.Size, cp.Size)
	require.NoError(t, err)
	require.Len(t, hashes, int(cp.Size))
	for i := uint64(0); i < cp.Size; i += 1 + cp.Size/50 {
		p, err := builder.InclusionProof(t.Context(), i)
		require.NoError(t, err)
		require.NoError(t, proof.VerifyInclusion(rfc6962.DefaultHasher, i, cp.Size, hashes[i], p, cp.Hash))
		res, err := http.Get(c.Ledger + "/xrpc/org.city-sync.ledger.getInclusionProof?" + url.Values{"seq": {fmt.Sprint(i)}, "treeSize": {fmt.Sprint(cp.Size)}}.Encode())
		require.NoError(t, err)
		var ours struct{ Hashes [][]byte }
		require.NoError(t, json.NewDecoder(res.Body).Decode(&ours))
		require.NoError(t, res.Body.Close())
		require.Equal(t, p, ours.Hashes, "entry %d", i)
	}
}
