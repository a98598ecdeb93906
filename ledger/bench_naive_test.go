//go:build bench

package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg"
)

const naiveConns = 48 // connections that any number of naive callers share

// naive is a ledger as one writes it first: a transaction for each mint that locks the cap's row, checks it, and writes entry and balance.
// It has no tree, no commitment and no rules besides the cap. Its whole mints write what a mint of ours is: the opening, the account's line
// and the issuer's allocation too.
type naive struct {
	t   *testing.T
	dsn string
}

func newNaive(t *testing.T, dsn string) *naive {
	t.Helper()
	n := &naive{t: t, dsn: dsn}
	pool := n.open(1)
	defer pool.Close()
	_, err := pool.Exec(t.Context(), `
create schema naive;
create table naive.cap (id int primary key, total bigint not null, used bigint not null check (used <= total));
create table naive.entry (seq bigint generated always as identity primary key, leaf bytea not null);
create table naive.balance (account bigint primary key, credits bigint not null check (credits >= 0));
create table naive.opening (seq bigint primary key, sealed bytea not null);
create table naive.line (account bigint, seq bigint, primary key (account, seq));
create table naive.allocation (issuer int primary key, most bigint not null, issued bigint not null check (issued <= most));
insert into naive.cap values (1, 1000000000000, 0);
insert into naive.allocation values (1, 1000000000000, 0)`)
	require.NoError(t, err)
	return n
}

func (n *naive) open(callers int) *pgxpool.Pool {
	n.t.Helper()
	pool, err := pg.Open(n.t.Context(), n.dsn+"&pool_max_conns="+strconv.Itoa(min(callers, naiveConns)), "naive")
	require.NoError(n.t, err)
	return pool
}

func (n *naive) rate(callers int) float64 { return n.measure(callers, false) }

func (n *naive) wholeRate(callers int) float64 { return n.measure(callers, true) }

func (n *naive) measure(callers int, whole bool) float64 {
	n.t.Helper()
	pool := n.open(callers)
	defer pool.Close()
	leaf := []byte(strings.Repeat("a leaf is this long ", 42))  // 840 bytes
	opening := []byte(strings.Repeat("an opening is this", 20)) // 360 bytes
	ctx := n.t.Context()
	perSecond, err := ratePerSecond(callers, 1<<30, func(i int) error {
		return pg.InTx(ctx, pool, func(tx pgx.Tx) error {
			var total, used int64
			if err := tx.QueryRow(ctx, `select total, used from cap where id = 1 for update`).Scan(&total, &used); err != nil {
				return err
			}
			const amount = 24
			if used+amount > total {
				return fmt.Errorf("cap of %d exceeded", total)
			}
			var seq int64
			if err := tx.QueryRow(ctx, `insert into entry (leaf) values ($1) returning seq`, leaf).Scan(&seq); err != nil {
				return err
			}
			if whole {
				if err := wholeMint(ctx, tx, i%benchResidents, seq, amount, opening); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, `insert into balance values ($1, $2)
				on conflict (account) do update set credits = balance.credits + excluded.credits`, i%benchResidents, amount); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `update cap set used = used + $1 where id = 1`, amount)
			return err
		})
	})
	require.NoError(n.t, err)
	return perSecond
}

// wholeMint writes what else a mint of ours leaves behind.
func wholeMint(ctx context.Context, tx pgx.Tx, account int, seq, amount int64, opening []byte) error {
	if _, err := tx.Exec(ctx, `insert into opening values ($1, $2)`, seq, opening); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into line values ($1, $2)`, account, seq); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `update allocation set issued = issued + $1 where issuer = 1`, amount)
	return err
}
