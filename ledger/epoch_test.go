package ledger

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// monthEnds are the ends of the months of newCity's epoch.
var monthEnds = []string{"2027-02-01T08:00:00Z", "2027-03-01T08:00:00Z", "2027-03-29T07:00:00Z"}

func (c *founded) goTo(at string) {
	c.t.Helper()
	to, err := time.Parse(time.RFC3339, at)
	require.NoError(c.t, err)
	c.clock.Advance(to.Sub(c.clock.Now()))
}

// last gives the newest entry of a kind.
func (c *founded) last(kind entry.Kind) *entry.Entry {
	c.t.Helper()
	var leaf []byte
	err := c.world.pool.QueryRow(c.ctx, `select leaf from entry where kind = $1 order by seq desc limit 1`, string(kind)).Scan(&leaf)
	require.NoError(c.t, err, kind)
	e, err := entry.Decode(leaf)
	require.NoError(c.t, err)
	return e
}

// An epoch's months are closed when they end, then the epoch, once; its report is published with the checkpoints that bound it.
func TestEpochClosesByItselfAndIsReported(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	fake := newFake()
	p := c.publisher(fake)
	_, err := p.step(c.ctx, true)
	require.NoError(t, err)
	for i, end := range monthEnds {
		c.goTo(end)
		c.sweep()
		d := c.last(entry.KindDormant)
		require.EqualValues(t, i, d.Dormant.Month)
		require.Equal(t, end, d.Dormant.EndsAt)
	}
	closed := c.last(entry.KindEpochClose)
	require.Len(t, closed.EpochClose.Months, 3)
	assert.Nil(t, closed.EpochClose.Next, "no epoch is planned after it")
	assert.False(t, closed.EpochClose.Measured)
	c.sweep()
	size := c.l.seq.log.size()
	c.sweep()
	require.Equal(t, size, c.l.seq.log.size(), "nothing is closed twice")

	fake.loseOne = true
	_, err = p.step(c.ctx, true)
	require.Error(t, err)
	for range 3 {
		_, err = p.step(c.ctx, true)
		require.NoError(t, err)
	}
	require.NoError(t, fake.invalid)
	var report struct {
		Issued, Burned, Active, Dormant, Capacity int64
		Months                                    []struct {
			Issued, Quiet, Dormant, EfficiencyBps int64
			WarmUp                                bool
			Alarms                                []any
		}
		ActiveParticipants           *int64
		ByCategory                   []any
		Notes                        []string
		FromCheckpoint, ToCheckpoint strong
	}
	raw := fake.records[lexicons.LedgerEpochReport+"/"+lexicons.ReportKey(book, epoch, "")]
	require.NotNil(t, raw)
	require.NoError(t, json.Unmarshal(raw, &report))
	minted := c.last(entry.KindMint).Amount
	assert.Equal(t, [3]int64{minted, 0, minted}, [3]int64{report.Issued, report.Active, report.Dormant})
	require.Len(t, report.Months, 3)
	assert.Equal(t, [2]int64{minted, 0}, [2]int64{report.Months[0].Issued, report.Months[0].Quiet})
	assert.Equal(t, minted, report.Months[1].Quiet, "nothing was earned or redeemed in the second month")
	assert.True(t, report.Months[2].WarmUp)
	assert.Empty(t, report.Months[2].Alarms)
	assert.Nil(t, report.ActiveParticipants, "one person is not told")
	assert.Empty(t, report.ByCategory)
	assert.Equal(t, []string{"targets-conflict"}, report.Notes, "r is .15")
	assert.Less(t, report.FromCheckpoint.URI, report.ToCheckpoint.URI)
	assert.NotContains(t, string(raw), ana.did.String())

	c.restart() // the log of all this replays
}

// Where a quorum of witnesses is asked for, an epoch closes on what they cosigned.
func TestEpochClosesOnWhatAQuorumCosigned(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	var size int64
	c.l.intake.cosigned = func() (int64, bool) { return size, true }
	c.goTo(monthEnds[2])
	c.sweep()
	require.NotContains(t, c.kinds(0), "epochClose")
	size = c.last(entry.KindDormant).Seq
	c.sweep()
	require.NotContains(t, c.kinds(0), "epochClose", "the closing of the last month is not under the checkpoint")
	size++
	c.sweep()
	require.Contains(t, c.kinds(0), "epochClose")
}

// Credits that slept for too long leave the tables with the log, and their holder was told before.
func TestDormantCreditsAreToldAndExpire(t *testing.T) {
	t.Parallel()
	c := newCityWith(t, func(p map[string]any) { p["dormancyMonths"] = 1 })
	ana, ben := c.resident("ana"), c.resident("ben")
	c.earn(ana, c.catalog(c.library, entryOptions{}))
	c.earn(ben, c.catalog(c.library, entryOptions{}))
	c.goTo(monthEnds[0])
	c.sweep()
	res := c.call(ana, "getBalance", "", nil)
	require.Equal(t, int64(24), res.num("credits"))
	require.NotContains(t, res.Body, "expiresAt", "awake")
	c.goTo(monthEnds[1])
	c.sweep()
	res = c.call(ana, "getBalance", "", nil)
	assert.Equal(t, monthEnds[1], res.str("asleepSince"))
	assert.Equal(t, monthEnds[2], res.str("expiresAt"))
	assert.Equal(t, int64(24), res.num("expiring"))
	assert.Equal(t, int64(30), res.num("warningDays"))
	require.Equal(t, 200, c.openTill(c.till, pin).Status)
	require.Equal(t, 200, c.scan(c.till, c.code(ben, 1, "k", nil).str("code"), "confirm", 0).Status)
	c.goTo(monthEnds[2])
	c.sweep()
	x := c.last(entry.KindExpire)
	assert.EqualValues(t, 24, x.Amount, "ben's act saved what he had left")
	var credits int64
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select sum(credits) from balance`).Scan(&credits))
	assert.Equal(t, c.balance(ben), credits, "the second guard has nothing of ana's either")
	assert.Zero(t, c.balance(ana))

	fake := newFake()
	_, err := c.publisher(fake).step(c.ctx, true)
	require.NoError(t, err)
	require.NoError(t, fake.invalid)
	require.Contains(t, string(fake.records[lexicons.LedgerReceipt+"/"+receiptKey(x.Seq)]), `"kind":"expiry"`)
	c.restart()
}

// Each day that something was entered ends with a digest; a resident's phone can show its balance under it.
func TestResidentProvesTheirBalanceUnderTheDailyDigest(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	ben := c.resident("ben")
	require.Equal(t, 404, c.call(ana, "getBalanceProof", "", nil).Status, "no digest yet")
	c.clock.Advance(24 * time.Hour)
	c.sweep()
	d := c.last(entry.KindStateDigest)
	size := c.l.seq.log.size()
	c.clock.Advance(24 * time.Hour)
	c.sweep()
	require.Equal(t, size, c.l.seq.log.size(), "the log did not grow: no digest")

	res := c.call(ana, "getBalanceProof", "", nil)
	require.Equal(t, 200, res.Status, "%v", res.Body)
	raw, err := json.Marshal(res.Body)
	require.NoError(t, err)
	var view BalanceProofView
	require.NoError(t, json.Unmarshal(raw, &view))
	account, root, shares, err := ParseBalanceProof(&view)
	require.NoError(t, err)
	require.Equal(t, d.Seq, view.Seq)
	require.Equal(t, d.StateDigest.Balances[0], root, "the root is the leaf's")
	balance, err := entry.VerifyBalance(root, account, shares)
	require.NoError(t, err)
	require.Equal(t, c.balance(ana), balance)
	require.Equal(t, 404, c.call(ben, "getBalanceProof", "", nil).Status, "ben had nothing")
	require.NotEqual(t, 200, c.call(nil, "getBalanceProof", "", nil).Status)

	// The checkpoint names the digest, and so does its record.
	cp, err := tlog.Open(c.l.seq.latest.Load().Note, c.l.VerifierKey())
	require.NoError(t, err)
	seq, hash, ok, err := cp.Balances()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, d.Seq, seq)
	want, err := entry.BalancesHash(d.StateDigest.Balances)
	require.NoError(t, err)
	require.Equal(t, tlog.Hash(want), hash)
	fake := newFake()
	_, err = c.publisher(fake).step(c.ctx, true)
	require.NoError(t, err)
	require.NoError(t, fake.invalid)
	require.Contains(t, string(fake.records[lexicons.LedgerCheckpoint+"/"+receiptKey(cp.Size)]), fmt.Sprintf(`"supply":[{"amount":%d`, root.Sum))

	c.restart()
	again := c.call(ana, "getBalanceProof", "", nil)
	require.Equal(t, res.Body, again.Body, "a restart builds the same tree")
}

// Old seeds are destroyed; the log is still read.
func TestOldSeedsAreForgotten(t *testing.T) {
	t.Parallel()
	c, _ := rich(t)
	c.l.intake.cfg.DigestEvery = time.Minute
	c.cfg.DigestEvery = time.Minute
	for i := range keepSeeds + 2 {
		c.clock.Advance(time.Minute)
		c.resident(fmt.Sprint("r", i)) // the log grew
		c.sweep()
	}
	c.sweep()
	var kept, gone int
	const count = `select count(*) filter (where sealed is not null), count(*) filter (where sealed is null) from opening join entry using (seq) where kind = 'stateDigest'`
	require.NoError(t, c.world.pool.QueryRow(c.ctx, count).Scan(&kept, &gone))
	assert.Equal(t, keepSeeds, kept)
	assert.Equal(t, 2, gone)
	c.restart()
}

// Everybody's balance public: no leaf, no record and no answer without the holder's own word gives a balance, and a neighbour in a proof is
// never the whole of one.
func TestLeakEverybodysBalancePublic(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	desk := c.catalog(c.library, entryOptions{})
	for i := range 6 {
		c.earn(c.resident(fmt.Sprint("r", i)), desk)
		c.clock.Advance(time.Second)
	}
	ana := c.resident("ana")
	c.earn(ana, desk)
	c.clock.Advance(24 * time.Hour)
	c.sweep()
	fake := newFake()
	_, err := c.publisher(fake).step(c.ctx, true)
	require.NoError(t, err)

	for _, method := range []string{"getBalance", "getBalanceProof"} {
		res := c.call(nil, method, "", nil)
		assert.Equal(t, 401, res.Status, method)
	}
	account, _ := c.l.seq.state.AccountOf(ana.did)
	secrets := []string{ana.did.String(), string(account[:]), fmt.Sprintf("%x", account[:])}
	leaves, err := c.l.store.leaves(c.ctx, 0, 1000)
	require.NoError(t, err)
	for _, leaf := range leaves {
		for _, s := range secrets {
			require.NotContains(t, string(leaf), s)
		}
	}
	for key, raw := range fake.records {
		for _, s := range secrets {
			require.NotContains(t, string(raw), s, key)
		}
	}
	for _, path := range []string{"getCapacity", "getCheckpoint", "listReceipts"} {
		res := c.call(nil, path, "", nil)
		raw, err := json.Marshal(res.Body)
		require.NoError(t, err)
		require.False(t, strings.Contains(string(raw), `"balance":`) || strings.Contains(string(raw), `"credits":`), "%s: %s", path, raw)
	}
	shares, root, _, ok := c.l.seq.state.BalanceProof(account, book)
	require.True(t, ok)
	require.EqualValues(t, 7*24, root.Sum)
	for _, s := range shares {
		require.NotEqual(t, int64(24), s.Sum)
		for _, step := range s.Path[:1] {
			require.NotEqual(t, int64(24), step.Sum, "a leaf beside mine is no whole balance")
		}
	}
}

// A mass event's plan comes with a parameter set: its epoch opens for its own book alone, with no redeemer's capacity but its sponsors'.
func TestEventOpensInItsOwnBook(t *testing.T) {
	t.Parallel()
	c := newCityWith(t, func(p map[string]any) {
		epochs, _ := p["epochs"].([]any)
		window := map[string]any{"startsAt": "2027-02-10T08:00:00Z", "endsAt": "2027-03-01T08:00:00Z"}
		p["epochs"] = append(epochs, map[string]any{
			"key": "mce1", "startsAt": window["startsAt"], "endsAt": window["endsAt"], "tz": "America/Los_Angeles", "phase": "event",
			"book": "mce1", "months": []any{window},
		})
	})
	sponsor := c.actor("sponsor")
	c.accredit(sponsor, "active", "sponsor")
	sponsor.put(lexicons.OfferOffering, c.tid(), map[string]any{
		"title": "Coffee", "unitLabel": "cup", "epoch": "mce1", "book": "mce1", "creditsPerUnit": 10, "publicPriceMinor": 400, "currency": "USD",
		"capacity": map[string]any{"physicalMonth": 400, "marginalMonth": 400, "committedMonth": 400},
	})
	open := func(book string) answer {
		return c.call(c.city, "openEpoch", "", map[string]any{
			"epoch": "mce1", "book": book, "seen": []any{map[string]any{"did": sponsor.did, "rev": sponsor.head.Rev}},
		})
	}
	require.Equal(t, "BookMismatch", open(book).str("error"))
	res := open("mce1")
	require.Equal(t, 200, res.Status, "%v", res.Body)
	e := c.last(entry.KindEpochOpen)
	require.Equal(t, "mce1", e.Book)
	require.Equal(t, entry.BoundByEvent, e.EpochOpen.BoundBy)
	require.Equal(t, [2]int64{4_000, 2_800}, [2]int64{e.EpochOpen.Capacity, e.EpochOpen.Cap})
}
