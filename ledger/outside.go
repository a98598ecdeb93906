package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// outside asks others how far they have seen the log: the ledger's own repository, and the witnesses that the policy names.
type outside struct {
	store *store
	http  *http.Client
	cfg   Config
	vkeys []string // of the log
}

const askWitness = 5 * time.Second

// seen asks everybody. The repository must answer, and of the witnesses so many that no quorum is among the silent: whatever a quorum
// cosigned, somebody who answered has seen it.
func (o *outside) seen(ctx context.Context) ([]Sighting, error) {
	seen, err := o.atPDS(ctx)
	if err != nil {
		return nil, err
	}
	more, err := o.atWitnesses(ctx)
	return append(seen, more...), err
}

// atPDS reads from the ledger's own repository how far it was published: its newest checkpoint, and its newest receipt, which may be
// newer. It needs no session.
func (o *outside) atPDS(ctx context.Context) ([]Sighting, error) {
	var seen []Sighting
	note, _, err := o.newest(ctx, lexicons.LedgerCheckpoint)
	if err != nil {
		return nil, err
	}
	if note != "" {
		cp, _, err := tlog.OpenAny([]byte(note), o.vkeys...)
		if err != nil {
			return nil, fmt.Errorf("the newest checkpoint in the ledger's repository: %w", err)
		}
		seen = append(seen, Sighting{Source: "the ledger's repository", Size: cp.Size, Root: &cp.Root})
	}
	_, key, err := o.newest(ctx, lexicons.LedgerReceipt)
	if err != nil {
		return nil, err
	}
	if key != "" {
		seq, err := strconv.ParseInt(key, 10, 62)
		if err != nil {
			return nil, fmt.Errorf("the newest receipt in the ledger's repository: %w", err)
		}
		seen = append(seen, Sighting{Source: "a receipt in the ledger's repository", Size: seq + 1})
	}
	return seen, nil
}

// newest gives the note, if it has one, and the key of a collection's newest record. Keys are sizes and indexes in twelve digits.
func (o *outside) newest(ctx context.Context, coll string) (note, key string, err error) {
	var out struct {
		Records []struct {
			URI   string `json:"uri"`
			Value struct {
				Note string `json:"note"`
			} `json:"value"`
		} `json:"records"`
	}
	c := &xrpc.Client{Base: o.cfg.PDS, HTTP: o.http}
	params := url.Values{"repo": {o.cfg.DID.String()}, "collection": {coll}, "limit": {"1"}}
	if err := c.Query(ctx, "com.atproto.repo.listRecords", params, &out); err != nil {
		return "", "", fmt.Errorf("newest %s of the ledger's repository: %w", coll, err)
	}
	if len(out.Records) == 0 {
		return "", "", nil
	}
	r := out.Records[0]
	key, ok := strings.CutPrefix(r.URI, "at://"+o.cfg.DID.String()+"/"+coll+"/")
	if !ok {
		return "", "", fmt.Errorf("newest %s of the ledger's repository: %.200q", coll, r.URI)
	}
	return r.Value.Note, key, nil
}

// atWitnesses asks each witness that has an address. Those without come for checkpoints themselves and cannot be asked; what they
// cosigned stands at the ledger's repository.
func (o *outside) atWitnesses(ctx context.Context) ([]Sighting, error) {
	p, err := o.policy(ctx)
	if err != nil || p == nil {
		return nil, err
	}
	note, err := o.signedBefore(ctx)
	if err != nil || note == nil {
		return nil, err
	}
	var seen []Sighting
	var silent []string
	var why error
	for _, w := range p.Witnesses {
		if w.URL == "" {
			continue
		}
		size, err := o.sizeAt(ctx, w.URL, note)
		if err != nil {
			silent, why = append(silent, w.Key), errors.Join(why, fmt.Errorf("witness %s: %w", w.Name, err))
			continue
		}
		seen = append(seen, Sighting{Source: "witness " + w.Name, Size: size})
	}
	if len(silent) > 0 && p.Holds(silent...) {
		return nil, fmt.Errorf("so many witnesses are silent that they could be a quorum: %w", why)
	}
	return seen, nil
}

// policy is the newest one of the restored database.
func (o *outside) policy(ctx context.Context) (*tlog.Policy, error) {
	var text string
	err := o.store.pool.QueryRow(ctx, `select text from policy order by at desc limit 1`).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return tlog.ParsePolicy([]byte(text))
}

// signedBefore is a checkpoint of this log that was signed before the restore: nothing may be signed to ask a question.
func (o *outside) signedBefore(ctx context.Context) ([]byte, error) {
	var note string
	err := o.store.pool.QueryRow(ctx, `select note from checkpoint order by size desc limit 1`).Scan(&note)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("last kept checkpoint: %w", err)
	}
	return []byte(note), nil
}

// sizeAt asks a witness how far it has cosigned. C2SP tlog-witness has one way to ask: a checkpoint offered as if the witness had seen
// nothing is answered by 409 and the size it has; one that has truly seen nothing cosigns what was signed long ago.
func (o *outside) sizeAt(ctx context.Context, address string, note []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askWitness)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/add-checkpoint", bytes.NewReader(append([]byte("old 0\n\n"), note...)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	res, err := o.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxCosignBody))
	if err != nil {
		return 0, err
	}
	switch {
	case res.StatusCode == http.StatusConflict && res.Header.Get("Content-Type") == sizeMedia:
		size, err := strconv.ParseInt(strings.TrimSuffix(string(answer), "\n"), 10, 64)
		if err != nil || size < 0 {
			return 0, fmt.Errorf("size %.40q", answer)
		}
		return size, nil
	case res.StatusCode == http.StatusOK:
		return 0, nil
	}
	return 0, fmt.Errorf("answered %d: %.200q", res.StatusCode, answer)
}
