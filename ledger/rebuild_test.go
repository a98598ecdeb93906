package ledger

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// livedIn is a city in whose log every kind of entry stands, and which has more beside its log.
type livedIn struct {
	*founded
	ana, ben, cleo *actor
	open, used     string // redemption codes
	today          strong // a task with claims that are held, not entered
	held           strong // one of them
	orphan         strong // a claim that waits for its task
	missing        func() // brings the task
}

func newLivedIn(t *testing.T) *livedIn {
	t.Helper()
	c := &livedIn{founded: newCity(t)}
	c.ana, c.ben, c.cleo = c.resident("ana"), c.resident("ben"), c.resident("cleo")
	work := c.catalog(c.library, entryOptions{})
	for range 2 {
		c.earn(c.ana, work)
	}
	part := c.task(c.library, work, 1)
	half := verification(part, c.claimToken(c.library, c.ben.claim(part)), 12)
	half["outcome"], half["minutes"] = "partial", 60
	c.status(c.library.put(lexicons.WorkVerification, c.tid(), half), "minted")

	parks := c.catalog(c.parks, entryOptions{})
	bad := c.task(c.parks, parks, 2) // one is rejected, the other slot falls back when the window closes
	no := verification(bad, c.claimToken(c.parks, c.ben.claim(bad)), 0)
	no["outcome"] = "rejected"
	c.status(c.parks.put(lexicons.WorkVerification, c.tid(), no), "accepted")
	lapsing := c.task(c.library, work, 3)
	c.cleo.claim(lapsing)
	c.library.del(lexicons.WorkTask, rkeyOf(c.task(c.library, work, 2)))

	c.used = c.code(c.ana, 2, "used", nil).str("code")
	require.Equal(t, 200, c.scan(c.till, c.used, "confirm", 0).Status)
	c.clock.Advance(time.Hour)
	c.sweep()
	c.clock.Advance(14 * 24 * time.Hour)
	c.sweep()
	c.accredit(c.parks, "suspended", "issuer", "verifier")

	require.Equal(t, 200, c.openTill(c.till, pin).Status, "a till that nobody closed is closed after a day")
	// What stands beside the log: held claims, an open code, a record that waits.
	late := c.taskRecord(work, 3)
	now := c.clock.Now()
	late["shifts"] = []any{map[string]any{"id": "s1", "startsAt": at(now.Add(-time.Hour)), "endsAt": at(now.Add(time.Hour)), "slots": 3}}
	c.today = c.library.put(lexicons.WorkTask, c.tid(), late)
	c.status(c.today, "accepted")
	c.held = c.ana.claim(c.today)
	c.ben.claim(c.today)
	c.open = c.code(c.ana, 1, "open", nil).str("code")
	require.NotEmpty(t, c.open)
	ev, unseen := c.library.hold(lexicons.WorkTask, c.tid(), late)
	c.missing = func() { c.library.deliver(ev) }
	c.orphan = c.cleo.claim(unseen)
	c.status(c.orphan, "waiting")
	return c
}

// The log and its openings, with no other table, give the state that the sequencer holds.
func TestLedgersStateRebuiltFromItsLogAloneEqualsTheLiveOne(t *testing.T) {
	t.Parallel()
	c := newLivedIn(t)
	state := rules.NewState(c.l.seq.state.Location())
	kinds := map[entry.Kind]int{}
	rows, err := c.world.pool.Query(c.ctx, `select leaf, sealed from entry left join opening using (seq) order by seq`)
	require.NoError(t, err)
	var leaf, sealed []byte
	_, err = pgx.ForEachRow(rows, []any{&leaf, &sealed}, func() error {
		e, err := entry.Decode(leaf)
		if err != nil {
			return err
		}
		kinds[e.Kind]++
		if sealed != nil {
			o, err := entry.DecodeOpening(sealed)
			if err != nil {
				return err
			}
			if err := e.Unseal(o); err != nil {
				return err
			}
		}
		return rules.Apply(state, *e)
	})
	require.NoError(t, err)
	for _, k := range []entry.Kind{
		entry.KindRulesVersion, entry.KindParameters, entry.KindBind, entry.KindActivate, entry.KindEpochOpen, entry.KindReserve,
		entry.KindRelease, entry.KindClaim, entry.KindUnclaim, entry.KindMint, entry.KindBurn,
	} {
		assert.NotZero(t, kinds[k], "a log without a %s proves less", k)
	}
	assert.Equal(t, c.l.seq.state.Digest(), state.Digest())
	assert.Equal(t, c.l.seq.state.Epochs(), state.Epochs())
	assert.NotEqual(t, c.l.seq.state.HeldDigest(), state.HeldDigest(), "claims that are held are not in the log")

	// The tables that guard the rules in SQL are what the log gives, and no more.
	var accounts int
	rows, err = c.world.pool.Query(c.ctx, `select l.did, b.account, b.book, b.credits, b.votes from balance b join account_link l using (account)`)
	require.NoError(t, err)
	var did, inBook string
	var account []byte
	var credits, votes int64
	_, err = pgx.ForEachRow(rows, []any{&did, &account, &inBook, &credits, &votes}, func() error {
		accounts++
		haveCredits, haveVotes := state.Balance(entry.Account(account), inBook)
		assert.Equal(t, []int64{haveCredits, haveVotes}, []int64{credits, votes}, did)
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, 2, accounts, "ana and ben earned")
	total, ok := state.Totals(book, epoch)
	require.True(t, ok)
	var limit, issued int64
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select cap, issued from cap_guard where book = $1 and epoch = $2`, book, epoch).Scan(&limit, &issued))
	assert.Equal(t, []int64{total.Cap, total.Minted}, []int64{limit, issued})
	for _, i := range total.Issuers {
		require.NoError(t, c.world.pool.QueryRow(c.ctx, `select allocation, issued from allocation_guard where issuer = $1`, i.DID).Scan(&limit, &issued))
		assert.Equal(t, []int64{i.Allocation, i.Minted}, []int64{limit, issued}, i.DID)
	}
}

func TestWhatStandsBesideTheLogIsThereAfterARestart(t *testing.T) {
	t.Parallel()
	c := newLivedIn(t)
	digest, held, size := c.l.seq.state.Digest(), c.l.seq.state.HeldDigest(), c.size()
	c.restart()
	require.Equal(t, digest, c.l.seq.state.Digest())
	require.Equal(t, held, c.l.seq.state.HeldDigest())
	require.Equal(t, size, c.size(), "a restart writes nothing")

	require.Equal(t, "AlreadyRedeemed", c.scan(c.till, c.used, "confirm", 0).name())
	require.Equal(t, "redeemed", c.scan(c.till, c.open, "confirm", 0).str("status"))
	require.Equal(t, "AlreadyRedeemed", c.scan(c.till, c.open, "confirm", 1).name())
	require.Equal(t, 200, c.code(c.ana, 2, "used", nil).Status, "the first answer again")
	require.Equal(t, 409, c.code(c.ana, 1, "used", nil).Status, "an idempotency key outlives the process")

	c.status(c.cleo.claim(c.today), "claimed")
	c.refused(c.resident("dora").claim(c.today), "SlotsFull") // the two that were held still are
	c.missing()
	c.status(c.orphan, "claimed")
	c.status(c.verify(c.library, c.today, c.claimToken(c.library, c.held)), "minted")
}

// Anyone, with the checkpoint and the tiles of entries, comes to the ledger's own figures by other code.
func TestPublishedTilesAloneGiveTheLiveTotals(t *testing.T) {
	t.Parallel()
	c := newLivedIn(t)
	checkpoint, err := tlog.Open(c.get("/checkpoint").Body.Bytes(), c.l.VerifierKey())
	require.NoError(t, err)
	a := audit.New(c.cfg.DID.String())
	for n := int64(0); n*tlog.TileWidth < checkpoint.Size; n++ {
		tile := tlog.Tile{Level: tlog.EntriesLevel, N: n, Width: int(min(checkpoint.Size-n*tlog.TileWidth, tlog.TileWidth))}
		rec := c.get("/" + tile.Path())
		require.Equal(t, 200, rec.Code, tile.Path())
		leaves, err := tlog.DecodeBundle(rec.Body.Bytes(), tile.Width)
		require.NoError(t, err)
		for _, leaf := range leaves {
			require.NoError(t, a.Add(a.Size(), leaf))
		}
	}
	require.Empty(t, a.Findings())
	covered, err := a.CheckCheckpoint(checkpoint)
	require.NoError(t, err)
	require.True(t, covered)

	live := c.l.seq.state.Epochs()
	require.JSONEq(t, asJSON(t, live), asJSON(t, a.Totals()))
	res := c.capacity()
	total := a.Totals()[0]
	for name, want := range map[string]int64{
		"capacityMonth": total.CapacityMonth, "capEpoch": total.Cap, "capUnallocated": total.Unallocated, "reserved": total.Reserved,
		"outstanding": total.Outstanding, "minted": total.Minted, "votes": total.Votes, "burned": total.Burned, "supply": total.Supply(),
		"claims": total.Claims, "verifications": total.Mints, "tasks": total.Tasks,
	} {
		assert.Equal(t, want, res.num(name), name)
	}
	assert.Equal(t, a.Supply(book), total.Minted-total.Burned)

	var held int64 // what people hold, which only the ledger knows, is what the log says was issued and not redeemed
	for _, person := range []*actor{c.ana, c.ben, c.cleo} {
		held += c.balance(person)
	}
	assert.Equal(t, a.Supply(book), held)
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}
