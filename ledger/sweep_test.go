package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

func (c *founded) sweep() {
	c.t.Helper()
	require.NoError(c.t, c.l.intake.sweep(c.ctx))
}

// kinds are the kinds of the entries from an index on, without what each new day brings.
func (c *founded) kinds(from int64) []string {
	c.t.Helper()
	leaves, err := c.l.store.leaves(c.ctx, from, 1000)
	require.NoError(c.t, err)
	out := []string{}
	for _, leaf := range leaves {
		e, err := entry.Decode(leaf)
		require.NoError(c.t, err)
		if e.Kind != entry.KindStateDigest {
			out = append(out, string(e.Kind))
		}
	}
	return out
}

func TestClaimsEnterTheLogWhenTheirWindowCloses(t *testing.T) { // L13
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 3)
	people := []*actor{c.resident("ana"), c.resident("ben")}
	size := c.l.seq.log.size()
	for _, p := range people {
		p.proof(task, p.claim(task))
	}
	c.sweep()
	require.Empty(t, c.kinds(size), "held claims leave no trace in the log before")
	c.clock.Advance(time.Hour)
	c.sweep()
	require.Equal(t, []string{"claim", "claim", "release"}, c.kinds(size), "one batch, and the slot that nobody claimed falls back")
	require.Equal(t, int64(48), c.capacity().num("outstanding"))
	leaves, err := c.l.store.leaves(c.ctx, size, 2)
	require.NoError(t, err)
	first, err := entry.Decode(leaves[0])
	require.NoError(t, err)
	second, err := entry.Decode(leaves[1])
	require.NoError(t, err)
	require.Less(t, string(first.Nullifier), string(second.Nullifier), "sorted by nullifier, not by arrival")
	c.sweep()
	require.Len(t, c.kinds(size), 3, "and only once")
}

func TestUnprovedClaimLapses(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 2)
	lazy, diligent := c.resident("lazy"), c.resident("dora")
	lost, kept := lazy.claim(task), diligent.claim(task)
	diligent.proof(task, kept)
	c.clock.Advance(time.Hour)
	c.sweep()
	size := c.l.seq.log.size()
	c.clock.Advance(14*24*time.Hour - time.Second)
	c.sweep()
	require.Empty(t, c.kinds(size), "not a second too early")
	c.clock.Advance(time.Second)
	c.sweep()
	require.Equal(t, []string{"unclaim"}, c.kinds(size))
	require.Equal(t, int64(24), c.capacity().num("outstanding"))
	token := c.claimToken(c.library, lost)
	c.refused(c.verify(c.library, task, token), "ClaimMissing")
	c.status(c.verify(c.library, task, c.claimToken(c.library, kept)), "minted")
}

func TestWithdrawnClaimFreesItsSlot(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana, ben := c.resident("ana"), c.resident("ben")
	ana.claim(task)
	c.refused(ben.claim(task), "SlotsFull")
	size := c.size()
	ana.del(lexicons.WorkClaim, claimKey(task, "s1"))
	require.Equal(t, size, c.size(), "a claim that was only held ends without a trace")
	cleo := c.resident("cleo")
	claim := cleo.claim(task)
	c.status(claim, "claimed")
	// After a proof there is no way back.
	cleo.proof(task, claim)
	cleo.del(lexicons.WorkClaim, claimKey(task, "s1"))
	c.refused(ana.claim(task), "SlotsFull")
	c.status(c.verify(c.library, task, c.claimToken(c.library, claim)), "minted")
}

func TestClaimCanBeMadeAgainAfterWithdrawal(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana := c.resident("ana")
	ana.claim(task)
	ana.del(lexicons.WorkClaim, claimKey(task, "s1"))
	again := claimRecord(task, "s1")
	again["createdAt"] = at(noon.Add(time.Minute))
	claim := ana.put(lexicons.WorkClaim, claimKey(task, "s1"), again)
	c.status(claim, "claimed")
	c.status(c.verify(c.library, task, c.claimToken(c.library, claim)), "minted")
}

func TestCancelledAndDeletedTasksGiveBackWhatNobodyClaimed(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	entryRef := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, entryRef, 3)
	c.status(c.resident("ana").claim(task), "claimed")
	ref := c.library.put(lexicons.WorkTaskStatus, rkeyOf(task), map[string]any{"status": "cancelled", "task": task})
	c.status(ref, "accepted")
	require.Equal(t, int64(24), c.capacity().num("outstanding"), "one claim stands")
	c.refused(c.resident("ben").claim(task), "ClaimWindowClosed")

	other := c.task(c.library, entryRef, 2)
	require.Equal(t, int64(72), c.capacity().num("outstanding"))
	c.library.del(lexicons.WorkTask, rkeyOf(other))
	require.Equal(t, int64(24), c.capacity().num("outstanding"))
	// Nobody else cancels a task.
	c.refused(c.parks.put(lexicons.WorkTaskStatus, rkeyOf(task), map[string]any{"status": "cancelled", "task": task}), "NotAuthorized")
}

func TestCoSignatureCountsBeforeAndAfter(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	entryRef := c.catalog(c.library, entryOptions{level: 4})
	ana := c.resident("ana")
	for _, coSignerFirst := range []bool{true, false} {
		task := c.task(c.library, entryRef, 1)
		token := c.claimToken(c.library, ana.claim(task))
		record := func() map[string]any {
			r := verification(task, token, 24)
			r["level"] = 4
			return r
		}
		main := record()
		main["coSigners"] = []any{c.parks.did}
		var own, co strong
		if coSignerFirst {
			co = c.parks.put(lexicons.WorkVerification, c.tid(), record())
			c.status(co, "waiting")
			own = c.library.put(lexicons.WorkVerification, c.tid(), main)
		} else {
			own = c.library.put(lexicons.WorkVerification, c.tid(), main)
			c.status(own, "waiting")
			co = c.parks.put(lexicons.WorkVerification, c.tid(), record())
		}
		c.status(own, "minted")
		c.status(co, "accepted")
	}
	// A stranger's co-signature is none, and is not waited for.
	task := c.task(c.library, entryRef, 1)
	token := c.claimToken(c.library, ana.claim(task))
	stranger := c.actor("stranger")
	co := verification(task, token, 24)
	c.refused(stranger.put(lexicons.WorkVerification, c.tid(), co), "NotAuthorized")
	alone := verification(task, token, 24)
	alone["level"] = 4
	c.refused(c.library.put(lexicons.WorkVerification, c.tid(), alone), "MethodsMissing")
}

func TestPublicTaskIsVerifiedByItsClaim(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{sensitivity: "public"}), 1)
	ana := c.resident("ana")
	claim := ana.claim(task)
	proof := ana.proof(task, claim)
	r := verification(task, "", 24)
	r["subject"] = map[string]any{"$type": lexicons.WorkVerification + "#publicClaim", "claim": claim, "proof": proof}
	ref := c.library.put(lexicons.WorkVerification, c.tid(), r)
	minted := c.status(ref, "minted")
	require.Equal(t, minted.num("seq"), c.status(claim, "minted").num("seq"), "of a public task everything is open")
}

func TestRejectionPaysNothingAndNeverSaysWhom(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	task := c.task(c.library, c.catalog(c.library, entryOptions{}), 1)
	ana := c.resident("ana")
	claim := ana.claim(task)
	r := verification(task, c.claimToken(c.library, claim), 0)
	r["outcome"] = "rejected"
	c.status(c.library.put(lexicons.WorkVerification, c.tid(), r), "accepted")
	require.Zero(t, c.balance(ana))
	require.Zero(t, c.capacity().num("outstanding"))
	require.Equal(t, "claimed", c.explain(claim).str("status"))
}

func TestTaskBeforeItsEpochIsAcceptedWhenThatOpens(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	r := c.taskRecord(c.catalog(c.library, entryOptions{}), 1)
	r["book"] = "event"
	ref := c.library.put(lexicons.WorkTask, c.tid(), r)
	c.status(ref, "waiting")
	c.pool.put(lexicons.OfferOffering, c.tid(), map[string]any{
		"title": "Swim", "creditsPerUnit": 8, "unitLabel": "visit", "epoch": epoch, "book": "event",
		"capacity":         map[string]any{"physicalMonth": 1000, "marginalMonth": 1000, "committedMonth": 100},
		"publicPriceMinor": 500, "currency": "USD",
	})
	res := c.call(c.city, "openEpoch", "", map[string]any{"epoch": epoch, "book": "event"})
	require.Equal(t, 200, res.Status, "%v", res.Body)
	c.status(ref, "accepted")
}
