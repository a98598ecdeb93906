package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// claimRow is a slot held beside the log, or what became of it.
type claimRow struct {
	URI, CID, DID string
	Account       []byte
	Author        string
	Task          string // uri of the first version
	TaskURI       string // of the version whose terms are frozen
	TaskCID       string
	Shift         string
	Token         []byte
	Status        string
	Proof         *string
	Public        bool
	Sealed        bool
	ClaimedAt     time.Time
}

const claimColumns = `uri, cid, did, account, author, task, task_uri, task_cid, shift, token, status, proof, public, sealed, claimed_at`

// claim takes a slot for a resident, in the order in which claims are seen.
func (t *turn) claim(ctx context.Context, f *fact) error {
	var r citysync.WorkClaim
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	have, err := getClaim(ctx, t.b.tx, f.URI)
	if err != nil {
		return err
	}
	if have != nil && have.Status != "withdrawn" && have.Status != "lapsed" {
		return xrpc.Errorf(409, rules.AlreadyClaimed, "the claim stands already; a claim is withdrawn by deleting it, not edited")
	}
	if _, err := t.takeSlot(ctx, slotWish{
		uri: f.URI, cid: f.CID, did: syntax.DID(f.DID), task: entry.Ref{URI: r.Task.Uri, CID: r.Task.Cid}, shift: r.ShiftId,
	}); err != nil {
		return err
	}
	return t.accept(ctx, f, statusClaimed, nil)
}

// slotWish is a claim, by a record or, on a sealed task, by none.
type slotWish struct {
	uri, cid string // of the record
	did      syntax.DID
	task     entry.Ref
	shift    string
	sealed   bool
}

// takeSlot holds a slot for a resident beside the log.
func (t *turn) takeSlot(ctx context.Context, w slotWish) (*rules.HeldClaim, error) {
	task, err := t.counted(ctx, w.task.URI, w.task.CID)
	if err != nil {
		return nil, err
	}
	if task == nil || task.Coll != lexicons.WorkTask {
		return nil, xrpc.Errorf(400, rules.TaskNotAccepted, "the task was refused")
	}
	var terms citysync.WorkTask
	if err := decodeRecord(task.CBOR, &terms); err != nil {
		return nil, err
	}
	e, err := t.entryTerms(ctx, terms.Entry.Uri, terms.Entry.Cid, terms.Epoch)
	if err != nil {
		return nil, err
	}
	if w.sealed && e.Sensitivity != entry.SensitivitySealed {
		return nil, xrpc.Errorf(400, "NotSealed", "the task is %s: it is claimed by a record", e.Sensitivity)
	}
	key, stands, err := epochKey(ctx, t.b.tx, terms.Epoch)
	if err != nil {
		return nil, err
	}
	held, err := rules.DecideClaim(t.b.state, rules.ClaimRequest{
		Now: t.b.now, Resident: w.did, Task: entry.Ref{URI: task.URI, CID: task.CID}, Shift: w.shift, Sealed: w.sealed,
		EntryActive: e.Active, EpochKey: key,
	})
	if err != nil {
		return nil, err
	}
	if !stands {
		return nil, broken("a claim in epoch %s, whose key was destroyed", terms.Epoch)
	}
	if err := rules.HoldClaim(t.b.state, held); err != nil {
		return nil, err
	}
	if w.sealed {
		w.uri = sealedURI(held.Token)
	}
	if err := putClaim(ctx, t.b.tx, &claimRow{
		URI: w.uri, CID: w.cid, DID: w.did.String(), Account: held.Account[:], Author: task.DID, Task: held.First, TaskURI: task.URI, TaskCID: task.CID,
		Shift: w.shift, Token: held.Token, Status: "held", Public: e.Sensitivity == entry.SensitivityPublic, Sealed: w.sealed, ClaimedAt: t.b.now,
	}); err != nil {
		return nil, err
	}
	t.arrived = append(t.arrived, wantClaim(held.Token))
	return held, nil
}

// withdraw ends a claim whose record was deleted. After a proof there is no way back.
func (t *turn) withdraw(ctx context.Context, f *fact) error {
	c, err := getClaim(ctx, t.b.tx, f.URI)
	if err != nil || c == nil || c.CID != f.CID {
		return err
	}
	if err := t.end(ctx, c, entry.UnclaimWithdrawn); err != nil {
		return t.ignoreRefusal(err)
	}
	return t.refuse(ctx, f, "the claim was deleted before its proof", withdrawn, nil)
}

// end gives a claim's slot back, whether it stands in the log or only beside it.
func (t *turn) end(ctx context.Context, c *claimRow, reason string) error {
	switch c.Status {
	case "entered":
		_, err := t.decide(ctx, rules.Unclaim{Now: t.b.now, Token: c.Token, Reason: reason, Proven: c.Proof != nil})
		return err
	case "held":
		if c.Proof != nil {
			return &rules.Refusal{Name: rules.ProofSubmitted}
		}
		entries, err := rules.DecideDrop(t.b.state, c.Token, t.b.now)
		if err != nil {
			return err
		}
		if err := t.b.append(pointers(entries)); err != nil {
			return err
		}
		rules.DropClaim(t.b.state, c.Token)
		to := "withdrawn"
		if reason == entry.UnclaimLapsed {
			to = "lapsed"
		}
		if _, err := t.b.tx.Exec(ctx, `update claim set status = $2 where uri = $1`, c.URI, to); err != nil {
			return fmt.Errorf("end claim: %w", err)
		}
	}
	return nil
}

// proof marks its claim as proved: from now on it can neither be withdrawn nor lapse.
func (t *turn) proof(ctx context.Context, f *fact) error {
	var r citysync.WorkProof
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	u, err := syntax.ParseATURI(r.Claim.Uri)
	if err != nil || u.Authority().String() != f.DID || u.Collection().String() != lexicons.WorkClaim {
		return xrpc.Errorf(403, rules.NotAuthorized, "a proof is about a claim of its own author")
	}
	parent, err := t.counted(ctx, r.Claim.Uri, r.Claim.Cid)
	if err != nil {
		return err
	}
	c, err := getClaim(ctx, t.b.tx, r.Claim.Uri)
	if err != nil {
		return err
	}
	if parent == nil || c == nil || c.CID != r.Claim.Cid || c.Status == "withdrawn" || c.Status == "lapsed" {
		return xrpc.Errorf(400, rules.ClaimMissing, "no such claim stands")
	}
	if _, err := t.b.tx.Exec(ctx, `update claim set proof = coalesce(proof, $2) where uri = $1`, c.URI, f.URI); err != nil {
		return fmt.Errorf("proof of claim: %w", err)
	}
	return t.accept(ctx, f, statusAccepted, nil)
}

func getClaim(ctx context.Context, q querier, uri string) (*claimRow, error) {
	return oneClaim(ctx, q, `select `+claimColumns+` from claim where uri = $1`, uri)
}

func oneClaim(ctx context.Context, q querier, sql string, arg any) (*claimRow, error) {
	rows, err := q.Query(ctx, sql, arg)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[claimRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	return &c, nil
}

// putClaim keeps a held claim. One that was withdrawn or lapsed under the same uri is over and gives way.
func putClaim(ctx context.Context, q querier, c *claimRow) error {
	if _, err := q.Exec(ctx, `delete from claim where uri = $1`, c.URI); err != nil {
		return fmt.Errorf("keep claim: %w", err)
	}
	const insert = `insert into claim (` + claimColumns + `) values (@uri, @cid, @did, @account, @author, @task, @task_uri, @task_cid, @shift, @token,
		@status, @proof, @public, @sealed, @claimed_at)`
	if _, err := q.Exec(ctx, insert, pgx.NamedArgs{
		"uri": c.URI, "cid": c.CID, "did": c.DID, "account": c.Account, "author": c.Author, "task": c.Task, "task_uri": c.TaskURI, "task_cid": c.TaskCID,
		"shift": c.Shift, "token": c.Token, "status": c.Status, "proof": c.Proof, "public": c.Public, "sealed": c.Sealed,
		"claimed_at": c.ClaimedAt,
	}); err != nil {
		return fmt.Errorf("keep claim: %w", err)
	}
	return nil
}

// epochKey gives the key of an epoch, and whether it still stands: one that is long over has none, and no window in which to claim.
func epochKey(ctx context.Context, q querier, epoch string) (key [32]byte, stands bool, err error) {
	var raw []byte
	err = q.QueryRow(ctx, `select key from epoch_key where epoch = $1`, epoch).Scan(&raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return key, false, nil
	}
	if err != nil {
		return key, false, fmt.Errorf("key of epoch: %w", err)
	}
	copy(key[:], raw)
	return key, true, nil
}

// keepKeys is for how long after its end an epoch keeps its key. With it the tokens of an account could still be told, without it nobody can.
const keepKeys = 180 * 24 * time.Hour

// forgetKeys destroys the keys of epochs that are long over, in every book.
func (t *turn) forgetKeys(ctx context.Context) (int, error) {
	over := map[string]bool{}
	for _, ep := range t.b.state.Epochs() {
		ends, err := entry.ParseTime(ep.EndsAt)
		if err != nil {
			return 0, broken("end of epoch %s: %w", ep.Epoch, err)
		}
		done, seen := over[ep.Epoch]
		over[ep.Epoch] = (done || !seen) && !t.b.now.Before(ends.Add(keepKeys))
	}
	var keys []string
	for epoch, done := range over {
		if done {
			keys = append(keys, epoch)
		}
	}
	if len(keys) == t.b.seq.keyless {
		return 0, nil // looked at before
	}
	if _, err := t.b.tx.Exec(ctx, `delete from epoch_key where epoch = any($1)`, keys); err != nil {
		return 0, fmt.Errorf("forget keys of epochs: %w", err)
	}
	t.b.seq.keyless = len(keys)
	return 0, nil
}
