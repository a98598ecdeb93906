package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// activate opens an account: the issuer calls, the resident's own token shows that the person is there.
func (l *Ledger) activate(c *xrpc.Call) (any, error) {
	issuer, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Resident       syntax.DID `json:"resident"`
		ResidentToken  string     `json:"residentToken"`
		IdempotencyKey string     `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if _, err := syntax.ParseDID(in.Resident.String()); err != nil {
		return nil, xrpc.InvalidRequest("resident: %v", err)
	}
	// The token is a credential, not what is asked for: asking again with a fresh one is the same request.
	req, err := newRequest(c.NSID, issuer.String(), in.IdempotencyKey, in.Resident)
	if err != nil {
		return nil, err
	}
	if have, err := req.answered(c.Context(), l.store.pool); have != nil || err != nil {
		return have, err
	}
	if issuer == in.Resident {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.SelfVerification, "an organization cannot activate itself")
	}
	resident, err := l.auth.Verify(c.Context(), in.ResidentToken, c.NSID)
	if err != nil {
		var named *xrpc.Error
		if errors.As(err, &named) && named.Status < 500 {
			return nil, xrpc.Errorf(http.StatusUnauthorized, "InvalidResidentToken", "%s", named.Message)
		}
		return nil, err
	}
	if resident != in.Resident {
		return nil, xrpc.Errorf(http.StatusUnauthorized, "InvalidResidentToken", "the token is another person's")
	}
	account, err := randomAccount()
	if err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	return l.ask(c.Context(), "activate", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			t := l.intake.turn(b)
			entries, err := t.decide(ctx, rules.Activate{Now: b.now, Issuer: issuer, Resident: resident, Account: account})
			if rules.Refused(err) == rules.AlreadyActivated {
				return l.already(ctx, b, resident)
			}
			if err != nil {
				return nil, err
			}
			// Who was forgotten and comes back is a new account, and its records count again.
			return map[string]any{"seq": entries[0].Seq, "status": "activated"}, unmark(ctx, b.tx, resident)
		})
	})
}

func (l *Ledger) already(ctx context.Context, b *batch, resident syntax.DID) (any, error) {
	for _, s := range b.entries { // activated in this very batch
		if s.entry.Kind == entry.KindActivate && s.entry.Sealed.Resident == resident {
			return map[string]any{"seq": s.entry.Seq, "status": "already"}, nil
		}
	}
	var seq int64
	const find = `select a.seq from account a join account_link k on k.account = a.id where k.did = $1`
	if err := b.tx.QueryRow(ctx, find, resident.String()).Scan(&seq); err != nil {
		return nil, fmt.Errorf("activation: %w", err)
	}
	return map[string]any{"seq": seq, "status": "already"}, nil
}

// openEpoch fixes capacity, cap and allocations, once everything that the city names was read.
func (l *Ledger) openEpoch(c *xrpc.Call) (any, error) {
	caller, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	if caller != l.cfg.City {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.NotAuthorized, "only %s opens epochs", l.cfg.City)
	}
	var in struct {
		Epoch string `json:"epoch"`
		Book  string `json:"book"`
		Seen  []struct {
			DID syntax.DID `json:"did"`
			Rev string     `json:"rev"`
		} `json:"seen"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if len(in.Epoch) == 0 || len(in.Epoch) > 16 || len(in.Book) == 0 || len(in.Book) > 32 || len(in.Seen) > 1000 ||
		slices.Contains([]byte(in.Epoch+in.Book), 0) {
		return nil, xrpc.InvalidRequest("epoch, book or seen is out of bounds")
	}
	for _, s := range in.Seen {
		if _, err := syntax.ParseDID(s.DID.String()); err != nil {
			return nil, xrpc.InvalidRequest("seen: %v", err)
		}
		if _, err := syntax.ParseTID(s.Rev); err != nil {
			return nil, xrpc.InvalidRequest("seen: %v", err)
		}
	}
	return l.ask(c.Context(), "open epoch", func(ctx context.Context, b *batch) (any, error) {
		for _, s := range in.Seen {
			have, err := repoState(ctx, b.tx, s.DID)
			if err != nil {
				return nil, err
			}
			if have.Rev < s.Rev {
				return nil, xrpc.Errorf(http.StatusServiceUnavailable, "NotYetSeen", "%s was read up to %q, not yet to %s", s.DID, have.Rev, s.Rev).
					After(time.Second)
			}
		}
		return l.open(ctx, b, in.Book, in.Epoch)
	})
}

func (l *Ledger) open(ctx context.Context, b *batch, book, epoch string) (any, error) {
	offerings, err := liveOfferings(ctx, b.tx, book, epoch)
	if err != nil {
		return nil, err
	}
	t := l.intake.turn(b)
	entries, err := t.decide(ctx, rules.OpenEpoch{Now: b.now, Epoch: epoch, Book: book, Offerings: offerings})
	if err != nil {
		return nil, err
	}
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, fmt.Errorf("key of epoch: %w", err)
	}
	if _, err := b.tx.Exec(ctx, `insert into epoch_key (epoch, key) values ($1, $2) on conflict do nothing`, epoch, key[:]); err != nil {
		return nil, fmt.Errorf("key of epoch: %w", err)
	}
	if err := t.wakeAll(ctx); err != nil { // tasks published before their epoch opened
		return nil, err
	}
	o := entries[0].EpochOpen
	return map[string]any{
		"seq": entries[0].Seq, "capacityMonth": o.Capacity, "capEpoch": o.Cap, "capUnallocated": o.Unallocated, "offerings": len(o.Offerings),
	}, nil
}

// getCapacity answers from the totals after the last commit, without asking the sequencer.
func (l *Ledger) getCapacity(c *xrpc.Call) (any, error) {
	cp, all := l.seq.latest.Load(), l.seq.totals.Load()
	book, epoch := c.Param("book"), c.Param("epoch")
	if book == "" {
		var err error
		if book, err = l.defaultBook(c.Context()); err != nil {
			return nil, err
		}
	}
	now := entry.FormatTime(l.clock.Now())
	var found *rules.Totals
	for i := range *all {
		t := &(*all)[i]
		if t.Book != book || (epoch != "" && t.Epoch != epoch) {
			continue
		}
		if found == nil || (found.EndsAt <= now && t.EndsAt > found.EndsAt) { // the one that runs, else the last
			found = t
		}
	}
	if cp == nil || found == nil {
		return nil, notFound("no such epoch is open")
	}
	var supply int64
	for _, t := range *all {
		if t.Book == found.Book {
			supply += t.Supply()
		}
	}
	issuers := make([]map[string]any, len(found.Issuers))
	for i, s := range found.Issuers {
		issuers[i] = map[string]any{
			"did": s.DID, "allocation": s.Allocation, "reserved": s.Reserved, "outstanding": s.Outstanding, "minted": s.Minted,
		}
	}
	return l.finality(map[string]any{
		"city": l.cfg.City, "book": found.Book, "epoch": found.Epoch, "startsAt": found.StartsAt, "endsAt": found.EndsAt,
		"capacityMonth": found.CapacityMonth, "capEpoch": found.Cap, "capUnallocated": found.Unallocated, "boundBy": found.BoundBy,
		"reserved": found.Reserved, "outstanding": found.Outstanding, "claims": found.Claims, "verifications": found.Mints,
		"minted": found.Minted, "votes": found.Votes, "burned": found.Burned, "expired": found.Expired, "supply": supply,
		"tasks": found.Tasks, "issuers": issuers, "checkpoint": map[string]any{"size": cp.Size, "root": b64(cp.Root)},
	}), nil
}

// getBalance is for the resident alone.
func (l *Ledger) getBalance(c *xrpc.Call) (any, error) {
	resident, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	limit, err := c.Int("limit", 50, 1, 100)
	if err != nil {
		return nil, err
	}
	before, err := cursor(c)
	if err != nil {
		return nil, err
	}
	if before == 0 {
		before = 1 << 60
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
	held, err := l.holdings(ctx, account)
	if err != nil {
		return nil, err
	}
	const own = `select e.leaf from account_entry a join entry e using (seq)
		where a.account = $1 and a.seq < $2 and e.kind in ('claim', 'mint', 'burn', 'hold', 'capture', 'void', 'reverse') order by a.seq desc limit $3`
	rows, err := l.store.pool.Query(ctx, own, account[:], before, limit)
	if err != nil {
		return nil, fmt.Errorf("own entries: %w", err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("own entries: %w", err)
	}
	views := []map[string]any{}
	var last int64
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		if err != nil {
			return nil, fmt.Errorf("own entries: %w", err)
		}
		last = e.Seq
		if e.Book == book {
			views = append(views, entryView(e))
		}
	}
	out := map[string]any{"entries": views}
	balances(out, book, held)
	if int64(len(leaves)) == limit {
		out["cursor"] = strconv.FormatInt(last, 10)
	}
	return out, nil
}

func entryView(e *entry.Entry) map[string]any {
	v := map[string]any{"seq": e.Seq, "kind": string(e.Kind), "day": e.Day, "epoch": e.Epoch, "book": e.Book, "amount": e.Amount}
	switch e.Kind {
	case entry.KindClaim:
		v["task"], v["shiftId"] = e.Claim.First, e.Claim.Shift
	case entry.KindMint:
		v["votes"], v["task"], v["shiftId"] = e.Votes, e.Mint.First, e.Mint.Shift
	case entry.KindBurn:
		v["offering"], v["units"] = e.Burn.Offering.URI, e.Burn.Units
	case entry.KindHold:
		v["offering"], v["units"], v["until"] = e.Hold.Offering.URI, e.Hold.Units, e.Hold.Until
	case entry.KindCapture:
		v["offering"], v["of"] = e.Causes[0].URI, e.Capture.Hold
	case entry.KindVoid:
		v["of"] = e.Void.Hold
	case entry.KindReverse:
		v["of"] = e.Reverse.Of
	}
	return v
}

// defaultBook is the city's standard book, as its record names it.
func (l *Ledger) defaultBook(ctx context.Context) (string, error) {
	f, err := currentFact(ctx, l.store.pool, l.cfg.City.String(), lexicons.ActorCity, "self")
	if err != nil {
		return "", err
	}
	var city citysync.ActorCity
	if f == nil || checkRecord(f.Coll, f.RKey, f.CBOR) != nil || decodeRecord(f.CBOR, &city) != nil {
		return "", notFound("the city has not named its books")
	}
	for _, b := range city.Books {
		if b.Kind == "standard" {
			return b.Id, nil
		}
	}
	return city.Books[0].Id, nil
}

type claimView struct {
	Ord       int64
	URI, CID  string
	TaskURI   string
	TaskCID   string
	Shift     string
	Token     []byte
	Status    string
	Proof     *string
	Sealed    bool
	ClaimedAt time.Time

	ProofCommitment []byte
	ProofPadded     *int64
}

func (v *claimView) view() map[string]any {
	word := v.Status
	if word == "rejected" { // settled without pay; the words for it are the verification's
		word = "entered"
	}
	out := map[string]any{
		"task": v.TaskURI, "taskCid": v.TaskCID, "shiftId": v.Shift, "claimToken": jsonBytes(v.Token),
		"status": word, "claimedAt": stamp(v.ClaimedAt),
	}
	if v.Sealed { // there is no record
		if v.ProofCommitment != nil {
			out["proofCommitment"] = map[string]any{"alg": "sha256-merkle-v1", "value": jsonBytes(v.ProofCommitment), "padded": *v.ProofPadded}
		}
		return out
	}
	out["claim"], out["claimCid"] = v.URI, v.CID
	if v.Proof != nil {
		out["proof"] = *v.Proof
	}
	return out
}
