package audit

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// ErrNoRecord is what a fetch gives where a record cannot be had: CheckCauses reports it as missing.
var ErrNoRecord = errors.New("record not found")

// Fetch gives the record at a cause's uri and cid. It has checked bytes, signature and key by itself. Rev and key are
// empty for a record that is cited inside another one.
type Fetch func(entry.Cause) (Record, error)

// Cited gives the records that CheckCauses will ask for, apart from those that they cite themselves.
func Cited(e *entry.Entry) []entry.Cause {
	list := slices.Clone(e.Causes)
	switch e.Kind {
	case entry.KindReserve:
		list = append(list, entry.Cause{URI: e.Reserve.Entry.URI, CID: e.Reserve.Entry.CID})
	case entry.KindEpochOpen:
		for _, o := range e.EpochOpen.Offerings {
			list = append(list, entry.Cause{URI: o.URI, CID: o.CID, Rev: o.Rev})
		}
		list = append(list, entry.Cause{URI: e.Params.URI, CID: e.Params.CID})
	case entry.KindMint:
		list = append(list, entry.Cause{URI: e.Mint.Task.URI, CID: e.Mint.Task.CID})
		if r := e.Mint.Resolution; r != nil && !slices.ContainsFunc(e.Causes, func(c entry.Cause) bool { return c.Ref() == *r }) {
			list = append(list, entry.Cause{URI: r.URI, CID: r.CID})
		}
	}
	return list
}

// CheckCauses holds an entry against the records it cites. The city's DID says whose accreditations, parameters and catalog
// count.
func CheckCauses(e *entry.Entry, city syntax.DID, fetch Fetch) []Finding {
	c := &causes{e: e, city: city, fetch: fetch}
	switch e.Kind {
	case entry.KindParameters:
		c.parameters()
	case entry.KindBind:
		if e.Bind.What == entry.BindRole {
			c.role()
		}
	case entry.KindEpochOpen:
		for _, o := range e.EpochOpen.Offerings {
			c.counted(o)
		}
	case entry.KindReserve:
		c.task()
	case entry.KindRelease:
		if e.Release.Reason == entry.ReleaseRejected {
			c.rejection()
		}
	case entry.KindMint:
		c.mint()
	case entry.KindBurn:
		b := e.Burn
		c.redeemed(b.Price, b.UnitsMonth)
	case entry.KindHold:
		h := e.Hold
		c.redeemed(h.Price, h.UnitsMonth)
	case entry.KindReverse:
		if e.Reverse.What == entry.KindMint {
			c.correction()
		}
	case entry.KindPause:
		c.stops(e.Pause.What, e.Pause.Subject, "paused")
	case entry.KindResume:
		c.stops(e.Resume.What, e.Resume.Subject, "live")
	}
	return c.findings
}

type causes struct {
	e        *entry.Entry
	city     syntax.DID
	fetch    Fetch
	findings []Finding
}

func (c *causes) check(uri string, holds bool, format string, args ...any) {
	if !holds {
		c.findings = append(c.findings, Finding{Entry: c.e.Seq, URI: uri, What: fmt.Sprintf(format, args...)})
	}
}

func (c *causes) get(cause entry.Cause, collection string) Record {
	parts := strings.Split(strings.TrimPrefix(cause.URI, "at://"), "/")
	if len(parts) != 3 || parts[1] != collection {
		c.check(cause.URI, false, "is no %s", collection)
		return nil
	}
	r, err := c.fetch(cause)
	if err != nil {
		c.check(cause.URI, false, "%v", err)
		return nil
	}
	if r == nil {
		c.check(cause.URI, false, "%v", ErrNoRecord)
	}
	return r
}

func (c *causes) ofCity(uri string) {
	c.check(uri, authority(uri) == c.city, "is not of the city")
}

func equal[T comparable](c *causes, uri, what string, record, log T) {
	c.check(uri, record == log, "%s is %v, the entry says %v", what, record, log)
}

func (c *causes) parameters() {
	uri := c.e.Causes[0].URI
	c.ofCity(uri)
	r := c.get(c.e.Causes[0], "org.city-sync.gov.parameterSet")
	if r == nil {
		return
	}
	p := c.e.Parameters
	equal(c, uri, "effectiveEpoch", r.text("effectiveEpoch"), p.EffectiveEpoch)
	equal(c, uri, "number of epochs", len(r.list("epochs")), len(p.Epochs))
	for i, v := range r.list("epochs") {
		if i < len(p.Epochs) {
			c.plan(uri, asRecord(v), p.Epochs[i])
		}
	}
	f := r.object("capPolicy")
	for _, n := range []struct {
		name string
		log  int64
	}{
		{"capPhaseBps", p.CapPolicy.CapPhaseBps},
		{"capShareBps", p.CapPolicy.CapShareBps},
		{"ascrMaxMilli", p.CapPolicy.AscrMaxMilli},
		{"deltaCapBps", p.CapPolicy.DeltaCapBps},
		{"rStartBps", p.CapPolicy.RStartBps},
		{"deltaStartBps", p.CapPolicy.DeltaStartBps},
	} {
		equal(c, uri, n.name, f.number(n.name), n.log)
	}
	for _, n := range []struct {
		name         string
		log, without int64
	}{
		{"dormancyMonths", p.DormancyMonths, 12},
		{"warmUpMonths", p.WarmUpMonths, 5},
		{"claimLimit", p.ClaimLimit, 5},
		{"claimLapseDays", p.ClaimLapseDays, 14},
		{"votesPerCredit", p.VotesPerCredit, 1},
		{"kMin", p.KMin, 10},
	} {
		want := n.without
		if _, has := r[n.name]; has {
			want = r.number(n.name)
		}
		equal(c, uri, n.name, want, n.log)
	}
	c.tiers(uri, r)
	c.weights(uri, r.object("issuerSplit"))
}

func (c *causes) tiers(uri string, r Record) {
	tiers := map[int64]entry.Tier{}
	for _, v := range r.list("tiers") {
		t := asRecord(v)
		tiers[t.number("n")] = entry.Tier{N: t.number("n"), CreditsPerHour: t.number("creditsPerHour"), BandBps: t.number("bandBps")}
	}
	equal(c, uri, "number of tiers", len(tiers), len(c.e.Parameters.Tiers))
	for _, t := range c.e.Parameters.Tiers {
		equal(c, uri, fmt.Sprintf("tier %d", t.N), tiers[t.N], t)
	}
}

func (c *causes) weights(uri string, split Record) {
	weights := map[syntax.DID]int64{}
	for _, v := range split.list("weights") {
		if w := asRecord(v); split.text("kind") != "equal" {
			weights[syntax.DID(w.text("org"))] = w.number("weight")
		}
	}
	equal(c, uri, "number of weights", len(weights), len(c.e.Parameters.Weights))
	for _, w := range c.e.Parameters.Weights {
		equal(c, uri, "weight of "+string(w.DID), weights[w.DID], w.Weight)
	}
}

func (c *causes) plan(uri string, r Record, p entry.EpochPlan) {
	equal(c, uri, "epoch", r.text("key"), p.Key)
	equal(c, uri, "startsAt", r.time("startsAt"), p.StartsAt)
	equal(c, uri, "endsAt", r.time("endsAt"), p.EndsAt)
	equal(c, uri, "tz", r.text("tz"), p.TZ)
	equal(c, uri, "phase", r.text("phase"), p.Phase)
	equal(c, uri, "book", r.text("book"), p.Book)
	equal(c, uri, "number of months", len(r.list("months")), len(p.Months))
	for i, v := range r.list("months") {
		if i < len(p.Months) {
			m := asRecord(v)
			equal(c, uri, "month", entry.Month{StartsAt: m.time("startsAt"), EndsAt: m.time("endsAt")}, p.Months[i])
		}
	}
}

func (c *causes) role() {
	uri := c.e.Causes[0].URI
	c.ofCity(uri)
	if c.e.Bind.Status == "revoked" {
		if r, err := c.fetch(c.e.Causes[0]); err != nil || r == nil || r.text("status") != "revoked" {
			return // a deleted accreditation is bound as revoked under the last version that was
		}
	}
	r := c.get(c.e.Causes[0], "org.city-sync.registry.accreditation")
	if r == nil {
		return
	}
	b := c.e.Bind
	equal(c, uri, "org", r.text("org"), string(c.e.Org))
	equal(c, uri, "status", r.text("status"), b.Status)
	equal(c, uri, "validFrom", r.time("validFrom"), b.ValidFrom)
	equal(c, uri, "validUntil", r.time("validUntil"), b.ValidUntil)
	equal(c, uri, "perEpochLimit", r.number("perEpochLimit"), b.PerEpochLimit)
	equal(c, uri, "roles", sorted(names(r.texts("roles"), "role")), sorted(b.Roles))
	equal(c, uri, "categories", sorted(names(r.texts("categories"), "category")), sorted(b.Categories))
	var delegates []string
	for _, d := range b.Delegates {
		delegates = append(delegates, string(d))
	}
	equal(c, uri, "delegates", sorted(r.texts("delegates")), sorted(delegates))
}

func sorted(list []string) string {
	list = slices.Clone(list)
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

// names turns tokens into the bare names that entries have.
func names(tokens []string, prefix string) []string {
	var out []string
	for _, t := range tokens {
		name := t[strings.Index(t, "#")+1:]
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if first, size := utf8.DecodeRuneInString(rest); unicode.IsUpper(first) {
				name = string(unicode.ToLower(first)) + rest[size:]
			}
		}
		out = append(out, name)
	}
	return out
}

// units is what an offering counts a month.
func units(r Record) int64 {
	capacity := r.object("capacity")
	return max(0, min(capacity.number("physicalMonth"), capacity.number("marginalMonth"), capacity.number("committedMonth")))
}

func (c *causes) offering(cause entry.Cause) Record {
	r := c.get(cause, "org.city-sync.offer.offering")
	if r == nil {
		return nil
	}
	equal(c, cause.URI, "epoch", r.text("epoch"), c.e.Epoch)
	equal(c, cause.URI, "book", r.text("book"), c.e.Book)
	c.check(cause.URI, r.number("publicPriceMinor") > 0, "has a public price of 0")
	return r
}

func (c *causes) counted(o entry.CountedOffering) {
	r := c.offering(entry.Cause{URI: o.URI, CID: o.CID, Rev: o.Rev})
	if r == nil {
		return
	}
	equal(c, o.URI, "author", authority(o.URI), o.DID)
	equal(c, o.URI, "units a month", units(r), o.Units)
	equal(c, o.URI, "creditsPerUnit", r.number("creditsPerUnit"), o.Credits)
}

func (c *causes) redeemed(price, unitsMonth int64) {
	uri := c.e.Causes[0].URI
	r := c.offering(c.e.Causes[0])
	if r == nil {
		return
	}
	equal(c, uri, "author", authority(uri), c.e.Org)
	equal(c, uri, "creditsPerUnit", r.number("creditsPerUnit"), price)
	equal(c, uri, "units a month", units(r), unitsMonth)
}

func (c *causes) task() {
	v, uri := c.e.Reserve, c.e.Causes[0].URI
	equal(c, uri, "author", authority(uri), c.e.Org)
	r := c.get(c.e.Causes[0], "org.city-sync.work.task")
	if r == nil {
		return
	}
	equal(c, uri, "epoch", r.text("epoch"), c.e.Epoch)
	equal(c, uri, "book", r.text("book"), c.e.Book)
	equal(c, uri, "creditsPerCompletion", r.number("creditsPerCompletion"), v.Credits)
	equal(c, uri, "entry", r.ref("entry"), v.Entry)
	if opens := r.time("claimOpensAt"); opens != "" {
		equal(c, uri, "claimOpensAt", opens, v.ClaimOpensAt)
	}
	equal(c, uri, "claimClosesAt", r.time("claimClosesAt"), v.ClaimClosesAt)
	var shifts []entry.Shift
	for _, s := range r.list("shifts") {
		s := asRecord(s)
		shifts = append(shifts, entry.Shift{
			ID: s.text("id"), StartsAt: s.time("startsAt"), EndsAt: s.time("endsAt"), Slots: s.number("slots"),
		})
	}
	c.check(uri, slices.Equal(shifts, v.Shifts), "shifts are not those of the entry")
	if v.First == v.Task.URI && r.ref("supersedes").URI != "" {
		c.check(uri, false, "supersedes %s, the entry takes it as a first version", r.ref("supersedes").URI)
	}
	c.catalogEntry(entry.Cause{URI: v.Entry.URI, CID: v.Entry.CID})
}

func (c *causes) catalogEntry(cause entry.Cause) {
	v := c.e.Reserve
	c.ofCity(cause.URI)
	r := c.get(cause, "org.city-sync.catalog.entry")
	if r == nil {
		return
	}
	equal(c, cause.URI, "tier", r.number("tier"), v.Tier)
	equal(c, cause.URI, "minMinutes", r.number("minMinutes"), v.MinMinutes)
	equal(c, cause.URI, "maxMinutes", r.number("maxMinutes"), v.MaxMinutes)
	equal(c, cause.URI, "verificationLevel", r.number("verificationLevel"), v.Level)
	equal(c, cause.URI, "sensitivity", r.text("sensitivity"), v.Sensitivity)
}

func (c *causes) mint() {
	m := c.e.Mint
	r := c.verification(c.e.Causes[0], m.Outcome, m.Task, m.Shift)
	if r != nil {
		uri := c.e.Causes[0].URI
		equal(c, uri, "author", authority(uri), m.Verifier)
		equal(c, uri, "credits", r.number("credits"), c.e.Amount)
		equal(c, uri, "methods", sorted(names(r.texts("methods"), "method")), sorted(m.Methods))
		c.check(uri, r.number("level") >= m.Level, "level is %d, the entry says %d", r.number("level"), m.Level)
		if m.Outcome == entry.OutcomePartial {
			equal(c, uri, "minutes", r.number("minutes"), m.Minutes)
		}
		for _, co := range m.CoSigners {
			c.check(uri, slices.Contains(r.texts("coSigners"), string(co)), "does not name co-signer %s", co)
		}
		if r.object("subject").object("claim") != nil {
			c.publicTask()
		}
	}
	if m.Resolution != nil {
		c.ruling(entry.Cause{URI: m.Resolution.URI, CID: m.Resolution.CID}, "verify-anew", m.Verifier)
	}
	for i, co := range m.CoSigners {
		if i+1 >= len(c.e.Causes) {
			return // the replay has said so
		}
		cause := c.e.Causes[i+1]
		equal(c, cause.URI, "author", authority(cause.URI), co)
		c.verification(cause, "", m.Task, m.Shift)
	}
}

// verification checks a work.verification of the entry's subject. A co-signer's outcome may be any that pays.
func (c *causes) verification(cause entry.Cause, outcome string, task entry.Ref, shift string) Record {
	r := c.get(cause, "org.city-sync.work.verification")
	if r == nil {
		return nil
	}
	if outcome == "" {
		c.check(cause.URI, r.text("outcome") != entry.OutcomeRejected, "rejects what it co-signs")
	} else {
		equal(c, cause.URI, "outcome", r.text("outcome"), outcome)
	}
	equal(c, cause.URI, "shiftId", r.text("shiftId"), shift)
	if task != (entry.Ref{}) {
		equal(c, cause.URI, "task", r.ref("task"), task)
	}
	subject := r.object("subject")
	if subject.object("claim") == nil {
		token := subject.object("blindedSubject").bytes("value")
		c.check(cause.URI, bytes.Equal(token, c.e.Nullifier), "its subject is not the entry's nullifier")
	} else {
		c.check(cause.URI, outcome != entry.OutcomeRejected, "a rejection names a public claim")
	}
	return r
}

// rejection checks the verification that a release of this kind rests on. Other releases need no cause, so an entry may lack it.
func (c *causes) rejection() {
	if len(c.e.Causes) != 1 || len(c.e.Release.Shifts) != 1 {
		c.check("", false, "a rejection of %d shifts by %d verifications", len(c.e.Release.Shifts), len(c.e.Causes))
		return
	}
	c.verification(c.e.Causes[0], entry.OutcomeRejected, entry.Ref{}, c.e.Release.Shifts[0])
}

// publicTask checks that a verification that names a claim openly is of a task that allows it.
func (c *causes) publicTask() {
	cause := entry.Cause{URI: c.e.Mint.Task.URI, CID: c.e.Mint.Task.CID}
	task := c.get(cause, "org.city-sync.work.task")
	if task == nil {
		return
	}
	ref := task.ref("entry")
	if r := c.get(entry.Cause{URI: ref.URI, CID: ref.CID}, "org.city-sync.catalog.entry"); r != nil {
		equal(c, ref.URI, "sensitivity", r.text("sensitivity"), entry.SensitivityPublic)
	}
}
