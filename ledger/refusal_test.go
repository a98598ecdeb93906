package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
)

// unchanged asserts that nothing was reserved, minted or burned, and no entry written, while fn ran.
func (c *founded) unchanged(fn func()) {
	c.t.Helper()
	before, size := c.capacity(), c.size()
	fn()
	after := c.capacity()
	for _, k := range []string{"reserved", "outstanding", "minted", "burned", "votes", "supply", "tasks"} {
		assert.Equal(c.t, before.num(k), after.num(k), k)
	}
	assert.Equal(c.t, size, c.size(), "entries")
}

func TestTaskIsRefusedByName(t *testing.T) { // L7, L14
	t.Parallel()
	c := newCity(t)
	entry := c.catalog(c.library, entryOptions{})
	draft := c.library.put(lexicons.CatalogEntry, c.tid(), map[string]any{
		"title": "Draft", "summary": "Not approved.", "successCriteria": []any{map[string]any{"id": "a", "text": "Done."}},
		"tier": 2, "creditsPerHour": 12, "sensitivity": "public", "verificationLevel": 1, "ruleSet": c.rules,
	})
	stranger := c.actor("stranger")
	post := func(a *actor, entry strong, slots int, change func(map[string]any)) strong {
		r := c.taskRecord(entry, slots)
		if change != nil {
			change(r)
		}
		return a.put(lexicons.WorkTask, c.tid(), r)
	}
	c.unchanged(func() {
		// Leak closed: a stranger registers as issuer and mints to himself.
		c.refused(post(stranger, entry, 1, nil), "NotAccredited")
		c.refused(post(c.pool, entry, 1, nil), "NotAccredited")
		// Leak closed: tasks not bound to what was approved.
		c.refused(post(c.library, draft, 1, nil), "EntryNotActive")
		c.refused(post(c.library, entry, 1, func(r map[string]any) { r["creditsPerCompletion"] = 25 }), "OutsideTierBand")
		// Leak closed: no cap of any kind. 600 for each issuer are 25 slots of 24.
		e := c.refused(post(c.library, entry, 26, nil), "AllocationExceeded")
		figures, _ := e.Body["figures"].(map[string]any)
		assert.InDelta(t, 624, figures["total"], 0)
		assert.InDelta(t, 600, figures["allocation"], 0)
		c.refused(post(c.library, entry, 1, func(r map[string]any) { r["shifts"] = []any{} }), "InvalidRecord")
	})
	c.status(post(c.library, entry, 25, nil), "accepted")
}

func TestEntryWhoseApprovalIsTakenAwayIsNotActive(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	for _, take := range []struct {
		name string
		away func(entry strong)
	}{
		{"deleted", func(e strong) { c.city.del(lexicons.CatalogEntry, rkeyOf(e)) }},
		{"retired", func(e strong) {
			c.city.put(lexicons.CatalogEntryStatus, rkeyOf(e), map[string]any{"status": "retired", "entry": e})
		}},
	} {
		entry := c.catalog(c.library, entryOptions{})
		take.away(entry)
		ref := c.library.put(lexicons.WorkTask, c.tid(), c.taskRecord(entry, 1))
		c.refused(ref, "EntryNotActive")
	}
}

func TestTaskOutsideTheScopeOfItsIssuerIsNotAccredited(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	parks := "org.city-sync.defs#functionParks"
	entry := c.catalog(c.library, entryOptions{function: parks})
	c.status(c.library.put(lexicons.WorkTask, c.tid(), c.taskRecord(entry, 1)), "accepted")
	c.accreditFor(c.library, "active", []any{"activation", "org.city-sync.defs#functionLibrary"}, "issuer")
	c.refused(c.library.put(lexicons.WorkTask, c.tid(), c.taskRecord(entry, 1)), "NotAccredited")
	c.accreditFor(c.library, "active", []any{"activation", parks}, "issuer")
	c.status(c.library.put(lexicons.WorkTask, c.tid(), c.taskRecord(entry, 1)), "accepted")
}

func rkeyOf(ref strong) string { return ref.URI[len(ref.URI)-13:] }

func TestClaimIsRefusedByName(t *testing.T) { // L8, L14
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 2)
	sealed := c.task(c.library, c.catalog(c.library, entryOptions{sensitivity: "sealed"}), 1)
	ana := c.resident("ana")
	c.unchanged(func() {
		c.refused(c.actor("nobody").claim(task), "NotActivated")
		// Leak closed: an issuer verifies its own work.
		c.refused(c.library.claim(task), "SelfVerification")
		c.refused(ana.claim(sealed), "SealedTask")
		refused := c.library.put(lexicons.WorkTask, c.tid(), c.taskRecord(strong{c.rules.URI, c.rules.CID}, 1))
		c.refused(refused, "EntryNotActive")
		c.refused(ana.claim(refused), "TaskNotAccepted")
	})
	c.status(ana.claim(task), "claimed")
	// Leak closed: one claimant blocks a ten-slot task. A new version of the task is still the same task.
	next := c.taskRecord(c.catalog(c.library, entryOptions{}), 2)
	next["supersedes"] = task
	newer := c.library.put(lexicons.WorkTask, c.tid(), next)
	c.status(newer, "accepted")
	c.refused(ana.claim(newer), "AlreadyClaimed")
	c.clock.Advance(2 * time.Hour)
	c.refused(c.resident("late").claim(task), "ClaimWindowClosed")
}

// Leak closed: one person holds every task.
func TestOnePersonHoldsOnlySoManyTasks(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	entry := c.catalog(c.library, entryOptions{})
	ana := c.resident("ana")
	for range 3 { // the parameter set's claimLimit
		c.status(ana.claim(c.task(c.library, entry, 1)), "claimed")
	}
	c.refused(ana.claim(c.task(c.library, entry, 1)), "ClaimLimit")
}

func TestTwoResidentsRaceForTheLastSlot(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	people := []*actor{c.resident("ana"), c.resident("ben")}
	refs := make([]strong, 2)
	errs := make(chan error, 2)
	for i, p := range people {
		ev, ref := p.hold(lexicons.WorkClaim, claimKey(task, "s1"), claimRecord(task, "s1"))
		refs[i] = ref
		go func() { errs <- p.try(ev) }()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	got := []string{c.explain(refs[0]).str("status") + c.explain(refs[0]).name(), c.explain(refs[1]).str("status") + c.explain(refs[1]).name()}
	assert.ElementsMatch(t, []string{"claimed", "refusedSlotsFull"}, got)
}

func TestVerificationIsRefusedByName(t *testing.T) { // L6, L8, L14
	t.Parallel()
	c := newCity(t)
	entry := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, entry, 2)
	ana := c.resident("ana")
	claim := ana.claim(task)
	token := c.claimToken(c.library, claim)
	post := func(a *actor, change func(map[string]any)) strong {
		r := verification(task, token, 24)
		if change != nil {
			change(r)
		}
		return a.put(lexicons.WorkVerification, c.tid(), r)
	}
	c.unchanged(func() {
		c.refused(post(c.actor("stranger"), nil), "NotAuthorized")
		c.refused(post(ana, nil), "NotAuthorized")
		c.refused(post(c.library, func(r map[string]any) { r["credits"] = 23 }), "TermsFrozen")
		c.refused(post(c.library, func(r map[string]any) { r["methods"] = []any{"org.city-sync.defs#methodAttestation"} }), "MethodsMissing")
		c.refused(post(c.library, func(r map[string]any) { r["level"] = 1 }), "MethodsMissing")
	})
	c.status(post(c.library, nil), "minted")
	c.unchanged(func() { c.refused(post(c.library, nil), "AlreadyMinted") })
}

// Leak closed: the reward is cut after submission.
func TestPayFrozenByTheClaimCannotBeCut(t *testing.T) { // L8
	t.Parallel()
	c := newCity(t)
	entry := c.catalog(c.library, entryOptions{})
	rkey := c.tid()
	task := c.library.put(lexicons.WorkTask, rkey, c.taskRecord(entry, 2))
	c.status(task, "accepted")
	ana := c.resident("ana")
	token := c.claimToken(c.library, ana.claim(task))
	cheaper := c.taskRecord(entry, 2)
	cheaper["creditsPerCompletion"] = 12
	edited := c.library.put(lexicons.WorkTask, rkey, cheaper)
	c.status(edited, "accepted")
	lower := verification(edited, token, 12)
	c.refused(c.library.put(lexicons.WorkVerification, c.tid(), lower), "TermsFrozen")
	c.refused(c.verify(c.library, edited, token), "TermsFrozen")
	c.status(c.verify(c.library, task, token), "minted")
}

// Leak closed: a revoked issuer keeps minting.
func TestRevokedIssuerMintsNothing(t *testing.T) { // L6
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana := c.resident("ana")
	token := c.claimToken(c.library, ana.claim(task))
	c.accredit(c.library, "revoked", "issuer", "verifier")
	ref := c.verify(c.library, task, token)
	c.refused(ref, "NotAccredited")
	require.Zero(t, c.capacity().num("minted"))
	// Accredited again by the very same words as at first, it verifies what was claimed.
	c.accredit(c.library, "active", "issuer", "verifier")
	c.status(c.verify(c.library, task, token), "minted")
}

func TestDeletedAccreditationIsRevoked(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	entry := c.catalog(c.library, entryOptions{})
	c.city.del(lexicons.RegistryAccreditation, c.library.did.String())
	c.refused(c.library.put(lexicons.WorkTask, c.tid(), c.taskRecord(entry, 1)), "NotAccredited")
}

// Leak closed: work done in time cannot be verified after expiry.
func TestWorkInTimeIsVerifiedAfterTheTaskCloses(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 2)
	ana := c.resident("ana")
	claim := ana.claim(task)
	ana.proof(task, claim)
	token := c.claimToken(c.library, claim)
	c.clock.Advance(40 * 24 * time.Hour)
	require.NoError(t, c.l.intake.sweep(c.ctx))
	c.status(c.verify(c.library, task, token), "minted")
}

// Leak closed: the VOTE amount is free to choose.
func TestVotesFollowTheCredits(t *testing.T) { // L9
	t.Parallel()
	c := newCity(t)
	ana := c.resident("ana")
	c.earn(ana, c.catalog(c.library, entryOptions{}))
	res := c.call(ana, "getBalance", "", nil)
	require.Equal(t, int64(24), res.num("credits"))
	require.Equal(t, int64(24), res.num("votes"))
}

func TestOnlyTheCityActsForTheCity(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	stranger := c.actor("stranger")
	c.unchanged(func() {
		c.refused(stranger.put(lexicons.GovDecision, "founding", founding(epoch)), "NotAuthorized")
		c.refused(stranger.put(lexicons.GovParameterSet, c.tid(), parameterSet(c.decision)), "NotAuthorized")
		c.refused(stranger.put(lexicons.RegistryAccreditation, stranger.did.String(), map[string]any{
			"org": stranger.did, "roles": []any{"org.city-sync.defs#roleIssuer"}, "status": "active",
			"validFrom": "2027-01-01T00:00:00Z", "decision": c.decision,
		}), "NotAuthorized")
		require.Equal(t, "NotAuthorized", c.call(stranger, "openEpoch", "", map[string]any{"epoch": epoch, "book": book}).name())
		require.Equal(t, "EpochAlreadyOpen", c.call(c.city, "openEpoch", "", map[string]any{"epoch": epoch, "book": book}).name())
	})
	c.refused(c.city.put(lexicons.GovParameterSet, c.tid(), parameterSet(c.decision)), "FoundingClosed")
}

func TestEpochWaitsUntilWhatItCountsWasRead(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	res := c.call(c.city, "openEpoch", "", map[string]any{
		"epoch": epoch, "book": book, "seen": []any{map[string]any{"did": c.pool.did, "rev": "3zzzzzzzzzzzz"}},
	})
	require.Equal(t, 503, res.Status)
	require.Equal(t, "NotYetSeen", res.name())
}

func TestOfferingIsRefusedByName(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.refused(c.offer(0, 10), "PublicPriceZero")
	c.pool = c.actor("stranger")
	c.refused(c.offer(800, 10), "NotAccredited")
}

func TestRecordsThatCrossTheFirstAccreditationCount(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.pool = c.actor("museum") // on a host that was read before the city's
	offering := c.offer(800, 10)
	c.refused(offering, "NotAccredited")
	c.accredit(c.pool, "active", "redeemer")
	c.status(offering, "accepted")

	// One that was known and is accredited again is not asked about the time between.
	c.accredit(c.pool, "revoked", "redeemer")
	between := c.offer(800, 10)
	c.refused(between, "NotAccredited")
	c.accredit(c.pool, "active", "redeemer")
	c.refused(between, "NotAccredited")

	// Nor is one whose records are old.
	c.pool = c.actor("cinema")
	late := c.offer(800, 10)
	c.refused(late, "NotAccredited")
	c.clock.Advance(2 * time.Hour)
	c.accredit(c.pool, "active", "redeemer")
	c.refused(late, "NotAccredited")
}

func TestUnknownRecordIsNotSeen(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	res := c.call(nil, "explain", "?uri="+c.library.uri(lexicons.WorkTask, c.tid()), nil)
	require.Equal(t, 404, res.Status)
	require.Equal(t, "NotSeen", res.name())
}
