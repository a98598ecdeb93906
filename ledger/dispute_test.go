package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

func (c *founded) object(by *actor, subject strong) strong {
	return by.put(lexicons.GovDispute, c.tid(), map[string]any{
		"subject": subject, "kind": "org.city-sync.defs#disputeNonDisplacement", "summary": "This was paid work.", "createdAt": at(noon),
	})
}

// say is what the city answers to an objection, or how it rules.
func (c *founded) say(dispute strong, result string, remedies ...map[string]any) strong {
	key := lexicons.ResolutionKey(dispute.URI)
	if result == "admitted" || result == "not-admitted" {
		key += lexicons.AdmissionSuffix
	}
	r := map[string]any{"dispute": dispute, "result": result, "reasons": "We looked into it.", "createdAt": at(noon)}
	if len(remedies) > 0 {
		list := []any{}
		for _, m := range remedies {
			list = append(list, m)
		}
		r["remedies"] = list
	}
	return c.city.put(lexicons.GovResolution, key, r)
}

func (c *founded) reject(org *actor, task strong, token string) strong {
	r := verification(task, token, 0)
	r["outcome"], r["methods"] = "rejected", []any{}
	return org.put(lexicons.WorkVerification, c.tid(), r)
}

func TestAdmittedObjectionHoldsTheMintsOfItsTaskUntilTheRuling(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	ana, ben := c.resident("ana"), c.resident("ben")
	claim := ana.claim(task)
	first, second := c.object(c.actor("union"), task), c.object(ben, task)
	size := c.l.seq.log.size()
	c.status(first, "waiting")
	require.Equal(t, size, c.l.seq.log.size(), "an objection alone makes no entry")

	stranger := c.parks.put(lexicons.GovResolution, lexicons.ResolutionKey(first.URI)+lexicons.AdmissionSuffix,
		map[string]any{"dispute": first, "result": "admitted", "reasons": "x", "createdAt": at(noon)})
	c.refused(stranger, "NotAuthorized")
	hold := c.say(first, "admitted")
	require.Equal(t, "admitted", c.status(first, "accepted").str("answer"))
	require.Equal(t, task.URI, c.explain(first).str("holds"))
	require.Equal(t, []string{"pause"}, c.kinds(size))
	c.status(c.say(second, "admitted"), "accepted")
	require.Equal(t, size+1, c.l.seq.log.size(), "held already")
	c.refused(c.say(first, "not-admitted"), "AlreadyAnswered")

	v := c.verify(c.library, task, c.claimToken(c.library, claim))
	c.refused(v, "HeldByDispute")
	c.say(first, "dismissed")
	c.refused(v, "HeldByDispute") // the second one holds it too
	c.say(second, "withdrawn")
	c.status(v, "minted") // decided anew by itself
	require.Equal(t, []string{"pause", "resume", "claim", "mint"}, c.kinds(size))
	e := c.entry(size)
	require.Equal(t, hold.CID, e.Causes[0].CID)
	require.Equal(t, "disputeNonDisplacement", e.Pause.Reason)
	c.restart()
	require.EqualValues(t, 24, c.balance(ana))
}

func (c *founded) entry(seq int64) *entry.Entry {
	c.t.Helper()
	leaves, err := c.l.store.leaves(c.ctx, seq, 1)
	require.NoError(c.t, err)
	require.Len(c.t, leaves, 1)
	e, err := entry.Decode(leaves[0])
	require.NoError(c.t, err)
	return e
}

// Records of one matter may come in any order.
func TestRulingWaitsForItsObjection(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	union := c.actor("union")
	ev, dispute := union.hold(lexicons.GovDispute, c.tid(), map[string]any{
		"subject": task, "kind": "org.city-sync.defs#disputeIssuance", "summary": "No.", "createdAt": at(noon),
	})
	said := c.say(dispute, "admitted")
	c.status(said, "waiting")
	union.deliver(ev)
	c.status(said, "accepted")
	require.Equal(t, "admitted", c.explain(dispute).str("answer"))
}

func TestObjectionNotAnsweredInThreeWorkingDaysIsFlagged(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	dispute := c.object(c.actor("union"), task) // on Wednesday the 13th
	e := c.status(dispute, "waiting")
	require.Equal(t, "2027-01-19T08:00:00Z", e.str("answerDue"), "until Monday is over")
	require.Nil(t, e.Body["answerLate"])
	c.clock.Advance(5*24*time.Hour + 12*time.Hour + time.Second)
	require.Equal(t, true, c.explain(dispute).Body["answerLate"])
	c.say(dispute, "not-admitted")
	e = c.status(dispute, "accepted")
	require.Equal(t, "not-admitted", e.str("answer"))
	require.Equal(t, true, e.Body["answerLate"])
	require.Empty(t, e.str("holds"))
}

func TestObjectionsOfOneAuthorAreBounded(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	troll := c.actor("troll")
	first := c.object(troll, task)
	for range maxOpenDisputes - 1 {
		c.object(troll, task)
	}
	c.refused(c.object(troll, task), "TooManyDisputes")
	c.say(first, "not-admitted")
	c.status(c.object(troll, task), "waiting")
}

// The rejection is disputed, upheld, and paid on the word of the organization that the city names.
func TestUpheldDisputeIsPaid(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana := c.resident("ana")
	token := c.claimToken(c.library, ana.claim(task))
	no := c.reject(c.library, task, token)
	c.status(no, "accepted")
	dispute := c.object(ana, no)
	c.say(dispute, "admitted")
	anew := verification(task, token, 24)
	anew["supersedes"] = no
	early := c.parks.put(lexicons.WorkVerification, c.tid(), anew)
	c.status(early, "waiting") // nobody named the parks yet
	c.say(dispute, "upheld", map[string]any{"kind": "verify-anew", "org": c.parks.did})
	e := c.status(early, "minted")
	minted := c.entry(e.num("seq"))
	require.Equal(t, c.city.uri(lexicons.GovResolution, lexicons.ResolutionKey(dispute.URI)), minted.Mint.Resolution.URI)
	require.Equal(t, c.library.did, minted.Org)
	require.Equal(t, c.parks.did, minted.Mint.Verifier)
	require.EqualValues(t, 24, c.balance(ana))
	c.restart()
}

func TestMintIsCorrectedByItsVerifierAndTheCityTogether(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana := c.resident("ana")
	token := c.claimToken(c.library, ana.claim(task))
	first := c.verify(c.library, task, token)
	c.status(first, "minted")
	less := verification(task, token, 12)
	less["outcome"], less["minutes"], less["supersedes"] = "partial", 60, first
	v := c.library.put(lexicons.WorkVerification, c.tid(), less)
	c.status(v, "waiting") // for the city
	require.EqualValues(t, 24, c.balance(ana))
	dispute := c.object(c.actor("auditor"), first)
	c.say(dispute, "upheld", map[string]any{"kind": "correct"})
	e := c.status(v, "accepted")
	require.EqualValues(t, 12, c.balance(ana))
	reversed := c.entry(e.num("seq"))
	require.Equal(t, entry.KindReverse, reversed.Kind)
	require.EqualValues(t, 12, reversed.Amount)
	require.EqualValues(t, 12, c.capacity().num("minted"))
	receipt := c.call(nil, "getReceipt", "?seq="+receiptKeyless(reversed.Seq), nil)
	require.Equal(t, 200, receipt.Status)
	c.restart()
	require.EqualValues(t, 12, c.balance(ana))
}

func TestRulingCancelsATask(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	require.EqualValues(t, 72, c.capacity().num("outstanding"))
	c.status(c.say(c.object(c.actor("union"), task), "upheld", map[string]any{"kind": "cancel"}), "accepted")
	require.Zero(t, c.capacity().num("outstanding"))
	c.refused(c.resident("ana").claim(task), "ClaimWindowClosed")
}

func TestRedeemerPausesItsOffering(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	size := c.l.seq.log.size()
	status := func(word string, more ...int) {
		c.pool.put(lexicons.OfferOfferingStatus, rkeyOf(c.swim), map[string]any{
			"status": word, "offering": c.swim, "reason": "the pump broke", "remaining": len(more),
		})
	}
	status("paused")
	no := c.code(ana, 1, "a", nil)
	require.Equal(t, "Paused", no.name())
	figures, _ := no.Body["figures"].(map[string]any)
	require.Equal(t, "the pump broke", figures["reason"])
	require.Equal(t, "2027-03-29T07:00:00Z", figures["until"])
	status("live")
	require.Equal(t, 200, c.code(ana, 1, "b", nil).Status)
	require.Equal(t, []string{"pause", "resume"}, c.kinds(size))

	dispute := c.object(c.actor("union"), c.swim)
	c.say(dispute, "admitted")
	status("live", 1) // not its to lift
	require.Equal(t, "Paused", c.code(ana, 1, "c", nil).name())
	c.say(dispute, "dismissed")
	require.Equal(t, 200, c.code(ana, 1, "d", nil).Status)
}

func (c *founded) decide() strong {
	proposal := map[string]any{"uri": "at://" + c.city.did.String() + "/org.city-sync.gov.proposal/" + c.tid(), "cid": c.decision.CID}
	r := founding(epoch)
	r["proposal"] = proposal
	uri, _ := proposal["uri"].(string)
	return c.city.put(lexicons.GovDecision, lexicons.DecisionKey(uri), r)
}

func (c *founded) pauseAll(by *actor, what, key string, decision strong, days int) answer {
	return c.call(by, "pause", "", map[string]any{
		"what": what, "until": at(c.clock.Now().Add(time.Duration(days) * 24 * time.Hour)), "reason": "flood", "decision": decision, "idempotencyKey": key,
	})
}

func TestCityPausesByADecisionAndWhatItStoppedGoesOnByItself(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	entries := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, entries, 2)
	ana := c.resident("ana")
	token := c.claimToken(c.library, ana.claim(task))
	res := c.pauseAll(c.city, "mints", "k", c.decide(), 2)
	require.Equal(t, 200, res.Status, "%v", res.Body)
	require.Equal(t, "paused", res.str("status"))
	v := c.verify(c.library, task, token)
	c.refused(v, "Paused")
	c.clock.Advance(47 * time.Hour)
	c.sweep()
	c.refused(v, "Paused")
	c.clock.Advance(time.Hour)
	c.sweep()
	c.status(v, "minted")

	require.Equal(t, 200, c.pauseAll(c.city, "tasks", "l", c.decide(), 2).Status)
	stopped := c.library.put(lexicons.WorkTask, c.tid(), func() map[string]any {
		r := c.taskRecord(entries, 1)
		r["shifts"] = []any{map[string]any{"id": "s1", "startsAt": at(noon.Add(100 * time.Hour)), "endsAt": at(noon.Add(102 * time.Hour)), "slots": 1}}
		return r
	}())
	c.refused(stopped, "Paused")
	res = c.call(c.city, "resume", "", map[string]any{"what": "tasks", "reason": "dry", "decision": c.decide(), "idempotencyKey": "m"})
	require.Equal(t, "resumed", res.str("status"), "%v", res.Body)
	c.status(stopped, "accepted")
}

func TestStaffOfAnOrganizationIsBoundInPrivate(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 2)
	ana := c.resident("ana")
	bind := map[string]any{"resident": ana.did, "idempotencyKey": "k"}
	require.Equal(t, "NotAccredited", c.call(c.pool, "bindStaff", "", bind).name())
	size := c.l.seq.log.size()
	require.Equal(t, "bound", c.call(c.library, "bindStaff", "", bind).str("status"))
	c.refused(ana.claim(task), "SelfVerification")
	leaves, err := c.l.store.leaves(c.ctx, size, 1)
	require.NoError(t, err)
	assert.NotContains(t, string(leaves[0]), ana.did.String())
	assert.NotContains(t, string(leaves[0]), c.library.did.String())
}

// Admin key does everything: with the city's key alone nothing is paid, taken or kept shut.
func TestLeakAdminKeyDoesEverything(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 2)
	token := c.claimToken(c.library, c.resident("ben").claim(task))

	c.unchanged(func() { // no mint, neither as verifier nor as its own issuer, nor by naming itself
		c.refused(c.verify(c.city, task, token), "NotAuthorized")
		c.refused(c.accreditFor(c.city, "active", []any{"activation"}, "issuer", "verifier"), "SelfAccreditation")
		c.refused(c.accreditWith(c.library, []any{c.city.did}), "SelfAccreditation")
		c.refused(c.city.put(lexicons.WorkTask, c.tid(), c.taskRecord(c.catalog(c.library, entryOptions{}), 1)), "NotAccredited")
		require.Equal(t, "NotAccredited", c.call(c.city, "activate", "", map[string]any{
			"resident": ana.did, "residentToken": ana.token("activate"), "idempotencyKey": "x",
		}).name())
	})
	before := c.capacity().num("capEpoch")
	p := parameterSet(c.decide()) // no parameter of an open epoch
	p["tiers"] = []any{map[string]any{"n": 2, "creditsPerHour": 1, "bandBps": 10000}}
	c.city.put(lexicons.GovParameterSet, c.tid(), p)
	require.Equal(t, before, c.capacity().num("capEpoch"))
	c.refused(c.city.put(lexicons.GovParameterSet, c.tid(), parameterSet(c.decision)), "FoundingClosed")
	require.Equal(t, "EpochAlreadyOpen", c.call(c.city, "openEpoch", "", map[string]any{"epoch": epoch, "book": book, "seen": []any{}}).name())

	have := c.balance(ana)
	minted := c.city.put(lexicons.GovDispute, c.tid(), map[string]any{ // no reversal without the verifier
		"subject": c.lastVerification, "kind": "org.city-sync.defs#disputeIssuance", "summary": "Too much.", "createdAt": at(noon),
	})
	c.say(minted, "upheld", map[string]any{"kind": "correct"})
	less := verification(c.lastTask, c.lastToken, 0)
	less["outcome"], less["methods"], less["supersedes"] = "rejected", []any{}, c.lastVerification
	c.refused(c.city.put(lexicons.WorkVerification, c.tid(), less), "NotAuthorized")
	require.Equal(t, have, c.balance(ana), "no balance changes")
	require.Equal(t, "NotActivated", c.call(c.city, "getBalance", "", nil).name())

	require.Equal(t, "PauseTooLong", c.pauseAll(c.city, "mints", "a", c.decide(), 29).name()) // no pause beyond its bound
	require.Equal(t, "FoundingClosed", c.pauseAll(c.city, "mints", "b", c.decision, 1).name())
	require.Equal(t, "NotAuthorized", c.pauseAll(c.parks, "mints", "c", c.decide(), 1).name())
	once := c.decide()
	require.Equal(t, 200, c.pauseAll(c.city, "claims", "d", once, 28).Status)
	c.clock.Advance(28 * 24 * time.Hour)
	require.Equal(t, "DecisionSpent", c.pauseAll(c.city, "claims", "e", once, 28).name())
}
