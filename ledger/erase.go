package ledger

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// forgotten is a person whose account ended in a batch. What is sealed about them is destroyed with the batch, after all that it writes.
type forgotten struct {
	account entry.Account
	staff   []int64 // entries that say that the person verifies for an organization
}

func (f forgotten) write(all *statements) {
	const own = `(select seq from account_entry where account = $1)`
	a := f.account[:]
	all.add("forget openings", -1, `update opening set sealed = null where seq in `+own+` or seq = any($2)`, a, f.staff)
	for _, table := range append([]string{"account_entry", "balance", "claim", "account_link"}, counterTables...) {
		all.add("forget "+table, -1, `delete from `+table+` where account = $1`, a)
	}
	all.add("forget account", 1, `delete from account where id = $1`, a)
}

// forget ends a person's account: holds and claims end, what is left expires, and from then on its entries are those of all who were
// forgotten. All of it is one transaction: the log grows by what ends, and what could say whose it was is gone with it.
func (t *turn) forget(ctx context.Context, did syntax.DID) error {
	account, ok := t.b.state.AccountOf(did)
	if ok {
		if err := t.endAll(ctx, account); err != nil {
			return ours(err)
		}
		left, err := rules.Forget(t.b.state, account, t.b.now)
		if err != nil {
			return ours(err)
		}
		for _, x := range left {
			if _, err := t.decide(ctx, x); err != nil {
				return ours(err)
			}
		}
		f := forgotten{account: account}
		if f.staff, err = t.staffEntries(ctx, did); err != nil {
			return err
		}
		t.b.forgotten = append(t.b.forgotten, f)
	}
	if err := t.forgetRecords(ctx, did); err != nil {
		return err
	}
	return mark(ctx, t.b.tx, did)
}

// endAll ends what still stands: holds at counters, and claims whether there is a proof or not.
func (t *turn) endAll(ctx context.Context, account entry.Account) error {
	for _, h := range t.b.state.HoldsOf(account) {
		if _, err := t.decide(ctx, rules.EndHold{Now: t.b.now, Hold: h.Seq, Reason: entry.VoidCancelled}); err != nil {
			return err
		}
	}
	rows, err := t.b.tx.Query(ctx, `select `+claimColumns+` from claim where account = $1 and status in ('held', 'entered') order by ord`, account[:])
	if err != nil {
		return fmt.Errorf("standing claims: %w", err)
	}
	claims, err := pgx.CollectRows(rows, pgx.RowToStructByName[claimRow])
	if err != nil {
		return fmt.Errorf("standing claims: %w", err)
	}
	for i := range claims {
		c := &claims[i]
		if c.Status == "held" {
			c.Proof = nil // a proof keeps nobody
		}
		if err := t.end(ctx, c, entry.UnclaimErased); err != nil {
			return err
		}
	}
	return nil
}

func (t *turn) staffEntries(ctx context.Context, did syntax.DID) ([]int64, error) {
	rows, err := t.b.tx.Query(ctx, `select seq from staff_entry where did = $1`, did.String())
	if err != nil {
		return nil, fmt.Errorf("staff entries: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// forgetRecords deletes the person's records and everything that names them. An objection that the city answered stays, without its
// author: what it held must still be let go. What others published of a person is theirs, and stays with them.
func (t *turn) forgetRecords(ctx context.Context, did syntax.DID) error {
	uris := "at://" + did.String() + "/%"
	for _, s := range []struct {
		sql string
		arg any
	}{
		{`delete from account_link where did = $1`, did.String()},
		{`delete from claim where did = $1`, did.String()},
		{`delete from staff_entry where did = $1`, did.String()},
		{`delete from fact where did = $1`, did.String()},
		{`delete from current where did = $1`, did.String()},
		{`delete from status where uri like $1`, uris},
		{`delete from waiting where did = $1 or wants like 'at://' || $1 || '/%'`, did.String()},
		{`delete from verification where did = $1`, did.String()},
		{`delete from repo_state where did = $1`, did.String()},
		{`delete from idempotency where caller = $1`, did.String()},
		{`update dispute set uri = null, did = null where did = $1`, did.String()},
		{`update status set message = '', figures = '', wants = '{}'
			where position($1 in message) > 0 or position($1 in figures) > 0 or position($1 in array_to_string(wants, ' ')) > 0`, did.String()},
	} {
		if _, err := t.b.tx.Exec(ctx, s.sql, s.arg); err != nil {
			return fmt.Errorf("forget records: %w", err)
		}
	}
	return nil
}

// The mark of a forgotten person is a keyed hash of the DID, under a key of this database alone. It keeps out the records that their
// repository may still give, and goes when the host says that the account is deleted, or when the person is activated again.
func mark(ctx context.Context, q querier, did syntax.DID) error {
	m, err := markOf(ctx, q, did)
	if err != nil {
		return err
	}
	if _, err := q.Exec(ctx, `insert into forgotten (mark) values ($1) on conflict do nothing`, m); err != nil {
		return fmt.Errorf("mark of one forgotten: %w", err)
	}
	return nil
}

func unmark(ctx context.Context, q querier, did syntax.DID) error {
	m, err := markOf(ctx, q, did)
	if err != nil {
		return err
	}
	if _, err := q.Exec(ctx, `delete from forgotten where mark = $1`, m); err != nil {
		return fmt.Errorf("mark of one forgotten: %w", err)
	}
	return nil
}

func wasForgotten(ctx context.Context, q querier, did syntax.DID) (bool, error) {
	var any bool
	if err := q.QueryRow(ctx, `select exists (select from forgotten)`).Scan(&any); err != nil || !any {
		return false, err
	}
	m, err := markOf(ctx, q, did)
	if err != nil {
		return false, err
	}
	err = q.QueryRow(ctx, `select exists (select from forgotten where mark = $1)`, m).Scan(&any)
	return any, err
}

const metaForgetKey = "forgetKey"

func markOf(ctx context.Context, q querier, did syntax.DID) ([]byte, error) {
	var key string
	err := q.QueryRow(ctx, `select value from meta where key = $1`, metaForgetKey).Scan(&key)
	if errors.Is(err, pgx.ErrNoRows) {
		key = rand.Text()
		_, err = q.Exec(ctx, `insert into meta (key, value) values ($1, $2)`, metaForgetKey, key)
	}
	if err != nil {
		return nil, fmt.Errorf("key of the forgotten: %w", err)
	}
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(did))
	return h.Sum(nil), nil
}

// forgettable refuses to forget who is no resident: an organization's records are what the log rests on.
func (l *Ledger) forgettable(b *batch, did syntax.DID) error {
	if _, bound := b.seq.bound[did]; bound || did == l.cfg.City || did == l.cfg.DID {
		return xrpc.Errorf(403, "NotAResident", "what an accredited organization published stays, since the log rests on it")
	}
	return nil
}
