package city_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"city-sync.org/citysync/internal/city"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, s)
	require.NoError(t, err)
	return out
}

func TestTodayComesToLieInTheSecondWeek(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, now, start, end string }{
		{"before the epoch", "2026-11-20T12:00:00-08:00", "2026-11-09T00:00:00-08:00", "2027-02-01T00:00:00-08:00"},
		{"last evening of the second week", "2026-11-22T23:59:59-08:00", "2026-11-09T00:00:00-08:00", "2027-02-01T00:00:00-08:00"},
		{"first instant of the second week", "2026-11-23T00:00:00-08:00", "2026-11-16T00:00:00-08:00", "2027-02-08T00:00:00-08:00"},
		{"already there", "2027-01-11T00:00:00-08:00", "2027-01-04T00:00:00-08:00", "2027-03-29T00:00:00-07:00"},
		{"after it, in summer time", "2027-06-16T09:00:00-07:00", "2027-06-07T00:00:00-07:00", "2027-08-30T00:00:00-07:00"},
		{"winter time begins inside", "2027-10-20T09:00:00-07:00", "2027-10-11T00:00:00-07:00", "2028-01-03T00:00:00-08:00"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := load(t, "berkeley")
			c.Shift(c.Weeks(at(t, tc.now)))
			assert.Equal(t, tc.start, c.Epoch.StartsAt.Format(time.RFC3339))
			assert.Equal(t, tc.end, c.Epoch.EndsAt.Format(time.RFC3339))
			assert.Equal(t, "e2027-01", c.Epoch.Key)
		})
	}
}

func TestShiftKeepsLocalTimeAndTheSecondWeekOnEveryDay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		folder, err := city.Folder("berkeley")
		require.NoError(t, err)
		c, err := city.Load(folder)
		require.NoError(t, err)
		now := time.Unix(rapid.Int64Range(1.6e9, 2.2e9).Draw(t, "now"), 0)
		c.Shift(c.Weeks(now))
		start := c.Epoch.StartsAt
		require.Equal(t, "Mon 00:00", start.Format("Mon 15:04"))
		require.Equal(t, "Mon 00:00", c.Epoch.EndsAt.Format("Mon 15:04"))
		day := now.In(c.Location())
		second := time.Date(start.Year(), start.Month(), start.Day()+7, 0, 0, 0, 0, c.Location())
		third := time.Date(start.Year(), start.Month(), start.Day()+14, 0, 0, 0, 0, c.Location())
		require.False(t, day.Before(second), "%s is before the second week of an epoch from %s", day, start)
		require.True(t, day.Before(third), "%s is after the second week of an epoch from %s", day, start)
	})
}

func TestMonthsAreThreeRunsOfWholeWeeks(t *testing.T) {
	t.Parallel()
	c := load(t, "berkeley")
	m := c.Epoch.Months
	require.Len(t, m, 3)
	assert.Equal(t, c.Epoch.StartsAt, m[0].StartsAt)
	assert.Equal(t, "2027-02-01T00:00:00-08:00", m[0].EndsAt.Format(time.RFC3339))
	assert.Equal(t, m[0].EndsAt, m[1].StartsAt)
	assert.Equal(t, "2027-03-01T00:00:00-08:00", m[1].EndsAt.Format(time.RFC3339))
	assert.Equal(t, m[1].EndsAt, m[2].StartsAt)
	assert.Equal(t, c.Epoch.EndsAt, m[2].EndsAt)
}

func TestWindows(t *testing.T) {
	t.Parallel()
	w, err := city.ParseWindows("Mon-Fri 09:30-15:00; Sat-Sun 00:00-24:00")
	require.NoError(t, err)
	for _, tc := range []struct {
		at   string
		open bool
	}{
		{"2026-11-20T09:29:59Z", false}, {"2026-11-20T09:30:00Z", true}, {"2026-11-20T14:59:59Z", true},
		{"2026-11-20T15:00:00Z", false}, {"2026-11-21T23:59:59Z", true}, {"2026-11-22T00:00:00Z", true},
		{"2026-11-23T00:00:00Z", false},
	} {
		assert.Equal(t, tc.open, city.Open(w, at(t, tc.at)), tc.at)
	}
	always, err := city.ParseWindows(" ")
	require.NoError(t, err)
	assert.True(t, city.Open(always, at(t, "2026-11-20T03:00:00Z")))
	turn, err := city.ParseWindows("Sat-Mon 10:00-11:00")
	require.NoError(t, err)
	assert.Equal(t, []time.Weekday{time.Saturday, time.Sunday, time.Monday}, turn[0].Days)
}

func TestWindowsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"Mon", "Mon 9:00-10:00", "Mon 10:00", "Mon 10:00-09:00", "Mon 10:00-10:00", "Lun 10:00-11:00",
		"Mon 24:01-24:00", "Mon 23:60-24:00", "Mon 22:00-02:00", "Mon-Fri 09:00-10:00;", "Mon -1:00-02:00"} {
		_, err := city.ParseWindows(s)
		assert.Error(t, err, s)
	}
}
