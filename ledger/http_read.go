package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}

// explain says whether a public record counts. Of who did a task that is not public it never says what would join a claim to its mint.
func (l *Ledger) explain(c *xrpc.Call) (any, error) {
	uri, err := c.Required("uri")
	if err != nil {
		return nil, err
	}
	if _, err := syntax.ParseATURI(uri); err != nil {
		return nil, xrpc.InvalidRequest("uri: %v", err)
	}
	s, err := getStatus(c.Context(), l.store.pool, uri, c.Param("cid"))
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, xrpc.Errorf(http.StatusNotFound, "NotSeen", "the ledger has seen no such record")
	}
	out := map[string]any{"uri": s.URI, "cid": s.CID, "status": s.Status, "at": stamp(s.At)}
	if s.Status == statusWaiting && len(s.Wants) > 0 {
		out["waitingFor"] = s.Wants
	}
	if s.Name != "" {
		out["error"] = s.Name
	}
	if s.Message != "" {
		out["message"] = s.Message
	}
	if s.Figures != "" {
		out["figures"] = json.RawMessage(s.Figures)
	}
	if s.Seq != nil {
		out["seq"] = *s.Seq
	}
	if strings.Contains(s.URI, "/"+lexicons.GovDispute+"/") && s.Status == statusAccepted {
		if err := l.disputeView(c.Context(), s.URI, out); err != nil {
			return nil, err
		}
	}
	return l.finality(out), nil
}

// serveEvidence gives the signed commit, path and record that the ledger relied on. It gives none of a person's records: no entry cites
// them, and what a person deletes must not stay readable here.
func (l *Ledger) serveEvidence(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(r.PathValue("name"), ".car")
	if !ok || len(name) > 128 {
		http.Error(w, "no such evidence", http.StatusNotFound)
		return
	}
	id, err := cid.Decode(name)
	if err != nil {
		http.Error(w, "no such evidence", http.StatusNotFound)
		return
	}
	did := r.URL.Query().Get("did")
	if did != "" {
		if _, err := syntax.ParseDID(did); err != nil {
			http.Error(w, "did is no DID", http.StatusBadRequest)
			return
		}
	}
	car, err := l.evidence(r.Context(), id.String(), did)
	if err != nil {
		l.log.ErrorContext(r.Context(), "evidence not readable", "err", err)
		http.Error(w, "the evidence is not readable now", http.StatusInternalServerError)
		return
	}
	if car == nil {
		http.Error(w, "no such evidence", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/vnd.ipld.car")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(car) // the client is gone: nobody to tell
}

// evidence returns the oldest of a version by the city or by one that it ever accredited, nil when there is none.
func (l *Ledger) evidence(ctx context.Context, id, did string) ([]byte, error) {
	const authors = `select distinct did from fact where cid = $1 and ($2 = '' or did = $2) and coll <> all($3) limit 20`
	rows, err := l.store.pool.Query(ctx, authors, id, did, []string{lexicons.WorkClaim, lexicons.WorkProof})
	if err != nil {
		return nil, fmt.Errorf("authors of %s: %w", id, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("authors of %s: %w", id, err)
	}
	keys := make([]string, 0, 2*len(found)) // an accreditation's key is the organization's DID, or stands for it
	for _, org := range found {
		keys = append(keys, org, lexicons.Key(lexicons.RegistryAccreditation, org))
	}
	const known = `select rkey from fact where did = $1 and coll = $2 and rkey = any($3)`
	rows, err = l.store.pool.Query(ctx, known, l.cfg.City.String(), lexicons.RegistryAccreditation, keys)
	if err != nil {
		return nil, fmt.Errorf("accreditations behind %s: %w", id, err)
	}
	accredited, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("accreditations behind %s: %w", id, err)
	}
	found = slices.DeleteFunc(found, func(org string) bool {
		return org != l.cfg.City.String() && !slices.Contains(accredited, org) &&
			!slices.Contains(accredited, lexicons.Key(lexicons.RegistryAccreditation, org))
	})
	var car []byte
	const find = `select evidence from fact where cid = $1 and did = any($2) order by ord limit 1`
	err = l.store.pool.QueryRow(ctx, find, id, found).Scan(&car)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("evidence of %s: %w", id, err)
	}
	return car, nil
}

const receiptColumns = `e.seq, e.leaf, e.hash, coalesce(p.uri, '') as uri, coalesce(p.cid, '') as cid`

type receiptRow struct {
	Seq        int64
	Leaf, Hash []byte
	URI, CID   string
}

// view is the receipt as the repository has it or will have it: the address of one not yet published is known beforehand.
func (l *Ledger) view(ctx context.Context, r *receiptRow) (map[string]any, error) {
	e, err := entry.Decode(r.Leaf)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", r.Seq, err)
	}
	record, err := l.store.receipt(ctx, e, r.Hash)
	if err != nil {
		return nil, err
	}
	uri, id := r.URI, r.CID
	if uri == "" {
		uri = "at://" + l.cfg.DID.String() + "/org.city-sync.ledger.receipt/" + receiptKey(r.Seq)
		if id, err = recordCID(record); err != nil {
			return nil, fmt.Errorf("receipt %d: %w", r.Seq, err)
		}
	}
	return map[string]any{"uri": uri, "cid": id, "record": record}, nil
}

func (l *Ledger) getReceipt(c *xrpc.Call) (any, error) {
	seq, err := c.Int("seq", -1, 0, 1<<40)
	if err != nil {
		return nil, err
	}
	const one = `select ` + receiptColumns + ` from entry e left join published_receipt p using (seq)
		where e.seq = $1 and e.kind = any($2)`
	rows, err := l.store.pool.Query(c.Context(), one, seq, entry.WithReceipt(""))
	if err != nil {
		return nil, fmt.Errorf("receipt %d: %w", seq, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[receiptRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notFound("entry %d made no receipt", seq)
	}
	if err != nil {
		return nil, fmt.Errorf("receipt %d: %w", seq, err)
	}
	v, err := l.view(c.Context(), &r)
	if err != nil {
		return nil, err
	}
	return l.finality(v), nil
}

// listReceipts looks through at most a window of the log for one answer, so that a rare issuer costs no full scan.
func (l *Ledger) listReceipts(c *xrpc.Call) (any, error) {
	limit, err := c.Int("limit", 50, 1, 100)
	if err != nil {
		return nil, err
	}
	before, err := cursor(c)
	if err != nil {
		return nil, err
	}
	if before == 0 {
		before = 1 << 60
	}
	kinds := entry.WithReceipt(c.Param("kind"))
	const window = 2000
	const list = `select ` + receiptColumns + ` from entry e left join published_receipt p using (seq)
		where e.kind = any($1) and e.seq < $2 order by e.seq desc limit $3`
	issuer, epoch := c.Param("issuer"), c.Param("epoch")
	n := limit + 1
	if issuer != "" || epoch != "" {
		n = window
	}
	rows, err := l.store.pool.Query(c.Context(), list, kinds, before, n)
	if err != nil {
		return nil, fmt.Errorf("receipts: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[receiptRow])
	if err != nil {
		return nil, fmt.Errorf("receipts: %w", err)
	}
	views := []map[string]any{}
	for i := range found {
		if int64(len(views)) == limit {
			return map[string]any{"receipts": views, "cursor": strconv.FormatInt(found[i-1].Seq, 10)}, nil
		}
		e, err := entry.Decode(found[i].Leaf)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", found[i].Seq, err)
		}
		if (issuer != "" && e.Org.String() != issuer) || (epoch != "" && e.Epoch != epoch) {
			continue
		}
		v, err := l.view(c.Context(), &found[i])
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	out := map[string]any{"receipts": views}
	if int64(len(found)) == n {
		out["cursor"] = strconv.FormatInt(found[len(found)-1].Seq, 10)
	}
	return out, nil
}

// cursor reads a cursor that is a positive number; 0 means none was given.
func cursor(c *xrpc.Call) (int64, error) {
	raw := c.Param("cursor")
	if raw == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil || n <= 0 {
		return 0, xrpc.Errorf(http.StatusBadRequest, "BadCursor", "the cursor is not one that this method gave")
	}
	return n, nil
}

// listClaims shows an issuer the claims of its own tasks, with the tokens that its verifications cite.
func (l *Ledger) listClaims(c *xrpc.Call) (any, error) {
	issuer, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	limit, err := c.Int("limit", 50, 1, 100)
	if err != nil {
		return nil, err
	}
	after, err := cursor(c)
	if err != nil {
		return nil, err
	}
	const list = `select ord, uri, cid, task_uri, task_cid, shift, token, status, proof, sealed, proof_commitment, proof_padded, claimed_at from claim
		where author = $1 and ord > $3 and status <> 'withdrawn'
		  and ($2 = '' or task = $2 or task = (select first from task_version where uri = $2 limit 1)) order by ord limit $4`
	rows, err := l.store.pool.Query(c.Context(), list, issuer.String(), c.Param("task"), after, limit+1)
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[claimView])
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	out := map[string]any{}
	if int64(len(found)) > limit {
		found = found[:limit]
		out["cursor"] = strconv.FormatInt(found[limit-1].Ord, 10)
	}
	views := make([]map[string]any, len(found))
	for i := range found {
		views[i] = found[i].view()
	}
	out["claims"] = views
	return out, nil
}
