package city

import (
	"fmt"
	"strings"
	"time"
)

// Window is a rule of opening hours: on these days, from and to in minutes after
// local midnight, To excluded and at most 1440 (24:00).
type Window struct {
	Days []time.Weekday
	From int
	To   int
}

var weekdays = [...]string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// ParseWindows reads rules separated by ";", each a day or a run of days, a space
// and HH:MM-HH:MM. An empty text means always and gives no rule.
func ParseWindows(s string) ([]Window, error) {
	var out []Window
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	for rule := range strings.SplitSeq(s, ";") {
		w, err := parseWindow(strings.TrimSpace(rule))
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func parseWindow(rule string) (Window, error) {
	days, hours, ok := strings.Cut(rule, " ")
	if !ok {
		return Window{}, fmt.Errorf("window %q: want a day, a space and HH:MM-HH:MM", rule)
	}
	first, last, run := strings.Cut(days, "-")
	if !run {
		last = first
	}
	a, okA := weekday(first)
	b, okB := weekday(last)
	if !okA || !okB {
		return Window{}, fmt.Errorf("window %q: days are Mon, Tue, Wed, Thu, Fri, Sat, Sun", rule)
	}
	from, to, ok := strings.Cut(strings.TrimSpace(hours), "-")
	if !ok {
		return Window{}, fmt.Errorf("window %q: want HH:MM-HH:MM", rule)
	}
	w := Window{Days: []time.Weekday{a}}
	for d := a; d != b; {
		d = (d + 1) % 7
		w.Days = append(w.Days, d)
	}
	var err error
	if w.From, err = minuteOfDay(from); err != nil {
		return Window{}, fmt.Errorf("window %q: %w", rule, err)
	}
	if w.To, err = minuteOfDay(to); err != nil {
		return Window{}, fmt.Errorf("window %q: %w", rule, err)
	}
	if w.From >= w.To {
		return Window{}, fmt.Errorf("window %q: it must end after it begins, on the same day", rule)
	}
	return w, nil
}

func weekday(s string) (time.Weekday, bool) {
	for i, name := range weekdays {
		if name == s {
			return time.Weekday(i), true
		}
	}
	return 0, false
}

func minuteOfDay(s string) (int, error) {
	if len(s) != 5 || s[2] != ':' {
		return 0, fmt.Errorf("time %q: want HH:MM", s)
	}
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("time %q: want HH:MM", s)
		}
	}
	h := int(s[0]-'0')*10 + int(s[1]-'0')
	m := int(s[3]-'0')*10 + int(s[4]-'0')
	if m > 59 || h > 24 || h == 24 && m != 0 {
		return 0, fmt.Errorf("time %q: 00:00 to 24:00", s)
	}
	return h*60 + m, nil
}

// Open tells whether the local time of t lies in one of the windows. No window
// means always.
func Open(windows []Window, t time.Time) bool {
	if len(windows) == 0 {
		return true
	}
	minute := t.Hour()*60 + t.Minute()
	for _, w := range windows {
		if w.covers(t.Weekday(), minute) {
			return true
		}
	}
	return false
}

func (w Window) covers(day time.Weekday, minute int) bool {
	for _, d := range w.Days {
		if d == day {
			return w.From <= minute && minute < w.To
		}
	}
	return false
}

// DayName is the three-letter name that the folder uses.
func DayName(d time.Weekday) string { return weekdays[d] }

// HHMM writes minutes after midnight as HH:MM, 24:00 included.
func HHMM(minutes int) string { return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60) }
