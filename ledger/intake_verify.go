package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons/citysync"
)

// verification asks for the mint, or stands as a co-signature of somebody else's verification.
//
// A verification that names co-signers waits until their own verifications are here, if the rules miss them. One by an accredited
// organization that is not the task's may become a co-signature later, and waits for the verification that names it.
func (t *turn) verification(ctx context.Context, f *fact) error {
	var r citysync.WorkVerification
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	mayVerify := t.accredited(f.DID, rules.RoleIssuer, rules.RoleVerifier) // others get no benefit of waiting
	token, err := t.subject(ctx, &r)
	if err != nil && (mayVerify || rules.Refused(err) == "") {
		return err
	}
	if token != nil && mayVerify {
		if err := t.noteVerification(ctx, f, token); err != nil {
			return err
		}
	}
	others, err := t.others(ctx, f, token)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(others, func(o other) bool { return slices.Contains(o.record.CoSigners, f.DID) }) {
		return t.accept(ctx, f, statusAccepted, nil)
	}
	cmd := rules.Mint{
		Now: t.b.now, Record: cause(f), Author: syntax.DID(f.DID), Signed: true,
		Task: entry.Ref{URI: r.Task.Uri, CID: r.Task.Cid}, Shift: r.ShiftId, ByClaim: r.Subject.WorkVerification_PublicClaim != nil, Token: token,
		Outcome: r.Outcome, Minutes: value(r.Minutes), Credits: r.Credits, Level: r.Level, Methods: r.Methods,
	}
	for _, o := range others {
		if !slices.Contains(r.CoSigners, o.fact.DID) {
			continue
		}
		cmd.CoSigners = append(cmd.CoSigners, rules.CoSigner{
			Org: syntax.DID(o.fact.DID), Record: cause(o.fact), Signed: true, Supported: true,
			Task: entry.Ref{URI: o.record.Task.Uri, CID: o.record.Task.Cid}, Shift: o.record.ShiftId, Token: token, Outcome: o.record.Outcome,
		})
	}
	var before *entry.Ref // the verification that this one supersedes
	if r.Supersedes != nil && token != nil && mayVerify {
		before = &entry.Ref{URI: r.Supersedes.Uri, CID: r.Supersedes.Cid}
		if corrects, err := t.corrects(ctx, f, &r, token, *before); corrects || err != nil {
			return err
		}
		if cmd.Upheld, err = t.upheld(ctx, f, token, *before); err != nil {
			return err
		}
	}
	if _, err := t.counted(ctx, r.Task.Uri, r.Task.Cid); err != nil && (mayVerify || rules.Refused(err) == "") {
		return err // the task waits or has not come
	}
	entries, err := t.decide(ctx, cmd)
	if err == nil {
		if slices.ContainsFunc(entries, func(e *entry.Entry) bool { return e.Kind == entry.KindMint }) {
			return t.accept(ctx, f, statusMinted, lastSeq(entries))
		}
		return t.accept(ctx, f, statusAccepted, lastSeq(entries))
	}
	switch name := rules.Refused(err); {
	case token == nil || !mayVerify:
	case name == rules.ClaimMissing && slices.Contains(waits(err), "claim"):
		return waitFor(wantClaim(token))
	case name == rules.MethodsMissing && len(cmd.CoSigners) < len(r.CoSigners), name == rules.NotAuthorized:
		if before != nil { // a ruling of the city's too
			return waitFor(wantToken(token), wantRuling(before.URI))
		}
		return waitFor(wantToken(token)) // another organization's verification of the same subject can still turn this
	}
	return err
}

func waits(err error) []string {
	var refusal *rules.Refusal
	if errors.As(err, &refusal) {
		return refusal.WaitFor
	}
	return nil
}

// noteVerification makes a verification findable by its subject, and wakes who waits for one.
func (t *turn) noteVerification(ctx context.Context, f *fact, token []byte) error {
	const note = `insert into verification (uri, cid, did, token) values ($1, $2, $3, $4) on conflict do nothing`
	tag, err := t.b.tx.Exec(ctx, note, f.URI, f.CID, f.DID, token)
	if err != nil {
		return fmt.Errorf("note verification %s: %w", f.URI, err)
	}
	if tag.RowsAffected() == 1 { // only once: two that wait for one another would wake each other for ever
		t.arrived = append(t.arrived, wantToken(token))
	}
	return nil
}

// subject gives the token of the claim that a verification is about; nil where no such claim is known, or none that may be named.
func (t *turn) subject(ctx context.Context, r *citysync.WorkVerification) ([]byte, error) {
	if blind := r.Subject.WorkVerification_BlindClaim; blind != nil {
		return blind.BlindedSubject.Value, nil
	}
	open := r.Subject.WorkVerification_PublicClaim
	if open == nil {
		return nil, nil
	}
	s, err := getStatus(ctx, t.b.tx, open.Claim.Uri, open.Claim.Cid)
	if err != nil {
		return nil, err
	}
	if s == nil || s.Status == statusWaiting {
		return nil, waitFor(open.Claim.Uri)
	}
	c, err := getClaim(ctx, t.b.tx, open.Claim.Uri)
	if err != nil || c == nil || c.CID != open.Claim.Cid || !c.Public {
		return nil, err // the token of a claim that is not public must reach no answer through whoever cites the claim
	}
	return c.Token, nil
}

type other struct {
	fact   *fact
	record *citysync.WorkVerification
}

// others are the verifications of the same subject by other authors that stand, oldest first.
func (t *turn) others(ctx context.Context, f *fact, token []byte) ([]other, error) {
	if token == nil {
		return nil, nil
	}
	const list = `select ` + factColumns + ` from fact where (uri, cid) in (select uri, cid from verification where token = $1 and did <> $2)
		order by ord limit 50`
	rows, err := t.b.tx.Query(ctx, list, token, f.DID)
	if err != nil {
		return nil, fmt.Errorf("verifications of one subject: %w", err)
	}
	facts, err := pgx.CollectRows(rows, pgx.RowToStructByName[fact])
	if err != nil {
		return nil, fmt.Errorf("verifications of one subject: %w", err)
	}
	var out []other
	for i := range facts {
		stands, err := t.stands(ctx, &facts[i])
		if err != nil {
			return nil, err
		}
		if !stands {
			continue
		}
		r := new(citysync.WorkVerification)
		if err := decodeRecord(facts[i].CBOR, r); err != nil {
			return nil, broken("verification %s: %w", facts[i].URI, errors.Unwrap(err))
		}
		out = append(out, other{&facts[i], r})
	}
	return out, nil
}

// lastSeq is the index of the entry that a verification led to; the claims entered with it come before.
func lastSeq(entries []*entry.Entry) *int64 {
	if len(entries) == 0 {
		return nil
	}
	return &entries[len(entries)-1].Seq
}
