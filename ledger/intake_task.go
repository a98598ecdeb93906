package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// task asks the rules for one version of a task.
func (t *turn) task(ctx context.Context, f *fact) error {
	var r citysync.WorkTask
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	first, err := t.firstOf(ctx, f, &r)
	if err != nil {
		return err
	}
	cmd := rules.AcceptTask{
		Now: t.b.now, Task: cause(f), First: first, Author: syntax.DID(f.DID), Epoch: r.Epoch, Book: r.Book, Credits: r.CreditsPerCompletion,
	}
	if cmd.ClaimOpensAt, err = instantOrNone(r.ClaimOpensAt); err != nil {
		return err
	}
	if cmd.ClaimClosesAt, err = instantOrNone(r.ClaimClosesAt); err != nil {
		return err
	}
	for _, s := range r.Shifts {
		shift := rules.Shift{ID: s.Id, Slots: s.Slots}
		if shift.StartsAt, err = instant(s.StartsAt); err != nil {
			return err
		}
		if shift.EndsAt, err = instant(s.EndsAt); err != nil {
			return err
		}
		cmd.Shifts = append(cmd.Shifts, shift)
	}
	cmd.Entry, err = t.entryTerms(ctx, r.Entry.Uri, r.Entry.Cid, r.Epoch)
	if err != nil && (rules.Refused(err) == "" || t.accredited(f.DID, rules.RoleIssuer)) {
		return err // a stranger is refused at once, whatever its entry is
	}
	entries, err := t.decide(ctx, cmd)
	if err != nil {
		return err
	}
	const version = `insert into task_version (uri, cid, first) values ($1, $2, $3) on conflict do nothing`
	if _, err := t.b.tx.Exec(ctx, version, f.URI, f.CID, first); err != nil {
		return fmt.Errorf("version of %s: %w", first, err)
	}
	return t.accept(ctx, f, statusAccepted, seqOf(entries))
}

// firstOf names the first version of a task: its own uri, or that of the accepted task of the same author that it supersedes.
func (t *turn) firstOf(ctx context.Context, f *fact, r *citysync.WorkTask) (string, error) {
	var same string
	err := t.b.tx.QueryRow(ctx, `select first from task_version where uri = $1 limit 1`, f.URI).Scan(&same)
	if err == nil { // edited in place: still the same task
		return same, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("versions of %s: %w", f.URI, err)
	}
	if r.Supersedes == nil || r.Supersedes.Uri == f.URI {
		return f.URI, nil
	}
	u, err := syntax.ParseATURI(r.Supersedes.Uri)
	if err != nil || u.Authority().String() != f.DID || u.Collection().String() != lexicons.WorkTask {
		return "", xrpc.Errorf(403, rules.NotAuthorized, "a task supersedes a task of its own author")
	}
	parent, err := t.counted(ctx, r.Supersedes.Uri, r.Supersedes.Cid)
	if err != nil {
		return "", err
	}
	if parent == nil { // a task that never counted has no slots and no claims: the new one begins anew
		return f.URI, nil
	}
	return t.firstOfVersion(r.Supersedes.Uri, r.Supersedes.Cid)
}

func (t *turn) firstOfVersion(uri, cid string) (string, error) {
	task, ok := t.b.state.Task(entry.Ref{URI: uri, CID: cid})
	if !ok {
		return "", broken("task %s was accepted and the log does not have it", uri)
	}
	return task.First, nil
}

// taskStatus: the author cancels a task or some of its shifts.
func (t *turn) taskStatus(ctx context.Context, f *fact) error {
	var r citysync.WorkTaskStatus
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	u, err := syntax.ParseATURI(r.Task.Uri)
	if err != nil || u.Authority().String() != f.DID || u.Collection().String() != lexicons.WorkTask || u.RecordKey().String() != f.RKey {
		return xrpc.Errorf(403, rules.NotAuthorized, "a status stands beside its own task, under the same key")
	}
	parent, err := t.counted(ctx, r.Task.Uri, r.Task.Cid)
	if err != nil {
		return err
	}
	if parent == nil {
		return xrpc.Errorf(400, rules.TaskNotAccepted, "the task was refused")
	}
	var shifts []string
	cancelled := r.Status == "cancelled"
	for _, s := range r.Shifts {
		if s.Status == "cancelled" {
			shifts = append(shifts, s.Id)
		}
	}
	if !cancelled && len(shifts) == 0 {
		return t.accept(ctx, f, statusAccepted, nil)
	}
	if cancelled {
		shifts = nil // all
	}
	first, err := t.firstOfVersion(r.Task.Uri, r.Task.Cid)
	if err != nil {
		return err
	}
	return t.release(ctx, f, first, shifts)
}

// release gives back what nobody claimed because the author says so, by the record f.
func (t *turn) release(ctx context.Context, f *fact, first string, shifts []string) error {
	c := cause(f)
	entries, err := t.decide(ctx, rules.ReleaseSlots{
		Now: t.b.now, First: first, Shifts: shifts, Reason: entry.ReleaseCancelled, Author: syntax.DID(f.DID), Cause: &c,
	})
	if err != nil {
		return err
	}
	return t.accept(ctx, f, statusAccepted, seqOf(entries))
}

// gone is a record that its author deleted.
func (t *turn) gone(ctx context.Context, c *change) error {
	f, err := currentFact(ctx, t.b.tx, c.DID, c.Coll, c.RKey)
	if err != nil {
		return err
	}
	if err := setCurrent(ctx, t.b.tx, c.DID, c.Coll, c.RKey, nil, c.Rev); err != nil {
		return err
	}
	if f == nil {
		return nil
	}
	s, err := getStatus(ctx, t.b.tx, f.URI, f.CID)
	if err != nil {
		return err
	}
	if s != nil && s.Status == statusWaiting {
		return t.refuse(ctx, f, "the record was deleted while it waited", withdrawn, nil)
	}
	if s == nil || s.Status == statusRefused {
		return nil
	}
	switch f.Coll {
	case lexicons.RegistryAccreditation:
		var r citysync.RegistryAccreditation
		if err := decodeRecord(f.CBOR, &r); err != nil {
			return broken("accreditation %s: %w", f.URI, err)
		}
		r.Status = rules.StatusRevoked // whoever is not accredited any more is revoked from the day on
		return t.bindRole(ctx, f, &r)
	case lexicons.WorkTask:
		return t.taskGone(ctx, f)
	case lexicons.WorkClaim:
		return t.withdraw(ctx, f)
	}
	return nil
}

// taskGone releases what nobody claimed. A version that another superseded was released by that.
func (t *turn) taskGone(ctx context.Context, f *fact) error {
	first, err := t.firstOfVersion(f.URI, f.CID)
	if err != nil {
		return err
	}
	var newer bool
	const later = `select exists (select from task_version v join current c on c.cid = v.cid
		and v.uri = 'at://' || c.did || '/' || c.coll || '/' || c.rkey where v.first = $1)`
	if err := t.b.tx.QueryRow(ctx, later, first).Scan(&newer); err != nil {
		return fmt.Errorf("versions of %s: %w", first, err)
	}
	if newer {
		return nil
	}
	return t.ignoreRefusal(t.release(ctx, f, first, nil))
}

// ignoreRefusal: a deletion is a fact; where the rules make nothing of it, there is no record left to say so to.
func (t *turn) ignoreRefusal(err error) error {
	var refusal *rules.Refusal
	if errors.As(err, &refusal) {
		return nil
	}
	return err
}
