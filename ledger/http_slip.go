package ledger

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
)

// slip is what a till's day came to, by the log. No person is in it.
type slip struct {
	Till        string       `json:"till"`
	Day         string       `json:"day"`
	Redemptions int64        `json:"redemptions"`
	Units       int64        `json:"units"`   // less what was taken back
	Credits     int64        `json:"credits"` // less what was taken back
	Offerings   []slipLine   `json:"offerings"`
	First       string       `json:"firstReceipt,omitempty"`
	Last        string       `json:"lastReceipt,omitempty"`
	Checkpoint  slipSnapshot `json:"checkpoint"`
}

// slipLine is one offering's part. Captured holds are among its redemptions.
type slipLine struct {
	Offering        string `json:"offering"`
	Redemptions     int64  `json:"redemptions"`
	Units           int64  `json:"units"`
	Credits         int64  `json:"credits"`
	HoldsCaptured   int64  `json:"holdsCaptured"`
	Refunds         int64  `json:"refunds"`
	RefundedUnits   int64  `json:"refundedUnits"`
	RefundedCredits int64  `json:"refundedCredits"`
}

type slipSnapshot struct {
	Size int64  `json:"size"`
	Root string `json:"root"`
	Note string `json:"note"`
}

// getTillSlip answers a till by its signature, and its redeemer by service auth.
func (l *Ledger) getTillSlip(c *xrpc.Call) (any, error) {
	till, day, err := l.slipOf(c)
	if err != nil {
		return nil, err
	}
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return nil, xrpc.InvalidRequest("day must be of the form 2006-01-02")
	}
	cp := l.seq.latest.Load()
	if cp == nil {
		return nil, notFound("the log is empty")
	}
	s, err := l.sumDay(c.Context(), till, day, cp.Size)
	if err != nil {
		return nil, err
	}
	s.Checkpoint = slipSnapshot{Size: cp.Size, Root: b64(cp.Root), Note: string(cp.Note)}
	return s, nil
}

func (l *Ledger) slipOf(c *xrpc.Call) (till, day string, err error) {
	if _, ok := c.Bearer(); !ok {
		in, err := l.byTill(c)
		if err != nil {
			return "", "", err
		}
		t, err := getTill(c.Context(), l.store.pool, in.till)
		if err != nil {
			return "", "", err
		}
		return in.till, in.word("day"), t.usable()
	}
	redeemer, err := l.auth.Caller(c)
	if err != nil {
		return "", "", err
	}
	var in struct {
		Till string `json:"till"`
		Day  string `json:"day"`
	}
	if err := c.Body(&in); err != nil {
		return "", "", err
	}
	if len(in.Till) > 64 {
		return "", "", xrpc.InvalidRequest("till is too long")
	}
	t, err := getTill(c.Context(), l.store.pool, in.Till)
	if err != nil {
		return "", "", err
	}
	if t.Org != redeemer.String() {
		return "", "", xrpc.Errorf(http.StatusForbidden, rules.TillUnknown, "the till is not yours")
	}
	return in.Till, in.Day, nil
}

// sumDay adds up the entries of a till and a local day.
func (l *Ledger) sumDay(ctx context.Context, till, day string, size int64) (*slip, error) {
	entries, err := l.entriesOf(ctx, `select e.leaf from till_entry t join entry e using (seq) where t.till = $1 and t.day = $2 and t.seq < $3
		order by t.seq`, till, day, size)
	if err != nil {
		return nil, err
	}
	units, err := l.unitsOf(ctx, entries)
	if err != nil {
		return nil, err
	}
	s := &slip{Till: till, Day: day, Offerings: []slipLine{}}
	lines := map[string]*slipLine{}
	for _, e := range entries {
		of := units[e.Seq]
		line := lines[of.uri]
		if line == nil {
			line = &slipLine{Offering: of.uri}
			lines[of.uri] = line
		}
		if e.Kind == entry.KindReverse {
			line.Refunds, line.RefundedUnits, line.RefundedCredits = line.Refunds+1, line.RefundedUnits+of.units, line.RefundedCredits+e.Amount
			s.Units, s.Credits = s.Units-of.units, s.Credits-e.Amount
		} else {
			line.Redemptions, line.Units, line.Credits = line.Redemptions+1, line.Units+of.units, line.Credits+e.Amount
			s.Redemptions, s.Units, s.Credits = s.Redemptions+1, s.Units+of.units, s.Credits+e.Amount
		}
		if e.Kind == entry.KindCapture {
			line.HoldsCaptured++
		}
		s.First, s.Last = cmp.Or(s.First, receiptKey(e.Seq)), receiptKey(e.Seq)
	}
	for _, uri := range slices.Sorted(maps.Keys(lines)) {
		s.Offerings = append(s.Offerings, *lines[uri])
	}
	return s, nil
}

// sold is what was redeemed by an entry, or taken back by it.
type sold struct {
	uri   string
	units int64
}

// unitsOf follows captures to their holds and reversals to what they reverse: those entries say it.
func (l *Ledger) unitsOf(ctx context.Context, entries []*entry.Entry) (map[int64]sold, error) {
	known, refers := map[int64]sold{}, map[int64]int64{}
	for todo := entries; len(todo) > 0; {
		var missing []int64
		for _, e := range todo {
			switch e.Kind {
			case entry.KindBurn:
				known[e.Seq] = sold{e.Burn.Offering.URI, e.Burn.Units}
				continue
			case entry.KindHold:
				known[e.Seq] = sold{e.Hold.Offering.URI, e.Hold.Units}
				continue
			case entry.KindCapture:
				refers[e.Seq] = e.Capture.Hold
			case entry.KindReverse:
				refers[e.Seq] = e.Reverse.Of
			}
			missing = append(missing, refers[e.Seq])
		}
		if len(missing) == 0 {
			break
		}
		var err error
		if todo, err = l.entriesOf(ctx, `select leaf from entry where seq = any($1) order by seq`, missing); err != nil {
			return nil, err
		}
	}
	for seq := range refers {
		at := seq
		for range 2 { // a reversal refers to a capture, and that to a hold
			if next, ok := refers[at]; ok {
				at = next
			}
		}
		known[seq] = known[at]
	}
	return known, nil
}

func (l *Ledger) entriesOf(ctx context.Context, sql string, args ...any) ([]*entry.Entry, error) {
	rows, err := l.store.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("entries: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*entry.Entry, error) {
		var leaf []byte
		if err := row.Scan(&leaf); err != nil {
			return nil, err
		}
		return entry.Decode(leaf)
	})
}
