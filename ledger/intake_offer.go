package ledger

import (
	"context"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

func (t *turn) offering(ctx context.Context, f *fact) error {
	o, err := offerOf(f)
	if err != nil {
		return err
	}
	if err := rules.CheckOffering(t.b.state, *o, t.b.now); err != nil {
		return err
	}
	return t.accept(ctx, f, statusAccepted, nil)
}

func (t *turn) offeringStatus(ctx context.Context, f *fact) error {
	var r citysync.OfferOfferingStatus
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return err
	}
	if r.Offering.Uri != "at://"+f.DID+"/"+lexicons.OfferOffering+"/"+f.RKey {
		return xrpc.Errorf(403, rules.NotAuthorized, "a status stands beside its own offering, under the same key")
	}
	entries, err := t.pauseOffering(ctx, f, &r)
	if err != nil {
		return err
	}
	return t.accept(ctx, f, statusAccepted, seqOf(entries))
}

// offerOf reads an offering as the rules need it, without its status.
func offerOf(f *fact) (*rules.Offering, error) {
	var r citysync.OfferOffering
	if err := decodeRecord(f.CBOR, &r); err != nil {
		return nil, err
	}
	o := &rules.Offering{
		Record: cause(f), Redeemer: syntax.DID(f.DID), Book: r.Book, Epoch: r.Epoch, Credits: r.CreditsPerUnit,
		PublicPriceMinor: r.PublicPriceMinor, PersonLimit: value(r.PerPersonLimit), FreeFor: len(r.FreeFor) > 0,
		Physical: r.Capacity.PhysicalMonth, Marginal: r.Capacity.MarginalMonth, Committed: r.Capacity.CommittedMonth,
	}
	for _, w := range r.Windows {
		from, errFrom := rules.ParseClock(w.From)
		to, errTo := rules.ParseClock(w.To)
		if errFrom != nil || errTo != nil {
			return nil, xrpc.Errorf(400, rules.InvalidRecord, "window from %.10q to %.10q", w.From, w.To)
		}
		for _, d := range w.Days {
			day, ok := weekdays[strings.ToLower(d)]
			if !ok {
				return nil, xrpc.Errorf(400, rules.InvalidRecord, "day %.10q", d)
			}
			o.Windows = append(o.Windows, rules.Window{Day: day, From: from, To: to})
		}
	}
	return o, nil
}

var weekdays = map[string]time.Weekday{
	"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday, "thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday,
}

// withStatus adds what the redeemer's sidecar says.
func withStatus(ctx context.Context, q querier, f *fact, o *rules.Offering) error {
	side, err := currentFact(ctx, q, f.DID, lexicons.OfferOfferingStatus, f.RKey)
	if err != nil || side == nil {
		return err
	}
	var r citysync.OfferOfferingStatus
	if checkRecord(side.Coll, side.RKey, side.CBOR) != nil || decodeRecord(side.CBOR, &r) != nil {
		return nil // refused when it came: it says nothing
	}
	switch r.Status {
	case "paused":
		o.Paused = true
	case "ended":
		// A withdrawal waits for the epoch it names; the rules honor what was counted until its epoch ends.
		o.Ended = r.ChangeEffectiveEpoch == nil || *r.ChangeEffectiveEpoch <= o.Epoch
	}
	return nil
}

// liveOfferings are the offerings of a book and epoch as they stand, for its opening.
func liveOfferings(ctx context.Context, q querier, book, epoch string) ([]rules.Offering, error) {
	facts, err := currentIn(ctx, q, "", lexicons.OfferOffering)
	if err != nil {
		return nil, err
	}
	var out []rules.Offering
	for i := range facts {
		f := &facts[i]
		if checkRecord(f.Coll, f.RKey, f.CBOR) != nil {
			continue
		}
		o, err := offerOf(f)
		if err != nil || o.Book != book || o.Epoch != epoch {
			continue // what cannot be read was refused by name when it came
		}
		if err := withStatus(ctx, q, f, o); err != nil {
			return nil, err
		}
		out = append(out, *o)
	}
	return out, nil
}

// offeringFor is the version that a code may be made for. The version counted when the epoch opened is honored until the epoch ends,
// whatever the redeemer wrote since.
func offeringFor(ctx context.Context, q querier, s *rules.State, uri, cid string) (*rules.Offering, error) {
	f, err := getFact(ctx, q, uri, cid)
	if err != nil {
		return nil, err
	}
	if f == nil || f.Coll != lexicons.OfferOffering || checkRecord(f.Coll, f.RKey, f.CBOR) != nil {
		return nil, xrpc.Errorf(404, "OfferingUnknown", "the ledger has not seen this version of the offering")
	}
	o, err := offerOf(f)
	if err != nil {
		return nil, err
	}
	if _, counted := s.Counted(o.Book, o.Epoch, uri); !counted { // of a counted one the rules know which version is honored
		now, err := currentFact(ctx, q, f.DID, f.Coll, f.RKey)
		if err != nil {
			return nil, err
		}
		if now == nil || now.CID != cid {
			return nil, xrpc.Errorf(409, "OfferingNotLive", "this version of the offering stands no more")
		}
	}
	return o, withStatus(ctx, q, f, o)
}
