package ledger

import (
	"encoding/base64"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// receiptRecord is the copy of a mint or a burn for the network, as JSON of the data model.
func receiptRecord(e *entry.Entry, leafHash []byte) map[string]any {
	causes, revs := []any{}, []any{}
	for _, c := range e.Causes {
		causes = append(causes, map[string]any{"uri": c.URI, "cid": c.CID})
		if c.Rev != "" {
			revs = append(revs, c.Rev)
		}
	}
	r := map[string]any{
		"$type": lexicons.LedgerReceipt, "seq": e.Seq, "kind": string(e.Kind), "book": e.Book, "epoch": e.Epoch, "amount": e.Amount,
		"issuer": e.Org.String(), "day": e.Day, "leafHash": jsonBytes(leafHash), "causes": causes,
	}
	if len(revs) == len(causes) {
		r["causeRevs"] = revs
	}
	if e.Params != nil {
		r["parameterSet"] = map[string]any{"uri": e.Params.URI, "cid": e.Params.CID}
	}
	if e.Cap != nil {
		r["capState"] = map[string]any{"cap": e.Cap.Cap, "issuedBefore": e.Cap.Before}
	}
	if e.Kind == entry.KindMint {
		r["votes"] = e.Votes
		r["subject"] = map[string]any{
			"$type": "org.city-sync.defs#blindedSubject", "alg": "hmac-sha256-context-v1", "value": jsonBytes(e.Nullifier),
		}
	} else if e.Commitment != nil {
		r["subject"] = map[string]any{
			"$type": "org.city-sync.defs#commitment", "alg": "sha256-merkle-v1", "value": jsonBytes(e.Commitment.Value), "padded": e.Commitment.Padded,
		}
	}
	return r
}

func jsonBytes(b []byte) map[string]any {
	return map[string]any{"$bytes": base64.RawStdEncoding.EncodeToString(b)}
}
