package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
)

// A small city with every kind of row: public, pseudonymous and sealed work, the
// highest verification level, and one row that each side's rule refuses.
var townFiles = map[string]string{
	"city.csv": "key,value\nname,Small\nsymbol,$SML\ntz,Europe/Madrid\nlangs,\"es,en\"\nepoch,e2027-01\n" +
		"epochStartsAt,2027-01-04T00:00:00+01:00\nepochEndsAt,2027-03-29T00:00:00+02:00\nphase,launch\n",
	"organizations.csv": "id,handle,name,roles,functionType\n" +
		"LIB,library,Library,issuer,library\nPRK,parks,Parks,issuer,parks\nBUS,transit,Bus,redeemer,transit\n",
	"catalog.csv": "id,issuer,title,tier,hours,credits,slots,verificationLevel,sensitivity,credential\n" +
		"L1,LIB,Welcome desk,1,1,8,50,1,pseudonymous,\n" +
		"L2,LIB,Homework table,4,1.5,30,4,3,sealed,background-check\n" +
		"P1,PRK,Litter pick,1,2,16,45,2,public,\n" +
		"P2,PRK,First-aid station,4,0.75,15,20,4,pseudonymous,first-aid\n" +
		"P3,PRK,Too dear,1,1,9,20,1,public,\n",
	"offerings.csv": "id,redeemer,title,unit,physicalMonth,marginalMonth,committedMonth,cost,publicPriceMinor,currency,windows,essential,freeFor\n" +
		"B1,BUS,Ride,ride,90000,4000,500,4,225,EUR,,no,children under 5\n" +
		"B2,BUS,Free shuttle,ride,90000,4000,500,4,0,EUR,,no,\n",
}

func writeTown(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range townFiles {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600))
	}
	return dir
}

// runningTown is a whole city in this process, over loopback HTTP.
type runningTown struct {
	ready *readyInfo
	stop  func() error
	logs  *logLines
}

func startTown(t *testing.T, cfg devConfig) *runningTown {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	logs := &logLines{}
	log := slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { ended <- runDev(ctx, cfg, streams{io.Discard, io.Discard}, log) }()
	stopped := false
	c := &runningTown{logs: logs, stop: func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}}
	t.Cleanup(func() { assert.NoError(t, c.stop()) })
	require.Eventually(t, func() bool {
		select {
		case err := <-ended:
			stopped = true
			require.NoError(t, err, "the city ended")
		default:
		}
		ready, err := readReady(cfg.ReadyFile)
		c.ready = ready
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	return c
}

func (c *runningTown) demo(t *testing.T) *report {
	t.Helper()
	out, err := newDemo(c.ready, minResidents, 1, newProgress(io.Discard)).run(t.Context())
	require.NoError(t, err)
	return out
}

// reachable is a folder that the user of a private PostgreSQL may enter.
func reachable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "citysync-test-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

func TestCityEndToEnd(t *testing.T) {
	t.Parallel()
	base := reachable(t)
	cfg := devConfig{
		Data: filepath.Join(base, "data"), City: writeTown(t), CitySet: true, Calendar: calendarNow,
		ReadyFile: filepath.Join(base, "ready.json"),
	}
	city := startTown(t, cfg)
	first := city.demo(t)

	// C = min(90000, 4000, 500) × 4; launch 50 % × 3 months; two issuers. The rows that a
	// rule refused count nowhere.
	assert.Equal(t, []int64{2000, 3000, 0}, []int64{first.CapacityMonth, first.CapEpoch, first.CapUnallocated})
	assert.Equal(t, int64(50*8+4*30+45*16+20*15), first.Reserved)
	assert.Equal(t, int64(4), first.Tasks)
	assert.Equal(t, []reportIssuer{
		{"LIB", 1500, 520, first.Issuers[0].Minted}, {"PRK", 1500, 1020, first.Issuers[1].Minted},
	}, first.Issuers)
	assert.Equal(t, int64(minResidents*3+4+3), first.Claims, "nobody takes two shifts of one task, and three are open; four slots are sealed, three have guests")
	assert.Equal(t, first.Claims, first.Verifications)
	assert.Equal(t, first.Minted, first.Votes)
	assert.Equal(t, first.Minted, first.Issuers[0].Minted+first.Issuers[1].Minted)
	assert.Equal(t, int64(minResidents*4+3*4), first.Burned, "one unit each, and by hold, voucher and card; what was returned does not count")
	whole := map[string]bool{}
	for _, s := range first.Shown {
		whole[s.What] = true
		assert.NotContains(t, s.Figures, "before", "%s: nothing was done before", s.What)
	}
	assert.Len(t, whole, 11, "%v", first.Shown)
	assert.Equal(t, int64(minResidents), first.Reviews)
	assert.Equal(t, map[string]int{
		"AllocationExceeded": 1, "NotAccredited": 1, "EntryNotActive": 1, "SelfVerification": 1, "NotActivated": 1, "SealedTask": 1,
		"AlreadyMinted": 1, "TermsFrozen": 1, "PublicPriceZero": 1, "CodeExpired": 1, "AlreadyRedeemed": 1, "TillLocked": 2,
	}, first.Refused)
	assert.Equal(t, []refusedRow{{"P3", "OutsideTierBand", city.ready.Plan.Refused[0].Message},
		{"B2", "PublicPriceZero", city.ready.Plan.Refused[1].Message}}, city.ready.Plan.Refused)
	everyRecordExists(t, city, first.Evidence)
	nobodyIsNamed(t, city)

	require.NoError(t, city.stop())
	again := startTown(t, cfg)
	assert.Equal(t, city.ready, again.ready, "a second start is the same city")
	bare := *again.ready
	bare.Plan = nil // what the contract names is enough
	second := (&runningTown{ready: &bare}).demo(t)
	second.tries, first.tries = nil, nil // they carry the times of their answers
	assert.Equal(t, first.Checkpoint, second.Checkpoint, "a second run changes nothing")
	assert.Equal(t, first.Evidence, second.Evidence)
	assert.Equal(t, first.Refused, second.Refused)

	withdrawAfterMint(t, again, first.Evidence)
	takeApprovalAway(t, again)
}

func everyRecordExists(t *testing.T, c *runningTown, uris []string) {
	t.Helper()
	pds := newPDSClient(endpoint{base: c.ready.PDS, http: httpClient()})
	var kinds []string
	for _, raw := range uris {
		uri, err := syntax.ParseATURI(raw)
		require.NoError(t, err)
		rec, err := pds.get(t.Context(), authorOf(raw), uri.Collection().String(), uri.RecordKey().String())
		require.NoError(t, err)
		require.NotNil(t, rec, raw)
		kinds = append(kinds, uri.Collection().Name())
	}
	assert.Equal(t, []string{"entry", "task", "claim", "proof", "verification", "receipt", "offering", "receipt", "redemption"}, kinds)
}

// takeApprovalAway retires an entry: the approval, not the draft, is what tasks stand on.
func takeApprovalAway(t *testing.T, c *runningTown) {
	t.Helper()
	d := newDemo(c.ready, minResidents, 1, newProgress(io.Discard))
	require.NoError(t, d.look(t.Context()))
	r := d.rows[0]
	file := filepath.Join(t.TempDir(), "ready.json")
	require.NoError(t, writeReady(file, c.ready))
	admin := func(args ...string) int {
		return run(t.Context(), append([]string{"citysync", "admin", "--ready-file", file}, args...), nil, streams{io.Discard, io.Discard})
	}
	require.Equal(t, 0, admin("retire", "--entry", r.Entry, "--reason", "the approval is taken away"))
	assert.Equal(t, 1, admin("parameters"), "FoundingClosed: an epoch is open")

	var seen *explanation
	require.Eventually(t, func() bool {
		task := d.newTask(r, time.Now())
		ref, err := r.issuer.create(t.Context(), lexicons.WorkTask, task)
		require.NoError(t, err)
		seen, err = d.decided(t.Context(), ref)
		require.NoError(t, err)
		return seen.Status == "refused"
	}, 10*time.Second, 100*time.Millisecond)
	assert.Equal(t, "EntryNotActive", seen.Error)
}
