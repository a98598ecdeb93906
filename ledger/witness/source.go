package witness

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atdata"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"city-sync.org/citysync/ledger/tlog"
)

const (
	openingsPage = 1000
	maxAnswer    = 32 << 20
	nsid         = "org.city-sync.ledger."
)

// errServed means that what a log or a mirror serves is not what was signed: no proof of anything, and asked for again.
var errServed = errors.New("what is served is not what was signed")

// source is a place that serves a log: the ledger, or another witness's copy.
type source struct {
	base string
	http *http.Client
}

func (s *source) get(ctx context.Context, path string, max int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	return s.do(req, max)
}

func (s *source) do(req *http.Request, max int64) ([]byte, error) {
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", req.URL, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d: %.200q", req.URL, resp.StatusCode, body)
	}
	if int64(len(body)) > max {
		return nil, fmt.Errorf("%s: more than %d bytes", req.URL, max)
	}
	return body, nil
}

func (s *source) call(ctx context.Context, method string, in any, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/xrpc/"+nsid+method, strings.NewReader(string(raw)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	body, err := s.do(req, maxAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// bundle fetches entries.
func (s *source) bundle(ctx context.Context, t tlog.Tile) ([][]byte, error) {
	raw, err := s.get(ctx, t.Path(), tlog.MaxBundle)
	if err != nil {
		return nil, err
	}
	list, err := tlog.DecodeBundle(raw, t.Width)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errServed, err)
	}
	return list, nil
}

// nodes reads the stored hashes of a signed tree from a source; each is shown to be of that tree.
func (s *source) nodes(ctx context.Context, c tlog.Checkpoint) tlog.Nodes {
	r := &tileReader{ctx: ctx, source: s, cache: map[sumdb.Tile][]byte{}}
	inner := sumdb.TileHashReader(sumdb.Tree{N: c.Size, Hash: c.Root}, r)
	return sumdb.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes, err := inner.ReadHashes(indexes)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errAway) {
			err = fmt.Errorf("%w: %w", errServed, err)
		}
		return hashes, err
	})
}

var errAway = errors.New("tiles are not to be had")

// tileReader serves one advance: it keeps the tiles that it read, up to a bound.
type tileReader struct {
	ctx    context.Context
	source *source
	cache  map[sumdb.Tile][]byte
}

func (r *tileReader) Height() int { return 8 }

func (r *tileReader) ReadTiles(tiles []sumdb.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		if data, ok := r.cache[t]; ok {
			out[i] = data
			continue
		}
		data, err := r.source.get(r.ctx, tlog.Tile{Level: t.L, N: t.N, Width: t.W}.Path(), tlog.TileWidth*int64(len(tlog.Hash{})))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errAway, err)
		}
		out[i] = data
	}
	return out, nil
}

func (r *tileReader) SaveTiles(tiles []sumdb.Tile, data [][]byte) {
	if len(r.cache) > 256 {
		clear(r.cache)
	}
	for i, t := range tiles {
		r.cache[t] = data[i]
	}
}

// openings asks the ledger for what is sealed, from an entry on.
func (s *source) openings(ctx context.Context, key *tlog.Cosigner, from int64, now time.Time) (list []opening, next int64, err error) {
	body := map[string]any{
		"witness": key.VerifierKey(), "from": from, "limit": int64(openingsPage), "at": now.UTC().Format(time.RFC3339), "nonce": rand.Text(),
	}
	signed, err := atdata.MarshalCBOR(body)
	if err != nil {
		return nil, 0, err
	}
	sig, err := key.SignData(signed)
	if err != nil {
		return nil, 0, err
	}
	body["sig"] = map[string]any{"$bytes": base64.RawStdEncoding.EncodeToString(sig)}
	var out struct {
		Openings []struct {
			Seq    int64 `json:"seq"`
			Sealed *struct {
				Bytes string `json:"$bytes"`
			} `json:"sealed"`
		} `json:"openings"`
		Next int64 `json:"next"`
	}
	if err := s.call(ctx, "listOpenings", body, &out); err != nil {
		return nil, 0, err
	}
	for _, o := range out.Openings {
		one := opening{Seq: o.Seq}
		if o.Sealed != nil {
			if one.Sealed, err = base64.RawStdEncoding.DecodeString(o.Sealed.Bytes); err != nil {
				return nil, 0, fmt.Errorf("opening of entry %d: %w", o.Seq, err)
			}
		}
		list = append(list, one)
	}
	return list, out.Next, nil
}

func (s *source) json(ctx context.Context, path string, out any) error {
	raw, err := s.get(ctx, path, 1<<20)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
