package lexicons

import (
	"errors"
	"fmt"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
)

// checks are the few rules about one record alone that a schema cannot say and
// without which no reader could make sense of it. What needs a second record,
// a clock or a parameter is the ledger's to judge. They run after the schema.
var checks = map[string]func(rec map[string]any, rkey string) error{
	WorkTask:         checkTask,
	WorkVerification: checkVerification,
	OfferOffering:    checkOffering,
	OfferRedemption:  func(r map[string]any, _ string) error { return checkDay(r) },
	LedgerReceipt:    checkReceipt,
	GovParameterSet:  checkParameterSet,
}

// checkTask: shifts are told apart by id and each ends after it starts.
func checkTask(r map[string]any, _ string) error {
	if err := unique(r, "shifts", "id"); err != nil {
		return err
	}
	for i, s := range objects(r, "shifts") {
		if err := checkSpan(s, "startsAt", "endsAt"); err != nil {
			return fmt.Errorf("shifts[%d]: %w", i, err)
		}
	}
	if str(r, "claimOpensAt") != "" && str(r, "claimClosesAt") != "" {
		return checkSpan(r, "claimOpensAt", "claimClosesAt")
	}
	return nil
}

// checkVerification: a rejection names nobody and pays nothing.
func checkVerification(r map[string]any, _ string) error {
	switch str(r, "outcome") {
	case "rejected":
		if str(r, "subject", "$type") == WorkVerification+"#publicClaim" {
			return errors.New("a rejection names its subject by claim token only")
		}
		if integer(r, "credits") != 0 {
			return errors.New("a rejection pays nothing")
		}
	case "partial":
		if _, ok := r["minutes"]; !ok {
			return errors.New("a partial outcome needs minutes")
		}
	}
	return nil
}

// checkOffering: opening hours are hours of one day.
func checkOffering(r map[string]any, _ string) error {
	for i, w := range objects(r, "windows") {
		from, errFrom := clockMinutes(str(w, "from"))
		to, errTo := clockMinutes(str(w, "to"))
		if err := errors.Join(errFrom, errTo); err != nil {
			return fmt.Errorf("windows[%d]: %w", i, err)
		}
		if to <= from {
			return fmt.Errorf("windows[%d]: to must be later than from", i)
		}
	}
	return nil
}

// checkReceipt: what a mint shows of its subject is the nullifier, what a burn
// shows is a commitment and nothing that could be joined.
func checkReceipt(r map[string]any, _ string) error {
	typ := str(r, "subject", "$type")
	switch str(r, "kind") {
	case "mint":
		if typ != Root+".defs#blindedSubject" {
			return errors.New("the subject of a mint is a blindedSubject")
		}
	case "burn":
		if typ != Root+".defs#commitment" {
			return errors.New("the subject of a burn is a commitment")
		}
	}
	return checkDay(r)
}

// checkParameterSet: epochs and tiers are told apart, time runs forward.
func checkParameterSet(r map[string]any, _ string) error {
	if err := errors.Join(unique(r, "epochs", "key"), unique(r, "tiers", "n")); err != nil {
		return err
	}
	for i, e := range objects(r, "epochs") {
		if err := checkSpan(e, "startsAt", "endsAt"); err != nil {
			return fmt.Errorf("epochs[%d]: %w", i, err)
		}
		last := str(e, "startsAt")
		for k, m := range objects(e, "months") {
			if err := checkSpan(m, "startsAt", "endsAt"); err != nil {
				return fmt.Errorf("epochs[%d].months[%d]: %w", i, k, err)
			}
			if instant(str(m, "startsAt")).Before(instant(last)) || instant(str(m, "endsAt")).After(instant(str(e, "endsAt"))) {
				return fmt.Errorf("epochs[%d].months[%d]: out of order or outside the epoch", i, k)
			}
			last = str(m, "endsAt")
		}
	}
	return nil
}

func checkDay(r map[string]any) error {
	if _, err := time.Parse(time.DateOnly, str(r, "day")); err != nil {
		return errors.New("day: must be YYYY-MM-DD")
	}
	return nil
}

func checkSpan(r map[string]any, from, to string) error {
	if !instant(str(r, from)).Before(instant(str(r, to))) {
		return fmt.Errorf("%s must be later than %s", to, from)
	}
	return nil
}

// instant is the time of a datetime that has passed the schema.
func instant(s string) time.Time { return syntax.Datetime(s).Time() }

// clockMinutes reads HH:MM, 24:00 included, as minutes since midnight.
func clockMinutes(s string) (int, error) {
	if s == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != 5 {
		return 0, fmt.Errorf("%q is no time of day", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// unique checks that no two objects of a list share the value of a field.
func unique(r map[string]any, list, field string) error {
	seen := map[any]bool{}
	for i, o := range objects(r, list) {
		if seen[o[field]] {
			return fmt.Errorf("%s[%d].%s: %v stands twice", list, i, field, o[field])
		}
		seen[o[field]] = true
	}
	return nil
}

// objects are the elements of a list of objects.
func objects(r map[string]any, list string) []map[string]any {
	items, _ := r[list].([]any)
	out := make([]map[string]any, 0, len(items))
	for _, it := range items {
		if m, ok := it.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
