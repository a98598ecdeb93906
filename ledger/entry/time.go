package entry

import (
	"fmt"
	"time"
)

const (
	timeLayout = "2006-01-02T15:04:05Z"
	dayLayout  = "2006-01-02"
)

// Times and days are read and written digit by digit: every entry has some, and package time reads its layouts anew for each.

// FormatTime writes an instant as leaves do: UTC, to the second.
func FormatTime(t time.Time) string {
	t = t.UTC()
	hour, minute, second := t.Clock()
	b := appendDay(make([]byte, 0, len(timeLayout)), t)
	b = append(appendTwo(append(b, 'T'), hour), ':')
	b = append(appendTwo(b, minute), ':')
	return string(append(appendTwo(b, second), 'Z'))
}

// ParseTime reads what FormatTime writes, and nothing else.
func ParseTime(s string) (time.Time, error) {
	if len(s) != len(timeLayout) || s[10] != 'T' || s[13] != ':' || s[16] != ':' || s[19] != 'Z' {
		return time.Time{}, badTime(s)
	}
	year, month, day, ok := readDay(s[:10])
	hour, okHour := digits(s[11:13])
	minute, okMinute := digits(s[14:16])
	second, okSecond := digits(s[17:19])
	if !ok || !okHour || !okMinute || !okSecond || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, badTime(s)
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC), nil
}

func badTime(s string) error { return fmt.Errorf("time %q is not of the form %s", s, timeLayout) }

// FormatDay writes the local day of an instant.
func FormatDay(t time.Time, loc *time.Location) string {
	return string(appendDay(make([]byte, 0, len(dayLayout)), t.In(loc)))
}

func checkDay(s string) error {
	if _, _, _, ok := readDay(s); !ok {
		return fmt.Errorf("day %q is not of the form %s", s, dayLayout)
	}
	return nil
}

// readDay reads a day that there is.
func readDay(s string) (year, month, day int, ok bool) {
	if len(s) != len(dayLayout) || s[4] != '-' || s[7] != '-' {
		return 0, 0, 0, false
	}
	year, okYear := digits(s[:4])
	month, okMonth := digits(s[5:7])
	day, okDay := digits(s[8:])
	if !okYear || !okMonth || !okDay || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return 0, 0, 0, false
	}
	return year, month, day, true
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

func digits(s string) (n int, ok bool) {
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

// appendDay writes the day of t where t is. A year that has not four digits is package time's to write, as it always was.
func appendDay(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, dayLayout)
	}
	b = append(appendTwo(appendTwo(b, year/100), year%100), '-')
	b = append(appendTwo(b, int(month)), '-')
	return appendTwo(b, day)
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }
