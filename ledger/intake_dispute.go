package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

const (
	maxOpenDisputes = 20 // of one author that the city has not answered
	answerDays      = 3  // working days that the city has to say whether it hears an objection
)

// disputeRow is an objection and what the city said to it.
type disputeRow struct {
	Key                    string // of the city's ruling; that of its answer is derived from it
	URI                    *string
	CID, Kind              string
	SubjectURI, SubjectCID string
	Due                    time.Time
	Answer                 string // admitted, not-admitted
	AnsweredAt             *time.Time
	Ruling                 string // upheld, dismissed, …
	Held, Target           string // what an admission paused: its kind, and its first uri
}

const disputeColumns = `key, uri, cid, kind, subject_uri, subject_cid, due, answer, answered_at, ruling, held, target`

// dispute is anybody's objection. It is known, and what it says is the city's to weigh: alone it changes nothing.
func (t *turn) dispute(ctx context.Context, f *fact) error {
	var r citysync.GovDispute
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	key := lexicons.ResolutionKey(f.URI)
	have, err := getDispute(ctx, t.b.tx, key)
	if err != nil {
		return err
	}
	if have != nil {
		return xrpc.Errorf(409, "AlreadyDisputed", "the objection stands already as version %s; another one is a record of its own", have.CID)
	}
	var open int64
	const count = `select count(*) from dispute where did = $1 and answer = '' and ruling = ''`
	if err := t.b.tx.QueryRow(ctx, count, f.DID).Scan(&open); err != nil {
		return fmt.Errorf("disputes of an author: %w", err)
	}
	if open >= maxOpenDisputes {
		return xrpc.Errorf(429, "TooManyDisputes", "%d objections of this author wait for an answer", open).
			With(map[string]any{"open": open, "limit": int64(maxOpenDisputes)})
	}
	const keep = `insert into dispute (key, uri, cid, did, kind, subject_uri, subject_cid, seen, due) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	if _, err := t.b.tx.Exec(ctx, keep, key, f.URI, f.CID, f.DID, tokenName(r.Kind), r.Subject.Uri, r.Subject.Cid, f.Seen,
		answerDue(f.Seen, t.b.state.Location())); err != nil {
		return fmt.Errorf("keep dispute: %w", err)
	}
	return t.accept(ctx, f, statusAccepted, nil)
}

// tokenName is a token without the schema it is of.
func tokenName(token string) string { return printable(token[strings.LastIndexByte(token, '#')+1:]) }

// answerDue is the end of the third working day after the one on which an objection was seen, in the city's time.
func answerDue(seen time.Time, loc *time.Location) time.Time {
	local := seen.In(loc)
	day := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, loc)
	for left := answerDays; left > 0; {
		day = day.AddDate(0, 0, 1)
		if w := day.Weekday(); w != time.Saturday && w != time.Sunday {
			left--
		}
	}
	return day.AddDate(0, 0, 1)
}

func getDispute(ctx context.Context, q querier, key string) (*disputeRow, error) {
	rows, err := q.Query(ctx, `select `+disputeColumns+` from dispute where key = $1`, key)
	if err != nil {
		return nil, fmt.Errorf("dispute: %w", err)
	}
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[disputeRow])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("dispute: %w", err)
	}
	return &d, nil
}

// resolution is what the city says to an objection: whether it hears it, or how it rules.
func (t *turn) resolution(ctx context.Context, f *fact) error {
	var r citysync.GovResolution
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	d, err := getDispute(ctx, t.b.tx, strings.TrimSuffix(f.RKey, lexicons.AdmissionSuffix))
	if err != nil {
		return err
	}
	if d == nil {
		return waitFor(r.Dispute.Uri)
	}
	if d.CID != r.Dispute.Cid {
		return xrpc.Errorf(409, rules.InvalidRecord, "it answers version %s of the objection, which stands as %s", r.Dispute.Cid, d.CID)
	}
	if strings.HasSuffix(f.RKey, lexicons.AdmissionSuffix) {
		return t.answer(ctx, f, d, r.Result)
	}
	return t.rule(ctx, f, d, &r)
}

// answer says whether an objection is heard. One that is holds what it is about until the ruling.
func (t *turn) answer(ctx context.Context, f *fact, d *disputeRow, result string) error {
	if d.Answer != "" || d.Ruling != "" {
		return xrpc.Errorf(409, "AlreadyAnswered", "the objection was answered: %s", cmp.Or(d.Ruling, d.Answer))
	}
	var entries []*entry.Entry
	if result == "admitted" {
		what, target, err := t.disputed(ctx, d)
		if err != nil {
			return err
		}
		if what != "" {
			if entries, err = t.decide(ctx, rules.Pause{
				Now: t.b.now, What: what, Subject: target, Reason: d.Kind, Record: cause(f),
			}); err != nil {
				return err
			}
			d.Held, d.Target = what, target
		}
	}
	const note = `update dispute set answer = $2, answered_at = $3, held = $4, target = $5 where key = $1`
	if _, err := t.b.tx.Exec(ctx, note, d.Key, result, t.b.now, d.Held, d.Target); err != nil {
		return fmt.Errorf("answer to a dispute: %w", err)
	}
	return t.accept(ctx, f, statusAccepted, seqOf(entries))
}

// disputed says what of the log an objection is about: a task, itself or by a verification of it, or an offering. Nothing where the log
// knows no such thing.
func (t *turn) disputed(ctx context.Context, d *disputeRow) (what, target string, err error) {
	u, err := syntax.ParseATURI(d.SubjectURI)
	if err != nil {
		return "", "", nil //nolint:nilerr // an address of nothing: there is nothing to hold
	}
	task := entry.Ref{URI: d.SubjectURI, CID: d.SubjectCID}
	switch u.Collection().String() {
	case lexicons.OfferOffering:
		if t.b.state.OfferingOpen(d.SubjectURI, t.b.now) {
			return entry.PauseOffering, d.SubjectURI, nil
		}
		return "", "", nil
	case lexicons.WorkVerification:
		v, err := t.seenVerification(ctx, d.SubjectURI, d.SubjectCID)
		if err != nil || v == nil {
			return "", "", err
		}
		task = entry.Ref{URI: v.Task.Uri, CID: v.Task.Cid}
	case lexicons.WorkTask:
	default:
		return "", "", nil
	}
	if known, ok := t.b.state.Task(task); ok {
		return entry.PauseTask, known.First, nil
	}
	return "", "", nil
}

// seenVerification is one that was seen and is what its schema asks for; nil otherwise.
func (t *turn) seenVerification(ctx context.Context, uri, cid string) (*citysync.WorkVerification, error) {
	f, err := getFact(ctx, t.b.tx, uri, cid)
	if err != nil || f == nil || f.Coll != lexicons.WorkVerification || checkRecord(f.Coll, f.RKey, f.CBOR) != nil {
		return nil, err
	}
	r := new(citysync.WorkVerification)
	if err := decodeRecord(f.CBOR, r); err != nil {
		return nil, broken("verification %s: %w", uri, errors.Unwrap(err))
	}
	return r, nil
}

// rule ends an objection: what it held goes on, and what the ruling orders can be done.
func (t *turn) rule(ctx context.Context, f *fact, d *disputeRow, r *citysync.GovResolution) error {
	if d.Ruling != "" {
		return xrpc.Errorf(409, "AlreadyRuled", "the objection was ruled on: %s", d.Ruling)
	}
	const note = `update dispute set ruling = $2, answered_at = coalesce(answered_at, $3) where key = $1`
	if _, err := t.b.tx.Exec(ctx, note, d.Key, printable(r.Result), t.b.now); err != nil {
		return fmt.Errorf("ruling on a dispute: %w", err)
	}
	seq, err := t.letGo(ctx, f, d, r.Result)
	if err != nil {
		return err
	}
	if r.Result == "upheld" || r.Result == "partial" {
		for _, m := range r.Remedies {
			made, err := t.order(ctx, f, d, m)
			if err != nil {
				return err
			}
			if seq == nil {
				seq = made
			}
		}
	}
	return t.accept(ctx, f, statusAccepted, seq)
}

// letGo resumes what the objection held, unless another one that was admitted holds it too.
func (t *turn) letGo(ctx context.Context, f *fact, d *disputeRow, result string) (*int64, error) {
	if d.Held == "" {
		return nil, nil
	}
	held, err := t.heldToo(ctx, d.Held, d.Target)
	if err != nil || held {
		return nil, err
	}
	entries, err := t.decide(ctx, rules.Resume{
		Now: t.b.now, What: d.Held, Subject: d.Target, Reason: printable(result), Record: cause(f),
	})
	return seqOf(entries), err
}

// heldToo says whether an objection that was admitted and not ruled on holds this.
func (t *turn) heldToo(ctx context.Context, what, target string) (held bool, err error) {
	const others = `select exists (select from dispute where target = $1 and held = $2 and ruling = '')`
	if err := t.b.tx.QueryRow(ctx, others, target, what).Scan(&held); err != nil {
		return false, fmt.Errorf("disputes of one thing: %w", err)
	}
	return held, nil
}

// order does what a ruling asks for, or notes it for the verification that will cite what it is about.
func (t *turn) order(ctx context.Context, f *fact, d *disputeRow, m *citysync.GovResolution_Remedy) (*int64, error) {
	subject := entry.Ref{URI: d.SubjectURI, CID: d.SubjectCID}
	if m.Subject != nil {
		subject = entry.Ref{URI: m.Subject.Uri, CID: m.Subject.Cid}
	}
	switch m.Kind {
	case remedyVerify, remedyCorrect:
		const keep = `insert into remedy (subject_uri, subject_cid, kind, org, uri, cid) values ($1, $2, $3, $4, $5, $6) on conflict do nothing`
		if _, err := t.b.tx.Exec(ctx, keep, subject.URI, subject.CID, m.Kind, words(m.Org), f.URI, f.CID); err != nil {
			return nil, fmt.Errorf("remedy: %w", err)
		}
		t.arrived = append(t.arrived, wantRuling(subject.URI))
	case "cancel":
		task, ok := t.b.state.Task(subject)
		if !ok {
			return nil, nil
		}
		c := cause(f)
		entries, err := t.decide(ctx, rules.ReleaseSlots{
			Now: t.b.now, First: task.First, Reason: entry.ReleaseCancelled, Ordered: true, Cause: &c,
		})
		return seqOf(entries), err
	}
	return nil, nil
}

// Remedies that wait for a verification.
const (
	remedyVerify  = "verify-anew"
	remedyCorrect = "correct"
)

func wantRuling(uri string) string { return "ruling " + uri }

// ruled gives the city's ruling that orders a remedy about a verification; nil where there is none. An order to verify anew is to one
// organization.
func (t *turn) ruled(ctx context.Context, kind, org string, about ...entry.Ref) (*entry.Cause, error) {
	for _, ref := range about {
		const find = `select uri, cid from remedy where subject_uri = $1 and subject_cid = $2 and kind = $3 and (org = $4 or $4 = '') order by uri limit 1`
		var uri, cid string
		err := t.b.tx.QueryRow(ctx, find, ref.URI, ref.CID, kind, org).Scan(&uri, &cid)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("remedies about %s: %w", ref.URI, err)
		}
		f, err := getFact(ctx, t.b.tx, uri, cid)
		if err != nil {
			return nil, err
		}
		if f == nil {
			return nil, broken("resolution %s orders something and was never seen", uri)
		}
		return new(cause(f)), nil
	}
	return nil, nil
}

// disputeView is what explain adds to an objection.
func (l *Ledger) disputeView(ctx context.Context, uri string, out map[string]any) error {
	d, err := getDispute(ctx, l.store.pool, lexicons.ResolutionKey(uri))
	if err != nil || d == nil {
		return err
	}
	out["answerDue"] = stamp(d.Due)
	answered := l.clock.Now()
	switch {
	case d.AnsweredAt != nil:
		answered = *d.AnsweredAt
		out["answer"], out["answeredAt"] = cmp.Or(d.Ruling, d.Answer), stamp(answered)
	default:
		out["status"], out["waitingFor"] = statusWaiting, []string{"an answer of the city"}
	}
	if answered.After(d.Due) {
		out["answerLate"] = true
	}
	if d.Held != "" && d.Ruling == "" {
		out["holds"] = d.Target
	}
	return nil
}
