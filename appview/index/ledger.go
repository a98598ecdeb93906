package index

import "city-sync.org/citysync/lexicons/citysync"

func receiptRow(cbor []byte) (row, error) {
	r, err := decode[citysync.LedgerReceipt](cbor)
	if err != nil {
		return nil, err
	}
	var votes int64
	if r.Votes != nil {
		votes = *r.Votes
	}
	return row{"seq": r.Seq, "kind": r.Kind, "book": r.Book, "epoch": r.Epoch, "amount": r.Amount, "votes": votes, "issuer": text(r.Issuer), "day": r.Day}, nil
}

func checkpointRow(cbor []byte) (row, error) {
	c, err := decode[citysync.LedgerCheckpoint](cbor)
	if err != nil {
		return nil, err
	}
	at, err := stamp(c.At)
	if err != nil {
		return nil, err
	}
	return row{"size": c.TreeSize, "root": []byte(c.RootHash), "at": at, "note": c.Note}, nil
}

func epochReportRow(cbor []byte) (row, error) {
	r, err := decode[citysync.LedgerEpochReport](cbor)
	if err != nil {
		return nil, err
	}
	out := row{"book": r.Book, "epoch": r.Epoch, "supersedes": nil}
	if r.Supersedes != nil {
		out["supersedes"] = r.Supersedes.Uri
	}
	return out, nil
}

func cosignatureRow(cbor []byte) (row, error) {
	c, err := decode[citysync.LedgerCosignature](cbor)
	if err != nil {
		return nil, err
	}
	at, err := stamp(c.At)
	if err != nil {
		return nil, err
	}
	return row{"checkpoint_uri": c.Checkpoint.Uri, "origin": c.Origin, "size": c.TreeSize, "signature": c.Signature, "at": at}, nil
}
