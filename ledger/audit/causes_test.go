package audit_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

type object = map[string]any

func strongRef(r entry.Ref) object { return object{"uri": r.URI, "cid": r.CID} }

func tokens(names []string, prefix string) []any {
	var list []any
	for _, n := range names {
		list = append(list, "org.city-sync.defs#"+prefix+strings.ToUpper(n[:1])+n[1:])
	}
	return list
}

func dids(list []syntax.DID) []any {
	var out []any
	for _, d := range list {
		out = append(out, string(d))
	}
	return out
}

// records are those that a good log's entries rest on, by cid, made backwards from the entries.
func records(w *rulestest.Town) map[string]object {
	out := map[string]object{}
	for i := range w.Entries {
		e := &w.Entries[i]
		switch e.Kind {
		case entry.KindParameters:
			out[e.Params.CID] = parameterSet(e.Parameters)
		case entry.KindBind:
			if e.Bind.What == entry.BindRole {
				out[e.Causes[0].CID] = object{
					"org": string(e.Org), "roles": tokens(e.Bind.Roles, "role"), "status": e.Bind.Status, "validFrom": e.Bind.ValidFrom,
					"validUntil": strings.Replace(e.Bind.ValidUntil, "Z", ".000Z", 1), "delegates": dids(e.Bind.Delegates),
					"categories": []any{},
				}
				for _, c := range e.Bind.Categories {
					out[e.Causes[0].CID]["categories"] = []any{c}
				}
			}
		case entry.KindReserve:
			r := e.Reserve
			task := object{"epoch": e.Epoch, "book": e.Book, "creditsPerCompletion": r.Credits, "entry": strongRef(r.Entry)}
			var shifts []any
			for _, s := range r.Shifts {
				shifts = append(shifts, object{"id": s.ID, "startsAt": s.StartsAt, "endsAt": s.EndsAt, "slots": s.Slots})
			}
			task["shifts"] = shifts
			out[r.Task.CID] = task
			out[r.Entry.CID] = object{
				"tier": r.Tier, "minMinutes": r.MinMinutes, "maxMinutes": r.MaxMinutes, "verificationLevel": r.Level, "sensitivity": r.Sensitivity,
			}
		case entry.KindRelease:
			if e.Release.Reason == entry.ReleaseRejected {
				out[e.Causes[0].CID] = object{
					"outcome": "rejected", "shiftId": e.Release.Shifts[0], "subject": blind(e.Nullifier), "credits": int64(0),
				}
			}
		case entry.KindMint:
			m := e.Mint
			for _, c := range e.Causes {
				out[c.CID] = object{
					"outcome": m.Outcome, "shiftId": m.Shift, "task": strongRef(m.Task), "subject": blind(e.Nullifier), "credits": e.Amount,
					"level": m.Level, "methods": tokens(m.Methods, "method"), "coSigners": dids(m.CoSigners),
				}
			}
		}
	}
	out[w.Ride.Record.CID] = object{
		"epoch": rulestest.Epoch, "book": rulestest.Book, "creditsPerUnit": int64(4), "publicPriceMinor": int64(500),
		"capacity": object{"physicalMonth": int64(1000), "marginalMonth": int64(500), "committedMonth": int64(200)},
	}
	return out
}

func blind(token []byte) object { return object{"blindedSubject": object{"value": token}} }

func parameterSet(p *entry.Parameters) object {
	r := object{
		"effectiveEpoch": p.EffectiveEpoch, "dormancyMonths": p.DormancyMonths, "kMin": p.KMin,
		"issuerSplit": object{"kind": "equal"}, // the rest by default
		"capPolicy": object{
			"capPhaseBps": p.CapPolicy.CapPhaseBps, "capShareBps": p.CapPolicy.CapShareBps, "ascrMaxMilli": p.CapPolicy.AscrMaxMilli,
			"deltaCapBps": p.CapPolicy.DeltaCapBps, "rStartBps": p.CapPolicy.RStartBps, "deltaStartBps": p.CapPolicy.DeltaStartBps,
		},
	}
	var epochs, tiers []any
	for _, e := range p.Epochs {
		var months []any
		for _, m := range e.Months {
			months = append(months, object{"startsAt": m.StartsAt, "endsAt": m.EndsAt})
		}
		epochs = append(epochs, object{"key": e.Key, "startsAt": e.StartsAt, "endsAt": e.EndsAt, "tz": e.TZ, "phase": e.Phase, "months": months})
	}
	for _, t := range p.Tiers {
		tiers = append(tiers, object{"n": t.N, "creditsPerHour": t.CreditsPerHour, "bandBps": t.BandBps})
	}
	r["epochs"], r["tiers"] = epochs, tiers
	return r
}

func fetch(held map[string]object) audit.Fetch {
	return func(c entry.Cause) (audit.Record, error) {
		if r, ok := held[c.CID]; ok {
			return r, nil
		}
		return nil, audit.ErrNoRecord
	}
}

func checkAll(w *rulestest.Town, f audit.Fetch) (found []audit.Finding) {
	for i := range w.Entries {
		found = append(found, audit.CheckCauses(&w.Entries[i], rulestest.City, f)...)
	}
	return found
}

// A3
func TestEntriesSayWhatTheirRecordsSay(t *testing.T) {
	t.Parallel()
	w := history(t)
	held := records(w)
	require.Empty(t, checkAll(w, fetch(held)))
	asked := 0
	for i := range w.Entries {
		for _, c := range audit.Cited(&w.Entries[i]) {
			require.Contains(t, held, c.CID)
			asked++
		}
	}
	assert.Greater(t, asked, 15)
	missing := checkAll(w, func(entry.Cause) (audit.Record, error) { return nil, audit.ErrNoRecord })
	assert.Greater(t, len(missing), 15, "each record that is missing is named")
}

// Records read as JSON have other number types, and bytes in their JSON form.
func TestRecordsMayComeAsJSON(t *testing.T) {
	t.Parallel()
	w := history(t)
	for _, useNumber := range []bool{true, false} {
		f := fetch(records(w))
		require.Empty(t, checkAll(w, func(c entry.Cause) (audit.Record, error) {
			r, err := f(c)
			if err != nil {
				return nil, err
			}
			if s, ok := r["subject"].(object); ok {
				b := s["blindedSubject"].(object)["value"].([]byte)
				r["subject"] = object{"blindedSubject": object{"value": object{"$bytes": base64.RawStdEncoding.EncodeToString(b)}}}
				defer func() { r["subject"] = s }()
			}
			raw, err := json.Marshal(r)
			require.NoError(t, err)
			d := json.NewDecoder(strings.NewReader(string(raw)))
			if useNumber {
				d.UseNumber()
			}
			var back audit.Record
			return back, d.Decode(&back)
		}))
	}
}

func TestEntriesThatSayOtherThanTheirRecordsAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		kind entry.Kind
		nth  int
		edit func(r object)
		says string
	}{
		{"cap formula", entry.KindParameters, 0, func(r object) { r["capPolicy"].(object)["capPhaseBps"] = int64(9000) }, "capPhaseBps is 9000, the entry says 5000"},
		{"tier", entry.KindParameters, 0, func(r object) { r["tiers"].([]any)[0].(object)["creditsPerHour"] = int64(80) }, "tier 1 is"},
		{"a tier more", entry.KindParameters, 0, func(r object) { r["tiers"] = append(r["tiers"].([]any), object{"n": int64(7)}) }, "number of tiers"},
		{"votes", entry.KindParameters, 0, func(r object) { r["votesPerCredit"] = int64(2) }, "votesPerCredit is 2"},
		{"weights", entry.KindParameters, 0, func(r object) {
			r["issuerSplit"] = object{"kind": "weights", "weights": []any{object{"org": "did:plc:library", "weight": int64(3)}}}
		}, "number of weights"},
		{"epoch", entry.KindParameters, 0, func(r object) { r["epochs"].([]any)[0].(object)["endsAt"] = "2027-12-31T00:00:00Z" }, "endsAt is"},
		{"months", entry.KindParameters, 0, func(r object) { r["epochs"].([]any)[0].(object)["months"] = []any{} }, "number of months"},
		{"role", entry.KindBind, 0, func(r object) { r["roles"] = []any{"org.city-sync.defs#roleWitness"} }, "roles is witness, the entry says issuer"},
		{"status", entry.KindBind, 0, func(r object) { r["status"] = "suspended" }, "status is suspended"},
		{"another's accreditation", entry.KindBind, 0, func(r object) { r["org"] = "did:plc:other" }, "org is did:plc:other"},
		{"delegates", entry.KindBind, 0, func(r object) { r["delegates"] = []any{"did:plc:x"} }, "delegates is did:plc:x"},
		{"term", entry.KindBind, 0, func(r object) { r["validUntil"] = "2027-02-01T00:00:00Z" }, "validUntil is"},
		{"units", entry.KindEpochOpen, 0, func(r object) { r["capacity"].(object)["committedMonth"] = int64(20) }, "units a month is 20, the entry says 200"},
		{"price", entry.KindEpochOpen, 0, func(r object) { r["creditsPerUnit"] = int64(5) }, "creditsPerUnit is 5"},
		{"free", entry.KindEpochOpen, 0, func(r object) { r["publicPriceMinor"] = int64(0) }, "public price of 0"},
		{"another book", entry.KindEpochOpen, 0, func(r object) { r["book"] = "event" }, "book is event"},
		{"pay", entry.KindReserve, 0, func(r object) { r["creditsPerCompletion"] = int64(99) }, "creditsPerCompletion is 99"},
		{"slots", entry.KindReserve, 0, func(r object) { r["shifts"].([]any)[0].(object)["slots"] = int64(99) }, "shifts are not"},
		{"entry", entry.KindReserve, 0, func(r object) {
			r["entry"] = object{"uri": "at://did:plc:city/org.city-sync.catalog.entry/x", "cid": "y"}
		}, "entry is"},
		{"supersedes", entry.KindReserve, 0, func(r object) { r["supersedes"] = object{"uri": "at://x", "cid": "y"} }, "takes it as a first version"},
		{"window", entry.KindReserve, 0, func(r object) { r["claimClosesAt"] = "2027-01-05T00:00:00Z" }, "claimClosesAt is"},
		{"credits", entry.KindMint, 0, func(r object) { r["credits"] = int64(1) }, "credits is 1, the entry says 16"},
		{"outcome", entry.KindMint, 0, func(r object) { r["outcome"] = "rejected" }, "outcome is rejected"},
		{"task", entry.KindMint, 0, func(r object) { r["task"] = object{"uri": "at://x", "cid": "y"} }, "task is"},
		{"shift", entry.KindMint, 0, func(r object) { r["shiftId"] = "z" }, "shiftId is z"},
		{"subject", entry.KindMint, 0, func(r object) { r["subject"] = blind(make([]byte, 32)) }, "not the entry's nullifier"},
		{"no subject", entry.KindMint, 0, func(r object) { delete(r, "subject") }, "not the entry's nullifier"},
		{"openly on a task that is not public", entry.KindMint, 0, func(r object) {
			r["subject"] = object{"claim": object{"uri": "at://x", "cid": "y"}}
		}, "sensitivity is pseudonymous"},
		{"methods", entry.KindMint, 0, func(r object) { r["methods"] = []any{} }, "methods is"},
		{"level", entry.KindMint, 1, func(r object) { r["level"] = int64(1) }, "level is 1"},
		{"co-signer not named", entry.KindMint, 1, func(r object) { r["coSigners"] = []any{} }, "does not name co-signer"},
		{"burn price", entry.KindBurn, 0, func(r object) { r["creditsPerUnit"] = int64(1) }, "creditsPerUnit is 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := history(t)
			held := records(w)
			e := &w.Entries[find(t, w, c.nth, kind(c.kind))]
			cid := audit.Cited(e)[0].CID
			c.edit(held[cid])
			found := audit.CheckCauses(e, rulestest.City, fetch(held))
			require.NotEmpty(t, found)
			var says []string
			for _, f := range found {
				says = append(says, f.String())
			}
			assert.Contains(t, strings.Join(says, "\n"), c.says)
			assert.Equal(t, e.Seq, found[0].Entry)
			assert.NotEmpty(t, found[0].URI)
		})
	}
}

func TestCoSignersOwnVerificationIsRead(t *testing.T) {
	t.Parallel()
	w := history(t)
	held := records(w)
	e := &w.Entries[find(t, w, 1, kind(entry.KindMint))]
	held[e.Causes[1].CID]["outcome"] = "rejected"
	found := audit.CheckCauses(e, rulestest.City, fetch(held))
	require.Len(t, found, 1)
	assert.Contains(t, found[0].What, "rejects what it co-signs")
}

func TestRecordsOfTheWrongAuthorOrKindAreNamed(t *testing.T) {
	t.Parallel()
	w := history(t)
	held := records(w)
	bind := w.Entries[find(t, w, 0, role(rulestest.Library))]
	found := audit.CheckCauses(&bind, "did:plc:othercity", fetch(held))
	require.Len(t, found, 1)
	assert.Contains(t, found[0].What, "is not of the city")
	mint := w.Entries[find(t, w, 0, kind(entry.KindMint))]
	mint.Causes = []entry.Cause{{URI: "at://did:plc:library/org.city-sync.work.review/v", CID: mint.Causes[0].CID}}
	assert.Contains(t, audit.CheckCauses(&mint, rulestest.City, fetch(held))[0].What, "is no org.city-sync.work.verification")
}
