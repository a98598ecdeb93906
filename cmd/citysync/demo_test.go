package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons/citysync"
)

func bareDemo(start time.Time, seed int64) *demo {
	return newDemo(&readyInfo{
		AdminPassword: "secret", PDS: "http://localhost:1", Ledger: "http://localhost:1", Web: "http://localhost:1",
		Epoch: readyEpoch{Key: "e1", StartsAt: start, EndsAt: start.AddDate(0, 0, 84)},
	}, minResidents, seed, newProgress(io.Discard))
}

func TestShiftsHoldExactlyTheSlotsAndRunNow(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 12, 0, 30, 0, time.UTC)
	d := bareDemo(now.AddDate(0, 0, -8), 1)
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 1_000_000).Draw(t, "slots")
		minutes := rapid.IntRange(5, 1440).Draw(t, "minutes")
		shifts := d.shifts(slots, minutes, now)
		require.LessOrEqual(t, len(shifts), 100, "a task holds no more shifts")
		sum, ids := 0, map[string]bool{}
		for _, s := range shifts {
			require.Positive(t, s.Slots)
			require.LessOrEqual(t, s.Slots, int64(10_000), "a shift holds no more slots")
			starts, err := time.Parse(time.RFC3339, s.StartsAt)
			require.NoError(t, err)
			ends, err := time.Parse(time.RFC3339, s.EndsAt)
			require.NoError(t, err)
			require.False(t, now.Before(starts), "it has begun")
			require.True(t, now.Before(ends), "it is not over")
			require.Equal(t, time.Duration(minutes)*time.Minute, ends.Sub(starts), "it lasts as long as is paid")
			sum += int(s.Slots)
			ids[s.Id] = true
		}
		require.Equal(t, slots, sum)
		require.Len(t, ids, len(shifts))
	})
}

func TestALowerPayStaysInsideTheTier(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rate          int64
		minutes, want int
		credits       int64
	}{
		{8, 60, 45, 6}, {12, 120, 115, 23}, {20, 90, 87, 29}, {16, 45, 30, 8},
	} {
		d := bareDemo(time.Now(), 1)
		d.rows = []*row{{
			plannedRow: plannedRow{Minutes: tc.minutes}, entry: &citysync.CatalogEntry{CreditsPerHour: tc.rate, Sensitivity: "public"},
		}}
		_, minutes, credits, err := d.lowerPay()
		require.NoError(t, err)
		assert.Equal(t, tc.want, minutes)
		assert.Equal(t, tc.credits, credits)
	}
}

func TestResidentsFollowFromSeedAndAdminPassword(t *testing.T) {
	t.Parallel()
	a, same, seed2 := bareDemo(time.Now(), 1), bareDemo(time.Now(), 1), bareDemo(time.Now(), 2)
	other := bareDemo(time.Now(), 1)
	other.ready.AdminPassword = "another"
	assert.Equal(t, a.randomHandle("0"), same.randomHandle("0"))
	assert.Equal(t, a.password("0"), same.password("0"))
	assert.NotEqual(t, a.randomHandle("0"), a.randomHandle("1"))
	assert.NotEqual(t, a.randomHandle("0"), seed2.randomHandle("0"))
	assert.NotEqual(t, a.randomHandle("0"), other.randomHandle("0"))
	assert.NotEqual(t, a.password("0"), other.password("0"))
	assert.NotEqual(t, a.key(keyTryTooBig), a.key(keyTask))
}

func TestARefusalUnderAnotherNameFailsTheRun(t *testing.T) {
	t.Parallel()
	d := bareDemo(time.Now(), 1)
	require.NoError(t, d.answeredAs("CodeExpired", "late", xrpc.Errorf(410, "CodeExpired", "late")))
	require.NoError(t, d.missingRefusals())
	require.NoError(t, d.answeredAs("CodeExpired", "a late scan", nil))
	require.NoError(t, d.answeredAs("AlreadyRedeemed", "a second scan", xrpc.Errorf(404, "CodeUnknown", "no such code")))
	err := d.missingRefusals()
	assert.ErrorContains(t, err, "a late scan: want CodeExpired, got accepted")
	assert.ErrorContains(t, err, "a second scan: want AlreadyRedeemed, got CodeUnknown")
	assert.Error(t, d.answeredAs("CodeExpired", "away", io.ErrUnexpectedEOF), "no answer is no refusal")
}

func TestCallsWaitForAServiceThatIsAway(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch calls.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"SlotsFull","message":"no"}`)
		}
	}))
	t.Cleanup(srv.Close)
	e := endpoint{base: srv.URL, http: httpClient(), patience: 10 * time.Second}
	err := e.query(t.Context(), nil, "org.city-sync.test.method", nil, nil)
	assert.True(t, named(err, "SlotsFull"), "an answer ends the wait, even one that says no: %v", err)
	assert.Equal(t, int64(2), calls.Load())
}

func TestWhoIsAway(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		away bool
	}{
		"nobody listens":      {&url.Error{Op: "Get", Err: errors.New("connection refused")}, true},
		"a busy service":      {xrpc.Errorf(503, "NotEnoughResources", ""), true},
		"a proxy before it":   {xrpc.Errorf(502, "UnknownError", ""), true},
		"too many calls":      {xrpc.Errorf(429, "RateLimitExceeded", ""), true},
		"not read yet":        {xrpc.Errorf(503, "NotYetSeen", ""), false},
		"a refusal":           {xrpc.Errorf(400, "ClaimLimit", ""), false},
		"a fault of its own":  {xrpc.Errorf(500, "InternalServerError", ""), false},
		"the guard":           {&url.Error{Op: "Get", Err: xrpc.ErrAddressRefused}, false},
		"no network at fault": {context.Canceled, false},
	} {
		assert.Equal(t, tc.away, away(tc.err), name)
	}
}

func TestTenOfFortyResidentsLiveOnTheSecondPDS(t *testing.T) {
	t.Parallel()
	d := bareDemo(time.Now(), 1)
	elsewhere := func() (n int) {
		for i := range 200 {
			if d.hostOf(i) != d.ready.PDS {
				n++
			}
		}
		return n
	}
	assert.Zero(t, elsewhere(), "a ready file that names one host")
	d.ready.Hosts = []string{d.ready.PDS, "http://localhost:2"}
	assert.Equal(t, 10, elsewhere())
}
