package entry

import (
	"fmt"
	"time"
)

const (
	timeLayout = "2006-01-02T15:04:05Z"
	dayLayout  = "2006-01-02"
)

// FormatTime writes an instant as leaves do: UTC, to the second.
func FormatTime(t time.Time) string { return t.UTC().Truncate(time.Second).Format(timeLayout) }

// ParseTime reads what FormatTime writes, and nothing else.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(timeLayout, s)
	if err != nil || t.Format(timeLayout) != s { // Parse takes fractions of a second too
		return time.Time{}, fmt.Errorf("time %q is not of the form %s", s, timeLayout)
	}
	return t, nil
}

// FormatDay writes the local day of an instant.
func FormatDay(t time.Time, loc *time.Location) string { return t.In(loc).Format(dayLayout) }

func checkDay(s string) error {
	if _, err := time.Parse(dayLayout, s); err != nil {
		return fmt.Errorf("day %q is not of the form %s", s, dayLayout)
	}
	return nil
}
