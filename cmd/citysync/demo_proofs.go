package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	lexutil "github.com/bluesky-social/indigo/lex/util"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

const (
	provePatience  = 20 * time.Second // until witnesses cosign, and the AppView has read the log
	digestPatience = 11 * time.Second // until a digest of what was done stands, where one comes before midnight
	proveBytes     = 1 << 20
)

// readKey learns the log's public key as the city publishes it.
func (d *demo) readKey(ctx context.Context) error {
	rec, err := d.pds.get(ctx, d.city, lexicons.ActorCity, "self")
	if err != nil {
		return err
	}
	if rec == nil {
		return errors.New("the city has not published itself")
	}
	var self citysync.ActorCity
	if err := json.Unmarshal(rec.Value, &self); err != nil {
		return fmt.Errorf("%s: %w", rec.URI, err)
	}
	d.vkey = self.Log.Vkey
	return nil
}

func (d *demo) showProofs(ctx context.Context) error {
	for _, do := range []func(context.Context) error{d.showBalance, d.showCosigned, d.showReceipt} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// shareOf is one leaf of a balance with its way to the root, as the ledger gives it.
type shareView struct {
	Index int64            `json:"index"`
	Nonce lexutil.LexBytes `json:"nonce"`
	Sum   int64            `json:"sum"`
	Path  []struct {
		Hash lexutil.LexBytes `json:"hash"`
		Sum  int64            `json:"sum"`
	} `json:"path"`
}

func (v *shareView) share() entry.Share {
	s := entry.Share{Index: v.Index, Nonce: v.Nonce, Sum: v.Sum}
	for _, step := range v.Path {
		s.Path = append(s.Path, entry.SumStep{Hash: step.Hash, Sum: step.Sum})
	}
	return s
}

// showBalance checks that a resident's balance is counted in the digest that stands in the log.
func (d *demo) showBalance(ctx context.Context) error {
	const what = "a resident checks that their balance is counted"
	who := d.residents[0]
	has, err := d.balance(ctx, who)
	if err != nil {
		return err
	}
	var out struct {
		Seq, Sum, Height, Balance int64
		Account, Root             lexutil.LexBytes
		Shares                    []shareView
	}
	for since := time.Now(); ; {
		err := d.ledger.query(ctx, d.ledger.as(who.session), "org.city-sync.ledger.getBalanceProof", url.Values{"book": {city.Book}}, &out)
		if err == nil && out.Balance == has.Credits {
			break
		}
		if err != nil && !named(err, "NotFound") {
			return err
		}
		if time.Since(since) > digestPatience {
			d.show(what, map[string]any{"digest": "the next one comes after midnight"})
			return nil
		}
		if err := pause(ctx, 5*decidePoll); err != nil {
			return err
		}
	}
	if len(out.Shares) != 2 || len(out.Account) != len(entry.Account{}) {
		return errors.New("a balance has two shares, and an account sixteen bytes")
	}
	leaf, err := d.leaf(ctx, out.Seq)
	if err != nil {
		return err
	}
	if leaf.StateDigest == nil {
		return fmt.Errorf("entry %d is no digest", out.Seq)
	}
	for _, root := range leaf.StateDigest.Balances {
		if root.Book != city.Book {
			continue
		}
		n, err := entry.VerifyBalance(root, entry.Account(out.Account), [2]entry.Share{out.Shares[0].share(), out.Shares[1].share()})
		if err != nil {
			return err
		}
		if n != has.Credits {
			return fmt.Errorf("the proof is of %d credits, the resident has %d", n, has.Credits)
		}
		d.show(what, map[string]any{"balance": n, "sum": root.Sum, "digest": out.Seq})
		return nil
	}
	return fmt.Errorf("entry %d has no root of the book", out.Seq)
}

// leaf reads one entry from the public tiles.
func (d *demo) leaf(ctx context.Context, seq int64) (*entry.Entry, error) {
	raw, err := d.fetch(ctx, d.ready.Ledger+"/checkpoint")
	if err != nil {
		return nil, err
	}
	cp, err := tlog.Open(raw, d.vkey)
	if err != nil {
		return nil, err
	}
	t := tlog.Tiles(tlog.EntriesLevel, cp.Size)[seq/tlog.TileWidth]
	if raw, err = d.fetch(ctx, d.ready.Ledger+"/"+t.Path()); err != nil {
		return nil, err
	}
	list, err := tlog.DecodeBundle(raw, t.Width)
	if err != nil {
		return nil, err
	}
	return entry.Decode(list[seq%tlog.TileWidth])
}

// fetch reads a public file, from a service that may be away for a while.
func (d *demo) fetch(ctx context.Context, address string) ([]byte, error) {
	for since := time.Now(); ; {
		raw, err := d.fetchOnce(ctx, address)
		if err == nil || time.Since(since) > cityAway || pause(ctx, awayPause) != nil {
			return raw, err
		}
	}
}

func (d *demo) fetchOnce(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := d.web.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 32*proveBytes))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", address, res.Status)
	}
	return raw, err
}

// showCosigned waits until the witnesses have cosigned all that the demonstration did. Others may act meanwhile, so the log grows on.
func (d *demo) showCosigned(ctx context.Context) error {
	const what = "witnesses re-executed the log and cosigned it"
	all := int64(0) // that was there when it began to wait
	for since := time.Now(); ; {
		var cp struct {
			TreeSize int64
			Cosigned *struct {
				Size      int64
				Witnesses []string
				Quorum    bool
			}
		}
		if err := d.ledger.query(ctx, nil, "org.city-sync.ledger.getCheckpoint", nil, &cp); err != nil {
			return err
		}
		if all == 0 {
			all = cp.TreeSize
		}
		switch {
		case cp.Cosigned == nil:
			d.show(what, map[string]any{"witnesses": "the city has none"})
			return nil
		case cp.Cosigned.Quorum && cp.Cosigned.Size >= all:
			d.show(what, map[string]any{"size": cp.Cosigned.Size, "witnesses": strings.Join(cp.Cosigned.Witnesses, " ")})
			return nil
		}
		if time.Since(since) > provePatience {
			return fmt.Errorf("of %d entries %d are cosigned", all, cp.Cosigned.Size)
		}
		if err := pause(ctx, 5*decidePoll); err != nil {
			return err
		}
	}
}

// showReceipt takes a receipt's proof as anybody prints it, and checks it with no network.
func (d *demo) showReceipt(ctx context.Context) error {
	list, err := d.receipts(ctx, "mint")
	if err != nil || len(list) == 0 {
		return err
	}
	seq, err := strconv.ParseInt(rkeyOf(list[len(list)-1].URI), 10, 64)
	if err != nil {
		return err
	}
	var file []byte
	for since := time.Now(); ; {
		if file, err = d.fetchOnce(ctx, fmt.Sprintf("%s/receipts/%d/proof", d.ready.Web, seq)); err == nil {
			break
		}
		if time.Since(since) > cityAway || pause(ctx, 5*decidePoll) != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "citysync-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a copy of what is public
	cfg := verifyProofConfig{File: filepath.Join(dir, "receipt"+proofSuffix), VKey: d.vkey}
	if err := os.WriteFile(cfg.File, file, 0o600); err != nil {
		return err
	}
	r, err := verifyProof(cfg)
	if err != nil {
		return err
	}
	d.show("a printed receipt verifies with no network", map[string]any{"entry": r.Index, "size": r.Size, "committed": r.Committed})
	return nil
}
