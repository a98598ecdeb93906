package ledger

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// founded is a city with two issuers, one redeemer and an open epoch.
type founded struct {
	*world
	decision, rules, params strong
	library, parks, pool    *actor
	swim                    strong
	till                    *till

	lastTask, lastVerification strong // of earn
	lastToken                  string
}

type till struct {
	id  string
	key *atcrypto.PrivateKeyP256
}

func founding(effective string) map[string]any {
	return map[string]any{"result": "adopted", "rationale": "We found it.", "effectiveEpoch": effective}
}

func parameterSet(decision strong) map[string]any {
	month := func(from, to string) map[string]any { return map[string]any{"startsAt": from, "endsAt": to} }
	return map[string]any{
		"effectiveEpoch": epoch, "decision": decision, "dormancyMonths": 12, "kMin": 10, "claimLimit": 3,
		"epochs": []any{map[string]any{
			"key": epoch, "startsAt": "2027-01-04T08:00:00Z", "endsAt": "2027-03-29T07:00:00Z", "tz": "America/Los_Angeles", "phase": "launch",
			"months": []any{
				month("2027-01-04T08:00:00Z", "2027-02-01T08:00:00Z"), month("2027-02-01T08:00:00Z", "2027-03-01T08:00:00Z"),
				month("2027-03-01T08:00:00Z", "2027-03-29T07:00:00Z"),
			},
		}},
		"capPolicy": map[string]any{
			"$type": lexicons.GovParameterSet + "#capFormula", "capPhaseBps": 5000, "capShareBps": 7000, "ascrMaxMilli": 4000,
			"deltaCapBps": 100, "rStartBps": 1500, "deltaStartBps": 300,
		},
		"tiers": []any{
			map[string]any{"n": 1, "creditsPerHour": 8, "bandBps": 0}, map[string]any{"n": 2, "creditsPerHour": 12, "bandBps": 0},
		},
	}
}

func newCity(t *testing.T) *founded {
	t.Helper()
	return newCityWith(t, func(map[string]any) {})
}

// newCityWith is newCity under other parameters.
func newCityWith(t *testing.T, change func(parameters map[string]any)) *founded {
	t.Helper()
	c := &founded{world: newWorld(t)}
	c.library, c.parks, c.pool = c.actor("library"), c.actor("parks"), c.actor("pool")
	c.city.put(lexicons.ActorCity, "self", map[string]any{
		"name": "Testville", "tz": "America/Los_Angeles", "langs": []any{"en"}, "ledger": c.cfg.DID,
		"log":   map[string]any{"origin": c.cfg.DID, "vkey": c.l.VerifierKey(), "url": "http://ledger.test"},
		"books": []any{map[string]any{"id": book, "symbol": "$T", "kind": "standard"}},
	})
	c.rules = c.city.put(lexicons.CatalogRuleSet, c.tid(), map[string]any{
		"title": "Rules", "rules": []any{map[string]any{"id": "1", "text": "No displacement."}},
	})
	c.decision = c.city.put(lexicons.GovDecision, "founding", founding(epoch))
	set := parameterSet(c.decision)
	change(set)
	c.params = c.city.put(lexicons.GovParameterSet, c.tid(), set)
	for _, org := range []*actor{c.library, c.parks} {
		c.accredit(org, "active", "issuer", "verifier")
	}
	c.accredit(c.pool, "active", "redeemer")
	c.swim = c.offer(800, 100)
	c.openEpoch()
	c.till = c.bindTill(c.pool, "till")
	require.Equal(t, 200, c.openTill(c.till, pin).Status)
	return c
}

// pin is that of every till and card.
const pin = "246810135792"

// bindTill binds a new till that is not open yet.
func (c *founded) bindTill(org *actor, key string) *till {
	c.t.Helper()
	back := c.till
	public := c.newTill()
	bound := c.till
	c.till = back
	res := c.call(org, "bindTill", "", map[string]any{"label": "Front", "key": public, "pin": pin, "idempotencyKey": key})
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	bound.id = res.str("till")
	return bound
}

func (c *founded) openTill(tl *till, pin string) answer {
	c.t.Helper()
	return c.says(tl, "openTill", map[string]any{"pin": pin})
}

// says is what a till signs and sends now.
func (c *founded) says(tl *till, method string, fields map[string]any) answer {
	c.t.Helper()
	body := map[string]any{"till": tl.id, "at": at(c.clock.Now())}
	for k, v := range fields {
		body[k] = v
	}
	return c.call(nil, method, "", signedBody(c.t, tl, body))
}

func (c *founded) newTill() string {
	key, err := atcrypto.GeneratePrivateKeyP256()
	require.NoError(c.t, err)
	pub, err := key.PublicKey()
	require.NoError(c.t, err)
	c.till = &till{key: key}
	return pub.DIDKey()
}

func (c *founded) accredit(org *actor, status string, roles ...string) strong {
	return c.accreditFor(org, status, []any{"activation"}, roles...)
}

func (c *founded) accreditFor(org *actor, status string, categories []any, roles ...string) strong {
	tokens := []any{}
	for _, r := range roles {
		tokens = append(tokens, "org.city-sync.defs#role"+string(r[0]-'a'+'A')+r[1:])
	}
	return c.city.put(lexicons.RegistryAccreditation, org.did.String(), map[string]any{
		"org": org.did, "roles": tokens, "status": status, "validFrom": "2027-01-01T00:00:00Z", "decision": c.decision,
		"categories": categories,
	})
}

// accreditWith names delegates beside an issuer's role.
func (c *founded) accreditWith(org *actor, delegates []any) strong {
	return c.city.put(lexicons.RegistryAccreditation, org.did.String(), map[string]any{
		"org": org.did, "roles": []any{"org.city-sync.defs#roleIssuer", "org.city-sync.defs#roleVerifier"}, "status": "active",
		"validFrom": "2027-01-01T00:00:00Z", "decision": c.decision, "categories": []any{"activation"}, "delegates": delegates,
	})
}

// offer lets the pool publish a swim that costs 8 credits, so that C is units × 8.
func (c *founded) offer(publicPrice, units int) strong {
	return c.pool.put(lexicons.OfferOffering, c.tid(), map[string]any{
		"title": "Swim", "creditsPerUnit": 8, "unitLabel": "visit", "epoch": epoch, "book": book,
		"capacity":         map[string]any{"physicalMonth": 1000, "marginalMonth": 1000, "committedMonth": units},
		"publicPriceMinor": publicPrice, "currency": "USD",
	})
}

func (c *founded) openEpoch() {
	c.t.Helper()
	res := c.call(c.city, "openEpoch", "", map[string]any{
		"epoch": epoch, "book": book, "seen": []any{map[string]any{"did": c.pool.did, "rev": c.pool.head.Rev}},
	})
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
}

type entryOptions struct {
	sensitivity string
	level       int
	function    string
}

// catalog lets an issuer draft an entry and the city approve it.
func (c *founded) catalog(org *actor, o entryOptions) strong {
	if o.sensitivity == "" {
		o.sensitivity = "pseudonymous"
	}
	if o.level == 0 {
		o.level = 2
	}
	record := func() map[string]any {
		r := map[string]any{
			"title": "Help", "summary": "Help at a desk.", "successCriteria": []any{map[string]any{"id": "a", "text": "Done."}},
			"tier": 2, "creditsPerHour": 12, "sensitivity": o.sensitivity, "verificationLevel": o.level, "ruleSet": c.rules,
			"minMinutes": 60, "maxMinutes": 120,
		}
		if o.function != "" {
			r["functionType"] = o.function
		}
		return r
	}
	draft := org.put(lexicons.CatalogEntry, c.tid(), record())
	copied := record()
	copied["origin"], copied["decision"] = draft, c.decision
	return c.city.put(lexicons.CatalogEntry, c.tid(), copied)
}

func (c *founded) taskRecord(entry strong, slots int) map[string]any {
	return map[string]any{
		"title": "Desk", "entry": entry, "epoch": epoch, "book": book, "creditsPerCompletion": 24,
		"shifts": []any{map[string]any{"id": "s1", "startsAt": at(noon.Add(-time.Hour)), "endsAt": at(noon.Add(time.Hour)), "slots": slots}},
	}
}

func (c *founded) task(org *actor, entry strong, slots int) strong {
	c.t.Helper()
	ref := org.put(lexicons.WorkTask, c.tid(), c.taskRecord(entry, slots))
	c.status(ref, "accepted")
	return ref
}

// resident is activated at the library's desk.
func (c *founded) resident(name string) *actor {
	c.t.Helper()
	r := c.actor(name)
	res := c.activate(r)
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	return r
}

func (c *founded) activate(r *actor) answer {
	return c.call(c.library, "activate", "", map[string]any{
		"resident": r.did, "residentToken": r.token("activate"), "idempotencyKey": "activate " + r.did.String()[8:20],
	})
}

func claimRecord(task strong, shift string) map[string]any {
	return map[string]any{"task": task, "shiftId": shift, "createdAt": at(noon)}
}

func claimKey(task strong, shift string) string {
	return lexicons.Key(lexicons.WorkClaim, task.URI, shift)
}

func (a *actor) claim(task strong) strong {
	return a.put(lexicons.WorkClaim, claimKey(task, "s1"), claimRecord(task, "s1"))
}

func (a *actor) proof(task, claim strong) strong {
	return a.put(lexicons.WorkProof, claimKey(task, "s1"), map[string]any{"claim": claim, "task": task, "createdAt": at(noon)})
}

// claimToken is what an issuer learns of a claim.
func (c *founded) claimToken(issuer *actor, claim strong) string {
	c.t.Helper()
	res := c.call(issuer, "listClaims", "", nil)
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	list, _ := res.Body["claims"].([]any)
	for _, one := range list {
		v, _ := one.(map[string]any)
		if v["claim"] == claim.URI {
			token, _ := v["claimToken"].(map[string]any)
			s, _ := token["$bytes"].(string)
			return s
		}
	}
	c.t.Fatalf("claim %s is not listed", claim.URI)
	return ""
}

func verification(task strong, token string, credits int) map[string]any {
	return map[string]any{
		"task": task, "shiftId": "s1", "outcome": "approved", "credits": credits, "level": 2, "createdAt": at(noon),
		"methods": []any{"org.city-sync.defs#methodEvidenceReview"},
		"subject": map[string]any{
			"$type":          lexicons.WorkVerification + "#blindClaim",
			"blindedSubject": map[string]any{"alg": "hmac-sha256-context-v1", "value": map[string]any{"$bytes": token}},
		},
	}
}

func (c *founded) verify(org *actor, task strong, token string) strong {
	return org.put(lexicons.WorkVerification, c.tid(), verification(task, token, 24))
}

// earn takes a resident through one task of the library: 24 credits.
func (c *founded) earn(r *actor, entry strong) {
	c.t.Helper()
	task := c.task(c.library, entry, 1)
	claim := r.claim(task)
	c.status(claim, "claimed")
	c.lastTask, c.lastToken = task, c.claimToken(c.library, claim)
	c.lastVerification = c.verify(c.library, task, c.lastToken)
	c.status(c.lastVerification, "minted")
}

func (c *founded) code(r *actor, units int, key string, more map[string]any) answer {
	body := map[string]any{"offering": c.swim, "units": units, "noneOfFreeForApplies": true, "idempotencyKey": key}
	for k, v := range more {
		body[k] = v
	}
	return c.call(r, "createRedemption", "", body)
}

// scan is what the till sends, signed over the DAG-CBOR of the body without sig.
func (c *founded) scan(tl *till, code, action string, n int) answer {
	c.t.Helper()
	body := map[string]any{"code": code, "action": action, "till": tl.id, "at": at(c.clock.Now().Add(time.Duration(n) * time.Second))}
	return c.call(nil, "updateRedemption", "", signedBody(c.t, tl, body))
}

func signedBody(t *testing.T, tl *till, body map[string]any) map[string]any {
	t.Helper()
	raw, err := atdata.MarshalCBOR(body)
	require.NoError(t, err)
	sig, err := tl.key.HashAndSign(raw)
	require.NoError(t, err)
	out := map[string]any{"sig": map[string]any{"$bytes": base64.RawStdEncoding.EncodeToString(sig)}}
	for k, v := range body {
		out[k] = v
	}
	return out
}

func (c *founded) balance(r *actor) int64 {
	c.t.Helper()
	res := c.call(r, "getBalance", "", nil)
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	return res.num("credits")
}

func (c *founded) capacity() answer {
	c.t.Helper()
	res := c.call(nil, "getCapacity", "", nil)
	require.Equal(c.t, 200, res.Status, "%v", res.Body)
	return res
}

func (c *founded) size() string { return fmt.Sprint(c.l.seq.log.size()) }

// card is a redemption of the swim with a card and a PIN.
func (c *founded) card(tl *till, number, pin string, units int, key string, more map[string]any) answer {
	fields := map[string]any{
		"card": number, "pin": pin, "offering": c.swim.URI, "cid": c.swim.CID, "units": units, "noneOfFreeForApplies": true,
		"idempotencyKey": key,
	}
	for k, v := range more {
		fields[k] = v
	}
	return c.says(tl, "createCardRedemption", fields)
}

// hold puts units of the swim aside until the end of today, at the city's till.
func (c *founded) hold(r *actor, units int, key string, more map[string]any) answer {
	body := map[string]any{
		"offering": c.swim, "units": units, "till": c.till.id, "until": c.today(), "noneOfFreeForApplies": true, "idempotencyKey": key,
	}
	for k, v := range more {
		body[k] = v
	}
	return c.call(r, "createHold", "", body)
}

func (c *founded) today() string { return entry.FormatDay(c.clock.Now(), c.l.seq.state.Location()) }
