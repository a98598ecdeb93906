// Package index keeps what the network shows: every record of our collections as its author signed it, typed tables made from them, and
// the ledger's published log.
//
// Invariants:
//   - A record is stored only out of a commit that passed the strict verifier, with its original bytes.
//   - Repository state, records, projections and the host's cursor change in one transaction; a cursor never passes an unsaved event.
//   - A deletion is a tombstone: an older write that arrives late does not bring the record back.
//   - Typed tables are projections: Rebuild makes them anew from the record table and StateHash is the same afterwards.
//   - What an account's host says of it decides whether its rows are there: only an active account has any.
//   - A log entry is stored only when the tree that it extends has the root of a checkpoint under the key that actor.city names.
//   - A receipt or checkpoint of the ledger's that differs from the log is kept as its author signed it, marked, and raises an alarm.
package index

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the SQL files of the AppView's schema.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
}

// Index writes the AppView's tables. It is the only writer.
type Index struct {
	pool      *pgxpool.Pool
	clock     clock.Clock
	log       *slog.Logger
	dropped   *prometheus.CounterVec
	differing *prometheus.GaugeVec
}

// New writes to the migrated schema behind pool.
func New(pool *pgxpool.Pool, c clock.Clock, log *slog.Logger, reg prometheus.Registerer) (*Index, error) {
	x := &Index{pool: pool, clock: c, log: log, dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "citysync_appview_dropped_total", Help: "Foreign events and records that were not indexed, by reason.",
	}, []string{"reason"}), differing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "citysync_appview_differs", Help: "Records that the ledger published and that differ from its log, by collection.",
	}, []string{"collection"})}
	for _, c := range []prometheus.Collector{x.dropped, x.differing} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return x, nil
}

// Rebuild empties every projection behind pool and makes it anew from the record table, in one transaction. Who writes records meanwhile
// waits, and an AppView that waits too long ends and starts again.
func Rebuild(ctx context.Context, pool *pgxpool.Pool) error {
	return pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "lock table record in share mode"); err != nil {
			return fmt.Errorf("hold the records: %w", err)
		}
		for _, h := range Handlers {
			if _, err := tx.Exec(ctx, "delete from "+h.Table); err != nil {
				return fmt.Errorf("empty %s: %w", h.Table, err)
			}
		}
		return projectAll(ctx, tx, "")
	})
}

// visible is what StateHash and projections leave out of the record table: tombstones, and records of accounts that are not active.
const visible = "cid is not null and not exists (select from repo p where p.did = record.did and p.status <> 'active')"

// projectAll makes the rows of all visible records, or of one account's.
func projectAll(ctx context.Context, tx pgx.Tx, did string) error {
	after := [3]string{}
	for {
		rows, err := tx.Query(ctx, `
select did, coll, rkey, cid, cbor from record
where invalid is null and (@only = '' or did = @only) and (did, coll, rkey) > (@did, @coll, @rkey) and `+visible+`
order by did, coll, rkey limit 500`, pgx.NamedArgs{"only": did, "did": after[0], "coll": after[1], "rkey": after[2]})
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		batch, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Record, err error) {
			err = row.Scan(&r.DID, &r.Coll, &r.RKey, &r.CID, &r.CBOR)
			return r, err
		})
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		if len(batch) == 0 {
			return nil
		}
		for _, r := range batch {
			if err := project(ctx, tx, r); err != nil {
				return err
			}
			after = [3]string{r.DID, r.Coll, r.RKey}
		}
	}
}

// StateHash is one SHA-256, in hex, over every visible record, every projection and the log, row by row in key order. Two indexes that saw
// the same network have the same hash, whenever and in whatever order they saw it: moments, revs, cursors and counts stay out.
func (x *Index) StateHash(ctx context.Context) (string, error) { return StateHash(ctx, x.pool) }

// StateHash is that of the index behind pool.
func StateHash(ctx context.Context, pool *pgxpool.Pool) (string, error) {
	h := sha256.New()
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		tables := []string{"select did, coll, rkey, cid from record where " + visible + " order by did, coll, rkey"}
		for _, hd := range Handlers {
			tables = append(tables, "select * from "+hd.Table+" order by did, rkey")
		}
		tables = append(tables, "select seq, leaf from log_entry order by seq")
		for _, sql := range tables {
			rows, err := tx.Query(ctx, "select t::text from ("+sql+") t")
			if err != nil {
				return fmt.Errorf("hash state: %w", err)
			}
			var row string
			if _, err := pgx.ForEachRow(rows, []any{&row}, func() error {
				_, err := fmt.Fprintf(h, "%d:%s\n", len(row), row)
				return err
			}); err != nil {
				return fmt.Errorf("hash state: %w", err)
			}
			fmt.Fprint(h, "--\n")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
