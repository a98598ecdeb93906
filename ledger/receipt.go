package ledger

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// receiptRecord is the copy of an entry for the network, as JSON of the data model. basis is the entry that this one rests on, if any.
func receiptRecord(e, basis *entry.Entry, leafHash []byte) map[string]any {
	causes, revs := []any{}, []any{}
	from, params := e.ReceiptCauses(basis)
	for _, c := range from {
		causes = append(causes, map[string]any{"uri": c.URI, "cid": c.CID})
		if c.Rev != "" {
			revs = append(revs, c.Rev)
		}
	}
	r := map[string]any{
		"$type": lexicons.LedgerReceipt, "seq": e.Seq, "kind": e.Kind.Receipt(), "book": e.Book, "epoch": e.Epoch, "amount": e.Amount,
		"day": e.Day, "leafHash": jsonBytes(leafHash), "causes": causes,
	}
	if e.Org != "" {
		r["issuer"] = e.Org.String()
	}
	if len(revs) == len(causes) {
		r["causeRevs"] = revs
	}
	if params != nil {
		r["parameterSet"] = map[string]any{"uri": params.URI, "cid": params.CID}
	}
	if e.Cap != nil {
		r["capState"] = map[string]any{"cap": e.Cap.Cap, "issuedBefore": e.Cap.Before}
	}
	if e.Votes != 0 || e.Kind == entry.KindMint {
		r["votes"] = e.Votes
	}
	switch {
	case e.Kind == entry.KindMint:
		r["subject"] = map[string]any{
			"$type": "org.city-sync.defs#blindedSubject", "alg": "hmac-sha256-context-v1", "value": jsonBytes(e.Nullifier),
		}
	case e.Kind.Receipt() == entry.ReceiptBurn && e.Commitment != nil:
		r["subject"] = map[string]any{
			"$type": "org.city-sync.defs#commitment", "alg": "sha256-merkle-v1", "value": jsonBytes(e.Commitment.Value), "padded": e.Commitment.Padded,
		}
	}
	return r
}

// basis reads the entry that a receipt rests on; nil for one that rests on itself.
func (s *store) basis(ctx context.Context, e *entry.Entry) (*entry.Entry, error) {
	if seq, ok := e.Basis(); ok {
		var leaf []byte
		if err := s.pool.QueryRow(ctx, `select leaf from entry where seq = $1`, seq).Scan(&leaf); err != nil {
			return nil, fmt.Errorf("entry %d, on which %d rests: %w", seq, e.Seq, err)
		}
		return entry.Decode(leaf)
	}
	if e.Kind != entry.KindExpire {
		return nil, nil
	}
	rows, err := s.pool.Query(ctx, `select leaf from entry where kind = $1 and seq < $2 order by seq desc`, string(entry.KindEpochOpen), e.Seq)
	if err != nil {
		return nil, fmt.Errorf("epochs before entry %d: %w", e.Seq, err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("epochs before entry %d: %w", e.Seq, err)
	}
	for _, leaf := range leaves {
		open, err := entry.Decode(leaf)
		if err != nil {
			return nil, fmt.Errorf("epochs before entry %d: %w", e.Seq, err)
		}
		if open.Book == e.Book && open.Epoch == e.Epoch {
			return open, nil
		}
	}
	return nil, broken("entry %d expires credits of epoch %s of %s, which was not opened", e.Seq, e.Epoch, e.Book)
}

// receipt makes the receipt of an entry.
func (s *store) receipt(ctx context.Context, e *entry.Entry, leafHash []byte) (map[string]any, error) {
	basis, err := s.basis(ctx, e)
	if err != nil {
		return nil, err
	}
	return receiptRecord(e, basis, leafHash), nil
}

func jsonBytes(b []byte) map[string]any {
	return map[string]any{"$bytes": base64.RawStdEncoding.EncodeToString(b)}
}
