package ledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// longestHold is how long a record that an admitted objection stops is looked at again by itself.
const longestHold = 365 * 24 * time.Hour

// Names to wait for that are no uri.
func wantResume(what, org, subject string) string {
	return "resume " + what + " " + org + " " + subject
}
func isResume(want string) bool { return strings.HasPrefix(want, "resume ") }

// stopped are the refusals that end with what stops the record: it is decided anew then.
func stopped(name string) bool { return name == rules.HeldByDispute || name == rules.Paused }

// awaitResume has a task or a verification that something stops looked at again when that ends. A claim is not: its slot would be taken for
// somebody who may long have gone elsewhere.
func (t *turn) awaitResume(ctx context.Context, f *fact, r *rules.Refusal) error {
	if !stopped(r.Name) || (f.Coll != lexicons.WorkTask && f.Coll != lexicons.WorkVerification) {
		return nil
	}
	word := func(name string) string { s, _ := r.Figures[name].(string); return s }
	until := t.b.now.Add(longestHold)
	if at, err := entry.ParseTime(word("until")); err == nil {
		until = at
	}
	want := wantResume(word("what"), word("org"), word("subject"))
	const insert = `insert into waiting (wants, uri, cid, did, ord, until) values ($1, $2, $3, $4, $5, $6) on conflict do nothing`
	if _, err := t.b.tx.Exec(ctx, insert, want, f.URI, f.CID, f.DID, f.Ord, until); err != nil {
		return fmt.Errorf("wait of %s: %w", f.URI, err)
	}
	return nil
}

// pauseOffering pauses a counted offering as its redeemer says, or resumes it, unless an admitted objection holds it too.
func (t *turn) pauseOffering(ctx context.Context, f *fact, r *citysync.OfferOfferingStatus) ([]*entry.Entry, error) {
	uri := "at://" + f.DID + "/" + lexicons.OfferOffering + "/" + f.RKey
	if !t.b.state.OfferingOpen(uri, t.b.now) {
		return nil, nil
	}
	switch r.Status {
	case "paused":
		return t.decide(ctx, rules.Pause{
			Now: t.b.now, What: entry.PauseOffering, Subject: uri, Reason: reason(words(r.Reason)), Record: cause(f),
		})
	case "live":
		held, err := t.heldToo(ctx, entry.PauseOffering, uri)
		if err != nil || held {
			return nil, err
		}
		return t.decide(ctx, rules.Resume{
			Now: t.b.now, What: entry.PauseOffering, Subject: uri, Reason: reason(words(r.Reason)), Record: cause(f),
		})
	}
	return nil, nil
}

func words(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// reason keeps words short enough for a leaf.
func reason(words string) string {
	words = printable(words)
	if len(words) <= maxReason {
		return words
	}
	return strings.ToValidUTF8(words[:maxReason], "") + "…"
}

const maxReason = 400 // bytes
