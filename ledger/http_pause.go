package ledger

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
)

// pauseRequest is what the city asks for, by a decision of its own that everybody can read.
type pauseRequest struct {
	What     string     `json:"what"`
	Org      syntax.DID `json:"org,omitempty"`
	Until    string     `json:"until,omitempty"`
	Reason   string     `json:"reason"`
	Decision struct {
		URI string `json:"uri"`
		CID string `json:"cid"`
	} `json:"decision"`
	IdempotencyKey string `json:"idempotencyKey"`
}

// pauseCall reads a request and holds what can be held without the log.
func (l *Ledger) pauseCall(c *xrpc.Call) (*pauseRequest, *request, error) {
	caller, err := l.auth.Caller(c)
	if err != nil {
		return nil, nil, err
	}
	if caller != l.cfg.City {
		return nil, nil, xrpc.Errorf(http.StatusForbidden, rules.NotAuthorized, "only %s pauses and resumes", l.cfg.City)
	}
	in := new(pauseRequest)
	if err := c.Body(in); err != nil {
		return nil, nil, err
	}
	if in.Org != "" {
		if _, err := syntax.ParseDID(in.Org.String()); err != nil {
			return nil, nil, xrpc.InvalidRequest("org: %v", err)
		}
	}
	if len(in.Reason) == 0 || len(in.Reason) > maxReason {
		return nil, nil, xrpc.InvalidRequest("reason must have 1 to %d bytes", maxReason)
	}
	req, err := newRequest(c.NSID, caller.String(), in.IdempotencyKey, in)
	return in, req, err
}

// deciding is the decision that a request cites. The founding one opened the city and decides nothing after it.
func (t *turn) deciding(ctx context.Context, in *pauseRequest) (*entry.Cause, error) {
	if strings.HasSuffix(in.Decision.URI, "/"+lexicons.FoundingDecision) {
		return nil, xrpc.Errorf(http.StatusForbidden, "FoundingClosed", "a pause has a decision of its own")
	}
	err := t.decided(ctx, in.Decision.URI, in.Decision.CID)
	if waits(err) != nil {
		return nil, xrpc.Errorf(http.StatusServiceUnavailable, "NotYetSeen", "the decision was not read yet").After(time.Second)
	}
	if err != nil {
		return nil, err
	}
	f, err := getFact(ctx, t.b.tx, in.Decision.URI, in.Decision.CID)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, broken("decision %s counts and was never seen", in.Decision.URI)
	}
	return new(cause(f)), nil
}

// pause stops tasks, claims, mints or redemptions, of the city or of one organization, for a time. Nothing is started by it, paid or moved.
func (l *Ledger) pause(c *xrpc.Call) (any, error) {
	in, req, err := l.pauseCall(c)
	if err != nil {
		return nil, err
	}
	until, err := syntax.ParseDatetime(in.Until)
	if err != nil {
		return nil, xrpc.InvalidRequest("until: %v", err)
	}
	return l.ask(c.Context(), "pause", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			t := l.intake.turn(b)
			by, err := t.deciding(ctx, in)
			if err != nil {
				return nil, err
			}
			entries, err := t.decide(ctx, rules.Pause{
				Now: b.now, What: in.What, Org: in.Org, Until: until.Time(), Reason: printable(in.Reason), Record: *by,
			})
			if err != nil {
				return nil, err
			}
			if len(entries) == 0 {
				return map[string]any{"status": "already"}, nil
			}
			return map[string]any{"status": "paused", "seq": entries[0].Seq, "until": entries[0].Pause.Until}, nil
		})
	})
}

// resume ends a pause before its time, and takes up what it stopped.
func (l *Ledger) resume(c *xrpc.Call) (any, error) {
	in, req, err := l.pauseCall(c)
	if err != nil {
		return nil, err
	}
	if in.What == entry.PauseTask || in.What == entry.PauseOffering {
		return nil, xrpc.InvalidRequest("what must be tasks, claims, mints or redemptions")
	}
	return l.ask(c.Context(), "resume", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			t := l.intake.turn(b)
			by, err := t.deciding(ctx, in)
			if err != nil {
				return nil, err
			}
			entries, err := t.decide(ctx, rules.Resume{Now: b.now, What: in.What, Org: in.Org, Reason: printable(in.Reason), Record: *by})
			if err != nil {
				return nil, err
			}
			if len(entries) == 0 {
				return map[string]any{"status": "already"}, nil
			}
			return map[string]any{"status": "resumed", "seq": entries[0].Seq}, t.wakeAll(ctx)
		})
	})
}

// bindStaff tells the ledger, and nobody else, that a person verifies for the organization that calls: that person's claims on its tasks are
// refused from then on.
func (l *Ledger) bindStaff(c *xrpc.Call) (any, error) {
	org, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Resident       syntax.DID `json:"resident"`
		IdempotencyKey string     `json:"idempotencyKey"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if _, err := syntax.ParseDID(in.Resident.String()); err != nil {
		return nil, xrpc.InvalidRequest("resident: %v", err)
	}
	req, err := newRequest(c.NSID, org.String(), in.IdempotencyKey, in.Resident)
	if err != nil {
		return nil, err
	}
	return l.ask(c.Context(), "bind staff", func(ctx context.Context, b *batch) (any, error) {
		return req.once(ctx, b, func() (any, error) {
			entries, err := l.intake.turn(b).decide(ctx, rules.BindStaff{Now: b.now, Org: org, Resident: in.Resident})
			if err != nil {
				return nil, err
			}
			if len(entries) == 0 {
				return map[string]any{"status": "already"}, nil
			}
			const keep = `insert into staff_entry (did, seq) values ($1, $2)`
			if _, err := b.tx.Exec(ctx, keep, in.Resident.String(), entries[0].Seq); err != nil {
				return nil, fmt.Errorf("staff: %w", err)
			}
			return map[string]any{"status": "bound", "seq": entries[0].Seq}, nil
		})
	})
}
