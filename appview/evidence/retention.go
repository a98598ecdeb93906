package evidence

import (
	"regexp"
	"strconv"
	"time"
)

// Bounds of how long evidence is kept, and what holds where the city does not say it in words that a machine reads.
const (
	defaultKeep = 90 * 24 * time.Hour
	maxKeep     = 730 * 24 * time.Hour
)

var (
	isoPeriod   = regexp.MustCompile(`^P([0-9]{1,4})([DWMY])$`)
	wordsPeriod = regexp.MustCompile(`(?i)\b([0-9]{1,4}) (day|week|month|year)s?\b`)
	unitDays    = map[string]int{"D": 1, "W": 7, "M": 30, "Y": 365, "d": 1, "w": 7, "m": 30, "y": 365}
)

// Keep reads a city's retention: P90D, or the first period named in its words, as in "private data is kept for 90 days". A month counts
// 30 days and a year 365. Never longer than two years.
func Keep(retention string) time.Duration {
	n, unit := "", ""
	if m := isoPeriod.FindStringSubmatch(retention); m != nil {
		n, unit = m[1], m[2]
	} else if m := wordsPeriod.FindStringSubmatch(retention); m != nil {
		n, unit = m[1], string(m[2][0]|0x20)
	}
	count, err := strconv.Atoi(n)
	if err != nil || count == 0 {
		return defaultKeep
	}
	return min(time.Duration(count*unitDays[unit])*24*time.Hour, maxKeep)
}
