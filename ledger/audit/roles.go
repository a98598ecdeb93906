package audit

import (
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// role is an accreditation as the log told it.
type role struct {
	from string // At of its entry
	bind *entry.Bind
}

func (a *Auditor) bind(e *entry.Entry) {
	switch b := e.Bind; b.What {
	case entry.BindRole:
		list := a.roles[e.Org]
		a.check(e, len(list) == 0 || list[len(list)-1].from <= e.At, "an accreditation before the last one")
		a.roles[e.Org] = append(list, role{from: e.At, bind: b})
	case entry.BindTill:
		a.check(e, b.Till == entry.TillID(string(e.Org), b.Key), "till %s has another id than its key gives", b.Till)
		_, twice := a.tills[b.Till]
		a.check(e, !twice, "till %s is bound twice", b.Till)
		a.check(e, a.roleNow(e.Org).holdsOn(e.Day, a.loc, "redeemer", "sponsor"), "a till of %s, which is no redeemer", e.Org)
		a.tills[b.Till] = e.Org
	case entry.BindStaff: // its sealed part says it all
	case entry.BindWitness, entry.BindPolicy, entry.BindLogKey:
		a.check(e, a.version >= 2, "a binding of a %s under rules version %d, which has none", b.What, a.version)
		a.bindKey(e)
	default:
		a.found(e.Seq, "a binding of a %q", b.What)
	}
}

func (a *Auditor) roleNow(org syntax.DID) *role {
	list := a.roles[org]
	if len(list) == 0 {
		return nil
	}
	return &list[len(list)-1]
}

func (r *role) good() bool {
	return r != nil && (r.bind.Status == "active" || r.bind.Status == "conditional")
}

func (r *role) is(names ...string) bool {
	return r != nil && slices.ContainsFunc(names, func(n string) bool { return slices.Contains(r.bind.Roles, n) })
}

func (r *role) has(category string) bool {
	return r != nil && slices.Contains(r.bind.Categories, category)
}

func (r *role) delegate(org syntax.DID) bool {
	return r != nil && slices.Contains(r.bind.Delegates, org)
}

// term says whether the accreditation's term has the local day.
func (r *role) term(day string, loc *time.Location) bool {
	from, err := entry.ParseTime(r.bind.ValidFrom)
	if err != nil || entry.FormatDay(from, loc) > day {
		return false
	}
	until, err := entry.ParseTime(r.bind.ValidUntil)
	return r.bind.ValidUntil == "" || (err == nil && entry.FormatDay(until.Add(-time.Second), loc) >= day)
}

// holdsOn says whether this version, taken alone, gives one of the roles on a day.
func (r *role) holdsOn(day string, loc *time.Location, names ...string) bool {
	return r.good() && r.is(names...) && r.term(day, loc)
}

// wasOn says whether the organization had one of the roles on a day by any version in force on it.
func (a *Auditor) wasOn(org syntax.DID, day string, names ...string) bool {
	list := a.roles[org]
	for i := range list {
		begins, ends := "", "9999"
		if i > 0 {
			begins = a.localDay(list[i].from)
		}
		if i+1 < len(list) {
			ends = a.localDay(list[i+1].from)
		}
		if begins <= day && day <= ends && list[i].holdsOn(day, a.loc, names...) {
			return true
		}
	}
	return false
}

func (a *Auditor) localDay(at string) string {
	t, err := entry.ParseTime(at)
	if err != nil {
		return ""
	}
	return entry.FormatDay(t, a.loc)
}

// authority is the DID in an at-uri.
func authority(uri string) syntax.DID {
	rest, _ := strings.CutPrefix(uri, "at://")
	did, _, _ := strings.Cut(rest, "/")
	return syntax.DID(did)
}
