package clock_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
)

func TestSystemTellsUTCWithoutMonotonicReading(t *testing.T) {
	t.Parallel()
	now := clock.System().Now()
	assert.Equal(t, time.UTC, now.Location())
	// A monotonic reading would print as m=+… and break equality after storage.
	assert.NotContains(t, now.String(), "m=")
	assert.WithinDuration(t, time.Now(), now, time.Minute)
}

func TestManualMovesOnlyWhenTold(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("UTC-8", -8*60*60)
	start := time.Date(2026, 3, 1, 22, 30, 0, 0, zone)
	m := clock.New(start)
	require.Equal(t, start.UTC(), m.Now())
	require.Equal(t, m.Now(), m.Now())

	require.Equal(t, start.UTC().Add(90*time.Second), m.Advance(90*time.Second))
	require.Equal(t, start.UTC().Add(90*time.Second), m.Now())

	m.Set(start.Add(-time.Hour))
	require.Equal(t, start.UTC().Add(-time.Hour), m.Now())
}
