package entry_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

// Reading and writing are our own for their speed; what is a time is what package time says.
func TestTimesAndDaysAreThoseOfPackageTime(t *testing.T) {
	t.Parallel()
	const layout, dayLayout = "2006-01-02T15:04:05Z", "2006-01-02"
	berkeley, err := time.LoadLocation("America/Los_Angeles")
	require.NoError(t, err)
	e := samples(t)[0]
	same := func(text string) {
		want, err := time.Parse(layout, text)
		good := err == nil && want.Format(layout) == text // Parse takes fractions of a second too
		got, err := entry.ParseTime(text)
		if assert.Equal(t, good, err == nil, text) && good {
			assert.True(t, got.Equal(want) && got.Location() == time.UTC, text)
		}
		e.Day, _, _ = strings.Cut(text, "T")
		_, err = time.Parse(dayLayout, e.Day)
		_, bad := e.Encode()
		assert.Equal(t, err == nil, bad == nil, e.Day)
	}
	for _, text := range []string{
		"", "2027-01-05", "2027-01-05T07:30:15", "2027-01-05T07:30:15.5Z", "2027-01-05t07:30:15Z", "2027-01-05T24:00:00Z", "2027-01-05T07:60:00Z",
		"2027-01-05T07:30:60Z", "2027-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "2000-02-29T00:00:00Z", "2027-04-31T00:00:00Z",
		"2027-00-10T00:00:00Z", "2027-13-10T00:00:00Z", "2027-01-00T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "+027-01-05T07:30:15Z",
		"-027-01-05T07:30:15Z", "2027-1-005T07:30:15Z", "2027-01- 5T07:30:15Z", "2027-01-05T 7:30:15Z", "2027-01-05T07:30:15ZZ", "12027-01-05T07:30:15Z",
		"2027/01/05T07:30:15Z", "2027-01-05T07-30:15Z", "2027-01-05T07:30-15Z", "2027-01-05T07:30:15z", "２027-01-05T07:30:15Z",
	} {
		same(text)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		at := time.Unix(rng.Int64N(300_000_000_000)-62_000_000_000, rng.Int64N(1e9)) // year 5 to 11,000
		assert.Equal(t, at.UTC().Format(layout), entry.FormatTime(at))
		assert.Equal(t, at.In(berkeley).Format(dayLayout), entry.FormatDay(at, berkeley))
		text := []byte(entry.FormatTime(at))
		same(string(text))
		text[rng.IntN(len(text))] = "0123456789-:TZ"[rng.IntN(14)]
		same(string(text))
	}
}
