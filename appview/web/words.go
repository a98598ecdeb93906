package web

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/ledger/entry"
)

// fact is one line of an entry in words. Value is text or, where Path is set, a link's text; Code is for what machines compare.
type fact struct {
	Label, Value, Path string
	Code               bool
	Short              bool // it belongs on paper too
}

// teller puts an entry into words of the page's language.
type teller struct {
	l     layout
	names map[string]string // of organizations
	out   []fact
}

// tell gives what an entry says: a key of the phrase that names it, one of a sentence, and its facts.
func tell(l layout, e *entry.Entry, names map[string]string) (name, says string, facts []fact) {
	t := &teller{l: l, names: names}
	name, says = "kind."+string(e.Kind), "says."+string(e.Kind)
	switch {
	case e.Bind != nil:
		name, says = "kind.bind."+e.Bind.What, "says.bind."+e.Bind.What
	case e.Pause != nil:
		says = "says.pause." + e.Pause.What
	case e.Reverse != nil:
		says = "says.reverse." + e.Reverse.Reason
	case e.Void != nil:
		says = "says.void." + e.Void.Reason
	case e.Expire != nil:
		says = "says.expire." + e.Expire.Reason
	}
	t.text("day", e.Day)
	t.org("organization", e.Org.String())
	t.amount("amount", e.Amount)
	t.amount("votes", e.Votes)
	t.text("book", e.Book)
	if e.Epoch != "" {
		t.link("epoch", e.Epoch, epochPath(e.Book, e.Epoch))
	}
	if e.Cap != nil {
		t.text("capBefore", number(e.Cap.Before)+" / "+number(e.Cap.Cap))
	}
	if len(e.Nullifier) > 0 {
		t.code("token", hex.EncodeToString(e.Nullifier))
	}
	t.core(e)
	t.counter(e)
	t.time(e)
	return name, says, t.out
}

// onPaper are the labels of what a printed receipt says; the proof holds the rest.
var onPaper = []string{"day", "organization", "amount", "votes", "book", "epoch", "units", "ofEntry", "ofHold", "short", "outcome"}

func (t *teller) add(f fact) {
	if f.Value != "" {
		f.Short = slices.Contains(onPaper, f.Label)
		f.Label = t.l.T(f.Label)
		t.out = append(t.out, f)
	}
}

func (t *teller) text(label, value string) { t.add(fact{Label: label, Value: value}) }
func (t *teller) code(label, value string) { t.add(fact{Label: label, Value: value, Code: true}) }

func (t *teller) link(label, value, path string) { t.add(fact{Label: label, Value: value, Path: path}) }

// amount says nothing of zero; figure does.
func (t *teller) amount(label string, n int64) {
	if n != 0 {
		t.figure(label, n)
	}
}
func (t *teller) figure(label string, n int64) { t.text(label, number(n)) }

func (t *teller) org(label, did string) {
	if name := t.names[did]; name != "" {
		t.text(label, name)
		return
	}
	t.code(label, did)
}

func (t *teller) entry(label string, seq int64) {
	t.link(label, t.l.T("logEntry")+" "+strconv.FormatInt(seq, 10), entryPath(seq))
}

func (t *teller) task(uri string) { t.link("task", uri, taskPath(uri)) }

// word says one of the log's own words; it says nothing of none.
func (t *teller) word(label, prefix, word string) {
	t.text(label, t.l.Word(prefix, word))
}

func (t *teller) moment(label, at string) {
	if when, err := entry.ParseTime(at); err == nil {
		t.text(label, t.l.Minute(when))
	}
}

// core is about what organizations bind, publish and verify.
func (t *teller) core(e *entry.Entry) {
	switch {
	case e.RulesVersion != nil:
		t.figure("rules", e.RulesVersion.Version)
	case e.Parameters != nil:
		t.text("from", e.Parameters.EffectiveEpoch)
	case e.Bind != nil:
		t.text("roles", strings.Join(e.Bind.Roles, ", "))
		t.word("status", "status.", e.Bind.Status)
		t.text("class", e.Bind.Class)
		if e.Bind.Openings {
			t.text("openings", t.l.T("underAgreement"))
		}
		t.code("key", e.Bind.Key)
		if len(e.Bind.Hash) > 0 {
			t.code("policyHash", hex.EncodeToString(e.Bind.Hash))
		}
		t.amount("quorumSigns", int64(len(e.Bind.Quorum)))
	case e.EpochOpen != nil:
		t.figure("capacity", e.EpochOpen.Capacity)
		t.figure("cap", e.EpochOpen.Cap)
		t.word("boundBy", "bound.", e.EpochOpen.BoundBy)
	case e.Reserve != nil:
		t.task(e.Reserve.First)
		t.figure("creditsEach", e.Reserve.Credits)
		var slots int64
		for _, s := range e.Reserve.Shifts {
			slots += s.Slots
		}
		t.figure("slots", slots)
	case e.Release != nil:
		t.task(e.Release.First)
		t.word("reason", "release.", e.Release.Reason)
	case e.Claim != nil:
		t.task(e.Claim.First)
	case e.Unclaim != nil:
		t.task(e.Unclaim.First)
		t.word("reason", "unclaim.", e.Unclaim.Reason)
	case e.Mint != nil:
		t.task(e.Mint.First)
		t.org("verifiedBy", e.Mint.Verifier.String())
		t.word("outcome", "outcome.", e.Mint.Outcome)
		t.figure("frozen", e.Mint.Frozen)
		if r := e.Mint.Resolution; r != nil {
			t.link("resolution", r.URI, recordPath(r.URI, r.CID))
		}
	}
}

// counter is about what is redeemed, and taken back.
func (t *teller) counter(e *entry.Entry) {
	switch {
	case e.Burn != nil:
		t.redeemed(e.Burn.Offering, e.Burn.Units, e.Burn.Price, e.Burn.UnitsBefore, e.Burn.UnitsMonth)
	case e.Hold != nil:
		t.redeemed(e.Hold.Offering, e.Hold.Units, e.Hold.Price, e.Hold.UnitsBefore, e.Hold.UnitsMonth)
		t.text("untilDay", e.Hold.Until)
	case e.Capture != nil:
		t.entry("ofHold", e.Capture.Hold)
	case e.Void != nil:
		t.entry("ofHold", e.Void.Hold)
	case e.Reverse != nil:
		t.entry("ofEntry", e.Reverse.Of)
		t.word("whatReversed", "kind.", string(e.Reverse.What))
		t.amount("short", e.Reverse.Short)
	}
}

func (t *teller) redeemed(offering entry.Ref, units, price, before, month int64) {
	t.link("offering", offering.URI, offeringPath(offering.URI))
	t.figure("units", units)
	t.figure("price", price)
	t.text("unitsMonthUsed", number(before)+" / "+number(month))
}

// time is about months, epochs, pauses and the daily digest.
func (t *teller) time(e *entry.Entry) {
	switch {
	case e.Dormant != nil:
		d := e.Dormant
		t.figure("month", d.Month+1)
		t.flow(entry.MonthFlow{Issued: d.Issued, Burned: d.Burned, Quiet: e.Amount, Reactivated: d.Reactivated, Expired: d.Expired, Active: d.Active, Dormant: d.Dormant})
	case e.EpochClose != nil:
		c := e.EpochClose
		t.figure("reserved", c.Reserved)
		t.figure("minted", c.Minted)
		t.figure("outstanding", c.Outstanding)
		t.text("rate.r", ratio(c.R))
		t.text("rate.delta", ratio(c.Delta))
		if n := c.Next; n != nil {
			t.text("nextEpoch", n.Epoch)
			t.figure("nextCap", n.Cap)
			t.word("boundBy", "bound.", n.BoundBy)
		}
	case e.Pause != nil:
		t.subject(e.Pause.Subject)
		t.moment("untilTime", e.Pause.Until)
		t.text("reason", e.Pause.Reason)
	case e.Resume != nil:
		t.word("whatPaused", "paused.", e.Resume.What)
		t.subject(e.Resume.Subject)
		t.text("reason", e.Resume.Reason)
	case e.StateDigest != nil:
		t.code("digest", hex.EncodeToString(e.StateDigest.Digest))
		for _, b := range e.StateDigest.Balances {
			t.code("balancesRoot", b.Book+": "+base64.StdEncoding.EncodeToString(b.Root))
			t.text("balancesSum", b.Book+": "+number(b.Sum))
		}
	}
}

func (t *teller) flow(m entry.MonthFlow) {
	for _, f := range []struct {
		label string
		n     int64
	}{
		{"issued", m.Issued}, {"burned", m.Burned}, {"quiet", m.Quiet}, {"reactivated", m.Reactivated}, {"expired", m.Expired},
		{"active", m.Active}, {"dormant", m.Dormant},
	} {
		t.figure(f.label, f.n)
	}
}

func (t *teller) subject(uri string) {
	switch {
	case uri == "":
	case strings.Contains(uri, "/org.city-sync.work.task/"):
		t.task(uri)
	default:
		t.link("offering", uri, offeringPath(uri))
	}
}

// ratio writes an exact rational with three decimals, cut off, beside its parts.
func ratio(r entry.Ratio) string {
	if r.Den <= 0 {
		return "–"
	}
	return fmt.Sprintf("%d.%03d (%s / %s)", r.Num/r.Den, r.Num%r.Den*1000/r.Den, number(r.Num), number(r.Den))
}

// pauseSays is what stands where something is paused.
func (l layout) PauseSays(p query.Pause) string {
	said := l.T("says.pause." + p.What)
	if !p.Until.IsZero() && p.Until.Year() < 9999 {
		said += " " + fmt.Sprintf(l.T("pausedUntil"), l.Minute(p.Until))
	}
	return said
}
