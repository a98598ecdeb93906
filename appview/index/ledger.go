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
	return row{"size": c.TreeSize, "root": []byte(c.RootHash), "at": at}, nil
}
