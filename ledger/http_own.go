package ledger

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// getOpening gives residents what is sealed in their own entries, field by field: one field can be shown to somebody without the others.
func (l *Ledger) getOpening(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
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
	only, err := c.Int("seq", -1, 0, 1<<40)
	if err != nil {
		return nil, err
	}
	const own = `select e.seq, e.leaf, e.hash, o.sealed, true as opening from account_link k
		join account_entry a using (account) join entry e using (seq) join opening o using (seq)
		where k.did = $1 and e.seq > $2 and ($3 < 0 or e.seq = $3) order by e.seq limit $4`
	rows, err := l.store.pool.Query(c.Context(), own, resident.String(), after-1, only, limit+1)
	if err != nil {
		return nil, fmt.Errorf("own openings: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[logRow])
	if err != nil {
		return nil, fmt.Errorf("own openings: %w", err)
	}
	out := map[string]any{}
	if int64(len(found)) > limit {
		out["cursor"] = strconv.FormatInt(found[limit].Seq, 10)
		found = found[:limit]
	}
	views := []map[string]any{}
	for i := range found {
		v, err := openingView(&found[i])
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	out["openings"] = views
	return out, nil
}

func openingView(r *logRow) (map[string]any, error) {
	e, err := entry.Decode(r.Leaf)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", r.Seq, err)
	}
	o, err := entry.DecodeOpening(r.Sealed)
	if err != nil {
		return nil, fmt.Errorf("opening of entry %d: %w", r.Seq, err)
	}
	fields := []map[string]any{}
	for _, f := range o.Fields {
		one, ok := o.Open(f.Name)
		if !ok {
			return nil, fmt.Errorf("opening of entry %d has no field %q", r.Seq, f.Name)
		}
		path := make([]any, len(one.Path))
		for i, h := range one.Path {
			path[i] = jsonBytes(h)
		}
		v := map[string]any{"name": f.Name, "salt": jsonBytes(f.Salt), "index": one.Index, "path": path}
		switch value := f.Value.(type) {
		case string:
			v["text"] = value
		case []byte:
			v["bytes"] = jsonBytes(value)
		}
		fields = append(fields, v)
	}
	return map[string]any{
		"seq": e.Seq, "kind": string(e.Kind), "fields": fields,
		"commitment": map[string]any{"alg": "sha256-merkle-v1", "value": jsonBytes(e.Commitment.Value), "padded": e.Commitment.Padded},
	}, nil
}

// confirmFor is how long the word of the first call is good for the second.
const confirmFor = 10 * time.Minute

// eraseAccount forgets the resident that calls. The first call changes nothing and gives a word; the second one, with it, erases. Asked
// again it answers the same: there is nobody left to erase.
func (l *Ledger) eraseAccount(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Confirm string `json:"confirm"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if in.Confirm == "" {
		return l.askToErase(c, resident.String())
	}
	return l.ask(c.Context(), "erase account", func(ctx context.Context, b *batch) (any, error) {
		if err := l.forgettable(b, resident); err != nil {
			return nil, err
		}
		if account, ok := b.state.AccountOf(resident); ok {
			window := b.now.Unix() / int64(confirmFor/time.Second)
			word := strings.ToUpper(in.Confirm)
			if !hmac.Equal([]byte(word), []byte(eraseWord(account, window))) && !hmac.Equal([]byte(word), []byte(eraseWord(account, window-1))) {
				return nil, xrpc.Errorf(http.StatusForbidden, "NotConfirmed", "ask for a word first; it is good for ten minutes")
			}
		}
		t := l.intake.turn(b)
		if err := t.forget(ctx, resident); err != nil {
			return nil, err
		}
		crash.Point("ledger/erase/made")
		return map[string]any{"status": "erased"}, t.wakeAll(ctx)
	})
}

func (l *Ledger) askToErase(c *xrpc.Call, did string) (any, error) {
	var account []byte
	err := l.store.pool.QueryRow(c.Context(), `select account from account_link where did = $1`, did).Scan(&account)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.NotActivated, "you have no account in this city")
	}
	if err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	now := l.clock.Now()
	window := now.Unix() / int64(confirmFor/time.Second)
	return map[string]any{
		"status": "confirm", "confirm": eraseWord(entry.Account(account), window), "expiresAt": stamp(now.Add(confirmFor)),
	}, nil
}

// eraseWord needs no row: nobody but the ledger knows an account.
func eraseWord(account entry.Account, window int64) string {
	h := hmac.New(sha256.New, account[:])
	h.Write(binary.BigEndian.AppendUint64([]byte("org.city-sync.erase.v1"), uint64(window)))
	return base32.StdEncoding.EncodeToString(h.Sum(nil)[:10])
}
