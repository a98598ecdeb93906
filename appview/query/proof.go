package query

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/tlog"
)

// Proof gives the proof that the entry at seq stands in the log: under the cosigned checkpoint where that holds it, otherwise under the
// newest one. ErrNotFound says that there is no such entry.
func (db *DB) Proof(ctx context.Context, seq int64) (*tlog.ProofFile, error) {
	p := &tlog.ProofFile{Index: seq}
	err := pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var size int64
		var note string
		err := tx.QueryRow(ctx, `
select h.size, h.note, l.leaf from (
	select size, note, 0 as place from log_cosigned union all select size, note, 1 from log_head) h
join log_entry l on l.seq = @seq where h.size > @seq order by h.place limit 1`, pgx.NamedArgs{"seq": seq}).Scan(&size, &note, &p.Leaf)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		p.Checkpoint = []byte(note)
		p.Hashes, err = tlog.ProveInclusion(size, seq, nodes{ctx, tx})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("proof of entry %d: %w", seq, err)
	}
	return p, nil
}

// Policy is the text of the policy behind the cosigned checkpoint, or ErrNotFound while there is none.
func (db *DB) Policy(ctx context.Context) (string, error) {
	var text string
	err := db.pool.QueryRow(ctx, "select policy from log_cosigned").Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("policy: %w", ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("policy: %w", err)
	}
	return text, nil
}

// nodes reads the stored hashes of the tree.
type nodes struct {
	ctx context.Context // of the one transaction that reads
	tx  pgx.Tx
}

// ReadHashes implements tlog.Nodes.
func (n nodes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	rows, err := n.tx.Query(n.ctx, "select x.hash from unnest(@indexes::bigint[]) with ordinality k(idx, place) join log_node x using (idx) order by k.place",
		pgx.NamedArgs{"indexes": indexes})
	if err != nil {
		return nil, err
	}
	raw, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, err
	}
	if len(raw) != len(indexes) {
		return nil, fmt.Errorf("%d of %d stored hashes", len(raw), len(indexes))
	}
	out := make([]tlog.Hash, len(raw))
	for i, h := range raw {
		out[i] = tlog.Hash(h)
	}
	return out, nil
}
