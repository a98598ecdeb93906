package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

const (
	receiptsPerCommit = 200              // one signature, one event
	checkpointEvery   = 10 * time.Second // while the tree grows
	checkpointQuiet   = 2 * time.Second  // after it stopped growing
	publishRetry      = 5 * time.Second
)

// The publisher copies receipts and checkpoints into the ledger's own repository. The log is the authority and never waits for
// it: while the PDS is away it tries again. Keys are the entry's index and the tree's size, so a batch whose answer was lost is
// found again record by record; a record that differs from the log is an alarm and is never overwritten.
type publisher struct {
	store   *store
	seq     *sequencer
	session *session
	did     string
	clock   clock.Clock
	log     *slog.Logger
	metrics *metrics
}

func (p *publisher) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var (
		lastCheckpoint time.Time // none since the start: what a process before us left to publish does not wait
		lastGrowth     = p.clock.Now()
		failedAt       time.Time
	)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.seq.grown:
			lastGrowth = p.clock.Now()
		case <-tick.C:
		}
		now := p.clock.Now()
		if !failedAt.IsZero() && now.Sub(failedAt) < publishRetry {
			continue
		}
		force := now.Sub(lastCheckpoint) >= checkpointEvery || now.Sub(lastGrowth) >= checkpointQuiet
		did, err := p.step(ctx, force)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errBroken):
			return fmt.Errorf("publisher: %w", err)
		case err != nil && failedAt.IsZero():
			p.log.WarnContext(ctx, "receipts wait: the repository cannot be written", "err", err)
			failedAt = now
		case err != nil:
			failedAt = now
		default:
			failedAt = time.Time{}
			p.metrics.published.Set(seconds(p.clock.Now()))
		}
		if did {
			lastCheckpoint = p.clock.Now()
		}
	}
}

// step publishes every receipt that is due, then a checkpoint if one is. It tells whether it wrote a checkpoint.
func (p *publisher) step(ctx context.Context, force bool) (bool, error) {
	for {
		n, err := p.receipts(ctx)
		if err != nil {
			return false, err
		}
		if n == receiptsPerCommit {
			if _, err := p.checkpoint(ctx); err != nil {
				return false, err
			}
			continue
		}
		break
	}
	if !force {
		return false, nil
	}
	did, err := p.checkpoint(ctx)
	for n := 1; err == nil && n > 0; {
		n, err = p.reports(ctx)
	}
	return did, err
}

// receiptKinds are the entries of which receipts are published.
var receiptKinds = entry.WithReceipt("")

type record struct {
	coll, rkey string
	value      map[string]any
}

type applied struct {
	Results []struct {
		URI string `json:"uri"`
		CID string `json:"cid"`
	} `json:"results"`
}

// receipts writes up to one commit of receipts and returns how many.
func (p *publisher) receipts(ctx context.Context) (int, error) {
	const due = `select seq, leaf, hash from entry
		where kind = any($1) and seq > coalesce((select max(seq) from published_receipt), -1) order by seq limit $2`
	rows, err := p.store.pool.Query(ctx, due, receiptKinds, receiptsPerCommit)
	if err != nil {
		return 0, fmt.Errorf("receipts due: %w", err)
	}
	type row struct {
		Seq        int64
		Leaf, Hash []byte
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		return 0, fmt.Errorf("receipts due: %w", err)
	}
	if len(list) == 0 {
		return 0, nil
	}
	records := make([]record, len(list))
	for i, r := range list {
		e, err := entry.Decode(r.Leaf)
		if err != nil {
			return 0, broken("entry %d does not decode: %w", r.Seq, err)
		}
		value, err := p.store.receipt(ctx, e, r.Hash)
		if err != nil {
			return 0, err
		}
		records[i] = record{lexicons.LedgerReceipt, receiptKey(r.Seq), value}
	}
	crash.Point("ledger/receipts/before-write")
	written, err := p.write(ctx, records)
	if err != nil {
		return 0, err
	}
	crash.Point("ledger/receipts/after-write")
	out := make([][]any, len(list))
	for i, r := range list {
		out[i] = []any{r.Seq, written[i].uri, written[i].cid}
	}
	_, err = p.store.pool.CopyFrom(ctx, pgx.Identifier{"published_receipt"}, []string{"seq", "uri", "cid"}, pgx.CopyFromRows(out))
	if err != nil {
		return 0, fmt.Errorf("note published receipts: %w", err)
	}
	p.metrics.receipts.Add(float64(len(list)))
	return len(list), nil
}

func (p *publisher) checkpoint(ctx context.Context) (bool, error) {
	cp, err := p.nextCheckpoint(ctx)
	if err != nil || cp == nil {
		return false, err
	}
	value := map[string]any{
		"$type": lexicons.LedgerCheckpoint, "origin": p.did, "treeSize": cp.Size, "rootHash": jsonBytes(cp.Root[:]),
		"note": string(cp.Note), "at": cp.At.UTC().Format(time.RFC3339),
	}
	if err := p.balances(ctx, cp, value); err != nil {
		return false, err
	}
	var prevURI, prevCID string
	const last = `select uri, cid from published_checkpoint order by size desc limit 1`
	switch err := p.store.pool.QueryRow(ctx, last).Scan(&prevURI, &prevCID); {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return false, fmt.Errorf("last published checkpoint: %w", err)
	default:
		value["previous"] = map[string]any{"uri": prevURI, "cid": prevCID}
	}
	written, err := p.write(ctx, []record{{lexicons.LedgerCheckpoint, receiptKey(cp.Size), value}})
	if err != nil {
		return false, err
	}
	crash.Point("ledger/checkpoint/after-write")
	const note = `insert into published_checkpoint (size, uri, cid) values ($1, $2, $3)`
	if _, err := p.store.pool.Exec(ctx, note, cp.Size, written[0].uri, written[0].cid); err != nil {
		return false, fmt.Errorf("note published checkpoint: %w", err)
	}
	return true, nil
}

// balances adds to a checkpoint's record what its note says of the balances, and what they sum up to.
func (p *publisher) balances(ctx context.Context, cp *Checkpoint, value map[string]any) error {
	text, _, _ := strings.Cut(string(cp.Note), "\n\n")
	c, err := tlog.ParseCheckpoint(text + "\n")
	if err != nil {
		return broken("checkpoint %d: %w", cp.Size, err)
	}
	seq, hash, ok, err := c.Balances()
	if err != nil {
		return broken("checkpoint %d: %w", cp.Size, err)
	}
	if !ok {
		return nil
	}
	var leaf []byte
	if err := p.store.pool.QueryRow(ctx, `select leaf from entry where seq = $1`, seq).Scan(&leaf); err != nil {
		return fmt.Errorf("state digest %d: %w", seq, err)
	}
	e, err := entry.Decode(leaf)
	if err != nil || e.StateDigest == nil {
		return broken("entry %d is no state digest: %w", seq, err)
	}
	supply := []any{}
	for _, b := range e.StateDigest.Balances {
		supply = append(supply, map[string]any{"book": b.Book, "amount": b.Sum})
	}
	value["balancesRoot"], value["supply"] = jsonBytes(hash[:]), supply
	return nil
}

// nextCheckpoint fixes what the next record says before it is written, so that a crash between the two repeats the same record.
func (p *publisher) nextCheckpoint(ctx context.Context) (*Checkpoint, error) {
	var (
		cp   Checkpoint
		root []byte
		note string
	)
	const pending = `select size, root, note, at from checkpoint
		where size > coalesce((select max(size) from published_checkpoint), 0) order by size limit 1`
	err := p.store.pool.QueryRow(ctx, pending).Scan(&cp.Size, &root, &note, &cp.At)
	if err == nil {
		copy(cp.Root[:], root)
		cp.Note = []byte(note)
		return &cp, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("pending checkpoint: %w", err)
	}
	latest := p.seq.latest.Load()
	if latest == nil {
		return nil, nil
	}
	const insert = `insert into checkpoint (size, root, note, at) values ($1, $2, $3, $4) on conflict (size) do nothing`
	now := p.clock.Now().UTC().Truncate(time.Second)
	tag, err := p.store.pool.Exec(ctx, insert, latest.Size, latest.Root[:], string(latest.Note), now)
	if err != nil {
		return nil, fmt.Errorf("keep checkpoint %d: %w", latest.Size, err)
	}
	if tag.RowsAffected() == 0 {
		return nil, nil // published already: the tree did not grow
	}
	crash.Point("ledger/checkpoint/kept")
	return &Checkpoint{Size: latest.Size, Root: latest.Root, Note: latest.Note, At: now}, nil
}

type ref struct{ uri, cid string }

// write creates the records in one commit. If that is refused, some may stand already: each is looked up, and what is missing is written alone.
func (p *publisher) write(ctx context.Context, records []record) ([]ref, error) {
	refs, err := p.create(ctx, records)
	if err == nil {
		return refs, nil
	}
	var answer *xrpc.Error
	if !errors.As(err, &answer) || answer.Status >= 500 {
		return nil, err
	}
	refs = make([]ref, len(records))
	for i, r := range records {
		have, found, lookErr := p.existing(ctx, r)
		if lookErr != nil {
			return nil, lookErr
		}
		if !found {
			one, err := p.create(ctx, records[i:i+1])
			if err != nil {
				return nil, err
			}
			have = one[0]
		}
		refs[i] = have
	}
	return refs, nil
}

func (p *publisher) create(ctx context.Context, records []record) ([]ref, error) {
	writes := make([]map[string]any, len(records))
	for i, r := range records {
		writes[i] = map[string]any{
			"$type": "com.atproto.repo.applyWrites#create", "collection": r.coll, "rkey": r.rkey, "value": r.value,
		}
	}
	var out applied
	in := map[string]any{"repo": p.did, "validate": true, "writes": writes}
	if err := p.session.procedure(ctx, "com.atproto.repo.applyWrites", in, &out); err != nil {
		return nil, err
	}
	if len(out.Results) != len(records) {
		return nil, fmt.Errorf("applyWrites answered %d results for %d writes", len(out.Results), len(records))
	}
	refs := make([]ref, len(records))
	for i, r := range out.Results {
		refs[i] = ref{r.URI, r.CID}
	}
	return refs, nil
}

// existing looks for a record that an earlier, unanswered write left. One that says something else than the log is an alarm; it is
// counted, logged and kept as it is, since the log decides.
func (p *publisher) existing(ctx context.Context, r record) (ref, bool, error) {
	var out struct {
		URI   string `json:"uri"`
		CID   string `json:"cid"`
		Value struct {
			Note string `json:"note"`
		} `json:"value"`
	}
	params := url.Values{"repo": {p.did}, "collection": {r.coll}, "rkey": {r.rkey}}
	err := p.session.query(ctx, "com.atproto.repo.getRecord", params, &out)
	var answer *xrpc.Error
	if errors.As(err, &answer) && (answer.Name == "RecordNotFound" || answer.Status == 404) {
		return ref{}, false, nil
	}
	if err != nil {
		return ref{}, false, err
	}
	want, err := recordCID(r.value)
	if err != nil {
		return ref{}, false, broken("record %s: %w", r.rkey, err)
	}
	// A log that was restored and caught up has the checkpoint again and not the time at which it was published.
	same := r.coll == lexicons.LedgerCheckpoint && out.Value.Note != "" && out.Value.Note == r.value["note"]
	if out.CID != want && !same {
		p.metrics.alarms.WithLabelValues("record_differs").Inc()
		p.log.ErrorContext(ctx, "a published record differs from the log", "uri", out.URI, "has", out.CID, "want", want)
	}
	return ref{out.URI, out.CID}, true, nil
}

func receiptKey(n int64) string { return fmt.Sprintf("%012d", n) }

func recordCID(value map[string]any) (string, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	cbor, err := lexicons.EncodeJSONToCBOR(raw)
	if err != nil {
		return "", err
	}
	return repo.CIDForCBOR(cbor).String(), nil
}
