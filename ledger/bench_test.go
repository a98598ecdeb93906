//go:build bench

package ledger

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/firehose"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/lexicons"
)

// databaseEnv names the address of an empty database on a server that keeps its word; internal/e2e/bench sets it.
const databaseEnv = "BENCH_DATABASE"

const (
	benchRounds    = 3
	benchSpan      = 1500 * time.Millisecond
	benchResidents = 1000
	benchRecords   = 60     // verifications of a round that come as commits
	benchLog       = 40_000 // entries that are replayed
)

// TestRates measures what the ledger does in a second beside what it is compared with, and prints one line a round:
// "bench", name, figure, peer's figure, separated by tabs.
func TestRates(t *testing.T) {
	dsn := os.Getenv(databaseEnv)
	require.NotEmpty(t, dsn, "%s must name an empty database", databaseEnv)
	c := foundForRates(t, dsn)
	founding := c.l.seq.log.size()
	naive := newNaive(t, dsn)
	c.activateMany(benchResidents)
	for round := range benchRounds {
		for _, callers := range []int{16, 1024} {
			ours := c.mintRate(round, callers)
			measured(fmt.Sprintf("mints/%d", callers), ours, naive.rate(callers))
			measured(fmt.Sprintf("same/%d", callers), ours, naive.wholeRate(callers))
		}
		c.openLoop(round)
		measured("verifications/1", c.verificationRate(round), naive.rate(1))
		c.tokenRates(round)
	}
	c.replayRates()
	c.memory(founding)
}

func measured(name string, ours, peer float64) {
	fmt.Fprintf(os.Stdout, "bench\t%s\t%.3f\t%.3f\n", name, ours, peer)
}

// rated is a city that is measured.
type rated struct {
	*founded
	signer string // the library's key, as causes name it
}

// foundForRates is a city like newCity's, with room for many mints.
func foundForRates(t *testing.T, dsn string) *rated {
	t.Helper()
	pool, err := pg.Open(t.Context(), dsn, "ledger")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pg.Migrate(t.Context(), pool, "ledger", Migrations()))
	w := &world{t: t, ctx: t.Context(), pool: pool, clock: clock.New(noon), dir: identity.NewMockDirectory()}
	w.city, w.ledger = w.actor("city"), w.actor("ledger")
	w.logKey, _, err = NewLogKey(w.ledger.did, rand.Reader)
	require.NoError(t, err)
	w.cfg = Config{
		City: w.city.did, DID: w.ledger.did, PDS: host, PublicURL: "http://ledger.test", Sources: []string{host},
		Identifier: "ledger.test", TZ: "America/Los_Angeles",
	}
	w.start()
	c := &rated{founded: &founded{world: w}}
	c.library, c.pool = c.actor("library"), c.actor("pool")
	c.city.put(lexicons.ActorCity, "self", map[string]any{
		"name": "Testville", "tz": "America/Los_Angeles", "langs": []any{"en"}, "ledger": c.cfg.DID,
		"log":   map[string]any{"origin": c.cfg.DID, "vkey": c.l.VerifierKey(), "url": "http://ledger.test"},
		"books": []any{map[string]any{"id": book, "symbol": "$T", "kind": "standard"}},
	})
	c.rules = c.city.put(lexicons.CatalogRuleSet, c.tid(), map[string]any{
		"title": "Rules", "rules": []any{map[string]any{"id": "1", "text": "No displacement."}},
	})
	c.decision = c.city.put(lexicons.GovDecision, "founding", founding(epoch))
	params := parameterSet(c.decision)
	params["claimLimit"] = 1000
	c.params = c.city.put(lexicons.GovParameterSet, c.tid(), params)
	c.accredit(c.library, "active", "issuer", "verifier")
	c.accredit(c.pool, "active", "redeemer")
	const units = 10_000_000
	c.pool.put(lexicons.OfferOffering, c.tid(), map[string]any{
		"title": "Swim", "creditsPerUnit": 8, "unitLabel": "visit", "epoch": epoch, "book": book, "publicPriceMinor": 800, "currency": "USD",
		"capacity": map[string]any{"physicalMonth": units, "marginalMonth": units, "committedMonth": units},
	})
	c.openEpoch()
	return c
}

// inOne runs fn as one command of the sequencer.
func (c *rated) inOne(fn func(b *batch) error) {
	c.t.Helper()
	_, err := c.l.seq.must(c.ctx, "bench", func(_ context.Context, b *batch) (any, error) { return nil, fn(b) })
	require.NoError(c.t, err)
}

func benchResident(n int) syntax.DID { return syntax.DID(fmt.Sprintf("did:plc:resident%016d", n)) }

func (c *rated) activateMany(n int) {
	c.t.Helper()
	c.inOne(func(b *batch) error {
		for i := range n {
			account := entry.Account{1, byte(i >> 16), byte(i >> 8), byte(i)}
			if _, err := b.decide(rules.Activate{Now: b.now, Issuer: c.library.did, Resident: benchResident(i), Account: account}); err != nil {
				return err
			}
		}
		return nil
	})
}

const someCID = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"

// signed names a record of the library's as its author signed it.
func (c *rated) signed(coll, rkey string) entry.Cause {
	if c.signer == "" {
		pub, err := c.library.key.PublicKey()
		require.NoError(c.t, err)
		c.signer = pub.DIDKey()
	}
	return entry.Cause{URI: c.library.uri(coll, rkey), CID: someCID, Rev: "3mcx5l2w5ss2b", Key: c.signer}
}

// bigTask is a task of the library's with so many shifts and slots on each, on which can be claimed and verified now.
func (c *rated) bigTask(name string, shifts int, slots int64) rules.AcceptTask {
	task := c.signed(lexicons.WorkTask, name)
	accept := rules.AcceptTask{
		Now: noon, Task: task, First: task.URI, Author: c.library.did, Epoch: epoch, Book: book, Credits: 24,
		Entry: rules.CatalogEntry{
			Ref: entry.Ref{URI: c.city.uri(lexicons.CatalogEntry, "e"), CID: someCID}, Active: true, Tier: 2, MinMinutes: 60, MaxMinutes: 120,
			Level: 1, Sensitivity: entry.SensitivityPseudonymous,
		},
	}
	for i := range shifts {
		accept.Shifts = append(accept.Shifts, rules.Shift{
			ID: fmt.Sprint("s", i), StartsAt: noon.Add(-time.Hour), EndsAt: noon.Add(time.Hour), Slots: slots,
		})
	}
	return accept
}

// mintable puts a task in the log, and for each shift a claim of every resident; each can be minted now.
func (c *rated) mintable(name string, shifts int) []rules.Mint {
	c.t.Helper()
	accept := c.bigTask(name, shifts, benchResidents)
	task := accept.Task
	var mints []rules.Mint
	c.inOne(func(b *batch) error {
		_, err := b.decide(accept)
		return err
	})
	for _, sh := range accept.Shifts {
		c.inOne(func(b *batch) error {
			for i := range benchResidents {
				held, err := rules.DecideClaim(b.state, rules.ClaimRequest{
					Now: b.now, Resident: benchResident(i), Task: task.Ref(), Shift: sh.ID, EntryActive: true, EpochKey: [32]byte{1},
				})
				if err != nil {
					return err
				}
				if err := rules.HoldClaim(b.state, held); err != nil {
					return err
				}
				mints = append(mints, rules.Mint{
					Now: b.now, Record: c.signed(lexicons.WorkVerification, fmt.Sprintf("%s%s%d", name, sh.ID, i)), Author: c.library.did, Signed: true,
					Task: task.Ref(), Shift: sh.ID, Token: held.Token, Outcome: entry.OutcomeApproved, Credits: 24, Level: 1,
					Methods: []string{rules.MethodAttestation},
				})
			}
			_, err := b.decide(rules.EnterClaims{Now: b.now, First: task.URI, Shift: sh.ID})
			return err
		})
	}
	return mints
}

// mintRate is how many mints a second so many callers get answered: decided, sealed, in the tree, committed and under a checkpoint.
func (c *rated) mintRate(round, callers int) float64 {
	c.t.Helper()
	shifts := 6
	if callers > 100 {
		shifts = 20
	}
	mints := c.mintable(fmt.Sprintf("%dround%d", callers, round), shifts)
	perSecond, err := ratePerSecond(callers, len(mints), func(i int) error {
		_, err := c.l.seq.do(c.ctx, "mint", func(_ context.Context, b *batch) (any, error) { return b.decide(mints[i]) })
		return err
	})
	require.NoError(c.t, err)
	return perSecond
}

// Mints that come whether or not the ones before are answered.
const (
	openRate = 500 // a second
	openSpan = 4 * time.Second
	openMost = 25 * time.Millisecond // that the slowest of a hundred may take
)

// openLoop is how long mints take from the moment that each was to be asked for to its answer.
func (c *rated) openLoop(round int) {
	c.t.Helper()
	mints := c.mintable(fmt.Sprintf("open%d", round), int(openRate*openSpan/time.Second)/benchResidents)
	took := make([]time.Duration, len(mints))
	var g errgroup.Group
	start := time.Now()
	for i := range mints {
		due := start.Add(time.Duration(i) * time.Second / openRate)
		time.Sleep(time.Until(due))
		g.Go(func() error {
			_, err := c.l.seq.do(c.ctx, "mint", func(_ context.Context, b *batch) (any, error) { return b.decide(mints[i]) })
			took[i] = time.Since(due)
			return err
		})
	}
	require.NoError(c.t, g.Wait())
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	measured("open/50", ms(took[len(took)/2]), ms(openMost))
	measured("open/99", ms(took[len(took)*99/100]), ms(openMost))
}

// verificationRate is how many verifications a second become mints when they come as commits from one host, one after the other as a
// follower delivers them.
func (c *rated) verificationRate(round int) float64 {
	c.t.Helper()
	entry := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, entry, benchRecords)
	for i := range benchRecords {
		c.resident(letters(round*benchRecords + i)).claim(task)
	}
	rows, err := c.world.pool.Query(c.ctx, `select translate(encode(token, 'base64'), '='||chr(10), '') from claim where task = $1`, task.URI)
	require.NoError(c.t, err)
	tokens, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(c.t, err)
	require.Len(c.t, tokens, benchRecords)
	var events []*firehose.Commit
	for _, token := range tokens {
		ev, _ := c.library.hold(lexicons.WorkVerification, c.tid(), verification(task, token, 24))
		events = append(events, ev)
	}
	before := c.l.seq.log.size()
	start := time.Now()
	for _, ev := range events {
		c.library.deliver(ev)
	}
	took := time.Since(start)
	require.EqualValues(c.t, before+2*benchRecords, c.l.seq.log.size(), "each verification minted, after one entry for each claim")
	return benchRecords / took.Seconds()
}

// letters writes a number in letters, which a DID can hold as they are.
func letters(n int) string {
	return strings.Map(func(r rune) rune { return r - '0' + 'a' }, strconv.Itoa(n))
}

// ratePerSecond lets callers do one after the other until the span is over or all are done.
func ratePerSecond(callers, n int, one func(i int) error) (float64, error) {
	var next, done atomic.Int64
	var g errgroup.Group
	start := time.Now()
	for range callers {
		g.Go(func() error {
			for time.Since(start) < benchSpan {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := one(i); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), err
}
