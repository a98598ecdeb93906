package ledger

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/lexicons/citysync"
)

// A turn is the intake's work inside one command: records that arrived, and whatever their arrival wakes.
type turn struct {
	*intake
	b       *batch
	arrived []string // names that somebody may wait for: uris, wantEpoch, wantToken
}

func (in *intake) turn(b *batch) *turn { return &turn{intake: in, b: b} }

// withdrawn is the name of what its author took back. Said again it is looked at again.
const withdrawn = "Withdrawn"

// Names to wait for that are no uri.
func wantEpoch(book, epoch string) string { return "epochOpen " + book + " " + epoch }
func wantToken(token []byte) string       { return "verification " + hex.EncodeToString(token) }
func wantClaim(token []byte) string       { return "claim " + hex.EncodeToString(token) }

// changes takes changes without waking anybody yet: what they wait for may stand later in the same commit.
func (t *turn) changes(ctx context.Context, changes []change) error {
	for i := range changes {
		c := &changes[i]
		if c.deleted {
			if err := t.gone(ctx, c); err != nil {
				return err
			}
			continue
		}
		if err := t.arrive(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// mutable are the collections whose records are edited in place; the others are new records when they change.
var mutable = []string{
	lexicons.ActorCity, lexicons.RegistryAccreditation, lexicons.CatalogEntryStatus, lexicons.WorkTaskStatus, lexicons.OfferOfferingStatus,
}

func (t *turn) arrive(ctx context.Context, c *change) error {
	c.Seen = t.b.now
	if err := putFact(ctx, t.b.tx, &c.fact); err != nil {
		return err
	}
	f, err := getFact(ctx, t.b.tx, c.URI, c.CID)
	if err != nil {
		return err
	}
	t.arrived = append(t.arrived, f.URI)
	if !slices.Contains(mutable, f.Coll) {
		const again = `delete from status where uri = $1 and cid = $2 and name = $3`
		if _, err := t.b.tx.Exec(ctx, again, f.URI, f.CID, withdrawn); err != nil {
			return fmt.Errorf("status of %s: %w", f.URI, err)
		}
	} else {
		// The same words may come back after others: they count anew.
		if _, err := t.b.tx.Exec(ctx, `delete from status where uri = $1 and cid = $2`, f.URI, f.CID); err != nil {
			return fmt.Errorf("status of %s: %w", f.URI, err)
		}
	}
	if c.invalid != nil {
		return t.refuse(ctx, f, xrpc.InvalidRequest("%v", c.invalid).Message, rules.InvalidRecord, nil)
	}
	return t.process(ctx, f)
}

func (t *turn) wakeAll(ctx context.Context) error {
	for len(t.arrived) > 0 {
		names := t.arrived
		t.arrived = nil
		woken, err := wake(ctx, t.b.tx, names)
		if err != nil {
			return err
		}
		for _, w := range woken {
			f, err := getFact(ctx, t.b.tx, w.URI, w.CID)
			if err != nil {
				return err
			}
			if f == nil {
				return broken("%s waits and was never seen", w.URI)
			}
			stands, err := t.stands(ctx, f)
			if err != nil {
				return err
			}
			if !stands {
				if err := t.refuse(ctx, f, "the record was changed or deleted while it waited", withdrawn, nil); err != nil {
					return err
				}
				continue
			}
			if err := t.process(ctx, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// stands tells whether this version is still the one at its path.
func (t *turn) stands(ctx context.Context, f *fact) (bool, error) {
	var at *string
	const sql = `select cid from current where did = $1 and coll = $2 and rkey = $3`
	if err := t.b.tx.QueryRow(ctx, sql, f.DID, f.Coll, f.RKey).Scan(&at); err != nil {
		return false, fmt.Errorf("current version of %s: %w", f.URI, err)
	}
	return at != nil && *at == f.CID, nil
}

// process decides on one version. What was decided stays decided, so that a record that comes again changes nothing.
func (t *turn) process(ctx context.Context, f *fact) error {
	have, err := getStatus(ctx, t.b.tx, f.URI, f.CID)
	if err != nil {
		return err
	}
	if have != nil && have.Status != statusWaiting && !stopped(have.Name) {
		return nil
	}
	if f.DID != t.cfg.City.String() {
		// Who is accredited is in the city's repository: read that whole first, in whatever order hosts are read.
		city := "at://" + t.cfg.City.String() + "/" + lexicons.ActorCity + "/self"
		var known bool
		const read = `select exists (select from fact where uri = $1) and exists (select from repo_state where did = $2)`
		if err := t.b.tx.QueryRow(ctx, read, city, t.cfg.City.String()).Scan(&known); err != nil {
			return fmt.Errorf("look for the city: %w", err)
		}
		if !known {
			return t.wait(ctx, f, city)
		}
	}
	err = t.dispatch(ctx, f)
	var refusal *rules.Refusal
	var named *xrpc.Error
	switch {
	case errors.As(err, &refusal) && refusal.Waiting():
		return t.wait(ctx, f, refusal.WaitFor...)
	case errors.As(err, &refusal):
		if refusal.Alarm {
			t.metrics.alarms.WithLabelValues(refusal.Name).Inc()
			t.log.ErrorContext(ctx, "a refusal that the rules had made impossible", "name", refusal.Name, "uri", f.URI)
		}
		if err := t.refuse(ctx, f, refusal.Error(), refusal.Name, refusal.Figures); err != nil {
			return err
		}
		return t.awaitResume(ctx, f, refusal)
	case errors.As(err, &named):
		return t.refuse(ctx, f, named.Message, named.Name, named.Figures)
	}
	return err
}

func (t *turn) dispatch(ctx context.Context, f *fact) error {
	switch f.Coll {
	case lexicons.ActorCity, lexicons.GovDecision, lexicons.CatalogRuleSet, lexicons.CatalogEntryStatus:
		return t.cityOnly(ctx, f, t.plain)
	case lexicons.GovParameterSet:
		return t.cityOnly(ctx, f, t.parameterSet)
	case lexicons.RegistryAccreditation:
		return t.cityOnly(ctx, f, t.accreditation)
	case lexicons.CatalogEntry:
		return t.catalogEntry(ctx, f)
	case lexicons.WorkTask:
		return t.task(ctx, f)
	case lexicons.WorkTaskStatus:
		return t.taskStatus(ctx, f)
	case lexicons.WorkClaim:
		return t.claim(ctx, f)
	case lexicons.WorkProof:
		return t.proof(ctx, f)
	case lexicons.WorkVerification:
		return t.verification(ctx, f)
	case lexicons.OfferOffering:
		return t.offering(ctx, f)
	case lexicons.OfferOfferingStatus:
		return t.offeringStatus(ctx, f)
	case lexicons.GovDispute:
		return t.dispute(ctx, f)
	case lexicons.GovResolution:
		return t.cityOnly(ctx, f, t.resolution)
	}
	return nil
}

// decide asks the rules, and notes beside the log what their entries did to claims and who waited for them.
func (t *turn) decide(ctx context.Context, cmd rules.Command) ([]*entry.Entry, error) {
	entries, err := t.b.decide(cmd)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := t.follow(ctx, e); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// follow moves the rows of claims with the log.
func (t *turn) follow(ctx context.Context, e *entry.Entry) error {
	var to string
	switch {
	case e.Kind == entry.KindResume:
		t.arrived = append(t.arrived, wantResume(e.Resume.What, e.Org.String(), e.Resume.Subject))
		return nil
	case e.Kind == entry.KindEpochOpen:
		t.arrived = append(t.arrived, wantEpoch(e.Book, e.Epoch))
		return nil
	case e.Kind == entry.KindClaim:
		to = "entered"
	case e.Kind == entry.KindMint:
		to = "minted"
		t.arrived = append(t.arrived, wantToken(e.Nullifier))
	case e.Kind == entry.KindRelease && e.Release.Reason == entry.ReleaseRejected:
		to = "rejected"
	case e.Kind == entry.KindUnclaim && e.Unclaim.Reason == entry.UnclaimLapsed:
		to = "lapsed"
	case e.Kind == entry.KindUnclaim:
		to = "withdrawn"
	default:
		return nil
	}
	const move = `update claim set status = $2 where token = $1 and status in ('held', 'entered', 'rejected') returning uri, cid, public`
	var uri, cid string
	var public bool
	err := t.b.tx.QueryRow(ctx, move, e.Nullifier, to).Scan(&uri, &cid, &public)
	if errors.Is(err, pgx.ErrNoRows) {
		return broken("entry %d is about a claim that is not held", e.Seq)
	}
	if err != nil {
		return fmt.Errorf("claim of entry %d: %w", e.Seq, err)
	}
	if to != "minted" || !public {
		return nil // of a task that is not public, who claimed it must not be joined to its mint
	}
	return putStatus(ctx, t.b.tx, &status{URI: uri, CID: cid, Status: statusMinted, Seq: &e.Seq, At: t.b.now})
}

func (t *turn) accept(ctx context.Context, f *fact, word string, seq *int64) error {
	t.arrived = append(t.arrived, f.URI)
	if err := stopWaiting(ctx, t.b.tx, f.URI, f.CID); err != nil {
		return err
	}
	return putStatus(ctx, t.b.tx, &status{URI: f.URI, CID: f.CID, Status: word, Seq: seq, At: t.b.now})
}

func (t *turn) refuse(ctx context.Context, f *fact, message, name string, figures map[string]any) error {
	t.arrived = append(t.arrived, f.URI)
	if err := stopWaiting(ctx, t.b.tx, f.URI, f.CID); err != nil {
		return err
	}
	text, err := figuresJSON(figures)
	if err != nil {
		return broken("refusal of %s: %w", f.URI, err)
	}
	t.metrics.refused.WithLabelValues(name).Inc()
	return putStatus(ctx, t.b.tx, &status{
		URI: f.URI, CID: f.CID, Status: statusRefused, Name: name, Message: printable(message), Figures: text, At: t.b.now,
	})
}

func (t *turn) wait(ctx context.Context, f *fact, wants ...string) error {
	wants = slices.Compact(slices.Sorted(slices.Values(wants)))
	room := t.b.now.Before(f.Seen.Add(waitingFor))
	if room {
		var err error
		ours := func(want string) bool {
			return !strings.HasPrefix(want, "at://") || strings.HasPrefix(want, "at://"+t.cfg.City.String()+"/")
		}
		if room, err = wait(ctx, t.b.tx, f, wants, ours); err != nil {
			return err
		}
	}
	if !room {
		return t.parentMissing(ctx, f, wants)
	}
	return putStatus(ctx, t.b.tx, &status{URI: f.URI, CID: f.CID, Status: statusWaiting, Wants: wants, At: t.b.now})
}

func (t *turn) parentMissing(ctx context.Context, f *fact, wants []string) error {
	figures := map[string]any{}
	if len(wants) > 0 {
		figures["missing"] = printable(wants[0])
	}
	return t.refuse(ctx, f, "what the record rests on did not come", "ParentMissing", figures)
}

// counted returns a cited version once it is accepted. While it is not there or waits, err is a refusal to wait; where it was
// refused, fact and error are both nil.
func (t *turn) counted(ctx context.Context, uri, cid string) (*fact, error) {
	s, err := getStatus(ctx, t.b.tx, uri, cid)
	if err != nil {
		return nil, err
	}
	if s == nil || s.Status == statusWaiting {
		return nil, waitFor(uri)
	}
	if s.Status == statusRefused {
		return nil, nil
	}
	return getFact(ctx, t.b.tx, uri, cid)
}

func waitFor(names ...string) error { return &rules.Refusal{Name: "ParentMissing", WaitFor: names} }

func cause(f *fact) entry.Cause { return entry.Cause{URI: f.URI, CID: f.CID, Rev: f.Rev, Key: f.Key} }

// accredited tells whether the log has an organization in one of the roles now.
func (t *turn) accredited(did string, roles ...string) bool {
	a, ok := t.b.seq.bound[syntax.DID(did)]
	return ok && (a.Status == rules.StatusActive || a.Status == rules.StatusConditional) &&
		slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(a.Roles, r) })
}

type cborRecord interface{ UnmarshalCBOR(io.Reader) error }

// decodeRecord reads bytes that checkRecord accepted.
func decodeRecord(raw []byte, into cborRecord) error {
	if err := into.UnmarshalCBOR(bytes.NewReader(raw)); err != nil {
		return xrpc.Errorf(400, rules.InvalidRecord, "the record does not decode: %v", err)
	}
	return nil
}

// checkRecord holds a stranger's record against its schema, and decodes it once where a fault stops nothing.
func checkRecord(coll, rkey string, raw []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the record does not decode: %v", p)
		}
	}()
	if err := lexicons.Validate(coll, rkey, raw); err != nil {
		return err
	}
	r := newRecord(coll)
	if err := decodeRecord(raw, r); err != nil {
		return err
	}
	for _, s := range stored(r) {
		if strings.ContainsRune(s, 0) {
			return errors.New("a key holds a zero byte")
		}
	}
	return nil
}

// stored are the strangers' own words that become columns, where a zero byte cannot stand.
func stored(r cborRecord) []string {
	switch r := r.(type) {
	case *citysync.WorkTask:
		words := []string{r.Epoch, r.Book}
		for _, s := range r.Shifts {
			words = append(words, s.Id)
		}
		return words
	case *citysync.WorkClaim:
		return []string{r.ShiftId}
	case *citysync.WorkVerification:
		return []string{r.ShiftId}
	case *citysync.OfferOffering:
		return []string{r.Epoch, r.Book}
	case *citysync.GovParameterSet:
		words := []string{r.EffectiveEpoch}
		for _, e := range r.Epochs {
			words = append(words, e.Key)
			if e.Book != nil {
				words = append(words, *e.Book)
			}
		}
		return words
	}
	return nil
}

func newRecord(coll string) cborRecord {
	switch coll {
	case lexicons.ActorCity:
		return new(citysync.ActorCity)
	case lexicons.GovDecision:
		return new(citysync.GovDecision)
	case lexicons.GovParameterSet:
		return new(citysync.GovParameterSet)
	case lexicons.CatalogRuleSet:
		return new(citysync.CatalogRuleSet)
	case lexicons.CatalogEntry:
		return new(citysync.CatalogEntry)
	case lexicons.CatalogEntryStatus:
		return new(citysync.CatalogEntryStatus)
	case lexicons.RegistryAccreditation:
		return new(citysync.RegistryAccreditation)
	case lexicons.WorkTask:
		return new(citysync.WorkTask)
	case lexicons.WorkTaskStatus:
		return new(citysync.WorkTaskStatus)
	case lexicons.WorkClaim:
		return new(citysync.WorkClaim)
	case lexicons.WorkProof:
		return new(citysync.WorkProof)
	case lexicons.WorkVerification:
		return new(citysync.WorkVerification)
	case lexicons.OfferOffering:
		return new(citysync.OfferOffering)
	case lexicons.GovDispute:
		return new(citysync.GovDispute)
	case lexicons.GovResolution:
		return new(citysync.GovResolution)
	default:
		return new(citysync.OfferOfferingStatus)
	}
}

// printable keeps a message storable and short: strangers' text is in it.
func printable(s string) string {
	s = string(bytes.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, bytes.ToValidUTF8([]byte(s), []byte("?"))))
	if len(s) > 1000 {
		s = string(bytes.ToValidUTF8([]byte(s[:1000]), nil)) + "…"
	}
	return s
}
