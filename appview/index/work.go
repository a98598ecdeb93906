package index

import (
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/lexicons/citysync"
)

func taskRow(cbor []byte) (row, error) {
	t, err := decode[citysync.WorkTask](cbor)
	if err != nil {
		return nil, err
	}
	var slots int64
	var from, to time.Time
	for i, s := range t.Shifts {
		starts, err := syntax.ParseDatetime(s.StartsAt)
		if err != nil {
			return nil, err
		}
		ends, err := syntax.ParseDatetime(s.EndsAt)
		if err != nil {
			return nil, err
		}
		if i == 0 || starts.Time().Before(from) {
			from = starts.Time()
		}
		if i == 0 || ends.Time().After(to) {
			to = ends.Time()
		}
		slots += s.Slots
	}
	r := row{"title": t.Title, "summary": text(t.Summary), "entry_uri": t.Entry.Uri, "entry_cid": t.Entry.Cid, "epoch": t.Epoch, "book": t.Book,
		"credits": t.CreditsPerCompletion, "slots": slots, "starts_at": from, "ends_at": to, "supersedes": nil}
	if t.Supersedes != nil {
		r["supersedes"] = t.Supersedes.Uri
	}
	return r, nil
}

func taskStatusRow(cbor []byte) (row, error) {
	s, err := decode[citysync.WorkTaskStatus](cbor)
	if err != nil {
		return nil, err
	}
	return row{"status": s.Status, "task_uri": s.Task.Uri, "reason": text(s.Reason)}, nil
}

func claimRow(cbor []byte) (row, error) {
	c, err := decode[citysync.WorkClaim](cbor)
	if err != nil {
		return nil, err
	}
	return row{"task_uri": c.Task.Uri, "task_cid": c.Task.Cid, "shift_id": c.ShiftId}, nil
}

func proofRow(cbor []byte) (row, error) {
	p, err := decode[citysync.WorkProof](cbor)
	if err != nil {
		return nil, err
	}
	return row{"claim_uri": p.Claim.Uri, "task_uri": p.Task.Uri}, nil
}

func verificationRow(cbor []byte) (row, error) {
	v, err := decode[citysync.WorkVerification](cbor)
	if err != nil {
		return nil, err
	}
	r := row{"task_uri": v.Task.Uri, "task_cid": v.Task.Cid, "shift_id": v.ShiftId, "outcome": v.Outcome, "credits": v.Credits, "level": v.Level,
		"claim_uri": nil, "token": nil}
	switch s := v.Subject; {
	case s == nil:
	case s.WorkVerification_PublicClaim != nil:
		r["claim_uri"] = s.WorkVerification_PublicClaim.Claim.Uri
	case s.WorkVerification_BlindClaim != nil:
		r["token"] = []byte(s.WorkVerification_BlindClaim.BlindedSubject.Value)
	}
	return r, nil
}

func reviewRow(cbor []byte) (row, error) {
	v, err := decode[citysync.WorkReview](cbor)
	if err != nil {
		return nil, err
	}
	r := row{"subject": "", "rating": v.Rating, "body": text(v.Body)}
	switch s := v.Subject; {
	case s == nil:
	case s.WorkReview_Actor != nil:
		r["subject"] = s.WorkReview_Actor.Did
	case s.WorkReview_Record != nil:
		r["subject"] = s.WorkReview_Record.Ref.Uri
	}
	return r, nil
}

func responseRow(cbor []byte) (row, error) {
	s, err := decode[citysync.WorkResponse](cbor)
	if err != nil {
		return nil, err
	}
	return row{"review_uri": s.Review.Uri, "body": s.Body}, nil
}
