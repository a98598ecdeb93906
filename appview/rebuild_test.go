package appview_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// One AppView sees everything on two hosts as it happens: versions, deletions, each commit. Then the firehoses forget most of it, the schema is
// dropped, and a new one has to read whole repositories and the rest of the stream. What both show is the same.
func TestDroppedIndexIsRebuiltFromTheNetworkToTheSameHash(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	here, there := n.host(".test"), n.host(".other.test")
	city, library, quiet, partner := here.account("city"), here.account("library"), here.account("quiet"), there.account("partner")
	dsn := pgtest.DSN(t)
	first := n.view(dsn, city.did.String())

	n.log.append(entry.Entry{Kind: entry.KindRulesVersion, At: "2027-01-12T10:00:00Z", RulesVersion: &entry.RulesVersion{Version: 1}})
	city.put(lexicons.ActorCity, "self", map[string]any{"log": map[string]any{"origin": logOrigin, "vkey": n.log.vkey, "url": n.log.url}})
	city.put(lexicons.CatalogEntry, "", nil)
	for _, nsid := range []string{lexicons.ActorOrganization, lexicons.ActorDeclaration, lexicons.CatalogEntry, lexicons.OfferOffering} {
		library.put(nsid, "", nil)
	}
	for i := range 3 {
		library.put(lexicons.ActorOrganization, "self", map[string]any{"name": fmt.Sprint("Name ", i)})
	}
	library.put(lexicons.WorkTask, tid(9), nil)
	library.remove(lexicons.WorkTask, tid(9)) // gone before the second view begins
	task, _, _ := library.put(lexicons.WorkTask, "", nil)
	verification, verificationCID, rev := library.put(lexicons.WorkVerification, "", nil)
	n.log.append(mintOf(library.did, task, verification, verificationCID, rev))
	quiet.put(lexicons.WorkTask, "", map[string]any{"title": "Seen by listing alone"})
	partner.put(lexicons.OfferOffering, "", nil)
	partner.put(lexicons.OfferOffering, tid(3), nil)
	first.caughtUp(city, library, quiet, partner)

	n.prune() // quiet writes no more: no event tells of it
	city.again()
	library.again()
	partner.again()
	late := there.account("late")
	partner.remove(lexicons.OfferOffering, tid(3))
	library.remove(lexicons.WorkVerification, "") // after its mint
	library.put(lexicons.OfferOffering, "", map[string]any{"title": "Edited"})
	late.put(lexicons.OfferOffering, tid(1), nil)
	late.put(lexicons.OfferOffering, tid(2), nil)
	late.put(lexicons.OfferOffering, tid(2), map[string]any{"title": "Edited"})
	late.remove(lexicons.OfferOffering, tid(1))
	city.put(lexicons.CatalogEntry, "", map[string]any{"title": "Edited"})
	for i := range 300 { // more than one bundle
		n.log.append(entry.Entry{Kind: entry.KindRulesVersion, At: "2027-01-12T10:00:00Z", RulesVersion: &entry.RulesVersion{Version: int64(i + 2)}})
	}
	want := first.caughtUp(city, library, quiet, partner, late)
	pages := shown(first, task)
	first.stop()

	_, err := first.pool.Exec(t.Context(), "drop schema appview cascade")
	require.NoError(t, err)
	second := n.view(dsn, city.did.String())
	assert.Equal(t, want, second.caughtUp(city, library, quiet, partner, late))
	assert.Equal(t, pages, shown(second, task))
	var versions int
	require.NoError(t, second.pool.QueryRow(t.Context(), "select count(*) from record_version where coll = $1", lexicons.ActorOrganization).Scan(&versions))
	require.Equal(t, 1, versions, "the second view saw no history, or it proves nothing")

	// Both tell that the verification was taken back after its mint, the second without ever having seen it.
	assert.Contains(t, pages[0], `"uri":"`+verification+`","cid":"`+verificationCID+`"`)
	assert.Equal(t, 1, strings.Count(pages[0], `"withdrawn":true`), pages[0])
	page := second.get("/record/" + strings.TrimPrefix(verification, "at://") + "?cid=" + verificationCID)
	assert.Contains(t, page, "was withdrawn by its author")
	assert.Contains(t, page, n.log.url+"/evidence/"+verificationCID+".car")

	// It goes on from there, and its own tables alone give the hash again.
	library.put(lexicons.ActorOrganization, "self", map[string]any{"name": "Another"})
	next := second.caughtUp(city, library, quiet, partner, late)
	assert.NotEqual(t, want, next)
	second.stop()
	require.NoError(t, index.Rebuild(t.Context(), second.pool))
	again, err := index.StateHash(t.Context(), second.pool)
	require.NoError(t, err)
	assert.Equal(t, next, again)
}

// shown is what readers get that must not depend on when the view began.
func shown(v *view, task string) []string {
	return []string{
		v.get("/xrpc/org.city-sync.audit.listTimeline?uri=" + url.QueryEscape(task)),
		v.get("/xrpc/org.city-sync.catalog.listEntries"),
		v.get("/xrpc/org.city-sync.work.queryTasks"),
		v.get("/xrpc/org.city-sync.offer.queryOfferings"),
		v.get("/"),
	}
}

func tid(n int) string {
	return syntax.NewTIDFromInteger(uint64(1_767_000_000_000_000+n) << 10).String()
}

func mintOf(org syntax.DID, task, verification, cid, rev string) entry.Entry {
	ref := entry.Ref{URI: task, CID: cid}
	return entry.Entry{
		Kind: entry.KindMint, Epoch: "e2027-01", Book: "std", Org: org, Amount: 24, Votes: 24,
		Causes: []entry.Cause{{URI: verification, CID: cid, Rev: rev, Key: "did:key:z"}}, Params: &ref,
		Cap: &entry.CapState{Cap: 100}, Nullifier: make([]byte, 32), Commitment: &entry.Commitment{Value: make([]byte, 32), Padded: 8},
		Mint: &entry.Mint{Task: ref, First: task, Shift: "s1", Verifier: org, Outcome: "approved", Frozen: 24, Level: 2},
	}
}
