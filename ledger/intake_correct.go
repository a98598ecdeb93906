package ledger

import (
	"bytes"
	"context"
	"slices"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons/citysync"
)

// upheld gives the city's ruling that names the author to verify anew what another verification rejected; nil where there is none.
func (t *turn) upheld(ctx context.Context, f *fact, token []byte, before entry.Ref) (*entry.Cause, error) {
	v, err := t.seenVerification(ctx, before.URI, before.CID)
	if err != nil || v == nil || v.Outcome != entry.OutcomeRejected || !t.b.state.Rejected(token) {
		return nil, err
	}
	blind := v.Subject.WorkVerification_BlindClaim // a rejection is always blind
	if blind == nil || !bytes.Equal(blind.BlindedSubject.Value, token) {
		return nil, nil
	}
	return t.ruled(ctx, remedyVerify, f.DID, before)
}

// corrects takes a verification that supersedes the one that minted: it takes back what was paid too much, once the city orders it. false:
// it is none of these.
func (t *turn) corrects(ctx context.Context, f *fact, r *citysync.WorkVerification, token []byte, before entry.Ref) (bool, error) {
	seq, _, minted := t.b.state.Minted(token)
	if !minted {
		return false, nil
	}
	s, err := getStatus(ctx, t.b.tx, before.URI, before.CID)
	if err != nil || s == nil || s.Seq == nil || *s.Seq != seq {
		return false, err
	}
	order, err := t.ruled(ctx, remedyCorrect, "", before, entry.Ref{URI: f.URI, CID: f.CID})
	if err != nil {
		return false, err
	}
	entries, err := t.decide(ctx, rules.Correct{
		Now: t.b.now, Record: cause(f), Author: syntax.DID(f.DID), Signed: true, Supersedes: before, Resolution: order, Token: token,
		Outcome: r.Outcome, Minutes: value(r.Minutes), Credits: r.Credits,
	})
	if slices.Contains(waits(err), "resolution") {
		return true, waitFor(wantRuling(before.URI), wantRuling(f.URI))
	}
	if err != nil {
		return true, err
	}
	return true, t.accept(ctx, f, statusAccepted, seqOf(entries))
}
