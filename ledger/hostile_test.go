package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/lexicons"
)

// hostileValues are of the same kind as v: a schema may let them pass, or not.
func hostileValues(v any) []any {
	switch v := v.(type) {
	case string:
		return []any{"", "\x00", v + "\x00", strings.Repeat("x", 3000), "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "at://did:plc:x/a.b.c/\x00"}
	case int64:
		return []any{int64(math.MaxInt64), int64(math.MinInt64), int64(math.MaxInt32) + 1, int64(0), int64(-1)}
	case []any:
		return []any{[]any{}, slices.Concat(v, v), slices.Repeat(v, 101)}
	case map[string]any:
		return []any{map[string]any{}, map[string]any{"$type": "org.example.unknown"}}
	}
	return nil
}

// variants gives a record with each of its values, however deep, replaced by each hostile one.
func variants(v any, use func(any)) {
	for _, bad := range hostileValues(v) {
		use(bad)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k == "$type" {
				continue
			}
			variants(v[k], func(bad any) {
				m := maps.Clone(v)
				m[k] = bad
				use(m)
			})
		}
	case []any:
		if len(v) > 0 {
			variants(v[0], func(bad any) {
				l := slices.Clone(v)
				l[0] = bad
				use(l)
			})
		}
	}
}

// What anybody signs may count or be refused; an error of the intake would end the ledger, so no record makes one. The authors are those
// whose records go deepest: the city, an accredited issuer, a redeemer and a resident.
func TestNoRecordStopsTheLedger(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	catalog := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, catalog, 10)
	ana := c.resident("ana")
	claim := ana.claim(task)
	token := c.claimToken(c.library, claim)
	raw, err := base64.RawStdEncoding.DecodeString(token)
	require.NoError(t, err)
	draft := func() map[string]any {
		return map[string]any{
			"title": "Help", "summary": "Help at a desk.", "successCriteria": []any{map[string]any{"id": "a", "text": "Done."}},
			"tier": 2, "creditsPerHour": 12, "sensitivity": "public", "verificationLevel": 2, "ruleSet": c.rules, "minMinutes": 60, "maxMinutes": 120,
		}
	}
	approved := draft()
	approved["origin"], approved["decision"] = c.library.put(lexicons.CatalogEntry, c.tid(), draft()), c.decision
	open := verification(task, "", 24)
	open["subject"] = map[string]any{"$type": lexicons.WorkVerification + "#publicClaim", "claim": claim, "proof": claim}
	minted := verification(task, base64.RawStdEncoding.EncodeToString(raw), 24)
	minted["coSigners"] = []any{c.parks.did}

	for _, one := range []struct {
		author *actor
		coll   string
		rkey   string // "" for a fresh one each time
		record map[string]any
	}{
		{c.library, lexicons.WorkTask, "", c.taskRecord(catalog, 1)},
		{ana, lexicons.WorkClaim, "", claimRecord(task, "s1")},
		{ana, lexicons.WorkProof, "", map[string]any{"claim": claim, "task": task, "createdAt": at(noon)}},
		{c.library, lexicons.WorkVerification, "", minted},
		{c.parks, lexicons.WorkVerification, "", open},
		{c.pool, lexicons.OfferOffering, "", map[string]any{
			"title": "Swim", "creditsPerUnit": 8, "unitLabel": "visit", "epoch": epoch, "book": book,
			"capacity":         map[string]any{"physicalMonth": 1000, "marginalMonth": 1000, "committedMonth": 10},
			"publicPriceMinor": 800, "currency": "USD",
		}},
		{c.city, lexicons.CatalogEntry, "", approved},
		{c.city, lexicons.GovParameterSet, "", parameterSet(c.decision)},
		{c.city, lexicons.RegistryAccreditation, c.parks.did.String(), map[string]any{
			"org": c.parks.did, "roles": []any{"org.city-sync.defs#roleIssuer"}, "status": "active", "validFrom": "2027-01-01T00:00:00Z",
			"validUntil": "2028-01-01T00:00:00Z", "decision": c.decision, "categories": []any{"activation"}, "perEpochLimit": 100, "delegates": []any{c.pool.did},
		}},
	} {
		js, err := json.Marshal(one.record)
		require.NoError(t, err)
		base, err := lexicons.DecodeJSON(js)
		require.NoError(t, err)
		var batch []repo.Write
		var last []byte
		flush := func() {
			if len(batch) > 0 {
				require.NoError(t, one.author.try(one.author.prepare(batch...)), one.coll)
				batch = nil
			}
		}
		variants(base, func(v any) {
			m, ok := v.(map[string]any)
			if !ok {
				return
			}
			m = maps.Clone(m)
			m["$type"] = one.coll
			cbor, err := lexicons.EncodeCBOR(m)
			if err != nil || bytes.Equal(cbor, last) { // the same value is no update
				return
			}
			last = cbor
			w := repo.Write{Action: repo.Create, Collection: one.coll, RKey: one.rkey, Record: cbor}
			switch {
			case one.rkey == "":
				w.RKey = c.tid()
			case one.author.paths[one.coll+"/"+one.rkey]:
				flush()
				w.Action = repo.Update
			default:
				one.author.paths[one.coll+"/"+one.rkey] = true
			}
			if batch = append(batch, w); len(batch) == 40 {
				flush()
			}
		})
		flush()
	}
	c.sweep()
	require.Equal(t, 200, c.get("/xrpc/_health").Code)
	c.restart()
	require.Equal(t, 200, c.get("/xrpc/"+nsid+"getCapacity").Code)
}

// What waits for records that never come is bounded for each author, and what is over the bound is told so at once.
func TestWhatWaitsIsBoundedForEachAuthor(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	ana := c.actor("ana")
	const over = 30
	var refs []strong
	for len(refs) < maxWaitingPerAuthor+over {
		var batch []repo.Write
		for range min(100, maxWaitingPerAuthor+over-len(refs)) {
			missing := strong{c.library.uri(lexicons.WorkTask, c.tid()), c.params.CID}
			w, ref := ana.write(lexicons.WorkClaim, claimKey(missing, "s1"), claimRecord(missing, "s1"))
			batch, refs = append(batch, w), append(refs, ref)
		}
		ana.deliver(ana.prepare(batch...))
	}
	var waiting, refused int
	const count = `select count(*) filter (where status = 'waiting'), count(*) filter (where name = 'ParentMissing') from status where uri like $1`
	require.NoError(t, c.world.pool.QueryRow(c.ctx, count, "at://"+ana.did.String()+"/%").Scan(&waiting, &refused))
	require.Equal(t, []int{maxWaitingPerAuthor, over}, []int{waiting, refused})
	ben := c.actor("ben").claim(strong{c.library.uri(lexicons.WorkTask, c.tid()), c.params.CID})
	c.status(ben, "waiting")
}

func TestStrangersTextIsShortAndStorable(t *testing.T) {
	t.Parallel()
	for _, s := range []string{strings.Repeat("é", 3000), strings.Repeat("\xff", 3000), "a\x00b\nc\x1b[31m", ""} {
		got := printable(s)
		require.LessOrEqual(t, len(got), 1003)
		require.True(t, utf8.ValidString(got))
		require.NotContains(t, got, "\x00")
		require.NotContains(t, got, "\x1b")
	}
}
