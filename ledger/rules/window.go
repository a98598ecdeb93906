package rules

import (
	"fmt"
	"time"
)

const dayMinutes = 24 * 60

// ParseClock reads a local time of day as minutes after midnight: 00:00 to 24:00.
func ParseClock(s string) (int, error) {
	var h, m int
	if len(s) != len("00:00") || s[2] != ':' {
		return 0, fmt.Errorf("time of day %q is not of the form hh:mm", s)
	}
	for i, c := range s {
		if i != 2 && (c < '0' || c > '9') {
			return 0, fmt.Errorf("time of day %q is not of the form hh:mm", s)
		}
	}
	h, m = int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
	if m > 59 || h*60+m > dayMinutes {
		return 0, fmt.Errorf("time of day %q is not on the clock", s)
	}
	return h*60 + m, nil
}

// holds says whether the window has a local weekday and minute.
func (w Window) holds(day time.Weekday, minute int) bool {
	if w.From < w.To {
		return day == w.Day && minute >= w.From && minute < w.To
	}
	next := (w.Day + 1) % 7
	return (day == w.Day && minute >= w.From) || (day == next && minute < w.To)
}

// InWindow says whether any of the windows is open at t in the city's time. No windows: always.
func InWindow(windows []Window, t time.Time, loc *time.Location) bool {
	local := t.In(loc)
	for _, w := range windows {
		if w.holds(local.Weekday(), local.Hour()*60+local.Minute()) {
			return true
		}
	}
	return len(windows) == 0
}

// opens says whether a counter with these windows is open now, or, where there is an end, at some time before it.
func (s *State) opens(windows []Window, now, end time.Time) error {
	if InWindow(windows, now, s.loc) || opensBefore(windows, now.In(s.loc), end) {
		return nil
	}
	local := now.In(s.loc)
	return refuse(OutsideWindow, figures{"day": local.Weekday().String(), "time": local.Format("15:04")})
}

func opensBefore(windows []Window, local, end time.Time) bool {
	y, m, d := local.Date()
	for i := 0; ; i++ {
		midnight := time.Date(y, m, d+i, 0, 0, 0, 0, local.Location())
		if !midnight.Before(end) {
			return false
		}
		for _, w := range windows {
			opening := time.Date(y, m, d+i, 0, w.From, 0, 0, local.Location())
			if w.Day == midnight.Weekday() && opening.After(local) && opening.Before(end) {
				return true
			}
		}
	}
}
