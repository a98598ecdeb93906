package ledger

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// accountOf gives a resident's own account.
func (l *Ledger) accountOf(ctx context.Context, resident syntax.DID) (entry.Account, error) {
	var account []byte
	err := l.store.pool.QueryRow(ctx, `select account from account_link where did = $1`, resident.String()).Scan(&account)
	if errors.Is(err, pgx.ErrNoRows) {
		return entry.Account{}, xrpc.Errorf(http.StatusForbidden, rules.NotActivated, "you have no account in this city")
	}
	if err != nil {
		return entry.Account{}, fmt.Errorf("account: %w", err)
	}
	return entry.Account(account), nil
}

// holdings asks the state what an account has. What sleeps, and until when, stands nowhere else.
func (l *Ledger) holdings(ctx context.Context, account entry.Account) ([]rules.Holding, error) {
	answer, err := l.ask(ctx, "balance", func(_ context.Context, b *batch) (any, error) {
		return b.state.Holdings(account, b.now), nil
	})
	if err != nil {
		return nil, err
	}
	list, _ := answer.([]rules.Holding)
	return list, nil
}

// balanceView is what a resident is told of one book.
func balanceView(h *rules.Holding) map[string]any {
	v := map[string]any{"book": h.Book, "credits": h.Credits, "votes": h.Votes}
	if h.Aside > 0 {
		v["aside"] = h.Aside
	}
	x := h.Expiry
	if !x.Asleep.IsZero() {
		v["asleepSince"] = stamp(x.Asleep)
	}
	if x.Amount > 0 {
		v["expiring"] = x.Amount
	}
	if !x.ExpiresAt.IsZero() {
		v["expiresAt"] = x.ExpiresAt.UTC().Format(time.RFC3339)
	}
	if x.Warning > 0 {
		v["warningDays"] = x.Warning
	}
	return v
}

// balances fills in an answer of getBalance: the book asked for, and all books.
func balances(out map[string]any, book string, list []rules.Holding) {
	out["book"], out["credits"], out["votes"] = book, int64(0), int64(0)
	views := []any{}
	for i := range list {
		v := balanceView(&list[i])
		views = append(views, v)
		if list[i].Book == book {
			for k, value := range v {
				out[k] = value
			}
		}
	}
	out["books"] = views
}

// getBalanceProof gives the asker what shows their own balance under the root of the last state digest, and nobody else's.
func (l *Ledger) getBalanceProof(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	ctx := c.Context()
	account, err := l.accountOf(ctx, resident)
	if err != nil {
		return nil, err
	}
	book := c.Param("book")
	if book == "" {
		if book, err = l.defaultBook(ctx); err != nil {
			return nil, err
		}
	}
	return l.ask(ctx, "balance proof", func(_ context.Context, b *batch) (any, error) {
		shares, root, seq, ok := b.state.BalanceProof(account, book)
		if !ok {
			return nil, notFound("there is no state digest yet in which you have credits of %s", book)
		}
		return proofView(account, shares, root, seq)
	})
}

func proofView(account entry.Account, shares [2]entry.Share, root entry.BalancesRoot, seq int64) (map[string]any, error) {
	balance, err := entry.VerifyBalance(root, account, shares)
	if err != nil {
		return nil, broken("a proof of ours: %w", err)
	}
	views := []any{}
	for _, s := range shares {
		path := []any{}
		for _, step := range s.Path {
			path = append(path, map[string]any{"hash": jsonBytes(step.Hash), "sum": step.Sum})
		}
		views = append(views, map[string]any{"index": s.Index, "nonce": jsonBytes(s.Nonce), "sum": s.Sum, "path": path})
	}
	return map[string]any{
		"book": root.Book, "seq": seq, "account": jsonBytes(account[:]), "root": jsonBytes(root.Root), "sum": root.Sum, "height": root.Height,
		"balance": balance, "shares": views,
	}, nil
}

// ParseBalanceProof reads an answer of getBalanceProof, so that whoever holds it can check it under a state digest of the log.
func ParseBalanceProof(v *BalanceProofView) (account entry.Account, root entry.BalancesRoot, shares [2]entry.Share, err error) {
	raw := func(b JSONBytes) []byte {
		out, e := base64.RawStdEncoding.DecodeString(b.Bytes)
		if e != nil && err == nil {
			err = fmt.Errorf("balance proof: %w", e)
		}
		return out
	}
	if len(v.Shares) != len(shares) || len(raw(v.Account)) != len(account) {
		return account, root, shares, errors.New("balance proof: not of an account and two shares")
	}
	account = entry.Account(raw(v.Account))
	root = entry.BalancesRoot{Book: v.Book, Root: raw(v.Root), Sum: v.Sum, Height: v.Height}
	for i, s := range v.Shares {
		shares[i] = entry.Share{Index: s.Index, Nonce: raw(s.Nonce), Sum: s.Sum}
		for _, step := range s.Path {
			shares[i].Path = append(shares[i].Path, entry.SumStep{Hash: raw(step.Hash), Sum: step.Sum})
		}
	}
	return account, root, shares, err
}

// JSONBytes are bytes as JSON of the data model writes them.
type JSONBytes struct {
	Bytes string `json:"$bytes"`
}

// BalanceProofView is an answer of getBalanceProof.
type BalanceProofView struct {
	Book    string      `json:"book"`
	Seq     int64       `json:"seq"`
	Account JSONBytes   `json:"account"`
	Root    JSONBytes   `json:"root"`
	Sum     int64       `json:"sum"`
	Height  int64       `json:"height"`
	Balance int64       `json:"balance"`
	Shares  []ShareView `json:"shares"`
}

// ShareView is one leaf of a BalanceProofView.
type ShareView struct {
	Index int64      `json:"index"`
	Nonce JSONBytes  `json:"nonce"`
	Sum   int64      `json:"sum"`
	Path  []StepView `json:"path"`
}

// StepView is a sibling of a ShareView.
type StepView struct {
	Hash JSONBytes `json:"hash"`
	Sum  int64     `json:"sum"`
}
