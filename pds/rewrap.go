package pds

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sealedColumns are all that is stored sealed, and the label each row's value is bound to.
var sealedColumns = []struct {
	table, key, column string
	label              func(key string) string
}{
	{"account", "did", "signing_key", sameLabel},
	{"signup", "handle", "signing_key", nil}, // bound to the row's did
	{"key_change", "did", "next_key", sameLabel},
	{"second_factor", "owner", "secret", totpLabel},
}

func sameLabel(key string) string { return key }

const rewrapRows = 200

// Rewrap seals every data key under the first of the master keys; the others open what was sealed before. Servers go on meanwhile: a row that one of
// them changes is left to it. It answers how many values it sealed anew; a run that answers none shows that the other keys are needed no more.
func Rewrap(ctx context.Context, pool *pgxpool.Pool, masters ...[]byte) (int, error) {
	seal, err := newSealer(masters...)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, c := range sealedColumns {
		label := c.key
		if c.label == nil {
			label = "did"
		}
		list := fmt.Sprintf(`select %s, %s, %s from %s where %s > $1 order by %s limit $2`, c.key, label, c.column, c.table, c.key, c.key)
		set := fmt.Sprintf(`update %s set %s = $3 where %s = $1 and %s = $2`, c.table, c.column, c.key, c.column)
		for after := ""; ; {
			type row struct {
				Key, Label string
				Sealed     []byte
			}
			rows, err := pool.Query(ctx, list, after, rewrapRows)
			if err != nil {
				return total, fmt.Errorf("read %s: %w", c.table, err)
			}
			page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
			if err != nil {
				return total, fmt.Errorf("read %s: %w", c.table, err)
			}
			var batch pgx.Batch
			for _, r := range page {
				if c.label != nil {
					r.Label = c.label(r.Label)
				}
				sealed, err := seal.rewrap(r.Label, r.Sealed)
				if err != nil {
					return total, fmt.Errorf("%s of %s: %w", c.column, r.Key, err)
				}
				if sealed != nil {
					batch.Queue(set, r.Key, r.Sealed, sealed)
				}
			}
			if err := pool.SendBatch(ctx, &batch).Close(); err != nil {
				return total, fmt.Errorf("seal %s anew: %w", c.table, err)
			}
			total += batch.Len()
			if len(page) < rewrapRows {
				break
			}
			after = page[len(page)-1].Key
		}
	}
	return total, nil
}
